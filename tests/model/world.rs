//! A small simulated world around one engine: a clock that jumps, a driver, a kernel, a Vault.
//!
//! It carries the engine's effects out with delays and losses, and writes down what the engine may know
//! of each answer, so that `checks` can compare.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use leasefs::core::access::{Caller, Groups, Mode, Process, ProcessOf, Rule};
use leasefs::core::effect::{
    Answer, Attributes, Credential, Effect, EngineHint, NodeType, Opened, Outcome, Report,
};
use leasefs::core::engine::{Effects, Engine, Layout, Reader, Room, Settlement};
use leasefs::core::error::FsError;
use leasefs::core::generation::{Body, Piece};
use leasefs::core::locks::Lock;
use leasefs::core::name::{HandleId, Ino, LeaseId, RequestId, SourceId, Ticket};
use leasefs::core::state::Key;
use leasefs::core::time::{BootTime, Chance, Moment};

use crate::checks;
use crate::composer::{Ledger, Note};
use crate::driver::{Event, Step};
use crate::handover::Cell;
use crate::vault::Vault;

/// Whether to print what happens.
pub static TRACE: AtomicBool = AtomicBool::new(false);

/// The bytes of a file: what they are of, instead of what they are.
#[derive(Debug)]
pub struct TestBody {
    /// Which answers of Vault they came in; of a file of one source it is one.
    pub issues: Vec<usize>,
    /// Of which path; of several sources all of them.
    pub path: String,
    /// Which value.
    pub content: u64,
    /// Which part.
    pub piece: Piece,
    /// How many.
    pub size: u64,
    /// What was composed stands in the books until it is dropped.
    #[expect(dead_code, reason = "it is dropped with the bytes")]
    pub note: Option<Note>,
}

impl Body for TestBody {
    fn size(&self) -> u64 {
        self.size
    }

    fn same_as(&self, other: &Self) -> bool {
        (&self.path, self.content, &self.piece) == (&other.path, other.content, &other.piece)
    }
}

/// An answer of Vault that was handed to the engine.
#[derive(Debug)]
pub struct Issue {
    /// Of which source.
    pub source: SourceId,
    /// The token that obtained it, or that it was last confirmed with.
    pub with: Credential,
    /// That token, as Vault knows it.
    pub token: u64,
    /// Which value.
    pub content: u64,
    /// Its lease.
    pub lease: Option<LeaseId>,
    /// What it costs to read it again.
    pub kind: Kind,
    /// The latest and the earliest end that the engine may derive from what it was told, tokens aside.
    pub end: (BootTime, BootTime),
    /// Why nobody may see it any more.
    pub dead: Option<&'static str>,
    /// Why handles on it may have ended early.
    pub excuse: Option<String>,
    /// How many generations were published since.
    pub newer: u32,
    /// Its bytes, wherever they still are.
    pub bodies: Vec<Weak<TestBody>>,
}

/// What an answer is, as far as the checks must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// KV, or the like.
    Kv,
    /// Vault replaces it in place.
    Static,
    /// It was minted.
    Minted,
}

impl Issue {
    /// How many of its bytes are still held.
    pub fn held(&self) -> u64 {
        self.bodies.iter().filter_map(Weak::upgrade).map(|body| body.size).sum()
    }
}

/// An open file, as the program sees it.
#[derive(Debug)]
pub struct Held {
    /// Which file.
    pub ino: Ino,
    /// Which answers it was opened on.
    pub issues: Vec<usize>,
    /// Of which path in Vault.
    pub path: String,
    /// Which part.
    pub piece: Piece,
    /// It has failed once.
    pub ended: bool,
    /// Who opened it.
    pub who: u8,
    /// The kernel's number of the OPEN.
    pub request: u64,
}

/// A name that the kernel holds.
#[derive(Debug)]
pub struct KernelNode {
    /// Where.
    pub parent: Ino,
    /// Its name there.
    pub name: String,
    /// References.
    pub lookups: u64,
    /// The size that it believes, until when.
    pub size: Option<(u64, BootTime)>,
    /// File or directory.
    pub node_type: NodeType,
}

/// Who asks; see [`caller`].
pub const CALLERS: u8 = 4;

/// Owner, member of the group, stranger, root.
pub fn caller(who: u8, groups_read: bool, request: u64) -> Caller {
    let (uid, gid, groups) = match who % CALLERS {
        0 => (10, 10, vec![]),
        1 => (11, 11, vec![20, 30]),
        2 => (12, 12, vec![30]),
        _ => (0, 0, vec![]),
    };
    let groups = if groups_read { Groups::Known(groups) } else { Groups::Unread };
    Caller { uid, gid, groups, thread: 1, process: ProcessOf::Unread, request }
}

/// The verdict, once more and naively.
pub fn allowed(who: u8, rule: Rule) -> bool {
    let caller = caller(who, true, 0);
    let Groups::Known(groups) = &caller.groups else { return false };
    let class = if caller.uid == rule.uid {
        0o400
    } else if caller.gid == rule.gid || groups.contains(&rule.gid) {
        0o040
    } else {
        0o004
    };
    caller.uid == 0 || rule.mode.0 & class != 0
}

/// What a ticket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// OPEN.
    Open,
    /// GETATTR.
    Attributes,
    /// OPENDIR.
    Directory,
    /// A refresh.
    Refresh,
}

/// A caller that waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    /// For which name.
    pub ino: Ino,
    /// For what.
    pub asked: Asked,
    /// Since when.
    pub since: BootTime,
    /// Who.
    pub who: u8,
    /// In which thread.
    pub thread: u32,
    /// The kernel's number of the request; none for an operator's.
    pub request: u64,
}

/// An open that succeeded, of one source.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    /// When.
    pub at: BootTime,
    /// In which thread.
    pub thread: u32,
    /// Of which file.
    pub ino: Ino,
    /// What it got.
    pub issue: usize,
}

/// How requests fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Answered within 5 ms, in order.
    Fair,
    /// Late, lost, twice, in any order.
    Foul,
    /// So long on the way to Vault, so long on the way back.
    Slow(Duration, Duration),
}

/// How time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Every wake and every answer comes on time.
    Prompt,
    /// The machine is busy: answers and ticks come at the end.
    Late,
    /// The machine sleeps: Vault's time passes, nothing reaches the engine.
    Asleep,
}

/// The world.
pub struct World {
    /// The engine under test.
    pub engine: Engine<TestBody>,
    /// What it has made of several sources.
    pub ledger: Ledger,
    /// What it was made from.
    pub layout: Layout,
    /// The truth.
    pub vault: Vault,
    /// The clock.
    pub now: BootTime,
    /// Chance.
    pub rng: fastrand::Rng,
    /// How requests fare.
    pub weather: Weather,
    /// Tokens that the driver keeps.
    pub tokens: BTreeMap<Credential, u64>,
    /// The latest and the earliest end of each token that the engine may derive.
    pub token_ends: BTreeMap<Credential, (BootTime, BootTime)>,
    /// Every answer that carried a secret.
    pub issues: Vec<Issue>,
    /// Those whose bytes are still held, by index.
    pub living: BTreeSet<usize>,
    /// What opens of a source get.
    pub current: BTreeMap<SourceId, usize>,
    /// Open files.
    pub handles: BTreeMap<HandleId, Held>,
    /// Open directories: which, who opened it, and the kernel's number of the OPENDIR.
    pub directories: BTreeMap<HandleId, (Ino, u8, u64)>,
    /// The engine's state, put together from its changes.
    pub cells: BTreeMap<Key, Cell>,
    /// The configuration is another one by now: sources and files have other numbers than the world knows.
    pub is_reconfigured: bool,
    /// After how many calls the changes are compared with the whole state, which takes a while.
    pub compared_every: u64,
    /// Calls so far.
    pub calls: u64,
    /// The kernel's number of the last request.
    pub requests: u64,
    /// In which thread programs open files now.
    pub thread: u32,
    /// Processes can't be seen in `/proc`.
    pub hidden: bool,
    /// What each process has opened of each source.
    pub visits: BTreeMap<(u8, SourceId), Vec<Visit>>,
    /// Callers that wait.
    pub waiting: BTreeMap<Ticket, Waiter>,
    /// What callers were told.
    pub answers: BTreeMap<Ticket, Result<Answer, FsError>>,
    /// Names that the kernel holds.
    pub kernel: BTreeMap<Ino, KernelNode>,
    /// Notifications on their way to the kernel.
    pub notices: Vec<Effect>,
    /// Reads on their way, as the engine must see it.
    pub in_flight: BTreeMap<SourceId, RequestId>,
    /// Minting reads of sources known to mint, apart for those that programs waited for and others: when,
    /// and the interval of their bucket then.
    pub mints: BTreeMap<(SourceId, bool), Vec<(BootTime, Duration)>>,
    /// Whether a program waited for the last one.
    pub last_mint: BTreeMap<SourceId, bool>,
    /// All minting reads.
    pub reads: BTreeMap<SourceId, usize>,
    /// Sources that are known to mint, and their lease.
    pub minting: BTreeMap<SourceId, Duration>,
    /// Leases whose answer was handed to the engine.
    pub delivered: BTreeMap<LeaseId, Credential>,
    /// What an operator was told.
    pub reports: Vec<Report>,
    /// The effects of the last call.
    pub last: Vec<Effect>,
    /// All requests to Vault.
    pub sent: Vec<Effect>,
    /// Answers to reads come twice.
    pub twice: bool,
    /// Notifications don't reach the kernel.
    pub deaf: bool,
    /// Names that are locked, with all below them.
    pub locked: BTreeSet<String>,
    /// An operator has had everybody log in anew, and it may not have gone well yet.
    pub anew: bool,
    /// The mount has ended.
    pub stopped: bool,
    /// Requests on their way.
    pub events: Vec<Event>,
    /// Numbers them.
    pub order: u64,
    idle_ticks: u32,
    last_tick: BootTime,
}

impl World {
    /// A world in which nothing has happened.
    pub fn new(layout: Layout, vault: Vault, seed: u64) -> World {
        let ledger = Ledger::default();
        let composer = Arc::new(ledger.clone());
        let engine = Engine::new(layout.clone(), composer).expect("the layout is good");
        let root = KernelNode {
            parent: Ino::ROOT,
            name: String::new(),
            lookups: 1,
            size: None,
            node_type: NodeType::Directory,
        };
        World {
            engine,
            ledger,
            layout,
            vault,
            now: BootTime(1_000_000_000_000),
            rng: fastrand::Rng::with_seed(seed),
            weather: Weather::Fair,
            tokens: BTreeMap::new(),
            token_ends: BTreeMap::new(),
            issues: Vec::new(),
            living: BTreeSet::new(),
            current: BTreeMap::new(),
            handles: BTreeMap::new(),
            directories: BTreeMap::new(),
            cells: BTreeMap::new(),
            is_reconfigured: false,
            compared_every: 1,
            calls: 0,
            requests: 0,
            thread: 1,
            hidden: false,
            visits: BTreeMap::new(),
            waiting: BTreeMap::new(),
            answers: BTreeMap::new(),
            kernel: BTreeMap::from([(Ino::ROOT, root)]),
            notices: Vec::new(),
            in_flight: BTreeMap::new(),
            mints: BTreeMap::new(),
            last_mint: BTreeMap::new(),
            reads: BTreeMap::new(),
            minting: BTreeMap::new(),
            delivered: BTreeMap::new(),
            reports: Vec::new(),
            last: Vec::new(),
            sent: Vec::new(),
            twice: false,
            deaf: false,
            locked: BTreeSet::new(),
            anew: false,
            stopped: false,
            events: Vec::new(),
            order: 0,
            idle_ticks: 0,
            last_tick: BootTime(0),
        }
    }

    pub fn at(&mut self) -> Moment {
        Moment { now: self.now, chance: Chance(self.rng.u64(..)) }
    }

    pub fn say(&self, text: impl FnOnce() -> String) {
        if TRACE.load(Ordering::Relaxed) {
            eprintln!("{:>16.6} {}", self.now.0 as f64 / 1e9 - 1000.0, text());
        }
    }

    // ---- what the kernel and the operator ask ----

    /// The mount begins.
    pub fn start(&mut self) {
        let at = self.at();
        let fx = self.engine.start(at);
        self.take(fx);
    }

    /// LOOKUP.
    pub fn lookup(&mut self, parent: Ino, name: &str) -> Result<Ino, FsError> {
        let found = self.engine.lookup(self.now, parent, name);
        self.say(|| format!("lookup {name} -> {found:?}"));
        let found = found.map(|entry| {
            self.kernel_told(Some((parent, name)), &entry.attributes);
            self.kernel.entry(entry.attributes.ino).and_modify(|node| node.lookups += 1);
            entry.attributes.ino
        });
        self.check();
        found
    }

    /// LOOKUP of a whole path.
    pub fn walk(&mut self, path: &str) -> Result<Ino, FsError> {
        path.split('/').try_fold(Ino::ROOT, |parent, name| self.lookup(parent, name))
    }

    /// FORGET of all references, where the kernel may do that. Returns whether it may.
    pub fn forget(&mut self, ino: Ino) -> bool {
        let in_use = self.handles.values().any(|one| one.ino == ino)
            || self.directories.values().any(|one| one.0 == ino)
            || self.waiting.values().any(|one| one.ino == ino)
            || self.kernel.values().any(|one| one.parent == ino);
        let Some(node) = self.kernel.get(&ino).filter(|_| !in_use && ino != Ino::ROOT) else { return false };
        let lookups = node.lookups;
        self.kernel.remove(&ino);
        self.engine.forget(ino, lookups);
        self.say(|| format!("forget {ino:?}"));
        self.check();
        true
    }

    /// GETATTR; the groups are read if the engine wants them.
    pub fn getattr(&mut self, who: u8, ino: Ino) -> Outcome<Attributes> {
        let request = self.request();
        self.getattr_as(who, ino, request)
    }

    pub fn getattr_as(&mut self, who: u8, ino: Ino, request: u64) -> Outcome<Attributes> {
        let at = self.at();
        let mut asks = Caller { thread: self.thread, ..caller(who, false, request) };
        let (outcome, fx) = loop {
            let (outcome, fx) = self.engine.getattr(at, &asks, ino);
            checks::looking_never_mints(self, &fx.list);
            if !self.tells_more(who, &outcome, &fx, &mut asks) {
                break (outcome, fx);
            }
        };
        self.say(|| format!("getattr {ino:?} by {who} -> {outcome:?}"));
        match &outcome {
            Outcome::Done(Ok(attributes)) => {
                let attributes = *attributes;
                if !allowed(who, attributes.rule) {
                    checks::no_effect(&fx, "getattr of one who may not read");
                }
                self.kernel_told(None, &attributes);
            }
            Outcome::Wait(ticket) => self.wait(*ticket, ino, Asked::Attributes, who, request),
            Outcome::Done(Err(_)) => {}
            Outcome::NeedGroups | Outcome::NeedProcess => panic!("all was told"),
        }
        self.take(fx);
        outcome
    }

    /// OPEN.
    pub fn open(&mut self, who: u8, ino: Ino) -> Outcome<Opened> {
        let request = self.request();
        self.open_as(who, ino, request)
    }

    pub fn open_as(&mut self, who: u8, ino: Ino, request: u64) -> Outcome<Opened> {
        let at = self.at();
        let mut asks = Caller { thread: self.thread, ..caller(who, false, request) };
        let (outcome, fx) = loop {
            let (outcome, fx) = self.engine.open(at, &asks, ino);
            if !self.tells_more(who, &outcome, &fx, &mut asks) {
                break (outcome, fx);
            }
        };
        self.say(|| format!("open {ino:?} by {who} -> {outcome:?}"));
        let rule = checks::rule_of(self, ino);
        if rule.is_some_and(|rule| !allowed(who, rule)) {
            assert_eq!(outcome, Outcome::Done(Err(FsError::CallerDenied)));
            checks::no_effect(&fx, "open by one who may not read");
        } else {
            assert_ne!(outcome, Outcome::Done(Err(FsError::CallerDenied)));
        }
        if rule.is_some() && checks::is_locked(self, &self.path(ino)) {
            assert!(matches!(outcome, Outcome::Done(Err(_))), "{outcome:?} of a locked file");
            checks::no_effect(&fx, "open of a locked file");
        }
        match &outcome {
            Outcome::Done(Ok(opened)) => self.opened(*opened, who, self.thread, request),
            Outcome::Wait(ticket) => self.wait(*ticket, ino, Asked::Open, who, request),
            Outcome::Done(Err(_)) => {}
            Outcome::NeedGroups | Outcome::NeedProcess => panic!("all was told"),
        }
        self.take(fx);
        outcome
    }

    /// RELEASE.
    pub fn release(&mut self, handle: HandleId) {
        self.handles.remove(&handle);
        let at = self.at();
        let fx = self.engine.release(at, handle);
        self.say(|| format!("release {handle:?}"));
        self.take(fx);
    }

    /// OPENDIR.
    pub fn opendir(&mut self, who: u8, ino: Ino) -> Outcome<HandleId> {
        let request = self.request();
        self.opendir_as(who, ino, request)
    }

    pub fn opendir_as(&mut self, who: u8, ino: Ino, request: u64) -> Outcome<HandleId> {
        let at = self.at();
        let (outcome, fx) = self.engine.opendir(at, &caller(who, true, request), ino);
        checks::looking_never_mints(self, &fx.list);
        self.say(|| format!("opendir {ino:?} by {who} -> {outcome:?}"));
        let outcome = match outcome {
            Outcome::Done(Err(FsError::CallerDenied)) => {
                checks::no_effect(&fx, "opendir by one who may not read");
                Outcome::Done(Err(FsError::CallerDenied))
            }
            Outcome::Done(result) => Outcome::Done(result.map(|opened| {
                self.directories.insert(opened.handle, (ino, who, request));
                opened.handle
            })),
            Outcome::Wait(ticket) => {
                self.wait(ticket, ino, Asked::Directory, who, request);
                Outcome::Wait(ticket)
            }
            Outcome::NeedGroups | Outcome::NeedProcess => panic!("all was told"),
        };
        self.take(fx);
        outcome
    }

    /// READDIR: the names.
    pub fn readdir(&mut self, handle: HandleId) -> Vec<String> {
        let mut names = Vec::new();
        let read = self.engine.readdir(handle, 0, |name, _, _, _| {
            names.push(name.to_owned());
            Room::Left
        });
        assert_eq!(read, Ok(()));
        names
    }

    /// READDIRPLUS of at most `room` entries from `offset` on.
    pub fn readdirplus(&mut self, handle: HandleId, offset: u64, room: usize) {
        let Some((parent, ..)) = self.directories.get(&handle).copied() else { return };
        let mut taken = Vec::new();
        let read = self.engine.readdirplus(self.now, handle, offset, |name, attributes, _| {
            if taken.len() == room {
                return Room::Full;
            }
            taken.push((name.to_owned(), *attributes));
            Room::Left
        });
        self.say(|| format!("readdirplus {handle:?} {offset} {room} -> {read:?} {taken:?}"));
        for (name, attributes) in taken {
            if name != "." && name != ".." {
                self.kernel_told(Some((parent, &name)), &attributes);
                self.kernel.entry(attributes.ino).and_modify(|node| node.lookups += 1);
            }
        }
        self.check();
    }

    /// RELEASEDIR.
    pub fn releasedir(&mut self, handle: HandleId) {
        self.directories.remove(&handle);
        self.engine.releasedir(handle);
        self.check();
    }

    /// GETXATTR of everything.
    pub fn xattrs(&mut self, who: u8, ino: Ino) {
        let names = self.engine.xattr_names(self.now, &caller(who, true, 0), ino);
        assert!(matches!(names, Outcome::Done(Ok(_))), "{names:?}");
        let _ = self.engine.status(self.now);
    }

    /// A caller's time is over.
    pub fn give_up(&mut self, ticket: Ticket) {
        let at = self.at();
        let fx = self.engine.give_up(at, ticket);
        self.say(|| format!("give up {ticket:?}"));
        self.take(fx);
        assert!(!self.waiting.contains_key(&ticket), "{ticket:?} was given up and not answered");
    }

    /// An operator's refresh.
    pub fn refresh(&mut self, files: &[Ino]) -> Vec<(Ino, Outcome<Answer>)> {
        let at = self.at();
        let (outcomes, fx) = self.engine.refresh(at, files);
        self.say(|| format!("refresh {files:?} -> {outcomes:?}"));
        for (ino, outcome) in &outcomes {
            if let Outcome::Wait(ticket) = outcome {
                self.wait(*ticket, *ino, Asked::Refresh, 3, 0);
            }
        }
        self.take(fx);
        outcomes
    }

    /// An operator's revocation.
    pub fn revoke(&mut self, files: &[Ino]) {
        let at = self.at();
        let (_, fx) = self.engine.revoke(at, files);
        self.say(|| format!("revoke {files:?}"));
        self.take(fx);
    }

    /// An operator's lock.
    pub fn lock(&mut self, name: &str) {
        let at = self.at();
        let scopes = self.engine.scopes(&[name.to_owned()]).expect("the name is in the layout");
        let lock = Lock { reason: "the model".to_owned(), uid: 0, since: self.layout.settings.mounted };
        let (_, fx) = self.engine.lock(at, &scopes, &lock);
        self.locked.insert(name.to_owned());
        self.say(|| format!("lock {name:?}"));
        self.take(fx);
    }

    /// An operator's unlock.
    pub fn unlock(&mut self, name: &str) {
        let at = self.at();
        let scopes = self.engine.scopes(&[name.to_owned()]).expect("the name is in the layout");
        let (_, fx) = self.engine.unlock(at, &scopes);
        self.locked.retain(|held| !checks::covers(name, held));
        self.say(|| format!("unlock {name:?}"));
        self.take(fx);
    }

    /// An operator has replaced credentials.
    pub fn log_in_anew(&mut self) {
        let at = self.at();
        let living = self.engine.status(self.now).identities.iter().filter(|one| one.logged_in).count();
        let fx = self.engine.log_in_anew(at);
        self.anew = true;
        assert!(
            fx.list.iter().all(|effect| matches!(effect, Effect::LogIn { .. })),
            "what is held is kept until the login has gone well: {fx:?}"
        );
        assert!(!fx.list.is_empty(), "every identity that is used logs in");
        self.say(|| "log in anew".to_owned());
        self.take(fx);
        let still = self.engine.status(self.now).identities.iter().filter(|one| one.logged_in).count();
        assert_eq!(living, still, "no token is given up for one that is not there yet");
    }

    /// The mount ends; everything still on its way comes in; what is left to give back is complete.
    pub fn stop(&mut self) -> Settlement {
        let at = self.at();
        let (settlement, fx) = self.engine.stop(at);
        self.stopped = true;
        self.say(|| format!("stop -> {settlement:?}"));
        self.take(fx);
        checks::nothing_waits(self);
        checks::all_is_settled(self, &settlement);
        settlement
    }

    /// Tells the engine more of a caller, if it wants to know more. It must have done nothing yet.
    fn tells_more<O>(&self, who: u8, outcome: &Outcome<O>, fx: &Effects, asks: &mut Caller) -> bool {
        match outcome {
            Outcome::NeedGroups => asks.groups = caller(who, true, 0).groups,
            Outcome::NeedProcess if self.hidden => asks.process = ProcessOf::Hidden,
            Outcome::NeedProcess => {
                asks.process = ProcessOf::Known(Process { number: u32::from(who) + 100, start: 7 });
            }
            Outcome::Done(_) | Outcome::Wait(_) => return false,
        }
        checks::no_effect(fx, "an outcome that depends on the caller");
        true
    }

    // ---- time ----

    /// Time passes for the engine; it must come to rest.
    pub fn tick(&mut self) {
        let mut rounds = 0;
        loop {
            let at = self.at();
            let fx = self.engine.tick(at);
            let idle = fx.list.is_empty();
            self.idle_ticks = match idle && self.now.since(self.last_tick) <= Duration::from_millis(2) {
                true => self.idle_ticks + u32::from(self.now > self.last_tick),
                false => 0,
            };
            self.last_tick = self.now;
            assert!(self.idle_ticks < 20, "the engine keeps its caller busy for nothing");
            self.say(|| format!("tick{}", if idle { "" } else { " *" }));
            self.take(fx);
            checks::wiped_after_tick(self);
            if idle {
                break;
            }
            rounds += 1;
            assert!(rounds < 10, "ticks at one moment go on and on: {:?}", self.last);
        }
    }

    /// Lets time pass until `until`.
    pub fn advance(&mut self, until: BootTime, pace: Pace) {
        let mut steps = 0;
        loop {
            let deliverable =
                |event: &Event| pace != Pace::Asleep || matches!(event.step, Step::Arrive { .. });
            let next =
                self.events.iter().filter(|event| deliverable(event)).min_by_key(|one| (one.at, one.order));
            let next = next.map(|event| (event.at, event.order)).filter(|(at, _)| *at <= until);
            let wake = self.engine.next_wake().filter(|wake| pace == Pace::Prompt && *wake <= until);
            let give_up = self.overdue().filter(|_| pace == Pace::Prompt);
            steps += 1;
            if steps > 3_000 {
                break;
            }
            if let Some((ticket, due)) = give_up
                && due <= until
                && next.is_none_or(|(at, _)| due <= at)
                && wake.is_none_or(|wake| due <= wake)
            {
                self.now = self.now.max(due);
                self.give_up(ticket);
                continue;
            }
            match (next, wake) {
                (Some((at, _)), Some(wake)) if wake < at => {
                    self.now = self.now.max(wake);
                    self.tick();
                }
                (None, Some(wake)) => {
                    self.now = self.now.max(wake);
                    self.tick();
                }
                (Some((at, order)), _) => self.happen(at, order, until, pace),
                (None, None) => {
                    self.now = self.now.max(until);
                    break;
                }
            }
        }
        if pace == Pace::Late {
            self.now = self.now.max(until);
            self.tick();
        }
        self.check();
    }

    /// Lets a span pass on time.
    pub fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            self.advance(until, Pace::Prompt);
        }
    }

    fn overdue(&self) -> Option<(Ticket, BootTime)> {
        let timeout = Duration::from_secs(5);
        self.waiting.iter().map(|(ticket, one)| (*ticket, one.since + timeout)).min_by_key(|(_, due)| *due)
    }

    pub fn wait(&mut self, ticket: Ticket, ino: Ino, asked: Asked, who: u8, request: u64) {
        assert!(!self.answers.contains_key(&ticket), "{ticket:?} is used twice");
        let before = self
            .waiting
            .insert(ticket, Waiter { ino, asked, since: self.now, who, thread: self.thread, request });
        assert!(before.is_none(), "{ticket:?} is used twice");
    }

    pub fn answered(&mut self, ticket: Ticket, answer: Result<Answer, FsError>) {
        let waiter = self.waiting.remove(&ticket);
        let Some(waiter) = waiter else { panic!("{ticket:?} is answered, but does not wait: {answer:?}") };
        match (&answer, waiter.asked) {
            (Ok(Answer::Opened(opened)), Asked::Open) => {
                assert_eq!(opened.ino, waiter.ino);
                self.opened(*opened, waiter.who, waiter.thread, waiter.request);
            }
            (Ok(Answer::Attributes(attributes)), Asked::Attributes) => {
                assert_eq!(attributes.ino, waiter.ino);
                self.kernel_told(None, attributes);
            }
            (Ok(Answer::DirectoryOpened(opened)), Asked::Directory) => {
                self.directories.insert(opened.handle, (waiter.ino, waiter.who, waiter.request));
            }
            (Ok(Answer::Refreshed), Asked::Refresh) | (Err(_), _) => {}
            (Ok(_), _) => panic!("{answer:?} is no answer to {waiter:?}"),
        }
        self.answers.insert(ticket, answer);
    }

    pub fn opened(&mut self, opened: Opened, who: u8, thread: u32, request: u64) {
        let read = self.engine.read(self.now, opened.handle, Reader::Handle);
        let body = read.unwrap_or_else(|error| panic!("{opened:?} was dead when it was opened: {error}"));
        let (ino, path, piece, issues) =
            (opened.ino, body.path.clone(), body.piece.clone(), body.issues.clone());
        let held = Held { ino, issues, path, piece, ended: false, who, request };
        if self.is_reconfigured {
            self.handles.insert(opened.handle, held);
            return;
        }
        for issue in &body.issues {
            checks::is_what_the_process_gets(self, who, thread, ino, *issue);
            let visit = Visit { at: self.now, thread, ino, issue: *issue };
            self.visits.entry((who, self.issues[*issue].source)).or_default().push(visit);
        }
        if opened.forget_attributes
            && let Some(node) = self.kernel.get_mut(&opened.ino)
        {
            node.size = None;
        }
        if let Some((size, until)) = self.kernel.get(&opened.ino).and_then(|node| node.size)
            && self.now < until
        {
            assert_eq!(size, body.size, "the kernel believes another size of {opened:?}");
        }
        checks::body_is_of(self, opened.ino, &body);
        let before = self.handles.insert(opened.handle, held);
        assert!(before.is_none(), "a handle's number was used twice");
    }

    fn kernel_told(&mut self, found: Option<(Ino, &str)>, attributes: &Attributes) {
        if let Some((parent, name)) = found {
            let node_type = attributes.node_type;
            let fresh = KernelNode { parent, name: name.to_owned(), lookups: 0, size: None, node_type };
            let node = self.kernel.entry(attributes.ino).or_insert(fresh);
            assert_eq!((node.parent, node.name.as_str()), (parent, name), "two names share a number");
        }
        let until = self.now + attributes.ttl;
        if let Some(node) = self.kernel.get_mut(&attributes.ino) {
            node.node_type = attributes.node_type;
            node.size = Some((attributes.size, until));
        }
        checks::no_size_is_made_up(self, attributes);
    }

    /// The path of a name that the kernel holds.
    pub fn path(&self, ino: Ino) -> String {
        let mut names = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let Some(node) = self.kernel.get(&at) else { break };
            names.push(node.name.as_str());
            at = node.parent;
        }
        names.reverse();
        names.join("/")
    }

    /// The declared files.
    pub fn files(&self) -> Vec<String> {
        self.layout.files.iter().map(|file| file.name.to_string()).collect()
    }

    /// A number for the kernel's next request.
    pub fn request(&mut self) -> u64 {
        self.requests += 2;
        self.requests
    }

    /// All invariants that hold at any time.
    pub fn check(&mut self) {
        self.seal();
        let issues = &self.issues;
        self.living.retain(|index| issues[*index].held() > 0);
        if !self.is_reconfigured {
            checks::all(self);
        }
    }
}

/// A rule for the layouts.
pub fn rule(uid: u32, gid: u32, mode: u16) -> Rule {
    Rule { uid, gid, mode: Mode(mode) }
}

/// A hint, to keep the layouts short.
pub const AUTO: EngineHint = EngineHint::Auto;
