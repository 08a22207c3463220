//! The clocks, and a timer that waits for instants of CLOCK_BOOTTIME.
//!
//! It decides nothing: what is due when is the caller's business.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::core::time::{BootTime, UnixTime};

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// Now, on CLOCK_BOOTTIME: goes on during suspend and is never set (clock_gettime(2)).
pub fn boot_time() -> BootTime {
    // The call can't fail for this clock on any Linux since 2.6.39; if it did, everything would have
    // ended, which is the safe side.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(BootTime::NEVER, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let nanoseconds = u64::try_from(time.tv_nsec()).unwrap_or(0);
        BootTime(seconds.saturating_mul(NANOSECONDS_PER_SECOND).saturating_add(nanoseconds))
    })
}

/// Now, on the wall clock: for people and for `stat`, never for a decision.
pub fn unix_time() -> UnixTime {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(UnixTime { seconds: 0, nanoseconds: 0 }, |time| UnixTime {
        seconds: time.tv_sec(),
        nanoseconds: u32::try_from(time.tv_nsec()).unwrap_or(0),
    })
}

/// Waits for instants of CLOCK_BOOTTIME inside a tokio runtime. Instants that pass during a suspend are
/// reached on resume (timerfd_create(2)).
pub struct BootTimer {
    timer: AsyncFd<Timer>,
}

impl BootTimer {
    /// Makes a timer. Must be called inside a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// What timerfd_create(2) or the runtime says, such as too many open files.
    pub fn new() -> io::Result<BootTimer> {
        let timer =
            TimerFd::new(TimerClock::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // SAFETY: the descriptor is owned by the value that the AsyncFd owns, and is always the same one.
        let timer = unsafe { AsyncFd::register_with_interest(Timer(timer), Interest::READABLE)? };
        Ok(BootTimer { timer })
    }

    /// Returns once it is `at` or later, at once if it is already. May be dropped while it waits and
    /// called again with another instant.
    ///
    /// # Errors
    /// What timerfd_settime(2) or the runtime says; only when the runtime is shutting down.
    pub async fn wait_until(&mut self, at: BootTime) -> io::Result<()> {
        while boot_time() < at {
            // Arming discards what an earlier, abandoned wait left in the descriptor.
            self.timer.get_ref().arm(at)?;
            let mut ready = self.timer.readable().await?;
            // An error here is "not yet": the readiness was left over, and is cleared by `try_io`.
            let _ = ready.try_io(|timer| timer.get_ref().0.wait().map_err(io::Error::from));
        }
        Ok(())
    }
}

struct Timer(TimerFd);

impl Timer {
    fn arm(&self, at: BootTime) -> io::Result<()> {
        // Seconds of a u64 of nanoseconds fit any time_t; the kernel caps what it can't reach.
        let seconds = i64::try_from(at.0 / NANOSECONDS_PER_SECOND).unwrap_or(i64::MAX);
        let nanoseconds = i64::try_from(at.0 % NANOSECONDS_PER_SECOND).unwrap_or(0);
        let once = Expiration::OneShot(TimeSpec::new(seconds, nanoseconds));
        Ok(self.0.set(once, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn boot_time_goes_forward() {
        let earlier = boot_time();
        assert!(boot_time() >= earlier);
        assert!(earlier > BootTime(0));
        assert!(unix_time().seconds > 1_700_000_000);
    }

    #[tokio::test]
    async fn a_timer_never_fires_early() {
        let mut timer = BootTimer::new().unwrap();
        let at = boot_time() + Duration::from_millis(5);
        timer.wait_until(at).await.unwrap();
        assert!(boot_time() >= at);
    }

    #[tokio::test]
    async fn an_instant_that_has_passed_is_not_waited_for() {
        let mut timer = BootTimer::new().unwrap();
        timer.wait_until(BootTime(0)).await.unwrap();
        timer.wait_until(boot_time()).await.unwrap();
    }

    #[tokio::test]
    async fn a_wait_that_was_given_up_does_not_wake_the_next_one_early() {
        let mut timer = BootTimer::new().unwrap();
        let soon = boot_time() + Duration::from_millis(50);
        // Dropped before it could finish, then the descriptor becomes ready behind its back.
        assert!(tokio::time::timeout(Duration::ZERO, timer.wait_until(soon)).await.is_err());
        BootTimer::new().unwrap().wait_until(soon + Duration::from_millis(1)).await.unwrap();
        let later = boot_time() + Duration::from_millis(5);
        timer.wait_until(later).await.unwrap();
        assert!(boot_time() >= later);
    }

    #[tokio::test]
    async fn what_has_no_end_is_waited_for_without_error() {
        let mut timer = BootTimer::new().unwrap();
        let wait = timer.wait_until(BootTime::NEVER);
        assert!(tokio::time::timeout(Duration::from_millis(2), wait).await.is_err());
    }
}
