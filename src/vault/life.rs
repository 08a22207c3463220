//! Is the token dead, or does the policy say no? A 403 is both; one question at a time finds out.
//!
//! Invariant: however many requests of a token fail at once, one of them asks and the others take its
//! verdict. A dead token stays dead.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

/// What is known of a token after a 403.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Life {
    /// It lives: the policy said no.
    Alive,
    /// Vault does not know it (any more).
    Dead,
    /// Vault could not be asked.
    #[default]
    Unknown,
}

/// The last verdict on one token, and the queue of those who want to know.
#[derive(Default)]
pub(super) struct LifeSign {
    verdicts: AtomicU64,
    last: Mutex<Life>,
}

impl LifeSign {
    /// Runs `question` unless somebody else's is answered meanwhile, or the answer can't change.
    pub async fn ask(&self, question: impl Future<Output = Life> + Send) -> Life {
        let seen = self.verdicts.load(Ordering::Acquire);
        let mut last = self.last.lock().await;
        if *last == Life::Dead || self.verdicts.load(Ordering::Acquire) != seen {
            return *last;
        }
        *last = question.await;
        self.verdicts.fetch_add(1, Ordering::Release);
        *last
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;

    async fn answer(asked: &AtomicUsize, life: Life) -> Life {
        asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        life
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_cause_one_question() {
        let (sign, asked) = (LifeSign::default(), AtomicUsize::new(0));
        let ask = || sign.ask(answer(&asked, Life::Alive));
        let verdicts = tokio::join!(ask(), ask(), ask());
        assert_eq!(verdicts, (Life::Alive, Life::Alive, Life::Alive));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        ask().await;
        assert_eq!(asked.load(Ordering::Relaxed), 2, "a living token may die later");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_token_is_asked_about_no_more() {
        let (sign, asked) = (LifeSign::default(), AtomicUsize::new(0));
        assert_eq!(sign.ask(answer(&asked, Life::Dead)).await, Life::Dead);
        assert_eq!(sign.ask(answer(&asked, Life::Alive)).await, Life::Dead);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
