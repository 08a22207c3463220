//! A successor with another configuration: what is still shown goes on, all else is given back.

use leasefs::core::effect::{Answer, Change, Effect, Outcome, Report};
use leasefs::core::engine::Layout;
use leasefs::core::error::FsError;
use leasefs::core::generation::Piece;
use leasefs::core::name::{FileName, HandleId, IdentityId, Ino, LeaseId, SourceId};
use leasefs::core::state::{Forsaken, Key};

use crate::layout::{CLOUD, DATABASE, WEATHER};
use crate::scenarios::{MS, S, count, open, read, visit, world};
use crate::world::{Asked, Weather, World, caller};

/// Two handles on credentials, one on KV; what they show; the leases.
struct Before {
    world: World,
    database: HandleId,
    weather: HandleId,
    cloud: HandleId,
    shown: [Result<u64, FsError>; 3],
}

impl Before {
    fn new() -> Before {
        let mut world = world();
        let [database, weather, cloud] =
            ["db/password", "weather.json", "cloud"].map(|name| open(&mut world, name));
        let shown = [database, weather, cloud].map(|handle| read(&world, handle));
        assert!(shown.iter().all(Result::is_ok));
        Before { world, database, weather, cloud, shown }
    }

    fn lease(&self, path: &str) -> LeaseId {
        let mut leases = self.world.vault.leases.keys().filter(|lease| lease.0.starts_with(path));
        leases.next().expect("it was minted").clone()
    }

    fn lives(&self, lease: &LeaseId) -> bool {
        self.world.vault.lease_lives(self.world.now, lease)
    }

    fn hand_over(&mut self, change: impl FnOnce(&mut Layout)) -> Vec<Forsaken> {
        let mut layout = self.world.layout.clone();
        change(&mut layout);
        self.world.is_reconfigured = true;
        let forsaken = self.world.replace_engine(layout);
        self.world.notify();
        self.world.pass(20 * MS);
        forsaken
    }

    fn reads(&self) -> [Result<u64, FsError>; 3] {
        [self.database, self.weather, self.cloud].map(|handle| read(&self.world, handle))
    }

    fn dropped(&self) -> Vec<(String, Change)> {
        let dropped = self.world.reports.iter().filter_map(|report| match report {
            Report::Dropped { path, why, .. } => Some((path.as_str().to_owned(), *why)),
            _ => None,
        });
        dropped.collect()
    }

    /// Which value an OPEN shows, after a moment for Vault's answer.
    fn opens(&mut self, name: &str) -> Result<u64, FsError> {
        let ino = name.split('/').try_fold(Ino::ROOT, |parent, name| {
            self.world.engine.lookup(self.world.now, parent, name).map(|entry| entry.attributes.ino)
        })?;
        let at = self.world.at();
        let (outcome, fx) = self.world.engine.open(at, &caller(3, false, 0), ino);
        let answer = match outcome {
            Outcome::Done(result) => {
                self.world.take(fx);
                result.map(Answer::Opened)
            }
            Outcome::Wait(ticket) => {
                self.world.wait(ticket, ino, Asked::Open, 3, 0);
                self.world.take(fx);
                self.world.pass(20 * MS);
                self.world.answers[&ticket].clone()
            }
            Outcome::NeedGroups | Outcome::NeedProcess => panic!("root needs no groups"),
        };
        match answer? {
            Answer::Opened(opened) => read(&self.world, opened.handle),
            other => panic!("{other:?}"),
        }
    }
}

fn name(text: &str) -> FileName {
    FileName::new(text).expect("a name")
}

/// Takes a source out, and what shows it.
fn without(layout: &mut Layout, gone: SourceId) {
    let moved = |source: &mut SourceId| {
        if source.0 > gone.0 {
            source.0 -= 1;
        }
    };
    layout.sources.remove(gone.0 as usize);
    let kept: Vec<bool> = layout.files.iter().map(|file| !file.sources.contains(gone)).collect();
    let mut keep = kept.iter();
    layout.files.retain(|_| *keep.next().expect("one for each"));
    let mut keep = kept.iter();
    layout.renderings.retain(|_| *keep.next().expect("one for each"));
    layout.field_dirs.retain(|dir| dir.source != gone);
    layout.files.iter_mut().for_each(|file| {
        file.sources = file.sources.map(|mut id| {
            moved(&mut id);
            id
        })
    });
    layout.field_dirs.iter_mut().for_each(|dir| moved(&mut dir.source));
}

#[test]
fn in_another_order_everything_goes_on() {
    let mut before = Before::new();
    let sent = before.world.sent.len();
    before.hand_over(|layout| {
        let last = layout.sources.len() as u32 - 1;
        layout.sources.reverse();
        layout.files.reverse();
        layout.renderings.reverse();
        layout.identities.reverse();
        layout.field_dirs.reverse();
        let turn = |identity: &mut IdentityId| identity.0 = 1 - identity.0;
        layout.given = std::mem::take(&mut layout.given).into_iter().map(|id| IdentityId(1 - id.0)).collect();
        layout.sources.iter_mut().for_each(|source| turn(&mut source.identity));
        layout.trees.iter_mut().for_each(|tree| turn(&mut tree.identity));
        let turned = |id: SourceId| SourceId(last - id.0);
        layout.files.iter_mut().for_each(|file| file.sources = file.sources.map(turned));
        layout.field_dirs.iter_mut().for_each(|dir| dir.source.0 = last - dir.source.0);
    });
    assert_eq!(before.dropped(), []);
    assert_eq!(before.reads(), before.shown);
    for (index, name) in ["db/password", "weather.json", "cloud"].into_iter().enumerate() {
        assert_eq!(before.opens(name), before.shown[index], "{name}");
    }
    assert_eq!(before.world.sent.len(), sent, "{:?}", &before.world.sent[sent..]);
}

#[test]
fn a_source_that_nothing_shows_any_more_is_given_back() {
    let mut before = Before::new();
    let lease = before.lease("database");
    let forsaken = before.hand_over(|layout| without(layout, DATABASE));
    assert_eq!(forsaken, []);
    assert_eq!(before.dropped(), [("database/creds/app".to_owned(), Change::SourceGone)]);
    assert!(!before.lives(&lease));
    let [database, weather, cloud] = before.reads();
    assert_eq!(database, Err(FsError::GenerationEnded));
    assert_eq!([weather, cloud], before.shown[1..]);
    assert_eq!(before.opens("db/password"), Err(FsError::NoSuchName));
    assert_eq!(before.opens("weather.json"), before.shown[1]);
    let handle = before.database;
    before.world.release(handle);
    assert_eq!(read(&before.world, handle), Err(FsError::BadHandle), "its RELEASE is known");
}

#[test]
fn the_kernel_forgets_a_name_that_is_gone() {
    let mut before = Before::new();
    let mut layout = before.world.layout.clone();
    without(&mut layout, DATABASE);
    without(&mut layout, SourceId(0));
    layout.files.iter_mut().filter(|file| file.name.as_str() == "plain").for_each(|file| {
        file.name = name("plain/inside");
    });
    before.world.deaf = true;
    before.world.is_reconfigured = true;
    before.world.replace_engine(layout);
    let gone: Vec<(Ino, &str)> = before
        .world
        .notices
        .iter()
        .filter_map(|notice| match notice {
            Effect::InvalidateName { parent, name } => Some((*parent, name.as_str())),
            _ => None,
        })
        .collect();
    let db = before.world.kernel.iter().find(|(_, node)| node.name == "db").map(|(ino, _)| *ino).unwrap();
    for expected in [(db, "password"), (db, "dsn"), (Ino::ROOT, "weather.json"), (Ino::ROOT, "plain")] {
        assert!(gone.contains(&expected), "{expected:?} in {gone:?}");
    }
    assert!(!gone.contains(&(Ino::ROOT, "db")), "something else is in it");
}

#[test]
fn a_file_of_another_name_is_another_file() {
    let mut before = Before::new();
    let lease = before.lease("database");
    before.hand_over(|layout| layout.files[0].name = name("db/secret"));
    assert_eq!(before.dropped(), [("database/creds/app".to_owned(), Change::FileGone)]);
    assert_eq!(before.reads()[0], Err(FsError::GenerationEnded));
    assert!(!before.lives(&lease));
    assert!(before.opens("db/secret").is_ok());
    assert_eq!(before.world.reads[&DATABASE], 2);
}

#[test]
fn a_file_that_shows_another_source_by_now_shows_nothing_of_the_former() {
    let mut before = Before::new();
    before.hand_over(|layout| layout.files[2].sources = SourceId(2).into());
    assert_eq!(before.reads()[1], Err(FsError::GenerationEnded));
    assert!(before.dropped().contains(&("secret/weather".to_owned(), Change::FileGone)));
}

#[test]
fn a_file_that_is_rendered_in_another_way_is_fetched_anew() {
    let mut before = Before::new();
    before.hand_over(|layout| layout.renderings[2] = "json".to_owned());
    assert_eq!(before.dropped(), [("secret/weather".to_owned(), Change::Rendering)]);
    let [database, weather, cloud] = before.reads();
    assert_eq!((database, weather, cloud), (before.shown[0], Err(FsError::GenerationEnded), before.shown[2]));
    assert_eq!(before.opens("weather.json"), Ok(1));
    assert!(before.world.engine.failure_of(WEATHER).is_none());
}

#[test]
fn an_identity_that_logs_in_in_another_way_is_another_one() {
    let mut before = Before::new();
    let (lease, other) = (before.lease("database"), before.lease("cloud"));
    let logins = count(&before.world, |effect| matches!(effect, Effect::LogIn { .. }));
    let forsaken = before.hand_over(|layout| layout.identities[0] = "another role".to_owned());
    let [one] = &forsaken[..] else { panic!("{forsaken:?}") };
    assert_eq!((one.ours, &one.leases), (true, &vec![lease]));
    assert!(before.lives(&other));
    let now = count(&before.world, |effect| matches!(effect, Effect::LogIn { .. }));
    assert_eq!(now, logins + 1, "it alone logs in");
    let is_gone = |report: &&Report| matches!(report, Report::IdentityGone { tokens: 1, .. });
    assert_eq!(before.world.reports.iter().filter(is_gone).count(), 1);
    assert_eq!(before.dropped().len(), 2, "{:?}", before.dropped());
    let [database, weather, cloud] = before.reads();
    assert_eq!([database, weather], [Err(FsError::GenerationEnded); 2]);
    assert_eq!(cloud, before.shown[2]);
    assert!(before.opens("db/password").is_ok());
}

#[test]
fn a_lease_that_an_identity_that_is_gone_was_giving_back_is_not_forgotten() {
    let mut before = Before::new();
    let lease = before.lease("database");
    before.world.weather = Weather::Slow(1000 * S, S);
    let files = before.world.engine.select(&["db".to_owned()]).unwrap();
    before.world.revoke(&files);
    let forsaken = before.hand_over(|layout| layout.identities[0] = "another role".to_owned());
    assert_eq!(forsaken.iter().flat_map(|one| &one.leases).collect::<Vec<_>>(), [&lease]);
}

#[test]
fn a_new_file_of_a_source_gets_a_new_generation_and_open_handles_keep_theirs() {
    let mut before = Before::new();
    let lease = before.lease("database");
    before.hand_over(|layout| {
        let mut file = layout.files[0].clone();
        file.name = name("db/new");
        layout.files.push(file);
        layout.renderings.push("raw".to_owned());
    });
    assert_eq!(before.dropped(), [("database/creds/app".to_owned(), Change::FileAdded)]);
    assert_eq!(before.reads(), before.shown, "what is open goes on");
    assert!(before.lives(&lease));
    let new = before.opens("db/new");
    assert!(new.is_ok() && new != before.shown[0]);
    assert_eq!(before.opens("db/password"), new, "all files of a source are of one generation");
    assert_eq!(before.world.reads[&DATABASE], 2);
    let handle = before.database;
    before.world.release(handle);
    before.world.pass(S);
    assert!(!before.lives(&lease), "the last handle of it is closed");
}

#[test]
fn a_generation_that_lacks_a_new_file_and_that_nobody_has_open_is_given_back() {
    let mut before = Before::new();
    let (handle, lease) = (before.database, before.lease("database"));
    before.world.release(handle);
    before.hand_over(|layout| {
        let mut file = layout.files[0].clone();
        file.name = name("db/new");
        layout.files.push(file);
        layout.renderings.push("raw".to_owned());
    });
    assert!(!before.lives(&lease));
}

#[test]
fn a_new_file_of_a_new_source_changes_nothing_for_the_others() {
    let mut before = Before::new();
    before.hand_over(|layout| {
        let mut file = layout.files[6].clone();
        let mut source = layout.sources[1].clone();
        source.request.path = leasefs::core::name::VaultPath::new("secret/fields").unwrap();
        source.request.version = Some(1);
        (file.name, file.sources) = (name("pinned"), SourceId(0).into());
        layout.sources.insert(0, source);
        layout.files.iter_mut().for_each(|file| file.sources = file.sources.map(|id| SourceId(id.0 + 1)));
        layout.field_dirs.iter_mut().for_each(|dir| dir.source.0 += 1);
        layout.files.insert(0, file);
        layout.renderings.insert(0, "raw".to_owned());
    });
    assert_eq!((before.dropped(), before.reads()), (Vec::new(), before.shown));
    assert_eq!(before.opens("db/password"), before.shown[0]);
    assert_eq!(before.opens("cloud"), before.shown[2]);
    // Other numbers, other bytes for a successor of the successor.
    before.world.replace_engine(before.world.layout.clone());
    assert_eq!((before.dropped(), before.reads()), (Vec::new(), before.shown));
}

#[test]
fn a_tree_that_is_gone_takes_its_names_along() {
    let mut before = Before::new();
    let ino = visit(&mut before.world, "kv/a/k1").unwrap();
    let handle = crate::scenarios::try_open_ino(&mut before.world, ino).unwrap();
    before.hand_over(|layout| layout.trees.clear());
    assert_eq!(before.dropped(), [("tree/a".to_owned(), Change::SourceGone)]);
    assert_eq!(read(&before.world, handle), Err(FsError::GenerationEnded));
    assert_eq!(before.world.engine.census().names, 0);
    let names = before.world.cells.keys().filter(|key| matches!(key, Key::Name(_))).count();
    assert_eq!(names, 0, "the cells go too");
}

#[test]
fn a_tree_that_mirrors_something_else_shows_nothing_of_the_former() {
    let mut before = Before::new();
    let ino = visit(&mut before.world, "kv/a/k1").unwrap();
    let handle = crate::scenarios::try_open_ino(&mut before.world, ino).unwrap();
    before.hand_over(|layout| {
        layout.trees[0].prefix = leasefs::core::name::VaultPath::new("tree/folder").unwrap();
    });
    assert_eq!(read(&before.world, handle), Err(FsError::GenerationEnded));
    assert_eq!(before.world.engine.census().names, 0);
}

#[test]
fn the_directories_of_fields_may_change_while_their_names_are_known() {
    let mut before = Before::new();
    visit(&mut before.world, "fields/k1").unwrap();
    before.hand_over(|layout| layout.field_dirs[0].source = WEATHER);
    // The directory shows another secret; `k1` is no field of that.
    assert_eq!(before.opens("fields/k1"), Err(FsError::NoSuchName));
    assert!(matches!(before.world.handles[&before.cloud].piece, Piece::File(_)));
    assert_eq!(before.reads()[2], before.shown[2]);
    assert_eq!(before.world.reads[&CLOUD], 1);
}

#[test]
fn with_less_room_what_nobody_has_open_goes_first() {
    let mut before = Before::new();
    let (database, cloud) = (before.database, before.cloud);
    for handle in [database, before.weather, cloud] {
        before.world.release(handle);
    }
    let memory = before.world.engine.memory();
    before.hand_over(|layout| layout.settings.max_memory = memory - 1);
    assert!(before.world.engine.memory() < memory);
}
