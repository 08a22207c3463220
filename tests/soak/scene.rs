//! The servers, the mount, and what they hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::load::{Load, Tally};
use crate::support::mount::{Mount, eventually};
use crate::support::proxy::Proxy;
use crate::support::timeline::Timeline;
use crate::support::vitals::Vitals;
use crate::support::weather::Weather;
use crate::support::world::World;

/// How long a reader may wait for Vault; longer than a credential that is wanted too often has to wait for its turn.
pub const READ_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a KV value may be shown after it was replaced: `max-age`, `grace`, and a little.
pub const TOO_OLD: Duration = Duration::from_millis(1000 + 4000 + 2000);

/// KV secrets whose values change.
pub const CHANGING: usize = 6;

/// Secrets of the tree, in folders of five.
pub const TREE: usize = 20;

/// Roles whose leases are read: by name, what is granted at a time, and at most, in seconds.
pub const ROLES: [(&str, u64, u64); 2] = [("brief", 5, 16), ("longer", 12, 60)];

/// How long OpenBao may take to have everything revoked that a fault has left behind.
const SETTLED: Duration = Duration::from_secs(90);

/// How soon all is well after a fault.
const WELL: Duration = Duration::from_secs(20);

/// What the mount's identity may do.
const RULES: &str = r#"path "+/creds/*" { capabilities = ["read"] }
path "secret/*" { capabilities = ["read", "list"] }
path "sys/leases/revoke" { capabilities = ["update"] }"#;

/// Everything that there is.
pub struct Scene {
    pub world: Arc<World>,
    pub proxy: Proxy,
    pub mount: Mount,
    pub weather: Arc<Weather>,
    pub changing: Vec<Arc<Timeline>>,
}

/// What is held while nobody uses anything.
#[derive(Debug)]
pub struct Holdings {
    pub server: Vitals,
    pub keeper: Vitals,
    /// Leases, accounts and tokens, counted.
    pub in_vault: BTreeMap<String, usize>,
    pub readers: BTreeMap<String, u64>,
    /// Files that the server knows.
    pub names: usize,
    /// Bytes of secrets and lists.
    pub memory: u64,
}

/// What each secret of the tree holds.
pub fn leaf(index: usize) -> String {
    format!("<{}>", branch(index)).repeat(1 + index)
}

/// Its path below the tree.
pub fn branch(index: usize) -> String {
    format!("folder-{}/{index}", index / 5)
}

impl Scene {
    pub fn new() -> Scene {
        let world = World::start();
        for (name, ttl, max_ttl) in ROLES {
            world.role(name, ttl, max_ttl);
        }
        let changing: Vec<_> = (0..CHANGING).map(|index| Arc::new(Timeline::new(&name(index)))).collect();
        for (index, timeline) in changing.iter().enumerate() {
            let value = json!({"key": timeline.value(0)});
            world.wait(world.bao.write_kv2("secret", &name(index), value));
        }
        for index in 0..TREE {
            let secret = format!("tree/{}", branch(index));
            world.wait(world.bao.write_kv2("secret", &secret, json!({"key": leaf(index)})));
        }
        let proxy = Proxy::start(world.bao.address());
        let config = config(&world, &proxy);
        // What a command revokes is gone in Vault, too.
        world.wait(world.bao.write_policy("soak", RULES));
        let mount = Mount::start(&config, &[("LEASEFS_LOG", "leasefs=info")]);
        Scene { world: Arc::new(world), proxy, mount, weather: Arc::default(), changing }
    }

    /// Runs a command on the mount that must succeed.
    #[track_caller]
    pub fn command(&self, command: &str, arguments: &[&str]) -> String {
        let root = self.mount.root();
        let (ended, text) =
            self.mount.command(&[&[command, root.to_str().expect("a path is text")][..], arguments].concat());
        assert!(ended.success(), "{command} {arguments:?}: {text}\n{}", self.log());
        text
    }

    /// The end of what leasefs has logged.
    pub fn log(&self) -> String {
        let log = self.mount.log();
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("circuit breaker")).collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Ends the load, which must not hang.
    #[track_caller]
    pub fn end(&self, load: Load) -> Tally {
        load.end().unwrap_or_else(|hung| panic!("these hang: {hung}\n{}", self.log()))
    }

    /// Waits until Vault is known to answer and every file can be read.
    #[track_caller]
    pub fn wait_until_well(&self, after: &str) {
        let mut ill = Vec::new();
        let well = eventually(WELL, || {
            ill =
                files().into_iter().filter_map(|file| Some((self.mount.read(&file).err()?, file))).collect();
            ill.is_empty() && self.mount.status().is_some_and(|status| is_well(&status))
        });
        assert!(well.is_some(), "not well again {WELL:?} after {after}: {ill:?}\n{}", self.log());
    }

    /// The server and its keeper. It may be replaced at this moment, but by nobody but the caller.
    pub fn vitals(&self) -> (Vitals, Vitals) {
        (Vitals::of(self.mount.pid()), Vitals::of(self.mount.keeper()))
    }

    /// What there is once nobody uses the mount, each file was read once more, and OpenBao has nothing left to
    /// revoke: what leasefs says that it holds is what there is.
    #[track_caller]
    pub fn holdings_at_rest(&self) -> Holdings {
        let mut found = (Vec::new(), Vec::new(), BTreeMap::new());
        let settled = eventually(SETTLED, || {
            self.wait_until_well("everything");
            let status = self.mount.status().expect("a server answers");
            let held = |file: &Value| Some(file["lease"].as_str()?.to_owned());
            let files = status["files"].as_array().expect("files");
            let mut told: Vec<String> = files.iter().filter_map(held).collect();
            told.sort();
            told.dedup();
            let mut listed: Vec<String> =
                ROLES.iter().flat_map(|(role, ..)| self.world.leases(role)).collect();
            listed.sort();
            let accounts = ROLES.iter().map(|(role, ..)| self.world.accounts(role)).sum();
            let tokens = self.world.accessors("soak").len();
            let counts = [("leases", listed.len()), ("accounts", accounts), ("tokens", tokens)];
            let counts: BTreeMap<_, _> = counts.map(|(name, count)| (name.to_owned(), count)).into();
            let whole = told == listed && told.len() == ROLES.len() && accounts == told.len() && tokens == 1;
            found = (told, listed, counts);
            whole && self.mount.readers().is_empty() && status["unrevoked"] == json!([])
        });
        let (told, listed, in_vault) = found;
        assert!(
            settled.is_some(),
            "leasefs holds {told:?}, in Vault are {listed:?}: {in_vault:?}; open: {:?}\n{}",
            self.mount.readers(),
            self.log()
        );
        let status = self.mount.status().expect("a server answers");
        // Whoever has just asked may still be connected.
        let looks = (0..10).map(|_| {
            thread::sleep(Duration::from_millis(50));
            self.vitals()
        });
        let (server, keeper) = looks.min_by_key(|(server, _)| server.descriptors).expect("ten looks");
        Holdings {
            server,
            keeper,
            in_vault,
            readers: self.mount.readers(),
            names: status["files"].as_array().expect("files").len(),
            memory: status["memory"].as_u64().expect("a number"),
        }
    }

    /// Ends the mount; then nothing is left.
    pub fn stop(self) {
        let Scene { world, mount, .. } = self;
        let (ended, log) = mount.stop();
        assert!(ended.success(), "{ended}\n{log}");
        for (role, ..) in ROLES {
            world.wait_until_nothing_is_left_of(role, SETTLED);
        }
        let none = eventually(WELL, || world.accessors("soak").is_empty());
        assert!(none.is_some(), "{:?}", world.accessors("soak"));
    }
}

/// Vault answers, and whoever logs in is logged in.
fn is_well(status: &Value) -> bool {
    let identities = status["identities"].as_array().expect("identities");
    status["vault"]["down_for_seconds"].is_null()
        && identities.iter().all(|identity| identity["logged_in"] == json!(true))
}

/// A changing secret's path below `secret/`.
pub fn name(index: usize) -> String {
    format!("changing/{index}")
}

/// The files of the mount.
fn files() -> Vec<String> {
    let declared = (0..CHANGING).map(|index| format!("kv/{index}"));
    let credentials = ROLES.iter().map(|(role, ..)| format!("{role}/both"));
    let leaves = (0..TREE).map(|index| format!("tree/{}/key", branch(index)));
    declared.chain(credentials).chain(leaves).collect()
}

fn config(world: &World, proxy: &Proxy) -> String {
    let mut config = format!(
        "[vault]\naddress = \"{}\"\nread-timeout = \"{}s\"\n[mount]\nrevocation-check = \"1s\"\n\
         [defaults]\nmax-age = \"1s\"\ngrace = \"4s\"\n[tree.tree]\nsecret = \"secret/tree/\"\n",
        proxy.address(),
        READ_TIMEOUT.as_secs()
    );
    config += &world.approle("soak", json!({"token_ttl": "20s", "token_max_ttl": "50s"}));
    for index in 0..CHANGING {
        config += &format!("[file.\"kv/{index}\"]\nsecret = \"secret/{}#key\"\n", name(index));
    }
    for (role, ..) in ROLES {
        config += &format!(
            "[file.\"{role}/both\"]\nsecret = \"database/creds/{role}\"\n\
             [file.\"{role}/user\"]\nsecret = \"database/creds/{role}#username\"\n"
        );
    }
    config
}
