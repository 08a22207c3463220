//! The two peers: started with a configuration of the same meaning, looked at by the same means.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::files;
use crate::support::bao;
use crate::support::mount::{Mount, eventually};
use crate::support::world::World;

/// How often files are looked at.
pub const LOOK: Duration = Duration::from_millis(100);

/// What the AppRoles of both may do; `default`, which lets a token renew and look up, comes on top.
pub const POLICY: &str = r#"path "database/creds/*" { capabilities = ["read"] }
path "secret/data/*" { capabilities = ["read"] }"#;

/// For how long both believe a KV secret without asking.
pub const KV_INTERVAL: &str = "30s";

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// `bao agent` with templates.
    Agent,
    /// `leasefs mount`.
    Leasefs,
}

impl Peer {
    /// Both, in the order of the columns.
    pub const ALL: [Peer; 2] = [Peer::Agent, Peer::Leasefs];

    /// The role (or secret) of its own for a file. Accounts and leases are told apart by it.
    pub fn role(self, file: &str) -> String {
        let prefix = match self {
            Peer::Agent => "ag",
            Peer::Leasefs => "lf",
        };
        format!("{prefix}-{file}")
    }
}

/// What a file shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secret {
    /// The fields of a database credential, as JSON.
    Database,
    /// The field `value` of a KV secret.
    Kv,
}

/// Whether the renewals of a role work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewals {
    /// They do.
    Work,
    /// The database fails them; new accounts it still makes.
    Fail,
}

/// Defines a database role, or changes it. Each account that it makes is noted in the table `minted`.
pub fn define_role(world: &World, role: &str, ttl: u64, max_ttl: u64, renewals: Renewals) {
    let create = "create role \"{{name}}\" login password '{{password}}' valid until '{{expiration}}'; \
                  insert into minted values ('{{name}}')";
    let renew = match renewals {
        Renewals::Work => "alter role \"{{name}}\" valid until '{{expiration}}'",
        Renewals::Fail => "select renewals_fail_for_a_while()",
    };
    let definition = json!({
        "db_name": "private",
        "creation_statements": [create],
        "renew_statements": [renew],
        "default_ttl": ttl,
        "max_ttl": max_ttl,
    });
    world.wait(world.bao.call("POST", &format!("database/roles/{role}"), Some(definition)));
}

/// A running peer and its files.
pub struct Side {
    /// Who.
    pub peer: Peer,
    process: Process,
    config: String,
}

enum Process {
    Agent { child: Child, directory: TempDir },
    Leasefs(Mount),
}

impl Side {
    /// Starts it with an AppRole of its own and waits until each file can be read: the agent fetches all of
    /// them by itself, leasefs those that are opened.
    pub fn start(world: &World, peer: Peer, shown: &[(&str, Secret)]) -> Side {
        let options = json!({"token_policies": "files"});
        let approle = world.wait(world.bao.create_approle(&peer.role("login"), options));
        let secret_id = approle.secret_id_file.display().to_string();
        let (process, config) = match peer {
            Peer::Agent => {
                let directory = tempfile::tempdir().expect("a temporary directory can be made");
                let role_id = directory.path().join("role-id");
                fs::write(&role_id, &approle.role_id).expect("a file can be written");
                let config = agent_config(world.bao.address(), &role_id, &secret_id, directory.path(), shown);
                let path = directory.path().join("agent.hcl");
                fs::write(&path, &config).expect("a file can be written");
                let config = config.replace(&directory.path().display().to_string(), "/run/agent");
                (Process::Agent { child: launch(&path, directory.path()), directory }, config)
            }
            Peer::Leasefs => {
                let config = leasefs_config(world.bao.address(), &approle.role_id, &secret_id, shown);
                (Process::Leasefs(Mount::start(&config, &[("LEASEFS_LOG", "info")])), config)
            }
        };
        let config = config.replace(&secret_id, "/etc/secret-id").replace(&approle.role_id, "ROLE-ID");
        let config = config.replace(world.bao.address(), "http://127.0.0.1:8200");
        let side = Side { peer, process, config };
        for (file, _) in shown.iter().filter(|(file, _)| peer == Peer::Agent || *file != files::UNREAD) {
            let there = eventually(Duration::from_secs(20), || side.read(file).is_ok());
            assert!(there.is_some(), "{peer:?} does not show {file}:\n{}", side.log());
        }
        side
    }

    /// Its configuration, with paths and addresses that people would write.
    pub fn config(&self) -> String {
        self.config.clone()
    }

    /// Where a file is.
    pub fn path(&self, file: &str) -> PathBuf {
        match &self.process {
            Process::Agent { directory, .. } => directory.path().join("files").join(file),
            Process::Leasefs(mount) => mount.path(file),
        }
    }

    /// What a program reads.
    pub fn read(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.path(file))
    }

    /// The credential in a file.
    pub fn credential(&self, file: &str) -> io::Result<Credential> {
        self.read(file).map(|text| Credential::parse(&text))
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        match &self.process {
            Process::Agent { child, .. } => {
                let pid = i32::try_from(child.id()).expect("a pid");
                kill(Pid::from_raw(pid), signal).expect("a signal can be sent");
            }
            Process::Leasefs(mount) => mount.signal(signal),
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) {
        match &mut self.process {
            Process::Agent { child, .. } => drop(child.wait().expect("a child can be waited for")),
            Process::Leasefs(mount) => drop(mount.wait()),
        }
    }

    fn log(&self) -> String {
        match &self.process {
            Process::Agent { directory, .. } => {
                fs::read_to_string(directory.path().join("log")).unwrap_or_default()
            }
            Process::Leasefs(mount) => mount.log(),
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Process::Agent { child, .. } = &mut self.process {
            // One that is gone can't be killed again.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A database credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The account.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl Credential {
    /// From the JSON in a file.
    pub fn parse(text: &str) -> Credential {
        let fields: Value = serde_json::from_str(text).expect("a file with JSON");
        let field = |name: &str| fields[name].as_str().expect("a field").to_owned();
        Credential { user: field("username"), password: field("password") }
    }

    /// Whether the database lets it in.
    pub fn lives(&self, world: &World) -> bool {
        world.postgres.admits(&self.user, &self.password)
    }
}

fn launch(config: &Path, directory: &Path) -> Child {
    let log = fs::File::create(directory.join("log")).expect("a file can be made");
    let mut command = Command::new(bao::binary());
    command.arg("agent").arg(format!("-config={}", config.display()));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", directory);
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be cloned")).stderr(log);
    command.spawn().expect("the agent can be started")
}

fn agent_config(
    address: &str,
    role_id: &Path,
    secret_id: &str,
    directory: &Path,
    shown: &[(&str, Secret)],
) -> String {
    let templates: String = shown
        .iter()
        .map(|(file, secret)| {
            let role = Peer::Agent.role(file);
            let contents = match secret {
                Secret::Database => {
                    format!(r#"{{{{ with secret "database/creds/{role}" }}}}{{{{ .Data | toJSON }}}}{{{{ end }}}}"#)
                }
                Secret::Kv => {
                    format!(r#"{{{{ with secret "secret/data/{role}" }}}}{{{{ .Data.data.value }}}}{{{{ end }}}}"#)
                }
            };
            // One file keeps the mode that comes by default.
            let perms = if *file == "kv" { "" } else { "  perms                = \"0400\"\n" };
            format!(
                "\ntemplate {{\n  contents             = <<EOT\n{contents}\nEOT\n  destination          = \"{}\"\n{perms}  error_on_missing_key = true\n}}\n",
                directory.join("files").join(file).display(),
            )
        })
        .collect();
    format!(
        r#"vault {{
  address = "{address}"
}}

auto_auth {{
  method "approle" {{
    config = {{
      role_id_file_path                   = "{}"
      secret_id_file_path                 = "{secret_id}"
      remove_secret_id_file_after_reading = false
    }}
  }}
}}

template_config {{
  static_secret_render_interval = "{KV_INTERVAL}"
}}
{templates}"#,
        role_id.display(),
    )
}

fn leasefs_config(address: &str, role_id: &str, secret_id: &str, shown: &[(&str, Secret)]) -> String {
    let entries: String = shown
        .iter()
        .map(|(file, secret)| {
            let role = Peer::Leasefs.role(file);
            let secret = match secret {
                Secret::Database => format!("database/creds/{role}"),
                Secret::Kv => format!("secret/{role}#value"),
            };
            format!("\n[file.{file}]\nsecret = \"{secret}\"\n")
        })
        .collect();
    format!(
        r#"[vault]
address = "{address}"

[identity.default]
method = "approle"
role-id = "{role_id}"
secret-id-file = "{secret_id}"

[defaults]
max-age = "{KV_INTERVAL}"
{entries}"#
    )
}

/// How long something takes until `over`, at most `patience`; nothing if it does not end by then.
pub fn time_until(patience: Duration, mut over: impl FnMut() -> bool) -> Option<Duration> {
    let began = Instant::now();
    loop {
        if over() {
            return Some(began.elapsed());
        }
        if began.elapsed() >= patience {
            return None;
        }
        std::thread::sleep(LOOK);
    }
}
