//! What SIGHUP asks for: credential files were replaced, so every identity logs in with what they hold now.
//! The log says of each whether it went well; a token that lives stays in use if it did not.
//!
//! The kernel sends the same signal when the terminal is closed that the daemon was started on: then it is to end.

use std::io::IsTerminal;
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::daemon::notify_systemd;
use crate::driver::Service;
use crate::driver::clock::Clock;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Logs in anew, and tells systemd how long that takes, unless the mount was not announced as ready yet:
/// then nobody waits for the reload, and the end of it is not the readiness that is waited for.
pub(super) async fn log_in_anew<C: Clock>(service: Service<C>, announcing: AbortHandle) {
    let was_announced = announcing.is_finished();
    tracing::info!("reloading: every identity logs in with what its files hold now");
    if was_announced {
        tell_reloading();
    }
    service.call(|engine, at| ((), engine.log_in_anew(at)));
    while service.look(|engine, _| engine.is_logging_in()) {
        tokio::time::sleep(LOOK).await;
    }
    if was_announced {
        notify_systemd(sd_notify::NotifyState::Ready);
    }
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
fn tell_reloading() {
    let told = sd_notify::NotifyState::monotonic_usec_now()
        .and_then(|now| sd_notify::notify(false, &[sd_notify::NotifyState::Reloading, now]));
    if let Err(error) = told {
        tracing::warn!(%error, "systemd could not be told");
    }
}
