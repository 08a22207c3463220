//! What SIGHUP asks for: the configuration or credential files were replaced. The next server reads the one, and
//! identities log in with what the others hold now, where they are others than before. The log says of each whether it
//! went well; a token that lives stays in use if it did not.
//!
//! The kernel sends the same signal when the terminal is closed that the daemon was started on: then it is to end.

use std::collections::BTreeSet;
use std::io::IsTerminal;

use sd_notify::NotifyState;
use tokio::signal::unix::Signal;

use crate::control::protocol::{FixedReport, ReloadReport};
use crate::control::rfc3339;
use crate::core::name::IdentityId;
use crate::daemon::herald::Herald;
use crate::daemon::record::{Fixed, Reloaded};
use crate::driver::Service;
use crate::driver::clock::Clock;

/// Has identities log in whose credentials were replaced.
pub(super) fn log_in_anew<C: Clock>(service: &Service<C>, anew: &BTreeSet<IdentityId>) {
    tracing::info!(count = anew.len(), "identities log in with what their files hold now");
    service.call(|engine, at| ((), engine.log_in_anew_of(at, anew)));
}

/// What `leasefs status` says of the last reload.
pub(super) fn report(last: Reloaded) -> ReloadReport {
    ReloadReport { at: rfc3339(last.at), error: last.refused }
}

/// What it says of what can't be changed by one.
pub(super) fn fixed_report(fixed: &Fixed) -> FixedReport {
    FixedReport { allow_other: fixed.allow_other, max_memory: fixed.max_memory }
}

/// The terminal that the daemon was started on, if there is one.
pub(super) struct Terminal {
    was_there: bool,
}

impl Terminal {
    /// Looks for it.
    pub(super) fn find() -> Terminal {
        Terminal { was_there: std::io::stdin().is_terminal() }
    }

    /// Whether it has been closed since: it answers no more then.
    pub(super) fn is_gone(&self) -> bool {
        self.was_there && !std::io::stdin().is_terminal()
    }
}

/// Both in one message, as systemd wants it (sd_notify(3), `RELOADING=1`).
pub(super) fn tell_reloading(herald: &Herald) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => herald.notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd could not be told"),
    }
}

/// Waits for the next SIGHUP, for ever where none is listened to.
pub(super) async fn hung_up(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}
