//! What the engine asks the world to do, and what it tells whoever called.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::access::{Process, Rule};
use crate::core::error::{Failure, FsError};
use crate::core::name::{
    HandleId, IdentityId, Ino, LeaseId, RequestId, SourceId, Ticket, TokenId, VaultPath,
};
use crate::core::time::{BootTime, UnixTime};

/// Which engine serves a path, as far as the configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EngineHint {
    /// Ask Vault.
    #[default]
    Auto,
    /// KV version 1.
    Kv1,
    /// KV version 2.
    Kv2,
    /// Anything else; reading it may mint.
    Other,
}

/// One read of Vault, complete but for the identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReadRequest {
    /// The logical path, as the user wrote it.
    pub path: VaultPath,
    /// Parameters; present (even empty) they make it a write request (POST). Values are JSON texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<BTreeMap<String, String>>,
    /// A pinned version of a KV v2 secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Which engine it is.
    pub engine: EngineHint,
}

/// Whether a read may make a new credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Minting {
    /// A program opened the file, or it is kept live.
    Allowed,
    /// A program only looked (`stat`): the read goes on if it turns out to be KV.
    Forbidden,
}

/// Who waits for a request; the driver serves the first ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A credential in use ends if this comes too late.
    Renewal,
    /// A program waits.
    Reader,
    /// Nobody waits.
    Background,
}

/// With which token a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Credential {
    /// Whose it is.
    pub identity: IdentityId,
    /// Which of that identity's tokens.
    pub token: TokenId,
}

/// Something to be done outside. The driver does it and reports back by the named request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Log in; report to `logged_in`.
    LogIn {
        /// Answer to this.
        request: RequestId,
        /// Who.
        identity: IdentityId,
    },
    /// Extend a token; report to `token_renewed`.
    RenewToken {
        /// Answer to this.
        request: RequestId,
        /// Which.
        with: Credential,
    },
    /// End a token that leasefs logged in for; nothing to report.
    RevokeToken {
        /// Which.
        with: Credential,
    },
    /// The engine holds this token no longer: drop its bytes.
    DropToken {
        /// Which.
        with: Credential,
    },
    /// Read a source; report to `fetched`.
    Read {
        /// Answer to this.
        request: RequestId,
        /// Which source: decides what is rendered.
        source: SourceId,
        /// With which token.
        with: Credential,
        /// What to read.
        read: ReadRequest,
        /// Whether the fields are wanted as files of their own.
        fields: bool,
        /// Whether it may mint.
        minting: Minting,
        /// Who waits.
        urgency: Urgency,
    },
    /// List a directory of a tree; report to `listed`.
    List {
        /// Answer to this.
        request: RequestId,
        /// For which directory.
        directory: Ino,
        /// With which token.
        with: Credential,
        /// What to list.
        prefix: VaultPath,
        /// Which KV it is.
        engine: EngineHint,
    },
    /// Extend a lease; report to `lease_renewed`.
    RenewLease {
        /// Answer to this.
        request: RequestId,
        /// Whose lease.
        source: SourceId,
        /// With which token.
        with: Credential,
        /// Which lease.
        lease: LeaseId,
        /// By how much, from now.
        increment: Duration,
    },
    /// Ask whether a lease still lives; report to `lease_looked_up`.
    LookUpLease {
        /// Answer to this.
        request: RequestId,
        /// Whose lease.
        source: SourceId,
        /// With which token.
        with: Credential,
        /// Which lease.
        lease: LeaseId,
    },
    /// End a lease; report to `lease_revoked`.
    RevokeLease {
        /// With which token.
        with: Credential,
        /// Which lease.
        lease: LeaseId,
    },
    /// Answer a caller that waits.
    Answer {
        /// Which caller.
        ticket: Ticket,
        /// With what.
        answer: Result<Answer, FsError>,
    },
    /// Make the kernel forget the pages and attributes of a file.
    Invalidate(Ino),
    /// Make the kernel forget a name.
    InvalidateName {
        /// In which directory.
        parent: Ino,
        /// Which name.
        name: String,
    },
    /// Make the kernel forget the cached listing of a directory.
    InvalidateListing(Ino),
    /// Tell the operator.
    Report(Report),
}

/// What an operator should know; the driver logs it with names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A new generation is there.
    Published {
        /// Of what.
        source: SourceId,
        /// Its lease; without one it was read from KV or has an end of its own.
        lease: Option<LeaseId>,
        /// When it ends, if nothing extends it.
        end: BootTime,
    },
    /// A newer generation has taken the place of one that was live, and it is to be known who has opened that.
    Rotated {
        /// Of what.
        source: SourceId,
        /// Who has opened the one that was replaced; some may be gone by now.
        readers: Vec<Process>,
    },
    /// A generation has ended.
    Ended {
        /// Of what.
        source: SourceId,
        /// Whether it had a lease.
        leased: bool,
        /// Why.
        why: End,
    },
    /// A read failed.
    FetchFailed {
        /// Of what.
        source: SourceId,
        /// What it reads; the source itself may be gone when this is told.
        path: VaultPath,
        /// Whether the configuration names it; else a tree brought it in.
        declared: bool,
        /// Why.
        failure: Failure,
    },
    /// A listing failed.
    ListFailed {
        /// Of which prefix.
        prefix: VaultPath,
        /// Why.
        failure: Failure,
    },
    /// Names in a listing that can't be file names were left out.
    NamesSkipped {
        /// Of which prefix.
        prefix: VaultPath,
        /// How many.
        count: usize,
    },
    /// A renewal failed; the lease lives on until its end.
    RenewalFailed {
        /// Of what.
        source: SourceId,
        /// Why.
        failure: Failure,
    },
    /// A lease can't be extended any further.
    LeaseCapped {
        /// Of what.
        source: SourceId,
    },
    /// A lease could not be revoked; it lives on in Vault.
    RevocationFailed {
        /// Which.
        lease: LeaseId,
        /// When it ends by itself.
        end: BootTime,
        /// Why.
        failure: Failure,
    },
    /// A credential that nobody waited for any more arrived and is being revoked.
    LateCredential {
        /// Of what.
        source: SourceId,
    },
    /// An identity has a token.
    LoggedIn {
        /// Who.
        identity: IdentityId,
        /// When the token ends, if nothing extends it.
        end: BootTime,
    },
    /// A login failed; it is tried again.
    LoginFailed {
        /// Who.
        identity: IdentityId,
        /// Why.
        failure: Failure,
        /// In how long it is tried again.
        again: Duration,
    },
    /// A token could not be extended.
    TokenRenewalFailed {
        /// Whose.
        identity: IdentityId,
        /// Why.
        failure: Failure,
    },
    /// A token is gone; all that it obtained has ended.
    TokenLost {
        /// Whose.
        identity: IdentityId,
    },
    /// A predecessor was ended while it read this: a credential may have been made that nobody knows. It dies
    /// with its token.
    PossiblyLost {
        /// What was read.
        path: VaultPath,
        /// When the token counts as over, if nothing extends it.
        end: BootTime,
    },
    /// A predecessor was ended while it logged in: a token may have been issued that nobody knows.
    LoginLost {
        /// Who, if it is in the configuration still.
        identity: Option<IdentityId>,
    },
    /// A generation of a predecessor is not shown any more, because the configuration has changed.
    Dropped {
        /// What was read.
        path: VaultPath,
        /// Its lease, which is given back.
        lease: Option<LeaseId>,
        /// What has changed.
        why: Change,
    },
    /// A predecessor's identity is not in the configuration any more, or logs in in another way.
    IdentityGone {
        /// Its label.
        label: String,
        /// How many tokens of it live.
        tokens: usize,
    },
}

/// What a new configuration says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing shows this source any more.
    SourceGone,
    /// It is read with another identity, or its identity logs in in another way.
    IdentityGone,
    /// One of its files is gone.
    FileGone,
    /// One of its files shows it in another way.
    Rendering,
    /// It has a file that the generation has no bytes for.
    FileAdded,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its time was over.
    Lapsed,
    /// A newer one took its place and its last handle was closed, or its grace was over.
    Replaced,
    /// It was revoked or deleted in Vault.
    GoneInVault,
    /// Its token ended or was lost.
    TokenGone,
    /// An operator revoked it.
    Revoked,
    /// Nobody has used it for `idle-timeout`, and `on-idle = "revoke"`.
    Unused,
    /// An operator locked one of its names.
    Locked,
    /// It made room under `max-memory`.
    Evicted,
    /// The mount is ending.
    Stopped,
}

/// What a file operation comes to.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// Reply now.
    Done(Result<T, FsError>),
    /// Keep the reply: [`Effect::Answer`] with this ticket follows.
    Wait(Ticket),
    /// The verdict depends on the caller's groups: read them and call again.
    NeedGroups,
    /// What is opened depends on the caller's process: look it up and call again.
    NeedProcess,
}

impl Outcome<Answer> {
    /// The answer to one kind of operation.
    pub fn narrow<T>(self, pick: impl FnOnce(Answer) -> Option<T>) -> Outcome<T> {
        match self {
            Outcome::Done(result) => {
                Outcome::Done(result.and_then(|answer| pick(answer).ok_or(FsError::Unusable)))
            }
            Outcome::Wait(ticket) => Outcome::Wait(ticket),
            Outcome::NeedGroups => Outcome::NeedGroups,
            Outcome::NeedProcess => Outcome::NeedProcess,
        }
    }
}

/// What a caller that waited is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To OPEN.
    Opened(Opened),
    /// To OPENDIR.
    DirectoryOpened(DirectoryOpened),
    /// To GETATTR.
    Attributes(Attributes),
    /// To an operator's refresh.
    Refreshed,
}

/// An open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its handle.
    pub handle: HandleId,
    /// Which file.
    pub ino: Ino,
    /// The kernel remembers another size, be it an outdated one: tell it the right one before the reply.
    pub forget_attributes: bool,
}

/// An open directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryOpened {
    /// Its handle.
    pub handle: HandleId,
    /// Whether the kernel may keep the listing.
    pub cache: bool,
}

/// File or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number.
    pub ino: Ino,
    /// File or directory.
    pub node_type: NodeType,
    /// Bytes; 0 while unknown.
    pub size: u64,
    /// Issue time of the current generation; the mount's time if there is none.
    pub mtime: UnixTime,
    /// Owner, group, mode.
    pub rule: Rule,
    /// For how long the kernel may keep them.
    pub ttl: Duration,
}

/// A name that LOOKUP found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// For how long the kernel may keep the name.
    pub ttl: Duration,
    /// What it stands for.
    pub attributes: Attributes,
}
