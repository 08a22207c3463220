//! The invariants, each as a function.

use std::collections::BTreeSet;
use std::time::Duration;

use leasefs::core::access::Rule;
use leasefs::core::effect::{Attributes, Effect, Minting, NodeType, Outcome};
use leasefs::core::engine::{Effects, Layout, Reader, Settlement};
use leasefs::core::error::FsError;
use leasefs::core::generation::Piece;
use leasefs::core::name::{FileId, Ino, SourceId};
use leasefs::core::policy::SourcePolicy;
use leasefs::core::sources::Sources;
use leasefs::core::time::BootTime;

use crate::composer;
use crate::vault::Vault;
use crate::world::{Issue, TestBody, Visit, World};

/// For how long a static role's password is shown that Vault is late to replace.
pub const MOMENT: std::time::Duration = std::time::Duration::from_millis(250);

/// All that hold at any time.
pub fn all(world: &mut World) {
    let answers = what_handles_read(world);
    no_byte_after_the_end(world, &answers);
    a_handle_keeps_its_generation(world, &answers);
    the_page_cache_gets_the_current_generation(world);
    nothing_locked_is_shown(world, &answers);
    at_most_two_generations(world);
    each_thing_has_one_wake(world);
    wakes_are_in_time(world);
    nothing_composed_outlives_its_parts(world);
    memory_is_what_is_held(world);
    the_bucket_holds(world);
}

type Answers = Vec<(leasefs::core::name::HandleId, Result<Vec<usize>, FsError>)>;

/// Reads every handle, and checks whose bytes it gets.
fn what_handles_read(world: &World) -> Answers {
    let mut answers = Vec::new();
    for (handle, held) in &world.handles {
        let read = world.engine.read(world.now, *handle, Reader::Handle);
        if let Ok(body) = &read {
            assert_eq!(body.piece, held.piece, "the bytes of another file");
            assert_eq!(body.path, held.path, "the bytes of another secret");
        }
        answers.push((*handle, read.map(|body| body.issues.clone())));
    }
    answers
}

/// What is read is alive: its lease, its token and its natural end lie ahead, and nothing that the engine
/// was told says otherwise. Whether or not anybody ticked.
fn no_byte_after_the_end(world: &World, answers: &Answers) {
    for (handle, answer) in answers {
        for issue in answer.iter().flatten() {
            assert_alive(world, *issue, &format!("{handle:?}"));
        }
    }
}

fn assert_alive(world: &World, index: usize, who: &str) {
    let issue = &world.issues[index];
    let now = world.now;
    assert_eq!(issue.dead, None, "{who} shows a dead secret: {issue:?}");
    let end = latest_end(world, issue);
    assert!(now < end, "{who} shows what ended at {end:?}, now is {now:?}: {issue:?}");
}

/// The latest end of an answer, by the truth and by what the engine was told.
fn latest_end(world: &World, issue: &Issue) -> BootTime {
    let told = world.token_ends.get(&issue.with).map_or(BootTime(0), |ends| ends.0).min(issue.end.0);
    let replaced = world
        .layout
        .sources
        .get(issue.source.0 as usize)
        .and_then(|source| world.vault.replaced(source.request.path.as_str(), issue.content));
    truth(&world.vault, issue).min(told).min(replaced.map_or(BootTime::NEVER, |at| at + MOMENT))
}

fn truth(vault: &Vault, issue: &Issue) -> BootTime {
    let token = vault.tokens.get(&issue.token).map_or(BootTime(0), |token| token.expires);
    issue.lease.as_ref().map_or(BootTime::NEVER, |lease| vault.natural_end(lease)).min(token)
}

/// A handle reads what was current when it was opened, until that ends; then nothing, for ever. It does
/// not end without a reason.
fn a_handle_keeps_its_generation(world: &mut World, answers: &Answers) {
    for (handle, answer) in answers {
        let Some(held) = world.handles.get_mut(handle) else { continue };
        match answer {
            Ok(issues) => {
                assert!(!held.ended, "{handle:?} came back from the dead");
                assert_eq!(*issues, held.issues, "{handle:?} reads another generation");
            }
            Err(FsError::GenerationEnded) if held.ended => {}
            Err(FsError::GenerationEnded) => {
                held.ended = true;
                // It ends with the first of its sources.
                let has_a_reason = held.issues.iter().any(|index| {
                    let issue = &world.issues[*index];
                    let token = world.token_ends.get(&issue.with).map_or(BootTime(0), |ends| ends.1);
                    let soonest = issue.end.1.min(token);
                    world.now >= soonest || issue.excuse.is_some() || issue.newer > 1
                });
                assert!(
                    has_a_reason || world.stopped,
                    "{handle:?} ended for no reason at {:?}: {:?}",
                    world.now,
                    held.issues.iter().map(|index| &world.issues[*index]).collect::<Vec<_>>()
                );
            }
            Err(error) => panic!("{handle:?}: {error}"),
        }
    }
}

/// Whether a name covers another: it is the same, or lies above it.
pub fn covers(name: &str, other: &str) -> bool {
    name.is_empty() || name == other || other.starts_with(&format!("{name}/"))
}

/// Whether a path is locked.
pub fn is_locked(world: &World, path: &str) -> bool {
    world.locked.iter().any(|name| covers(name, path))
}

/// A handle on a locked file reads nothing, for itself or for the page cache.
fn nothing_locked_is_shown(world: &World, answers: &Answers) {
    for (handle, answer) in answers {
        let path = world.path(world.handles[handle].ino);
        if is_locked(world, &path) {
            assert_eq!(*answer, Err(FsError::GenerationEnded), "{path} is locked");
            assert!(world.engine.read(world.now, *handle, Reader::PageCache).is_err(), "{path} is locked");
        }
    }
}

/// Whether each name that shows something of a source is locked.
pub fn is_shut(world: &World, source: SourceId, path: &str) -> bool {
    let layout = &world.layout;
    let files =
        layout.files.iter().filter(|file| file.sources.contains(source)).map(|file| file.name.to_string());
    let dirs = layout.field_dirs.iter().filter(|dir| dir.source == source).map(|dir| dir.name.to_string());
    let tree = &layout.trees[0];
    let below = path.strip_prefix(tree.prefix.as_str()).map(|rest| format!("{}{rest}", tree.name));
    files.chain(dirs).chain(below).all(|name| is_locked(world, &name))
}

/// Nobody has what is locked read.
pub fn what_is_locked_is_not_read(world: &World, effect: &Effect) {
    if let Effect::Read { source, read, .. } = effect {
        assert!(!is_shut(world, *source, read.path.as_str()), "{effect:?}, and all of it is locked");
    }
}

/// A read for the page cache gets the current generation or nothing.
fn the_page_cache_gets_the_current_generation(world: &World) {
    for (handle, held) in &world.handles {
        let Ok(body) = world.engine.read(world.now, *handle, Reader::PageCache) else { continue };
        assert_eq!(body.piece, held.piece);
        for issue in &body.issues {
            assert_eq!(world.current.get(&world.issues[*issue].source), Some(issue));
            assert_alive(world, *issue, "the page cache");
        }
    }
}

/// Never more than two generations of a source hold bytes.
fn at_most_two_generations(world: &World) {
    let mut of_source = std::collections::BTreeMap::new();
    for index in &world.living {
        *of_source.entry(world.issues[*index].source).or_insert(0) += 1;
    }
    assert!(of_source.values().all(|count| *count <= 2), "{of_source:?}");
}

/// Every live lease, and whatever else has an end, has exactly one wake pending.
fn each_thing_has_one_wake(world: &World) {
    let sources: std::collections::BTreeSet<SourceId> =
        world.living.iter().map(|index| world.issues[*index].source).collect();
    for source in sources {
        let wakes = world.engine.wakes_for(source);
        let ends = world.living.iter().any(|index| {
            let issue = &world.issues[*index];
            issue.source == source && latest_end(world, issue) != BootTime::NEVER
        });
        assert!(wakes <= 1 && (wakes == 1 || !ends), "{source:?}: {wakes} wakes");
    }
}

/// Whatever ends has a wake for it, so that the bytes go in time.
fn wakes_are_in_time(world: &World) {
    let soon = world.now + std::time::Duration::from_millis(1);
    for index in &world.living {
        let end = latest_end(world, &world.issues[*index]);
        if end == BootTime::NEVER {
            continue;
        }
        let wake = world.engine.next_wake();
        assert!(
            wake.is_some_and(|wake| wake <= end.max(soon)),
            "nobody wakes for {:?}: {wake:?}, but it ends {end:?}",
            world.issues[*index]
        );
    }
}

/// After a tick nothing that has ended is held any more; a wake may be a millisecond late, which is how close
/// to each other ticks come at most.
pub fn wiped_after_tick(world: &World) {
    nothing_is_kept_for_nobody(world);
    let tick = Duration::from_millis(1);
    for index in &world.living {
        let issue = &world.issues[*index];
        if issue.dead.is_some() || latest_end(world, issue) + tick <= world.now {
            assert_alive(world, *index, "the engine's memory");
        }
    }
}

/// What was composed is dropped with the first of the answers that it was made of.
fn nothing_composed_outlives_its_parts(world: &World) {
    for entry in world.ledger.held() {
        for issue in &entry.issues {
            assert!(world.living.contains(issue), "{entry:?} is held, {:?} is gone", world.issues[*issue]);
        }
    }
}

/// The books on memory are right, and within the limit.
fn memory_is_what_is_held(world: &World) {
    let bodies: u64 = world.living.iter().map(|index| world.issues[*index].held()).sum();
    let composed: u64 = world.ledger.held().iter().map(|entry| entry.size).sum();
    let lists = world.engine.census().list_bytes;
    let held = bodies + composed + lists;
    assert_eq!(world.engine.memory(), held, "{bodies} of secrets, {composed} composed, {lists} of lists");
    assert!(world.engine.memory() <= world.layout.settings.max_memory);
}

/// Minting reads of a source, those that programs waited for and those that none did: two at once, then
/// one per interval.
fn the_bucket_holds(world: &World) {
    for (source, mints) in &world.mints {
        let spec = world.layout.sources.get(source.0.0 as usize);
        // Reading a static role mints nothing.
        if spec.is_some_and(|spec| world.vault.replaced(spec.request.path.as_str(), 0).is_some()) {
            continue;
        }
        let Some((last, _)) = mints.last() else { continue };
        for (index, (first, _)) in mints.iter().enumerate().rev().take(20) {
            let count = mints.len() - index;
            // The interval may have grown with the lease meanwhile: the shortest counts.
            let interval = mints[index..].iter().map(|(_, interval)| *interval).min().unwrap_or_default();
            let flow = last.since(*first).as_secs_f64() / interval.as_secs_f64();
            assert!(count as f64 <= 2.0 + flow + 0.001, "{source:?}: {count} mints, {flow} intervals");
        }
    }
}

/// GETATTR and OPENDIR never read what may mint; a static role is known not to, once it was read.
pub fn looking_never_mints(world: &World, effects: &[Effect]) {
    for effect in effects {
        if let Effect::Read { minting: Minting::Allowed, read, .. } = effect {
            assert!(world.vault.replaced(read.path.as_str(), 0).is_some(), "{effect:?}");
        }
    }
}

/// A caller who may not read causes nothing.
pub fn no_effect(effects: &Effects, what: &str) {
    assert!(effects.list.is_empty(), "{what}: {effects:?}");
}

/// For how long opens of a source are to match; zero if it has one file alone.
fn pin_of(world: &World, source: SourceId) -> Duration {
    let layout = &world.layout;
    let names = layout.files.iter().filter(|file| file.sources.contains(source)).count();
    let fields = layout.sources.get(source.0 as usize).is_none_or(|spec| spec.fields);
    let several = names > 1 || fields;
    if several { policy_of(layout, source).pin } else { Duration::ZERO }
}

/// Whether the engine may still show an answer, or must: a pin keeps it though nobody has it open.
fn lives(world: &World, index: usize) -> bool {
    let issue = &world.issues[index];
    let token = world.token_ends.get(&issue.with).map_or(BootTime(0), |ends| ends.1);
    let no_reason = issue.newer <= 1 && issue.excuse.is_none() && world.now < issue.end.1.min(token);
    let has_room = world.layout.settings.max_memory >= 1 << 20;
    let may = issue.dead.is_none() && world.now < latest_end(world, issue);
    may && (world.living.contains(&index) || (no_reason && has_room))
}

/// An open gets what is current, or goes on with the round of its process: what one thread opens one after the
/// other, each file once, is of one generation as long as that lives.
pub fn is_what_the_process_gets(world: &World, who: u8, thread: u32, ino: Ino, issue: usize) {
    let source = world.issues[issue].source;
    let pin = pin_of(world, source);
    let current = world.current.get(&source) == Some(&issue);
    let visits = world.visits.get(&(who, source)).map_or(&[][..], Vec::as_slice);
    let mut since = world.now;
    let chain = visits.iter().rev().take_while(|visit| {
        let goes_on = since < visit.at + pin;
        since = visit.at;
        goes_on
    });
    let mut chain: Vec<&Visit> = chain.collect();
    chain.reverse();
    if world.hidden || chain.is_empty() {
        assert!(current, "an open got an old generation");
        return;
    }
    assert!(current || chain.iter().any(|visit| visit.issue == issue), "its process has never seen it");
    if chain.iter().any(|visit| visit.thread != thread) {
        return;
    }
    let (mut round, mut generation) = (BTreeSet::new(), None);
    for visit in &chain {
        if round.contains(&visit.ino) || generation.is_some_and(|one| one != visit.issue) {
            round.clear();
        }
        generation = Some(visit.issue);
        round.insert(visit.ino);
    }
    match generation.filter(|one| lives(world, *one)) {
        Some(_) if round.contains(&ino) => assert!(current, "a new round began with an old generation"),
        Some(one) => assert_eq!(issue, one, "two files of a round do not match: {chain:?}"),
        None => assert!(current, "an open got an old generation"),
    }
}

/// What opens don't get any more is kept for those who have it open, and for as long as a pin lasts.
fn nothing_is_kept_for_nobody(world: &World) {
    let tick = Duration::from_millis(1);
    for index in &world.living {
        let source = world.issues[*index].source;
        let is_read = world.handles.values().any(|held| !held.ended && held.issues.contains(index));
        if is_read || world.current.get(&source) == Some(index) {
            continue;
        }
        let pin = pin_of(world, source);
        let visits = world.visits.iter().filter(|((_, of), _)| *of == source).flat_map(|(_, all)| all);
        let last = visits.map(|visit| visit.at).max();
        assert!(
            last.is_some_and(|at| world.now <= at + pin + tick),
            "nobody needs {:?}, last opened {last:?}, now {:?}",
            world.issues[*index],
            world.now
        );
    }
}

/// A size is that of the current generation, or nothing.
pub fn no_size_is_made_up(world: &World, attributes: &Attributes) {
    if attributes.node_type == NodeType::Directory || attributes.size == 0 {
        return;
    }
    // While opens of processes differ, their sizes do, and the kernel keeps none of them.
    if attributes.ttl.is_zero() && world.visits.values().any(|visits| !visits.is_empty()) {
        return;
    }
    if let Some((file, sources)) = composed_at(world, attributes.ino) {
        let current = sources.iter().map(|source| world.issues[world.current[&source]].content);
        let size = composer::size_of(composer::joined(current), file);
        assert_eq!(Some(attributes.size), size, "a size that no generation has: {attributes:?}");
        return;
    }
    let shown = world.living.iter().any(|index| {
        let issue = &world.issues[*index];
        world.current.get(&issue.source) == Some(index)
            && issue
                .bodies
                .iter()
                .filter_map(std::sync::Weak::upgrade)
                .any(|body| body.size == attributes.size && is_of(world, attributes.ino, &body))
    });
    assert!(shown, "a size that no generation has: {attributes:?}");
}

/// What lies under a path: who may read it, and what it shows.
struct Place {
    rule: Rule,
    path: String,
    piece: Piece,
}

fn place(world: &World, ino: Ino) -> Option<Place> {
    let name = world.path(ino);
    let layout = &world.layout;
    for (index, file) in layout.files.iter().enumerate() {
        if file.name.as_str() == name {
            let path = |id: SourceId| layout.sources[id.0 as usize].request.path.as_str().to_owned();
            let path = file.sources.iter().map(path).collect::<Vec<_>>().join("+");
            let piece = Piece::File(FileId(index as u32));
            return Some(Place { rule: file.rule, path, piece });
        }
    }
    if world.kernel.get(&ino)?.node_type == NodeType::Directory {
        return None;
    }
    let (directory, field) = name.rsplit_once('/')?;
    for dir in &layout.field_dirs {
        if dir.name.as_str() == directory {
            let path = layout.sources[dir.source.0 as usize].request.path.as_str().to_owned();
            return Some(Place { rule: dir.rule, path, piece: Piece::Field(field.to_owned()) });
        }
    }
    let tree = &layout.trees[0];
    let below = directory.strip_prefix(tree.name.as_str())?;
    // A field that shares its name with an entry shows as `#NAME`.
    let field = field.strip_prefix('#').unwrap_or(field);
    let path = format!("{}{below}", tree.prefix);
    Some(Place { rule: tree.rule, path, piece: Piece::Field(field.to_owned()) })
}

/// The file of several sources that lies under a path, and its sources.
fn composed_at(world: &World, ino: Ino) -> Option<(FileId, Sources)> {
    let name = world.path(ino);
    let (index, file) = world.layout.files.iter().enumerate().find(|(_, file)| file.name.as_str() == name)?;
    file.sources.are_several().then(|| (FileId(index as u32), file.sources.clone()))
}

/// Who may read a file.
pub fn rule_of(world: &World, ino: Ino) -> Option<Rule> {
    place(world, ino).map(|place| place.rule)
}

fn is_of(world: &World, ino: Ino, body: &TestBody) -> bool {
    place(world, ino).is_some_and(|place| place.path == body.path && place.piece == body.piece)
}

/// A body shows what its file's name says.
pub fn body_is_of(world: &World, ino: Ino, body: &TestBody) {
    assert!(is_of(world, ino, body), "{} shows {body:?}", world.path(ino));
}

/// The policy of a source; those without a number in the layout are of the tree.
pub fn policy_of(layout: &Layout, source: SourceId) -> SourcePolicy {
    layout.sources.get(source.0 as usize).map_or(layout.trees[0].policy, |spec| spec.policy)
}

/// No caller is forgotten.
pub fn nothing_waits(world: &World) {
    assert!(world.waiting.is_empty(), "never answered: {:?}", world.waiting);
    assert_eq!(world.engine.census().waiting, 0);
}

/// Every lease that lives and that the engine knows of is to be given back, or its token is.
pub fn all_is_settled(world: &World, settlement: &Settlement) {
    let now = world.now;
    let margin = std::time::Duration::from_secs(3);
    let tokens: Vec<u64> =
        settlement.tokens.iter().filter_map(|with| world.tokens.get(with)).copied().collect();
    for (lease, with) in &world.delivered {
        if !world.vault.lease_lives(now, lease) || world.vault.natural_end(lease) <= now + margin {
            continue;
        }
        // The user's own token is over by our clock and lives on in Vault: that is his to end.
        let users = !world.vault.tokens[&world.vault.leases[lease].token].ours;
        if users && !world.tokens.contains_key(with) {
            continue;
        }
        let in_leases = settlement.leases.iter().any(|debt| debt.lease == *lease);
        let token = world.vault.leases[lease].token;
        assert!(
            in_leases || tokens.contains(&token),
            "{lease} of {with:?} lives until {:?} and nobody gives it back (now {now:?})",
            world.vault.natural_end(lease)
        );
    }
}

/// Stopped, and all answers in: nothing is held and nothing is expected.
pub fn nothing_is_left(world: &World) {
    assert_eq!((world.living.len(), world.ledger.held().len()), (0, 0));
    assert!(world.engine.settlement(world.now).minting.is_empty());
    assert_eq!(world.engine.memory(), world.engine.census().list_bytes);
}

/// Nothing that is not declared is left once nobody uses it.
pub fn nothing_leaks(world: &World) {
    let census = world.engine.census();
    assert_eq!(census.names, 0, "{census:?}");
    assert_eq!(census.sources, world.layout.sources.len(), "{census:?}");
    assert!(census.lists <= world.layout.trees.len(), "{census:?}");
    assert_eq!((census.open_files, census.waiting), (0, 0), "{census:?}");
}

/// What an outcome came to, if it is there at once.
pub fn done<T>(outcome: Outcome<T>) -> Result<T, FsError> {
    match outcome {
        Outcome::Done(result) => result,
        Outcome::Wait(_) | Outcome::NeedGroups | Outcome::NeedProcess => panic!("it waits"),
    }
}
