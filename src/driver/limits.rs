//! Waiting for a place: the [`Queue`] with somebody to wake.
//!
//! Invariant: whoever stops waiting, or drops a [`Place`], leaves the queue, and who is next is woken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::core::effect::Urgency;
use crate::core::name::IdentityId;
use crate::driver::queue::{Entry, Lane, Queue, Ramp, Start};

/// One step of the ramp after an outage.
const STEP: Duration = Duration::from_millis(100);

/// The places. Cheap to clone: all clones share them.
#[derive(Clone, Default)]
pub(super) struct Limits(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    queue: Queue,
    waiting: HashMap<Entry, oneshot::Sender<()>>,
}

/// A place, or one in the queue; given back when dropped.
pub(super) struct Place {
    limits: Limits,
    entry: Entry,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shared = self.limits.shared();
        shared.queue.leave(self.entry);
        shared.waiting.remove(&self.entry);
        shared.wake();
    }
}

impl Limits {
    /// Waits for a place; `None`: sent away by [`Limits::dismiss`].
    pub async fn enter(&self, identity: IdentityId, lane: Lane, urgency: Urgency) -> Option<Place> {
        let (give, take) = oneshot::channel();
        let place = {
            let mut shared = self.shared();
            let entry = shared.queue.enter(identity, lane, urgency);
            shared.waiting.insert(entry, give);
            shared.wake();
            Place { limits: self.clone(), entry }
        };
        take.await.ok().map(|()| place)
    }

    /// Sends all away who wait.
    pub fn dismiss(&self) {
        let mut shared = self.shared();
        for entry in shared.queue.dismiss() {
            shared.waiting.remove(&entry);
        }
    }

    /// Vault answers again: what nobody waits for is let in slowly at first.
    pub fn slow_down(&self) {
        if self.shared().queue.slow_down() == Start::UnderWay {
            return;
        }
        let limits = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(STEP).await;
                let mut shared = limits.shared();
                let ramp = shared.queue.step();
                shared.wake();
                if ramp == Ramp::Over {
                    return;
                }
            }
        });
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Tells those who have a place now. Who is gone by then gives it back when its [`Place`] is dropped.
    fn wake(&mut self) {
        while let Some(entry) = self.queue.grant() {
            if let Some(waiting) = self.waiting.remove(&entry) {
                let _ = waiting.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn enter(limits: &Limits, urgency: Urgency) -> Place {
        limits.enter(IdentityId(0), Lane::Kv, urgency).await.expect("nobody was sent away")
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_is_dropped_leaves_the_queue() {
        let limits = Limits::default();
        let mut places = Vec::new();
        for _ in 0..8 {
            places.push(enter(&limits, Urgency::Reader).await);
        }
        let impatient = tokio::time::timeout(STEP, enter(&limits, Urgency::Renewal)).await;
        assert!(impatient.is_err());
        places.pop();
        let next = tokio::time::timeout(STEP, enter(&limits, Urgency::Background)).await;
        assert!(next.is_ok(), "the place went to nobody who is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_sent_away_hears_it_at_once() {
        let limits = Limits::default();
        let mut places = Vec::new();
        for _ in 0..8 {
            places.push(enter(&limits, Urgency::Reader).await);
        }
        let (waiter, ()) =
            tokio::join!(limits.enter(IdentityId(0), Lane::Kv, Urgency::Reader), async { limits.dismiss() });
        assert!(waiter.is_none());
    }
}
