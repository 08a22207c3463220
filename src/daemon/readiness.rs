//! Says when the mount is ready: once every file that is required is there. The mount itself serves from the
//! first moment, ready or not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::core::engine::{Readiness, State};
use crate::daemon::herald::Herald;
use crate::driver::Service;
use crate::driver::clock::Clock;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Waits for what is required and then tells systemd and the log; meanwhile tells both what is missing.
pub(super) async fn announce<C: Clock>(service: Service<C>, mount_point: PathBuf, herald: Arc<Herald>) {
    let mount_point = mount_point.display().to_string();
    let mut told = None;
    loop {
        let required = service.look(|engine, now| engine.required(now));
        let missing: Vec<&Readiness> = required.iter().filter(|file| is_awaited(file)).collect();
        if missing.is_empty() {
            break;
        }
        if told.is_none() {
            let names: Vec<&str> = missing.iter().map(|file| file.name.as_str()).collect();
            tracing::info!(
                mount_point,
                required = names.join(", "),
                "mounted, and waiting for what is required"
            );
        }
        let status = status(&missing, required.len());
        if told.as_ref() != Some(&status) {
            herald.notify(&[NotifyState::Status(&status)]);
            told = Some(status);
        }
        tokio::time::sleep(LOOK).await;
    }
    tracing::info!(mount_point, "mounted and ready");
    if told.is_some() {
        herald.notify(&[NotifyState::Status("ready")]);
    }
    herald.notify(&[NotifyState::Ready]);
}

/// What an operator has locked does not come, and keeps nobody waiting who reads other files.
fn is_awaited(file: &Readiness) -> bool {
    !file.is_live() && file.state != State::Locked
}

/// One line, since systemd takes each line for a message of its own.
fn status(missing: &[&Readiness], required: usize) -> String {
    let failed = missing.iter().find_map(|file| Some((&file.name, file.error.as_ref()?)));
    let why = match (failed, missing) {
        (Some((name, error)), _) => format!("{name}: {error}"),
        (None, [file, ..]) => format!("{}: not fetched yet", file.name),
        (None, []) => String::new(),
    };
    let text = format!("waiting for {} of {required} required files; {why}", missing.len());
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::engine::Outlook;

    fn file(name: &str, state: State, error: Option<&str>) -> Readiness {
        let (name, error) = (name.to_owned(), error.map(str::to_owned));
        Readiness { name, state, error, outlook: Outlook::Open }
    }

    #[test]
    fn what_is_locked_or_can_be_read_is_not_waited_for() {
        for (state, awaited) in [
            (State::Idle, true),
            (State::Failed, true),
            (State::Live, false),
            (State::Renewing, false),
            (State::Stale, false),
            (State::Locked, false),
        ] {
            assert_eq!(is_awaited(&file("a", state, None)), awaited, "{state:?}");
        }
    }

    #[test]
    fn the_status_is_one_line_with_the_first_reason() {
        let (idle, failed) =
            (file("a", State::Idle, None), file("b", State::Failed, Some("Vault\nis sealed")));
        assert_eq!(status(&[&idle, &failed], 3), "waiting for 2 of 3 required files; b: Vault is sealed");
        assert_eq!(status(&[&idle], 1), "waiting for 1 of 1 required files; a: not fetched yet");
    }
}
