//! What a daemon answers about one name: the engine's details in words, and what to do.

use crate::control::ServiceHandler;
use crate::control::handler::{Times, rfc3339};
use crate::control::protocol::{
    ExplainReport, HeldReport, Needs, NextReport, OriginReport, OtherReport, Refusal, Reply,
};
use crate::core::access::Mode;
use crate::core::effect::ReadRequest;
use crate::core::engine::{Details, Held, Origin, State, Subject, Upcoming};
use crate::core::error::Fault;
use crate::core::name::IdentityId;
use crate::core::policy::{OnIdle, Renew};
use crate::core::tree::OnExpiry;
use crate::driver::clock::Clock;

/// What the daemon knows of Vault's policies and of the configuration, for `leasefs explain`.
pub trait Lore: Send + Sync {
    /// What a read of an identity needs, if it is known which engine serves the path. Asks nobody.
    fn needs(&self, identity: IdentityId, request: &ReadRequest) -> Option<Needs>;
    /// What a declared file shows of its secret, in words.
    fn shows(&self, file: &str) -> Option<String>;
}

impl<C: Clock> ServiceHandler<C> {
    /// Everything about a name.
    pub(super) fn explain(&self, name: &str) -> Reply {
        let times = self.times();
        match self.service.look(|engine, now| engine.explain(now, name)) {
            Some(details) => Reply::Explained(Box::new(self.explain_report(details, &times))),
            None => Reply::Refused(Refusal::UnknownName { name: name.to_owned() }),
        }
    }

    fn explain_report(&self, details: Details, times: &Times) -> ExplainReport {
        let advice = advice(&details);
        let Details { name, subject, origin, rule, held, next, shared_with, locked_by, error, .. } = details;
        let Mode(bits) = rule.mode;
        let origin = origin.map(|origin| self.origin_report(&name, origin));
        let kind = match &subject {
            Subject::File(_) => "file",
            Subject::Names(_) => "directory",
            Subject::Directory { listed: true, fields: true } => "tree-and-secret",
            Subject::Directory { listed: true, fields: false } => "tree",
            Subject::Directory { .. } => "secret",
        };
        let (file, names) = match subject {
            Subject::File(status) => (Some(self.file_report(*status, times)), Vec::new()),
            Subject::Names(names) => (None, names),
            Subject::Directory { .. } => (None, Vec::new()),
        };
        let several = origin.as_ref().is_some_and(|origin| !origin.more.is_empty());
        let path = |held: &Held| {
            let of = |source| self.service.look(|engine, _| engine.path_of(source));
            of(held.source).filter(|_| several)
        };
        let report = |held: Held| HeldReport {
            path: path(&held),
            replaced: !held.current,
            issued: rfc3339(held.issued),
            expires: held.expires.map(|end| times.instant(end)),
            handles: held.handles,
        };
        ExplainReport {
            name,
            kind: kind.to_owned(),
            file,
            names,
            origin,
            owner: rule.uid,
            group: rule.gid,
            mode: format!("{bits:04o}"),
            held: held.into_iter().map(report).collect(),
            next: next_report(next, times),
            shared_with,
            locked_by: locked_by.map(|scope| scope.as_str().to_owned()),
            error,
            advice,
        }
    }

    fn origin_report(&self, name: &str, origin: Origin) -> OriginReport {
        let Origin { identity, request, policy, on_expiry, field, more } = origin;
        let other = |request: ReadRequest| OtherReport {
            path: request.path.as_str().to_owned(),
            needs: self.lore.needs(identity, &request),
        };
        OriginReport {
            identity: self.identity(identity),
            path: request.path.as_str().to_owned(),
            params: request.params.iter().flat_map(|params| params.keys().cloned()).collect(),
            version: request.version,
            shows: field.map(|field| format!("the field {field:?}")).or_else(|| self.lore.shows(name)),
            needs: self.lore.needs(identity, &request),
            renew: renew_word(policy.renew).to_owned(),
            on_expiry: match on_expiry {
                OnExpiry::Refetch => "refetch",
                OnExpiry::Vanish => "vanish",
            }
            .to_owned(),
            max_age_seconds: policy.max_age.as_secs(),
            grace_seconds: policy.grace.as_secs(),
            idle_timeout_seconds: policy.idle_timeout.map(|span| span.as_secs()),
            on_idle: match policy.on_idle {
                OnIdle::Lapse => "lapse",
                OnIdle::Revoke => "revoke",
            }
            .to_owned(),
            more: more.into_iter().map(other).collect(),
        }
    }
}

fn renew_word(renew: Renew) -> &'static str {
    match renew {
        Renew::InUse => "in-use",
        Renew::Always => "always",
        Renew::Required => "required",
        Renew::Never => "never",
    }
}

/// What happens next, in words.
pub(super) fn next_report(next: Upcoming, times: &Times) -> Option<NextReport> {
    let (what, at) = match next {
        Upcoming::Nothing => return None,
        Upcoming::Fetching => ("fetching", None),
        Upcoming::WaitsForToken => ("waits-for-token", None),
        Upcoming::Fetch(at) => ("fetch", Some(at)),
        Upcoming::Revalidate(at) => ("revalidate", Some(at)),
        Upcoming::Renew(at) => ("renew", Some(at)),
        Upcoming::Renewing => ("renewing", None),
        Upcoming::Replace(at) => ("replace", Some(at)),
    };
    Some(NextReport { what: what.to_owned(), in_seconds: at.map(|at| at.since(times.now).as_secs()) })
}

/// What to do about a name, in a sentence.
fn advice(details: &Details) -> String {
    if let Some(by) = &details.locked_by {
        let name = if by.as_str().is_empty() { String::new() } else { format!(" {}", by.as_str()) };
        return format!("an operator locked it: \"leasefs unlock MOUNTPOINT{name}\" lets it be opened again");
    }
    if let Some(fault) = details.fault {
        return about(fault).to_owned();
    }
    match &details.subject {
        Subject::File(status) if status.vanished => {
            "its name went with its lease: \"leasefs refresh\" brings it back".to_owned()
        }
        // The error of a file alone: its secret is there.
        Subject::File(status) if status.state == State::Failed => {
            "the secret is there, and this file can't be made of it: correct the configuration or the secret"
                .to_owned()
        }
        Subject::File(status) if status.state == State::Idle => {
            "nothing is wrong: it is fetched when a program opens it".to_owned()
        }
        Subject::File(_) | Subject::Directory { .. } | Subject::Names(_) => "nothing is wrong".to_owned(),
    }
}

fn about(fault: Fault) -> &'static str {
    match fault {
        Fault::NotFound => {
            "write the secret in Vault, or correct path, version and field in the configuration"
        }
        Fault::Denied => {
            "let the policy of the identity allow it: \"leasefs check\" says what each path needs"
        }
        Fault::TokenLost => {
            "give the identity a new credential, or see in Vault's audit log who revoked its token"
        }
        Fault::LeaseGone => "nothing: it was revoked in Vault, and the next open fetches anew",
        Fault::NotRenewable => "nothing while it is in use: it is replaced before it ends",
        Fault::TimedOut => "see whether Vault is slow, or raise read-timeout",
        Fault::Unreachable => {
            "see whether Vault runs and can be reached from here; it is tried again by itself"
        }
        Fault::Sealed => "unseal Vault; it is tried again by itself",
        Fault::NoLeader => {
            "see which node of Vault leads and that the others reach it; it is tried again by itself"
        }
        Fault::RateLimited => "raise the quota in Vault, or open fewer files at once",
        Fault::ServerError => "look at Vault's log; it is tried again at the next open",
        Fault::Refused => "correct what is asked for: params, version and engine in the configuration",
        Fault::Unusable => "look at what Vault answers: the answer can't be shown as this file",
        Fault::OutOfMemory => "raise max-memory, or show fewer files",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_says_what_to_do_and_each_something_else() {
        let faults = [
            Fault::NotFound,
            Fault::Denied,
            Fault::TokenLost,
            Fault::LeaseGone,
            Fault::NotRenewable,
            Fault::TimedOut,
            Fault::Unreachable,
            Fault::Sealed,
            Fault::NoLeader,
            Fault::RateLimited,
            Fault::ServerError,
            Fault::Refused,
            Fault::Unusable,
            Fault::OutOfMemory,
        ];
        let said: std::collections::BTreeSet<&str> = faults.into_iter().map(about).collect();
        assert_eq!(said.len(), faults.len());
    }

    #[test]
    fn what_happens_next_has_its_time() {
        use crate::core::time::{BootTime, UnixTime};
        let times = Times { now: BootTime(5_000_000_000), wall: UnixTime { seconds: 0, nanoseconds: 0 } };
        let at = BootTime(17_900_000_000);
        for (next, what, in_seconds) in [
            (Upcoming::Fetch(at), "fetch", Some(12)),
            (Upcoming::Renew(at), "renew", Some(12)),
            (Upcoming::Replace(BootTime(1)), "replace", Some(0)),
            (Upcoming::Revalidate(at), "revalidate", Some(12)),
            (Upcoming::Renewing, "renewing", None),
            (Upcoming::Fetching, "fetching", None),
            (Upcoming::WaitsForToken, "waits-for-token", None),
        ] {
            let expected = NextReport { what: what.to_owned(), in_seconds };
            assert_eq!(next_report(next, &times), Some(expected));
        }
        assert_eq!(next_report(Upcoming::Nothing, &times), None);
    }
}
