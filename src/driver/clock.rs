//! The clock that the driver asks: the system's, or a test's.

use std::future::Future;

use crate::core::time::{BootTime, UnixTime};
use crate::sys::{self, BootTimer};

/// Tells the time.
pub trait Clock: Clone + Send + Sync + 'static {
    /// What waits for an instant of this clock.
    type Timer: Timer;

    /// Now, by CLOCK_BOOTTIME.
    fn now(&self) -> BootTime;
    /// Now, by the wall clock.
    fn wall(&self) -> UnixTime;
}

/// Waits for an instant.
pub trait Timer: Send + 'static {
    /// Returns once it is `at` or later; may be dropped and called again.
    fn wait_until(&mut self, at: BootTime) -> impl Future<Output = ()> + Send;
}

/// The system's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    type Timer = BootTimer;

    fn now(&self) -> BootTime {
        sys::boot_time()
    }

    fn wall(&self) -> UnixTime {
        sys::unix_time()
    }
}

impl Timer for BootTimer {
    async fn wait_until(&mut self, at: BootTime) {
        if at == BootTime::NEVER {
            return std::future::pending().await;
        }
        // It fails only while the runtime shuts down; nothing is due then any more.
        if BootTimer::wait_until(self, at).await.is_err() {
            std::future::pending().await
        }
    }
}
