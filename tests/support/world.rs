//! OpenBao and PostgreSQL for scenarios in plain threads, and what is asked of both.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::bao::Bao;
use super::cluster::Cluster;
use super::mount::{Mount, eventually};
use super::postgres::Postgres;

/// The servers.
pub struct World {
    /// OpenBao, with AppRole enabled and the database engine at `database/`.
    pub bao: Bao,
    /// PostgreSQL, which OpenBao makes accounts in.
    pub postgres: Arc<Postgres>,
    runtime: Runtime,
}

/// What OpenBao says of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseFacts {
    /// When it ends.
    pub expires: SystemTime,
    /// When it was last renewed.
    pub renewed: Option<SystemTime>,
}

impl World {
    /// Starts both.
    pub fn start() -> World {
        World::with(Bao::start())
    }

    /// Starts both, this OpenBao for one.
    pub fn with(bao: impl Future<Output = Bao>) -> World {
        let runtime = Runtime::new().expect("a runtime can be made");
        let (bao, postgres) = runtime.block_on(async { tokio::join!(bao, Postgres::start()) });
        let world = World { bao, postgres: Arc::new(postgres), runtime };
        world.equip();
        world
    }

    /// Another OpenBao, for a scenario that makes it fail; with the same PostgreSQL, so their roles must
    /// not have the same names.
    pub fn beside(&self) -> World {
        self.beside_with(Bao::start())
    }

    /// The same, with an OpenBao that keeps what it knows on disk and unseals itself.
    pub fn beside_on_disk(&self) -> World {
        self.beside_with(async { Cluster::start(1).await.into_only() })
    }

    fn beside_with(&self, bao: impl Future<Output = Bao>) -> World {
        let runtime = Runtime::new().expect("a runtime can be made");
        let bao = runtime.block_on(bao);
        let world = World { bao, postgres: Arc::clone(&self.postgres), runtime };
        world.equip();
        world
    }

    /// Gives an OpenBao that knows nothing its engines.
    pub fn equip(&self) {
        self.wait(async {
            self.postgres.connect(&self.bao, "database").await;
            self.bao.call("POST", "sys/auth/approle", Some(json!({"type": "approle"}))).await;
        });
    }

    /// Runs a request to its end.
    pub fn wait<T>(&self, request: impl Future<Output = T>) -> T {
        self.runtime.block_on(request)
    }

    /// A database role, `database/creds/NAME`. At most 8 letters: they are a part of each account's name.
    pub fn role(&self, name: &str, default_ttl: u64, max_ttl: u64) {
        assert!(name.len() <= 8, "{name}");
        let (default_ttl, max_ttl) = (Duration::from_secs(default_ttl), Duration::from_secs(max_ttl));
        self.wait(self.postgres.add_role(&self.bao, "database", name, default_ttl, max_ttl));
    }

    /// A role whose accounts take a while to make, `NAME/creds/NAME`: with an engine of its own, since an
    /// engine does nothing else meanwhile.
    pub fn slow_role(&self, name: &str, seconds: f32) {
        assert!(name.len() <= 8, "{name}");
        self.wait(self.postgres.connect(&self.bao, name));
        let statement = format!(
            "create role \"{{{{name}}}}\" login password '{{{{password}}}}' valid until '{{{{expiration}}}}'; \
             select pg_sleep({seconds})"
        );
        let definition = json!({"db_name": "private", "creation_statements": [statement], "default_ttl": 60});
        self.wait(self.bao.call("POST", &format!("{name}/roles/{name}"), Some(definition)));
    }

    /// An identity that logs in with an AppRole of its own, as a table of the configuration. It may read
    /// `secret/` and credentials.
    pub fn approle(&self, name: &str, mut options: Value) -> String {
        let rules = r#"path "+/creds/*" { capabilities = ["read"] }
                       path "secret/*" { capabilities = ["read", "list"] }"#;
        self.wait(self.bao.write_policy(name, rules));
        options["token_policies"] = json!(name);
        let role = self.wait(self.bao.create_approle(name, options));
        format!(
            "[identity.default]\nmethod = \"approle\"\nrole-id = \"{}\"\nsecret-id-file = \"{}\"\n",
            role.role_id,
            role.secret_id_file.display()
        )
    }

    /// The accessors of the tokens that an AppRole has logged in for and that live.
    pub fn accessors(&self, role: &str) -> Vec<String> {
        let all = self.wait(self.bao.call("LIST", "auth/token/accessors", None));
        let keys = all["data"]["keys"].as_array().cloned().unwrap_or_default();
        let accessors = keys.iter().filter_map(Value::as_str);
        let of_role = accessors.filter(|accessor| {
            self.token(accessor).is_some_and(|token| token["meta"]["role_name"] == json!(role))
        });
        of_role.map(str::to_owned).collect()
    }

    /// What OpenBao says of a token; nothing if it is dead.
    pub fn token(&self, accessor: &str) -> Option<Value> {
        let body = json!({"accessor": accessor});
        let answer = self.wait(self.bao.try_call("POST", "auth/token/lookup-accessor", Some(body)));
        let (status, answer) = answer.expect("OpenBao answers");
        (status == 200).then(|| answer["data"].clone())
    }

    /// Revokes a token, as an operator would.
    pub fn revoke_accessor(&self, accessor: &str) {
        let body = json!({"accessor": accessor});
        self.wait(self.bao.call("POST", "auth/token/revoke-accessor", Some(body)));
    }

    /// The leases of a role.
    pub fn leases(&self, role: &str) -> Vec<String> {
        let prefixes = [format!("database/creds/{role}"), format!("{role}/creds/{role}")];
        prefixes.iter().flat_map(|prefix| self.wait(self.bao.leases(prefix))).collect()
    }

    /// The one lease of a role.
    pub fn lease(&self, role: &str) -> String {
        let leases = self.leases(role);
        assert_eq!(leases.len(), 1, "{leases:?}");
        leases[0].clone()
    }

    /// What OpenBao says of a lease; nothing if it is gone.
    pub fn facts(&self, lease: &str) -> Option<LeaseFacts> {
        let body = json!({"lease_id": lease});
        let answer = self.wait(self.bao.try_call("POST", "sys/leases/lookup", Some(body)));
        let (status, answer) = answer.expect("OpenBao answers");
        let facts = &answer["data"];
        (status == 200).then(|| LeaseFacts {
            expires: instant(&facts["expire_time"]).expect("a lease ends"),
            renewed: instant(&facts["last_renewal"]),
        })
    }

    /// How many accounts of a role there are in PostgreSQL.
    pub fn accounts(&self, role: &str) -> usize {
        let count = format!("select count(*) from pg_roles where rolname like 'v-%-{role}-%'");
        self.postgres.query(&count).parse().expect("a number")
    }

    /// The last end that OpenBao names for a lease or a token, while it lives: each renewal may move it a
    /// little, since OpenBao grants rounded seconds.
    pub fn last_end(mut ask: impl FnMut() -> Option<SystemTime>) -> SystemTime {
        let mut last = ask().expect("it lives");
        while let Some(end) = ask() {
            last = end;
            std::thread::sleep(Duration::from_millis(20));
        }
        last
    }

    /// Waits until nothing is left of a role, in OpenBao and in PostgreSQL.
    pub fn wait_until_nothing_is_left_of(&self, role: &str, patience: Duration) {
        let gone = eventually(patience, || self.leases(role).is_empty() && self.accounts(role) == 0);
        let (leases, accounts) = (self.leases(role), self.accounts(role));
        assert!(gone.is_some(), "{leases:?}, {accounts} accounts\n{}", self.bao.log());
    }
}

/// RFC 3339 in UTC.
pub fn instant(text: &Value) -> Option<SystemTime> {
    humantime::parse_rfc3339(text.as_str()?).ok()
}

/// The value of `user.leasefs.NAME`; empty if there is none.
pub fn attribute(mount: &Mount, file: &str, name: &str) -> String {
    let mut attr = Command::new("attr");
    attr.args(["-q", "-g"]).arg(format!("leasefs.{name}")).arg(mount.path(file));
    let output = attr.output().expect("this test needs attr(1): run `make deps`");
    String::from_utf8(output.stdout).expect("an attribute is text").trim_end().to_owned()
}

/// Why a file can't be read, as its directory says, which can be asked in any case; empty if it can.
pub fn reason(mount: &Mount, file: &str) -> String {
    let (directory, name) = file.rsplit_once('/').unwrap_or(("", file));
    attribute(mount, directory, &format!("error.{name}"))
}

/// Whether this file can be opened and read, and how else it fails.
pub fn try_read(mount: &Mount, file: &str) -> Result<String, i32> {
    fs::read_to_string(mount.path(file)).map_err(|error| error.raw_os_error().expect("an errno"))
}
