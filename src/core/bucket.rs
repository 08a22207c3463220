//! What keeps a source from being minted over and over.

use std::time::Duration;

use crate::core::time::{BootTime, scaled};

/// Lets at most two mints through in a row, then one per interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    left: f64,
    filled: BootTime,
}

impl Bucket {
    const CAPACITY: f64 = 2.0;

    /// A full one.
    pub const FULL: Bucket = Bucket { left: Bucket::CAPACITY, filled: BootTime(0) };

    /// Takes one out, with one more flowing in per `interval`.
    ///
    /// # Errors
    /// When there will be one, if there is none now.
    pub fn take(&mut self, now: BootTime, interval: Duration) -> Result<(), BootTime> {
        let flow = now.since(self.filled).as_secs_f64() / interval.as_secs_f64().max(0.001);
        self.left = (self.left + flow).min(Bucket::CAPACITY);
        self.filled = now;
        if self.left >= 1.0 {
            self.left -= 1.0;
            Ok(())
        } else {
            // A nanosecond more, so that rounding never makes the next try come too early.
            Err(now + scaled(interval, 1.0 - self.left) + Duration::from_nanos(1))
        }
    }

    /// Puts one back that was taken out and not used.
    pub fn put_back(&mut self) {
        self.left = (self.left + 1.0).min(Bucket::CAPACITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_bucket_holds_a_storm_of_mints_back() {
        let mut bucket = Bucket::FULL;
        let mut now = BootTime(0) + S * 1000;
        let mut minted = 0;
        for _ in 0..15_000 {
            minted += u32::from(bucket.take(now, S).is_ok());
            now = now + Duration::from_millis(1);
        }
        assert!((16..=17).contains(&minted), "two at once, then one a second: {minted}");
    }

    #[test]
    fn the_bucket_says_when_to_come_back_and_then_keeps_its_word() {
        let mut bucket = Bucket::FULL;
        let now = BootTime(0) + S * 1000;
        assert!(bucket.take(now, S * 7).is_ok());
        assert!(bucket.take(now, S * 7).is_ok());
        let again = bucket.take(now + S, S * 7).unwrap_err();
        assert!(bucket.take(again, S * 7).is_ok());
    }
}
