//! What a daemon answers to those who wait: it waits a moment with them, and fetches what they name.

use std::time::Duration;

use crate::control::ServiceHandler;
use crate::control::protocol::{Refusal, Reply, WaitReport, WaitedFile};
use crate::core::engine::Readiness;
use crate::driver::clock::Clock;

/// How long an answer waits at most for a file to come: whoever goes on waiting asks again.
const ROUND: Duration = Duration::from_secs(1);

/// How soon it is looked at meanwhile; each time twice as long.
const LOOK: Duration = Duration::from_millis(20);

impl<C: Clock> ServiceHandler<C> {
    /// How files stand, at once if all are live, else after a moment.
    pub(super) async fn wait(&self, names: &[String], patience: Duration) -> Reply {
        let deadline = tokio::time::Instant::now() + patience.min(ROUND);
        let mut pause = LOOK;
        loop {
            let files = match self.service.call(|engine, at| engine.want(at, names)) {
                Ok(files) => files,
                Err(name) => return Reply::Refused(Refusal::UnknownName { name }),
            };
            if files.iter().all(Readiness::is_live) || tokio::time::Instant::now() >= deadline {
                return Reply::Waited(WaitReport { files: files.into_iter().map(waited).collect() });
            }
            tokio::time::sleep(pause).await;
            // What a tree does not know yet is asked for each time.
            pause *= 2;
        }
    }
}

fn waited(file: Readiness) -> WaitedFile {
    let live = file.is_live();
    WaitedFile { name: file.name, live, state: file.state.name().to_owned(), error: file.error }
}
