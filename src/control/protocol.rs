//! The words of the control socket, and lines of bounded length.
//!
//! Requests are read strictly: a word that this daemon doesn't know is refused, not skipped. Answers are
//! read leniently, so that a newer daemon may say more than an older command knows.

mod explain;
mod locks;
mod wait;

use serde::{Deserialize, Serialize};

pub use explain::{ExplainReport, HeldReport, Needs, NextReport, OriginReport, OtherReport};
pub use locks::{LockReport, LockedReport, StillLocked, UnlockedReport};
pub use wait::{WaitReport, WaitedFile};

/// The version of the protocol; another one is refused.
pub const VERSION: u32 = 1;

/// The longest request, in bytes, its newline included.
pub const REQUEST_MAX: usize = 64 << 10;

/// The longest answer, in bytes: the status of far more files than one mount holds.
pub const ANSWER_MAX: usize = 256 << 20;

/// A request: one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    /// What is asked.
    pub ask: Ask,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// How everything stands.
    Status,
    /// End generations now, here and in Vault.
    Revoke {
        /// Files, or directories for all that is below them; none: all.
        names: Vec<String>,
    },
    /// Fetch now.
    Refresh {
        /// Files, or directories for all that is below them; none: all.
        names: Vec<String>,
    },
    /// End generations now, and let nobody open these until they are unlocked.
    Lock {
        /// Files, or directories for all that is or will be below them; none: all.
        names: Vec<String>,
        /// What whoever wants to read them is told, in one line.
        reason: String,
    },
    /// Let files be opened again.
    Unlock {
        /// Files, or directories for all locks below them; none: all.
        names: Vec<String>,
    },
    /// Everything about one name.
    Explain {
        /// A file or a directory.
        name: String,
    },
    /// How files stand that somebody waits for; what is named and not live is fetched. Answered within a
    /// second, whatever the patience.
    Wait {
        /// Files, or directories for all that is below them; none: what is required.
        names: Vec<String>,
        /// How long the answer may wait for them, in milliseconds.
        patience_ms: u64,
    },
    /// End, as SIGTERM does.
    Unmount,
    /// End for a successor, which goes on with the same leases and open files.
    HandOver,
}

/// An answer: one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// [`VERSION`].
    pub v: u32,
    /// The answer.
    pub reply: Reply,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Ask::Status`].
    Status(Box<StatusReport>),
    /// To [`Ask::Revoke`].
    Revoked(RevokeReport),
    /// To [`Ask::Refresh`].
    Refreshed(RefreshReport),
    /// To [`Ask::Lock`].
    Locked(LockedReport),
    /// To [`Ask::Unlock`].
    Unlocked(UnlockedReport),
    /// To [`Ask::Explain`].
    Explained(Box<ExplainReport>),
    /// To [`Ask::Wait`].
    Waited(WaitReport),
    /// To [`Ask::Unmount`]: it ends now.
    Stopping {
        /// The daemon.
        pid: u32,
    },
    /// To [`Ask::HandOver`]: it ends now.
    HandingOver {
        /// The server that ends.
        pid: u32,
    },
    /// It was not done.
    Refused(Refusal),
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// Neither root nor the daemon's own user asks.
    NotAllowed {
        /// The user that may, besides root.
        uid: u32,
    },
    /// The request was not understood.
    NotUnderstood,
    /// The request was of another version.
    OtherVersion {
        /// The daemon's.
        v: u32,
    },
    /// A name that the mount doesn't show.
    UnknownName {
        /// Which.
        name: String,
    },
    /// Nobody would start a successor: the mount ends with this daemon.
    NoSuccessor,
}

/// How a mount stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Where it is.
    pub mount_point: String,
    /// Its configuration.
    pub config: String,
    /// The daemon.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
    /// Since when, as RFC 3339.
    pub started: String,
    /// Whether Vault answers.
    pub vault: VaultReport,
    /// Who logs in.
    pub identities: Vec<IdentityReport>,
    /// Each file that is declared or that a program has looked at, by name.
    pub files: Vec<FileReport>,
    /// What is locked.
    #[serde(default)]
    pub locks: Vec<LockReport>,
    /// Bytes of secrets and lists kept.
    pub memory: u64,
    /// Leases that could not be revoked and live on in Vault.
    pub unrevoked: Vec<LeaseReport>,
    /// Tokens that may live on in Vault, and that nobody knows.
    #[serde(default)]
    pub lost_logins: Vec<LostLoginReport>,
    /// What this system lacks, a sentence each.
    pub losses: Vec<String>,
    /// The binary that the next server is started from; empty if there is nobody who starts one.
    #[serde(default)]
    pub program: String,
    /// The unit of systemd that starts it; empty if it is none.
    #[serde(default)]
    pub unit: String,
    /// The user whom the daemon runs as.
    #[serde(default)]
    pub user: String,
    /// What the process that serves it has given up, or not; empty if it gives nothing up.
    #[serde(default)]
    pub protections: Vec<ProtectionReport>,
}

/// How a protection of the process that serves a mount stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectionReport {
    /// Its name.
    pub name: String,
    /// `on`; `off`: left out, since somebody wants it so; `missing`: this system does not have it.
    pub state: String,
    /// Why it is not on.
    pub reason: Option<String>,
}

/// Whether Vault answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultReport {
    /// Its nodes.
    pub addresses: Vec<String>,
    /// How long it has not answered, in seconds; `None`: it answers.
    pub down_for_seconds: Option<u64>,
}

/// How an identity stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityReport {
    /// Its name.
    pub name: String,
    /// Whether it has a token.
    pub logged_in: bool,
    /// When the token ends; `None`: never, or there is none.
    pub expires: Option<Instant>,
    /// Why the last login failed.
    pub error: Option<String>,
    /// How long the token was granted for at first, in seconds; `None`: it has no end, or there is none.
    #[serde(default)]
    pub duration_seconds: Option<u64>,
    /// Whether it is going to be extended, or replaced by a new one.
    #[serde(default)]
    pub kept: bool,
    /// Whether anything is read with it.
    #[serde(default)]
    pub used: bool,
}

/// How a file stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// Its name.
    pub name: String,
    /// `idle`, `live`, `renewing`, `stale`, `failed` or `locked`.
    pub state: String,
    /// What it reads.
    pub path: String,
    /// Who reads it.
    pub identity: String,
    /// Bytes, if it can be read.
    pub size: Option<u64>,
    /// KV v2: which version.
    pub version: Option<u64>,
    /// When the current generation was issued, as RFC 3339.
    pub issued: Option<String>,
    /// When it ends, if nothing extends it.
    pub expires: Option<Instant>,
    /// Its lease.
    pub lease: Option<String>,
    /// How many handles are open.
    pub readers: usize,
    /// Why the last try failed.
    pub error: Option<String>,
    /// The name is gone with its lease.
    pub vanished: bool,
    /// It is fetched before the mount is ready, and kept live.
    #[serde(default)]
    pub required: bool,
    /// `kv`, `static`, `lease` or `own-end`: what keeps what it shows valid.
    #[serde(default)]
    pub kind: Option<String>,
    /// How long a lease was granted for, or from issue to its own end, in seconds; none for KV.
    #[serde(default)]
    pub duration_seconds: Option<u64>,
    /// What happens to it next, by itself; `None`: nothing.
    #[serde(default)]
    pub next: Option<NextReport>,
}

/// An end, for people and for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instant {
    /// From the answer on.
    pub in_seconds: u64,
    /// As RFC 3339.
    pub at: String,
}

/// A lease that lives on in Vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReport {
    /// Its id.
    pub lease: String,
    /// What it was obtained from.
    pub path: String,
    /// When it ends by itself.
    pub expires: Instant,
    /// Why it could not be revoked yet.
    pub reason: String,
}

/// A token that may live on in Vault: the server ended while it logged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostLoginReport {
    /// Who logged in.
    pub identity: String,
    /// When it is over at the latest, as far as the next login tells; `None`: there was none yet, or it has no end.
    pub expires: Option<Instant>,
    /// What has happened.
    pub reason: String,
}

/// What a revocation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeReport {
    /// How many generations ended here.
    pub ended: usize,
    /// Leases that Vault has revoked.
    pub revoked: Vec<String>,
    /// Leases that live on.
    pub unrevoked: Vec<LeaseReport>,
}

/// What a refresh did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshReport {
    /// Each file, by name.
    pub files: Vec<RefreshedFile>,
}

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshedFile {
    /// Its name.
    pub name: String,
    /// Why it could not be fetched; `None`: it was.
    pub error: Option<String>,
}

/// Takes a request apart.
///
/// # Errors
/// [`Refusal::OtherVersion`], [`Refusal::NotUnderstood`].
pub fn parse_request(line: &[u8]) -> Result<Ask, Refusal> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u32,
    }
    match serde_json::from_slice::<Versioned>(line) {
        Ok(Versioned { v: VERSION }) => {}
        Ok(Versioned { .. }) => return Err(Refusal::OtherVersion { v: VERSION }),
        Err(_) => return Err(Refusal::NotUnderstood),
    }
    serde_json::from_slice::<Request>(line).map(|request| request.ask).map_err(|_| Refusal::NotUnderstood)
}

/// A message as its line, newline included.
pub fn line(message: &impl Serialize) -> Vec<u8> {
    // Numbers, texts and lists can always be written as JSON.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_survives_the_wire() {
        let names = vec!["db/password".to_owned(), "tls".to_owned()];
        for ask in [
            Ask::Status,
            Ask::Revoke { names: Vec::new() },
            Ask::Revoke { names: names.clone() },
            Ask::Refresh { names: names.clone() },
            Ask::Lock { names: names.clone(), reason: "a \"b\"\n".to_owned() },
            Ask::Unlock { names: names.clone() },
            Ask::Wait { names, patience_ms: 200 },
            Ask::Explain { name: "db".to_owned() },
            Ask::Unmount,
            Ask::HandOver,
        ] {
            let line = line(&Request { v: VERSION, ask: ask.clone() });
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(parse_request(&line), Ok(ask));
        }
        assert_eq!(parse_request(br#"{"v":1,"ask":"status"}"#), Ok(Ask::Status));
    }

    #[test]
    fn a_request_with_anything_unknown_in_it_is_refused_whole() {
        for line in [
            "",
            "status",
            "{}",
            r#"{"ask":"status"}"#,
            r#"{"v":1,"ask":"reboot"}"#,
            r#"{"v":1,"ask":"status","force":true}"#,
            r#"{"v":1,"ask":{"revoke":{"names":[],"all":true}}}"#,
            r#"{"v":1,"ask":{"revoke":{}}}"#,
            r#"{"v":1,"ask":{"revoke":{"names":"db"}}}"#,
        ] {
            assert_eq!(parse_request(line.as_bytes()), Err(Refusal::NotUnderstood), "{line}");
        }
    }

    #[test]
    fn a_request_of_another_version_is_told_which_one_this_is() {
        let line = br#"{"v":2,"ask":{"dance":{"with":"me"}}}"#;
        assert_eq!(parse_request(line), Err(Refusal::OtherVersion { v: 1 }));
    }

    #[test]
    fn an_answer_may_say_more_than_is_known_here() {
        let newer = br#"{"v":1,"colour":"red","reply":{"stopping":{"pid":7,"grace":3}}}"#;
        let response: Response = serde_json::from_slice(newer).unwrap();
        assert_eq!(response, Response { v: 1, reply: Reply::Stopping { pid: 7 } });
    }
}
