//! Log lines: one for each thing that an operator must know or act on, with the file's name and the
//! reason in words. No secret is at hand here.

use std::time::Duration;

use crate::core::effect::{Change, End, Report};
use crate::core::error::Fault;
use crate::core::name::{IdentityId, SourceId};
use crate::core::time::BootTime;
use crate::driver::clock::Clock;
use crate::driver::{Names, Service};

/// What is to be known of the login of a server before this one.
pub const LOGIN_LOST: &str =
    "a login was under way when the server ended; its token, if one was issued, lives until its ttl";

/// Writes the line for a report.
pub(super) fn log<C: Clock>(report: &Report, service: &Service<C>, names: &Names) {
    let now = service.clock().now();
    let files = |id: SourceId| service.look(|engine, _| engine.names_of(id).join(", "));
    let path = |id: SourceId| service.look(|engine, _| engine.path_of(id).unwrap_or_default());
    let identity = |id: &IdentityId| names.identities.get(id.0 as usize).map_or("?", String::as_str);
    match report {
        Report::Published { source, lease: Some(lease), end } => {
            let (files, path, ends_in) = (files(*source), path(*source), span(*end, now));
            tracing::info!(files, path, %lease, ends_in, "issued");
        }
        Report::Rotated { source, readers } => {
            let (files, path, readers) = (files(*source), path(*source), readers.len());
            tracing::debug!(files, path, readers, "replaced");
        }
        Report::Published { source, lease: None, end } => {
            tracing::debug!(
                files = files(*source),
                path = path(*source),
                ends_in = span(*end, now),
                "fetched"
            );
        }
        Report::Ended { source, leased, why } => {
            let (files, path, why_text) = (files(*source), path(*source), why_text(*why));
            match why {
                End::GoneInVault | End::TokenGone => tracing::warn!(files, path, why = why_text, "ended"),
                _ if !leased => tracing::debug!(files, path, why = why_text, "ended"),
                End::Lapsed
                | End::Replaced
                | End::Revoked
                | End::Unused
                | End::Locked
                | End::Evicted
                | End::Stopped => {
                    tracing::info!(files, path, why = why_text, "ended");
                }
            }
        }
        // Vault lists deleted secrets too: whoever walks through a tree meets them.
        Report::FetchFailed { path, declared: false, failure, .. } if failure.fault == Fault::NotFound => {
            tracing::debug!(%path, reason = failure.reason, "can't be read");
        }
        Report::FetchFailed { source, path, failure, .. } => {
            tracing::warn!(files = files(*source), %path, reason = failure.reason, "can't be read");
        }
        Report::ListFailed { prefix, failure } => {
            tracing::warn!(%prefix, reason = failure.reason, "can't be listed");
        }
        Report::NamesSkipped { prefix, count } => {
            tracing::warn!(%prefix, count, "names that can't be file names were left out");
        }
        Report::RenewalFailed { source, failure } => {
            tracing::warn!(
                files = files(*source),
                path = path(*source),
                reason = failure.reason,
                "the lease could not be renewed; it is used until its end"
            );
        }
        Report::LeaseCapped { source } => {
            tracing::info!(
                files = files(*source),
                path = path(*source),
                "the lease has reached its max_ttl: a new one is fetched before it ends"
            );
        }
        Report::RevocationFailed { lease, end, failure } => {
            tracing::warn!(
                %lease,
                lives_for = span(*end, now),
                reason = failure.reason,
                "the lease could not be revoked: allow update on sys/leases/revoke, or let leasefs log in by itself"
            );
        }
        Report::LateCredential { source } => {
            tracing::warn!(
                files = files(*source),
                path = path(*source),
                "an answer came too late; it is revoked"
            );
        }
        Report::LoggedIn { identity: id, end } => {
            tracing::info!(identity = identity(id), token_ends_in = span(*end, now), "logged in");
        }
        Report::LoginFailed { identity: id, failure, again } => {
            let again = humantime::format_duration(round(*again)).to_string();
            tracing::error!(
                identity = identity(id),
                reason = failure.reason,
                again_in = again,
                "login failed"
            );
        }
        Report::TokenRenewalFailed { identity: id, failure } => {
            tracing::warn!(
                identity = identity(id),
                reason = failure.reason,
                "the token could not be renewed"
            );
        }
        Report::TokenLost { identity: id } => {
            tracing::error!(identity = identity(id), "the token is gone, and all that it obtained with it");
        }
        Report::PossiblyLost { path, end } => {
            tracing::warn!(
                %path,
                lives_for = span(*end, now),
                "the process before this one ended while it read this: a credential may have been made that \
                 nobody knows; it ends with its token"
            );
        }
        Report::LoginLost { identity: id } => {
            let identity = id.as_ref().map_or("one that is not in the configuration any more", identity);
            tracing::warn!(identity, "{LOGIN_LOST}");
        }
        Report::Dropped { path, lease, why } => {
            let (lease, why) = (lease.as_ref().map(tracing::field::display), change_text(*why));
            tracing::warn!(%path, lease, why, "not kept from before: the configuration has changed");
        }
        Report::IdentityGone { label, tokens } => {
            tracing::warn!(
                identity = label,
                tokens,
                "this identity is not in the configuration any more: what it had obtained is given back"
            );
        }
    }
}

fn why_text(why: End) -> &'static str {
    match why {
        End::Lapsed => "its time is over",
        End::Replaced => "replaced by a newer one",
        End::GoneInVault => "revoked or deleted in Vault",
        End::TokenGone => "its token is gone",
        End::Revoked => "revoked by an operator",
        End::Unused => "nobody has used it for idle-timeout",
        End::Locked => "locked by an operator",
        End::Evicted => "made room under max-memory",
        End::Stopped => "the mount ends",
    }
}

fn change_text(why: Change) -> &'static str {
    match why {
        Change::SourceGone => "nothing shows it any more",
        Change::IdentityGone => "its identity is gone or logs in in another way",
        Change::FileGone => "one of its files is gone",
        Change::Rendering => "one of its files shows it in another way",
        Change::FileAdded => "it has a new file",
    }
}

/// A span for people: whole seconds, or `never`.
pub(super) fn span(end: BootTime, now: BootTime) -> String {
    if end == BootTime::NEVER {
        return "never".to_owned();
    }
    humantime::format_duration(round(end.since(now))).to_string()
}

/// To whole seconds; below ten of them to tenths.
fn round(span: Duration) -> Duration {
    let unit = if span < Duration::from_secs(10) { 0.1 } else { 1.0 };
    Duration::from_millis(((span.as_secs_f64() / unit).round() * unit * 1e3).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_as_exact_as_people_want_them() {
        for (milliseconds, text) in [(0, "0s"), (130, "100ms"), (2_660, "2s 700ms"), (75_400, "1m 15s")] {
            let end = BootTime(7) + Duration::from_millis(milliseconds);
            assert_eq!(span(end, BootTime(7)), text);
        }
        assert_eq!(span(BootTime::NEVER, BootTime(7)), "never");
    }
}
