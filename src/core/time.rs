//! Time and chance as values: the core is told both and asks for neither.

use std::ops::{Add, Sub};
use std::time::Duration;

/// An instant of CLOCK_BOOTTIME: nanoseconds since the machine started, suspend included
/// (clock_gettime(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Later than anything that will happen: what has no end of its own.
    pub const NEVER: BootTime = BootTime(u64::MAX);

    /// The time from `earlier` until this instant; zero if this one comes first.
    pub fn since(self, earlier: BootTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for BootTime {
    type Output = BootTime;

    fn add(self, span: Duration) -> BootTime {
        BootTime(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for BootTime {
    type Output = BootTime;

    fn sub(self, span: Duration) -> BootTime {
        BootTime(self.0.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A wall-clock instant, for people and for `stat`: never compared with [`BootTime`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds on top of them, below 10⁹.
    pub nanoseconds: u32,
}

/// A source of jitter that is an argument: the same value and salt give the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chance(pub u64);

impl Chance {
    /// A number in `from..to`, evenly spread over values and salts. `salt` keeps two decisions of one
    /// call apart.
    pub fn between(self, from: f64, to: f64, salt: u64) -> f64 {
        // splitmix64's finalizer: every input bit reaches every output bit.
        let mut z = self.0 ^ salt.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        // The 53 high bits fill a double's mantissa exactly.
        let unit = (z >> 11) as f64 / (1u64 << 53) as f64;
        from + (to - from) * unit
    }
}

/// When something happens to the engine, and what chance it brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Now.
    pub now: BootTime,
    /// Jitter for whatever is scheduled by this call.
    pub chance: Chance,
}

/// `span` times a factor between 0 and, say, 2; for fractions of a lease.
pub fn scaled(span: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(span.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        assert_eq!(BootTime::NEVER + Duration::from_secs(1), BootTime::NEVER);
        assert_eq!(BootTime(5) - Duration::from_secs(1), BootTime(0));
        assert_eq!(BootTime(5).since(BootTime(9)), Duration::ZERO);
    }

    #[test]
    fn chance_stays_in_range_and_differs_by_salt() {
        let mut seen = std::collections::BTreeSet::new();
        for salt in 0..1000 {
            let value = Chance(7).between(0.5, 0.66, salt);
            assert!((0.5..0.66).contains(&value));
            seen.insert(value.to_bits());
        }
        assert!(seen.len() > 990);
    }
}
