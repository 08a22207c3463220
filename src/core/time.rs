//! Time and chance as values: the core is told both and asks for neither.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// An instant of CLOCK_BOOTTIME: nanoseconds since the machine started, suspend included
/// (clock_gettime(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnixTime {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds on top of them, below 10⁹.
    pub nanoseconds: u32,
}

impl UnixTime {
    /// When `at` is by the wall clock, which shows `wall` at `now`.
    pub fn of(at: BootTime, now: BootTime, wall: UnixTime) -> UnixTime {
        let nanoseconds = wall.nanoseconds_in_all() + i128::from(at.0) - i128::from(now.0);
        UnixTime {
            seconds: i64::try_from(nanoseconds.div_euclid(NANOSECONDS)).unwrap_or(i64::MAX),
            nanoseconds: u32::try_from(nanoseconds.rem_euclid(NANOSECONDS)).unwrap_or(0),
        }
    }

    /// When this is by the clock of leases, if the wall clock shows `wall` at `now`. A wall clock that is
    /// set later does not move it.
    pub fn to_boot_time(self, now: BootTime, wall: UnixTime) -> BootTime {
        let ahead = self.nanoseconds_in_all() - wall.nanoseconds_in_all();
        BootTime(u64::try_from((i128::from(now.0) + ahead).max(0)).unwrap_or(u64::MAX))
    }

    fn nanoseconds_in_all(self) -> i128 {
        i128::from(self.seconds) * NANOSECONDS + i128::from(self.nanoseconds)
    }
}

/// As RFC 3339, in UTC, to the second.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_seconds(SystemTime::from(*self)).fmt(f)
    }
}

impl From<UnixTime> for SystemTime {
    fn from(time: UnixTime) -> SystemTime {
        let seconds = Duration::from_secs(time.seconds.unsigned_abs());
        let whole = match time.seconds {
            ..0 => SystemTime::UNIX_EPOCH.checked_sub(seconds),
            0.. => SystemTime::UNIX_EPOCH.checked_add(seconds),
        };
        whole
            .and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanoseconds.into())))
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

const NANOSECONDS: i128 = 1_000_000_000;

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
    fn wall_clock_and_boot_clock_are_turned_into_each_other() {
        let at = |seconds| UnixTime { seconds, nanoseconds: 5 };
        let now = BootTime(10_000_000_000);
        for (wall_time, boot_time) in [(103, 13_000_000_000), (95, 5_000_000_000), (100, 10_000_000_000)] {
            assert_eq!(at(wall_time).to_boot_time(now, at(100)), BootTime(boot_time));
            assert_eq!(UnixTime::of(BootTime(boot_time), now, at(100)), at(wall_time));
        }
        assert_eq!(at(0).to_boot_time(now, at(1_700_000_000)), BootTime(0), "before the machine started");
    }

    #[test]
    fn times_are_shown_as_people_write_them() {
        let shown = |seconds| UnixTime { seconds, nanoseconds: 999 }.to_string();
        assert_eq!(shown(0), "1970-01-01T00:00:00Z");
        assert_eq!(shown(1_700_000_000), "2023-11-14T22:13:20Z");
    }

    #[test]
    fn a_time_before_1970_counts_back() {
        let time = |seconds, nanoseconds| SystemTime::from(UnixTime { seconds, nanoseconds });
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(time(2, 5), epoch + Duration::new(2, 5));
        assert_eq!(time(-2, 500_000_000), epoch - Duration::from_millis(1500));
        assert!(time(i64::MIN, 0) < time(i64::MAX, 999_999_999), "no overflow");
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
