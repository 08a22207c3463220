//! What keeps a source from being minted over and over.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::time::{BootTime, scaled};

/// Lets at most two mints through in a row, then one per interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    #[serde(with = "bits")]
    left: f64,
    filled: BootTime,
}

impl Bucket {
    const CAPACITY: f64 = 2.0;

    /// A full one.
    pub const FULL: Bucket = Bucket { left: Bucket::CAPACITY, filled: BootTime(0) };

    /// A full one, for what was written before there was a bucket.
    pub(crate) fn full() -> Bucket {
        Bucket::FULL
    }

    /// Whether nothing was ever taken out.
    pub(crate) fn is_full(&self) -> bool {
        *self == Bucket::FULL
    }

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

/// A number written as its bits, so that it is read back as it was: JSON parsers round.
mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
        number.to_bits().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        // Anything else than a number of mints, and the bucket counts as empty.
        let number = f64::from_bits(u64::deserialize(from)?);
        Ok(if number.is_finite() { number.clamp(0.0, super::Bucket::CAPACITY) } else { 0.0 })
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
