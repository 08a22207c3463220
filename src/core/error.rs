//! Situations, not error numbers: what a file operation can end in, and what can go wrong with Vault.
//!
//! `fuse/convert.rs` has the one match from [`FsError`] to errno. No text here ever holds a secret.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a file operation fails. Each variant is one situation of DESIGN.md section 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum FsError {
    /// The name is not in the tree.
    #[error("the name is not in the tree")]
    NoSuchName,
    /// The kernel asks by a number that nobody here has given out: a server whose state is lost has, or the name is
    /// not configured any more. The kernel looks the name up again then, and finds it or not.
    #[error("the name must be looked up again")]
    NumberUnknown,
    /// What the directory holds is not known yet, though the kernel was told it once. It looks at the directory
    /// again then, which waits until Vault has told, and asks once more.
    #[error("what the directory holds is not known yet")]
    ContentsUnknown,
    /// The secret, its version or its field does not exist in Vault, or was deleted there.
    #[error("the secret or its field does not exist in Vault")]
    NoSuchSecret,
    /// The file's generation ended and `on-expiry = "vanish"`.
    #[error("the file has vanished with its lease")]
    Vanished,
    /// A directory operation on a file.
    #[error("not a directory")]
    NotADirectory,
    /// A file operation on a directory.
    #[error("is a directory")]
    IsADirectory,
    /// The caller is neither the owner nor in the group, or the mode says no.
    #[error("the caller may not read it")]
    CallerDenied,
    /// An operator locked the file.
    #[error("the file is locked")]
    Locked,
    /// Vault denied the identity.
    #[error("Vault denied the identity")]
    VaultDenied,
    /// No answer within `read-timeout`.
    #[error("Vault did not answer in time")]
    TimedOut,
    /// Vault is unreachable or sealed, and nothing usable is cached.
    #[error("Vault is unreachable or sealed")]
    VaultDown,
    /// The generation that this handle reads has ended.
    #[error("what this handle reads has ended")]
    GenerationEnded,
    /// Vault answered something that can't be used.
    #[error("Vault's answer can't be used")]
    Unusable,
    /// Nothing more fits under `max-memory`.
    #[error("no memory left under max-memory")]
    OutOfMemory,
    /// The tree can't be written.
    #[error("the tree can't be written")]
    ReadOnly,
    /// The extended attribute does not exist, or has no value now.
    #[error("no such attribute")]
    NoSuchAttribute,
    /// The handle is not open.
    #[error("the handle is not open")]
    BadHandle,
    /// The mount is stopping.
    #[error("the mount is stopping")]
    Stopping,
}

/// What came back from Vault instead of what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fault {
    /// 404, an unknown role, or a deleted version.
    NotFound,
    /// 403 with a token that lives: the policy says no.
    Denied,
    /// The token is dead: 403 and `lookup-self` fails too, or no login is possible.
    TokenLost,
    /// The lease is gone: `lease not found`, `lease expired`, `invalid lease`.
    LeaseGone,
    /// The lease is there and can't be renewed: `lease is not renewable`.
    NotRenewable,
    /// No answer in time.
    TimedOut,
    /// No connection, TLS refused, or the connection broke.
    Unreachable,
    /// 503, 501, 472, 473: sealed, not initialised, standing by.
    Sealed,
    /// The node serves what it can by itself, and has no leader to send the rest on to.
    NoLeader,
    /// 429 with a text: a quota.
    RateLimited,
    /// 5xx, or 400 that says nothing of the request itself.
    ServerError,
    /// 400, 405 and others: Vault refuses this request and will refuse it again.
    Refused,
    /// A 200 that can't be used: not JSON, no data, a field of no use, too large.
    Unusable,
    /// Nothing more fits under `max-memory`.
    OutOfMemory,
}

impl Fault {
    /// Whether the same request may be answered a moment later though nobody changes anything.
    pub fn may_pass(self) -> bool {
        match self {
            Fault::TimedOut
            | Fault::Unreachable
            | Fault::Sealed
            | Fault::NoLeader
            | Fault::RateLimited
            | Fault::ServerError
            | Fault::LeaseGone
            | Fault::NotRenewable => true,
            Fault::NotFound
            | Fault::Denied
            | Fault::TokenLost
            | Fault::Refused
            | Fault::Unusable
            | Fault::OutOfMemory => false,
        }
    }

    /// What a program that waits for this request is told.
    pub fn situation(self) -> FsError {
        match self {
            Fault::NotFound => FsError::NoSuchSecret,
            Fault::Denied | Fault::TokenLost => FsError::VaultDenied,
            Fault::TimedOut => FsError::TimedOut,
            Fault::Unreachable | Fault::Sealed | Fault::NoLeader => FsError::VaultDown,
            Fault::OutOfMemory => FsError::OutOfMemory,
            Fault::LeaseGone
            | Fault::NotRenewable
            | Fault::RateLimited
            | Fault::ServerError
            | Fault::Refused
            | Fault::Unusable => FsError::Unusable,
        }
    }

    /// Whether a read that ends like this has made nothing: Vault refused it, or it never got there. (A
    /// connection that broke may have got there; that is rare.)
    pub fn made_nothing(self) -> bool {
        match self {
            Fault::NotFound
            | Fault::Denied
            | Fault::TokenLost
            | Fault::Unreachable
            | Fault::Sealed
            | Fault::NoLeader
            | Fault::RateLimited
            | Fault::Refused => true,
            Fault::LeaseGone
            | Fault::NotRenewable
            | Fault::TimedOut
            | Fault::ServerError
            | Fault::Unusable
            | Fault::OutOfMemory => false,
        }
    }

    /// Whether the same request may succeed a moment later.
    pub fn is_transient(self) -> bool {
        match self {
            Fault::TimedOut
            | Fault::Unreachable
            | Fault::Sealed
            | Fault::NoLeader
            | Fault::RateLimited
            | Fault::ServerError => true,
            Fault::NotFound
            | Fault::Denied
            | Fault::TokenLost
            | Fault::LeaseGone
            | Fault::NotRenewable
            | Fault::Refused
            | Fault::Unusable
            | Fault::OutOfMemory => false,
        }
    }
}

/// A fault and the sentence for `status`, the log and `user.leasefs.error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind it is; decides what happens next.
    pub fault: Fault,
    /// One sentence for an operator: what happened and what to do. No secret, no token.
    pub reason: String,
    /// What `Retry-After` asked for.
    #[serde(default)]
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure without `Retry-After`.
    pub fn new(fault: Fault, reason: impl Into<String>) -> Failure {
        Failure { fault, reason: reason.into(), retry_after: None }
    }
}
