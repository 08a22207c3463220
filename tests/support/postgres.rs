//! A private PostgreSQL cluster, so that OpenBao has real accounts to make.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::unistd::{Uid, User};
use serde_json::json;

use super::bao::Bao;
use super::server::{ReservedPort, RunAs, Server, StopSignal, reserved_port, wait_until};

/// The superuser's password; nobody else can reach the loopback port's data anyway.
const PASSWORD: &str = "dev-only-superuser";

/// A running PostgreSQL, listening on the loopback.
pub struct Postgres {
    server: Server,
    programs: PathBuf,
    port: u16,
    /// Its own, also while it is stopped.
    _reserved: ReservedPort,
}

impl Postgres {
    /// Makes a cluster, starts it and waits until it serves.
    pub async fn start() -> Postgres {
        let programs = programs();
        let user = unprivileged();
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let data = directory.path().join("data");
        let password = directory.path().join("password");
        fs::write(&password, PASSWORD).expect("a file can be written");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).expect("our directory");
        if let Some(RunAs { uid, gid }) = user {
            for path in [directory.path(), &password] {
                chown(path, Some(uid), Some(gid)).expect("root may give a file away");
            }
        }
        let mut init = Command::new(programs.join("initdb"));
        init.arg("--pgdata").arg(&data).arg("--pwfile").arg(&password);
        init.args([
            "--username=postgres",
            "--auth=scram-sha-256",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        ]);
        init.current_dir(directory.path());
        if let Some(RunAs { uid, gid }) = user {
            init.uid(uid).gid(gid);
        }
        let made = init.output().expect("initdb runs");
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let (address, reserved) = reserved_port();
        let port = address.port();
        let settings = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            format!("unix_socket_directories={}", directory.path().display()),
            "fsync=off".to_owned(),
            "max_connections=50".to_owned(),
        ];
        let program = programs.join("postgres");
        let mut command: Vec<&OsStr> = vec![program.as_os_str(), OsStr::new("-D"), data.as_os_str()];
        for setting in &settings {
            command.extend([OsStr::new("-c"), OsStr::new(setting)]);
        }
        let server = Server::start(&command, directory, StopSignal::Interrupt, user);
        let postgres = Postgres { server, programs, port, _reserved: reserved };
        postgres.wait_until_it_serves().await;
        postgres
    }

    async fn wait_until_it_serves(&self) {
        let serves = async || self.try_query("postgres", PASSWORD, "select 1").is_ok();
        wait_until("PostgreSQL", &self.server, serves).await;
    }

    /// Ends it and all sessions; its data stays.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Starts it again and waits until it serves.
    pub async fn start_again(&self) {
        self.server.start_again();
        self.wait_until_it_serves().await;
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs a statement as superuser; its rows, one a line.
    pub fn query(&self, statement: &str) -> String {
        self.try_query("postgres", PASSWORD, statement).unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// Runs a statement as anyone, over TCP and with a password.
    ///
    /// # Errors
    /// What psql says.
    pub fn try_query(&self, user: &str, password: &str, statement: &str) -> Result<String, String> {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args([
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "--quiet",
            "--host=127.0.0.1",
            "--dbname=postgres",
        ]);
        psql.arg(format!("--port={}", self.port)).arg(format!("--username={user}"));
        psql.arg("--command").arg(statement).env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "5");
        let output = psql.output().map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Whether these credentials open a session.
    pub fn admits(&self, user: &str, password: &str) -> bool {
        self.try_query(user, password, "select 1").is_ok()
    }

    /// How many accounts OpenBao has made that still exist.
    pub fn minted_accounts(&self) -> usize {
        let count = self.query("select count(*) from pg_roles where rolname like 'v-%'");
        count.parse().expect("a number")
    }

    /// Lets OpenBao in no more and ends its sessions: for it, the database is down.
    pub fn refuse_connections(&self) {
        self.query("alter role vault nologin");
        self.query("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'vault'");
    }

    /// Undoes [`Postgres::refuse_connections`].
    pub fn accept_connections(&self) {
        self.query("alter role vault login");
    }

    /// Connects OpenBao: enables the database engine at `mount`. Roles follow by [`Postgres::add_role`].
    pub async fn connect(&self, bao: &Bao, mount: &str) {
        self.connect_over(bao, mount, self.port).await;
    }

    /// The same, over a wire that listens on another port.
    pub async fn connect_over(&self, bao: &Bao, mount: &str, port: u16) {
        // Several may come at once, and one statement is one transaction.
        self.query(&format!(
            "do $$ begin create role vault superuser login password '{PASSWORD}'; \
             exception when duplicate_object or unique_violation then null; end $$"
        ));
        bao.enable(mount, "database", json!({})).await;
        let connection = json!({
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": "*",
            "connection_url": format!(
                "postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/postgres?sslmode=disable",
                port
            ),
            "username": "vault",
            "password": PASSWORD,
        });
        bao.call("POST", &format!("{mount}/config/private"), Some(connection)).await;
    }

    /// A role whose accounts may log in and read: `MOUNT/creds/ROLE`.
    pub async fn add_role(
        &self,
        bao: &Bao,
        mount: &str,
        role: &str,
        default_ttl: Duration,
        max_ttl: Duration,
    ) {
        let statement = "create role \"{{name}}\" login password '{{password}}' valid until '{{expiration}}'";
        let definition = json!({
            "db_name": "private",
            "creation_statements": [statement],
            "default_ttl": default_ttl.as_secs(),
            "max_ttl": max_ttl.as_secs(),
        });
        bao.call("POST", &format!("{mount}/roles/{role}"), Some(definition)).await;
    }

    /// A static role, whose password OpenBao changes every `period`: `MOUNT/static-creds/ROLE`.
    pub async fn add_static_role(&self, bao: &Bao, mount: &str, role: &str, period: Duration) {
        self.query(&format!("create role \"{role}\" login"));
        let definition = json!({"db_name": "private", "username": role, "rotation_period": period.as_secs()});
        bao.call("POST", &format!("{mount}/static-roles/{role}"), Some(definition)).await;
    }
}

/// PostgreSQL refuses to run as root; Debian's package brings a user for it.
fn unprivileged() -> Option<RunAs> {
    if !Uid::effective().is_root() {
        return None;
    }
    let named = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
    let user = named.expect("PostgreSQL can't run as root: this test needs a user `postgres` or `nobody`");
    Some(RunAs { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
}

/// Where the newest installed version has its programs.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
                .filter(|(_, bin)| Path::new(bin).join("initdb").exists())
        })
        .collect();
    found.sort();
    let (_, newest) = found.pop().expect("this test needs PostgreSQL: run `make deps`");
    newest
}
