//! A mount outlives its servers: whatever happens to them, whoever uses it notices a wait and nothing else.
//! With a real kernel, a real OpenBao and a real PostgreSQL.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, read the clock, and say what it has measured"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use support::load::{Load, Placed, Tally, holds, lists, measures, reads};
use support::mount::{Mount, eventually};
use support::world::World;

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Declared KV files.
const FILES: usize = 12;

/// Secrets of the tree, in folders of ten.
const TREE: usize = 60;

/// How often a server is killed in the loop; `make soak` wants more.
fn kills() -> u32 {
    env::var("LEASEFS_HANDOVER_KILLS").map_or(10, |kills| kills.parse().expect("a number"))
}

/// Long enough that a mix of two shows, and of different lengths.
fn content(name: &str) -> String {
    format!("<{name}>").repeat(1 + name.bytes().map(usize::from).sum::<usize>() % 40)
}

fn folder(index: usize) -> String {
    format!("folder-{}", index / 10)
}

fn eventually_soon(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
    true
}

fn between(range: Range<u64>) -> Duration {
    Duration::from_micros(fastrand::u64(range.start * 1000..range.end * 1000))
}

/// A world for one test, with KV secrets and two roles: one whose leases live for the whole test, and one whose
/// leases must be renewed all the time.
struct Scene {
    world: World,
    mount: Mount,
}

impl Scene {
    fn new(threads: usize) -> Scene {
        let world = World::start();
        world.role("long", 3600, 7200);
        world.role("brief", 6, 3600);
        for index in 0..FILES {
            let name = format!("app/{index}");
            world.wait(world.bao.write_kv2("secret", &name, json!({"key": content(&name)})));
        }
        for index in 0..TREE {
            let name = format!("tree/{}/{index}", folder(index));
            world.wait(world.bao.write_kv2("secret", &name, json!({"key": content(&name)})));
        }
        world.wait(world.bao.write_kv2("secret", "turned", json!({"key": content("first")})));
        let mount = Mount::start(&Scene::config(&world, threads), &[]);
        Scene { world, mount }
    }

    fn config(world: &World, threads: usize) -> String {
        let mut config = format!(
            "[vault]\naddress = \"{}\"\n[mount]\nthreads = {threads}\n[defaults]\ngrace = \"1h\"\n\
             [tree.tree]\nsecret = \"secret/tree/\"\n\
             [file.turned]\nsecret = \"secret/turned#key\"\nmax-age = \"200ms\"\n",
            world.bao.address()
        );
        config += &world.approle("handover", json!({"token_ttl": "2h"}));
        for index in 0..FILES {
            config += &format!("[file.\"kv/{index}\"]\nsecret = \"secret/app/{index}#key\"\n");
        }
        for role in ["long", "brief"] {
            for (name, field) in [("user", "username"), ("password", "password")] {
                config += &format!("[file.\"{role}/{name}\"]\nsecret = \"database/creds/{role}#{field}\"\n");
            }
        }
        config
    }

    /// What must be the same after any number of kills: leases, accounts and tokens.
    fn holdings(&self) -> BTreeMap<String, Vec<String>> {
        let mut holdings = BTreeMap::new();
        for role in ["long", "brief"] {
            let mut leases = self.world.leases(role);
            leases.sort();
            holdings.insert(role.to_owned(), leases);
            holdings.insert(format!("{role} accounts"), vec![self.world.accounts(role).to_string()]);
        }
        holdings.insert("tokens".to_owned(), self.world.accessors("handover"));
        holdings
    }

    /// Ends it as systemd would; then nothing is left in Vault and in the database.
    fn stop(self) {
        let Scene { world, mount } = self;
        let (ended, log) = mount.stop();
        assert!(ended.success(), "{ended}\n{log}");
        assert!(log.contains("all leases were given back"), "{log}");
        for role in ["long", "brief"] {
            world.wait_until_nothing_is_left_of(role, PATIENCE);
        }
        assert_eq!(world.accessors("handover"), [""; 0]);
    }
}

/// Files that are held open over everything, and what they must show.
struct Held(Vec<(File, String, String)>);

impl Held {
    /// Of each source one handle of the generation before, and one of the current one.
    fn open(scene: &Scene) -> Held {
        let mount = &scene.mount;
        let mut held = Vec::new();
        let mut hold = |name: &str| {
            let file = File::open(mount.path(name)).unwrap();
            let text = fs::read_to_string(format!("/proc/self/fd/{}", raw(&file))).unwrap();
            held.push((file, text.clone(), name.to_owned()));
            text
        };
        let before: Vec<String> = ["long/user", "long/password", "turned"].map(&mut hold).to_vec();
        let root = mount.root();
        let (ended, text) = mount.command(&["refresh", root.to_str().unwrap(), "long"]);
        assert!(ended.success(), "{text}");
        let secret = json!({"key": content("second generation")});
        scene.world.wait(scene.world.bao.write_kv2("secret", "turned", secret));
        let after = ["long/user", "long/password", "turned"].map(|name| {
            let mut text = None;
            let turned = || {
                let now = mount.read(name).unwrap();
                let changed = !before.contains(&now);
                text = Some(now);
                changed
            };
            eventually(PATIENCE, turned).unwrap_or_else(|| panic!("{name} does not turn:\n{}", mount.log()));
            (name, text.unwrap())
        });
        for (name, text) in after {
            assert_eq!(hold(name), text);
        }
        hold("brief/user");
        hold("brief/password");
        hold("kv/0");
        Held(held)
    }

    /// How many handles of each file.
    fn count(&self) -> BTreeMap<String, u64> {
        let mut count = BTreeMap::new();
        for (.., name) in &self.0 {
            *count.entry(name.clone()).or_default() += 1;
        }
        count
    }

    /// What the latest handle of a file shows.
    fn current(&self, name: &str) -> String {
        self.0.iter().rev().find(|(.., one)| one == name).map(|(_, text, _)| text.clone()).unwrap()
    }
}

fn raw(file: &File) -> i32 {
    use std::os::fd::AsRawFd;
    file.as_raw_fd()
}

/// Everything that programs do with files.
fn put_under_load(mount: &Mount, held: &Held) -> Load {
    let root = mount.root();
    let mut load = Load::new();
    for number in 0..2 {
        let root = root.clone();
        load.start(&format!("open, read and close KV files ({number})"), move || {
            let index = fastrand::usize(..FILES);
            reads(&root.join(format!("kv/{index}")), &content(&format!("app/{index}")))
        });
    }
    let credentials = ["long/user", "long/password", "brief/user", "brief/password", "turned"];
    let credentials = credentials.map(|name| (root.join(name), held.current(name)));
    load.start("open, read and close credentials", move || {
        let (path, text) = &credentials[fastrand::usize(..credentials.len())];
        reads(path, text)
    });
    let open: Vec<(File, String, String)> = held
        .0
        .iter()
        .map(|(file, text, name)| (file.try_clone().unwrap(), text.clone(), name.clone()))
        .collect();
    load.start("read files that stay open", move || {
        let (file, text, name) = &open[fastrand::usize(..open.len())];
        holds(file, text, name)
    });
    let directories = directories(&root);
    load.start_at("list directories", Duration::from_millis(2), move || {
        let (path, names) = &directories[fastrand::usize(..directories.len())];
        lists(path, names)
    });
    let tree = root.join("tree");
    load.start("read the tree", move || {
        let index = fastrand::usize(..TREE);
        let path = tree.join(folder(index)).join(index.to_string()).join("key");
        reads(&path, &content(&format!("tree/{}/{index}", folder(index))))
    });
    let placed: Vec<(Placed, String)> = (0..TREE)
        .step_by(3)
        .map(|index| {
            let path = root.join("tree").join(folder(index)).join(index.to_string()).join("key");
            (Placed::at(&path), content(&format!("tree/{}/{index}", folder(index))))
        })
        .collect();
    load.start("open by number", move || {
        let (placed, text) = &placed[fastrand::usize(..placed.len())];
        reads(&placed.path, text)
    });
    load.start_at("stat", Duration::from_millis(2), move || {
        let index = fastrand::usize(..FILES);
        let size = content(&format!("app/{index}")).len();
        measures(&root.join(format!("kv/{index}")), size as u64)
    });
    load
}

/// Each directory of a scene, and its names.
fn directories(root: &Path) -> Vec<(PathBuf, Vec<String>)> {
    let sorted = |names: &mut dyn Iterator<Item = String>| {
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    let declared = ["brief", "kv", "long", "tree", "turned"];
    let mut directories = vec![
        (root.to_owned(), sorted(&mut declared.iter().map(ToString::to_string))),
        (root.join("kv"), sorted(&mut (0..FILES).map(|index| index.to_string()))),
        (root.join("long"), vec!["password".to_owned(), "user".to_owned()]),
        (root.join("tree"), sorted(&mut (0..TREE).step_by(10).map(folder))),
    ];
    for first in (0..TREE).step_by(10) {
        let names = sorted(&mut (first..first + 10).map(|index| index.to_string()));
        directories.push((root.join("tree").join(folder(first)), names));
    }
    directories
}

#[track_caller]
fn assert_unharmed(tally: &Tally, log: &str) {
    assert_eq!(tally.failed, 0, "{} of {} calls: {:#?}\n{log}", tally.failed, tally.calls, tally.failures);
}

fn kill_loop(threads: usize) {
    let scene = Scene::new(threads);
    let mount = &scene.mount;
    let held = Held::open(&scene);
    // Everything was asked for once, so that nothing is minted but because of a kill.
    for (path, names) in directories(&mount.root()) {
        lists(&path, &names).unwrap();
    }
    let load = put_under_load(mount, &held);
    thread::sleep(Duration::from_millis(500));
    let before = scene.holdings();
    assert_eq!(before["long"].len(), 2, "two generations: {before:?}");
    let mut made = 0;
    let began = Instant::now();
    while made < kills() {
        thread::sleep(between(0..300));
        let mut last = mount.kill_server();
        made += 1;
        if fastrand::u32(..5) == 0 {
            // The next one, too, mostly before it serves.
            let next = || mount.server().is_some_and(|pid| pid != last);
            assert!(eventually_soon(next), "no successor:\n{}", mount.log());
            thread::sleep(between(0..100));
            last = mount.kill_server();
            made += 1;
        }
        mount.wait_for_successor(last);
        let hung = load.hung();
        assert!(hung.is_empty(), "these hang: {hung:?}\n{}", mount.log());
    }
    let took = began.elapsed();
    thread::sleep(Duration::from_millis(500));
    let tally = load.end().unwrap_or_else(|hung| panic!("these hang: {hung}\n{}", mount.log()));
    let (worst, what) = tally.worst.clone();
    println!("{threads} threads: {made} kills in {took:.1?}, {} calls, {} failed", tally.calls, tally.failed);
    println!("the longest took {worst:?} ({what}); {:#?}", tally.of_each);
    assert_unharmed(&tally, &mount.log());
    assert_eq!(scene.holdings(), before, "{}", mount.log());
    let closed = || mount.readers() == held.count();
    let known = eventually(Duration::from_secs(3), closed);
    assert!(known.is_some(), "open: {:?}, known: {:?}", held.count(), mount.readers());
    for (file, text, name) in &held.0 {
        holds(file, text, name).unwrap();
    }
    drop(held);
    let none = eventually(Duration::from_secs(3), || mount.readers().is_empty());
    assert!(none.is_some(), "nothing is open, known: {:?}", mount.readers());
    scene.stop();
}

#[test]
fn nobody_notices_that_servers_are_killed_with_one_thread() {
    kill_loop(1);
}

#[test]
fn nobody_notices_that_servers_are_killed_with_four_threads() {
    kill_loop(4);
}
