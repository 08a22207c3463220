//! What SIGHUP asks for: credential files were replaced, so every identity logs in with what they hold now.
//! The log says of each whether it went well; a token that lives stays in use if it did not.
//!
//! The kernel sends the same signal when the terminal is closed that the daemon was started on: then it is to end.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::task::AbortHandle;

use crate::daemon::herald::Herald;
use crate::driver::Service;
use crate::driver::clock::Clock;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Logs in anew, and tells systemd how long that takes, unless the mount was not announced as ready yet:
/// then nobody waits for the reload, and the end of it is not the readiness that is waited for.
pub(super) async fn log_in_anew<C: Clock>(service: Service<C>, announcing: AbortHandle, herald: Arc<Herald>) {
    let was_announced = announcing.is_finished();
    tracing::info!("reloading: every identity logs in with what its files hold now");
    if was_announced {
        tell_reloading(&herald);
    }
    service.call(|engine, at| ((), engine.log_in_anew(at)));
    while service.look(|engine, _| engine.is_logging_in()) {
        tokio::time::sleep(LOOK).await;
    }
    if was_announced {
        herald.notify(&[NotifyState::Ready]);
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
fn tell_reloading(herald: &Herald) {
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
