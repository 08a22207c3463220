//! What a configuration means: every name resolved, every default applied, every value checked.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::core::access::Rule;
use crate::core::name::{FileName, VaultPath};
use crate::core::source::SourceSpec;
use crate::core::tree::{FieldDirSpec, FileSpec, TreeSpec};

/// A mount, ready to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct MountPlan {
    /// How to reach Vault.
    pub vault: VaultPlan,
    /// Settings of the mount itself.
    pub mount: MountSettings,
    /// Who logs in and how; indexed by `IdentityId`.
    pub identities: Vec<IdentityPlan>,
    /// What is read; indexed by `SourceId`. No two name the same read.
    pub sources: Vec<SourceSpec>,
    /// Declared files.
    pub files: Vec<FilePlan>,
    /// Directories whose files are the fields of one KV secret (`[dir]` without `names`).
    pub field_dirs: Vec<FieldDirSpec>,
    /// Mirrored KV prefixes; indexed by `TreeId`.
    pub trees: Vec<TreeSpec>,
    /// Owner, group and mode of every directory that has none of its own.
    pub directory: Rule,
    /// What an operator should know though nothing is wrong.
    pub warnings: Vec<String>,
}

impl MountPlan {
    /// All names that are declared, each with its rule, in the order of their kinds.
    fn declared(&self) -> impl Iterator<Item = (&FileName, Rule)> {
        let files = self.files.iter().map(|file| (&file.spec.name, file.spec.rule));
        let dirs = self.field_dirs.iter().map(|dir| (&dir.name, dir.rule));
        files.chain(dirs).chain(self.trees.iter().map(|tree| (&tree.name, tree.rule)))
    }

    /// The names that are declared, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.declared().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Whether the mount has a file or directory of this name, or may have it: what Vault has below a
    /// directory of its own is not known here.
    pub fn may_show(&self, name: &str) -> bool {
        let Ok(name) = FileName::new(name) else { return false };
        let below =
            |name: &str, above: &str| name.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'));
        let open =
            self.field_dirs.iter().map(|dir| &dir.name).chain(self.trees.iter().map(|tree| &tree.name));
        let mut open = open.filter(|open| below(name.as_str(), open.as_str()));
        self.declared().any(|(declared, _)| *declared == name || below(declared.as_str(), name.as_str()))
            || open.next().is_some()
    }

    /// The first name that belongs to another user or group than these; empty for the root directory.
    pub fn belongs_to_others(&self, uid: u32, gid: u32) -> Option<&str> {
        let is_other = |rule: &Rule| rule.uid != uid || rule.gid != gid;
        let mut others = self.declared().filter(|(_, rule)| is_other(rule)).map(|(name, _)| name.as_str());
        others.next().or_else(|| is_other(&self.directory).then_some(""))
    }
}

/// How to reach Vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultPlan {
    /// Nodes, tried in order; each `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    pub addresses: Vec<String>,
    /// Namespace, sent as `X-Vault-Namespace`.
    pub namespace: Option<String>,
    /// The only CA certificates to trust, a PEM file; `None`: those of the system.
    pub ca_cert: Option<PathBuf>,
    /// Certificate and key to present to the server, PEM files.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must have, if not the address's.
    pub tls_server_name: Option<String>,
    /// The longest that a reader waits.
    pub read_timeout: Duration,
    /// The longest that a minting request may take.
    pub issue_timeout: Duration,
    /// The largest answer to a read, in bytes.
    pub max_secret_size: u64,
    /// The largest answer to a list, in bytes.
    pub max_list_size: u64,
}

/// Settings of the mount itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSettings {
    /// Bytes of secrets and lists kept at most.
    pub max_memory: u64,
    /// Threads that take requests from the kernel, 1 to 4.
    pub threads: usize,
    /// How long the list of a tree's directory is good.
    pub list_max_age: Duration,
    /// How often leases in use are looked up.
    pub revocation_check: Duration,
    /// Who besides the mounting user may reach the mount.
    pub allow_other: bool,
    /// Whom the process that serves it becomes, if root has mounted.
    pub server_user: Option<Account>,
    /// Protections of the process that serves it which are switched off.
    pub unprotected: BTreeSet<Protection>,
}

/// A user, as a process can be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub uid: u32,
    /// The user's own group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// Something that the process that serves a mount gives up, unless the configuration switches it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protection {
    /// The chance that a program which it starts has more rights than it (prctl(2), `PR_SET_NO_NEW_PRIVS`).
    NoNewPrivs,
    /// Rights of root (capabilities(7)).
    Capabilities,
    /// Files that it has no use for (landlock(7)).
    LandlockFiles,
    /// TCP ports that Vault does not listen on (landlock(7), Linux 6.7).
    LandlockTcp,
    /// Signals and abstract sockets of other processes (landlock(7), Linux 6.12).
    LandlockScope,
    /// System calls that it does not make (seccomp(2)).
    Seccomp,
}

impl Protection {
    /// All, in the order in which they come into force.
    pub const ALL: [Protection; 6] = [
        Protection::NoNewPrivs,
        Protection::Capabilities,
        Protection::LandlockFiles,
        Protection::LandlockTcp,
        Protection::LandlockScope,
        Protection::Seccomp,
    ];

    /// Its name, which is its key in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Protection::NoNewPrivs => "no-new-privs",
            Protection::Capabilities => "capabilities",
            Protection::LandlockFiles => "landlock-files",
            Protection::LandlockTcp => "landlock-tcp",
            Protection::LandlockScope => "landlock-scope",
            Protection::Seccomp => "seccomp",
        }
    }

    /// Whether the kernel asks for no-new-privs first, of processes without rights of root.
    pub fn needs_no_new_privs(self) -> bool {
        match self {
            Protection::NoNewPrivs | Protection::Capabilities => false,
            Protection::LandlockFiles
            | Protection::LandlockTcp
            | Protection::LandlockScope
            | Protection::Seccomp => true,
        }
    }
}

/// One identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityPlan {
    /// Its name in the configuration.
    pub name: String,
    /// How it logs in.
    pub method: Method,
    /// Namespace to log in to and read from; default that of `[vault]`.
    pub namespace: Option<String>,
}

/// A way to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// A token that the user gave.
    Token {
        /// Where it is.
        token: CredentialSource,
    },
    /// AppRole.
    AppRole {
        /// Where the method is mounted, default `approle`.
        auth_path: VaultPath,
        /// The role id; no secret.
        role_id: CredentialSource,
        /// The secret id; `None` for a role with `bind_secret_id=false`.
        secret_id: Option<CredentialSource>,
    },
}

/// Where a credential is found when it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// In a file, read at each login.
    File(PathBuf),
    /// In an environment variable.
    Variable(String),
    /// In the configuration; for a role id alone.
    Literal(String),
}

/// A declared file and how it is rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePlan {
    /// Name, source and rule.
    pub spec: FileSpec,
    /// How it shows the source's values.
    pub format: Format,
}

/// How values become bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// One field: a string as it is, anything else as JSON text.
    Raw {
        /// The field's name.
        field: String,
    },
    /// All fields, or one, as JSON text with a newline at the end.
    Json {
        /// The field's name; `None`: all.
        field: Option<String>,
    },
}
