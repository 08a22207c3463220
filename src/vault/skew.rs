//! How far Vault's clock is from this host's: a date that Vault sends is one by Vault's clock.
//!
//! Lengths of time need none of this. Dates are few: the end of a certificate, the deletion of a version.

use std::time::UNIX_EPOCH;

use crate::core::time::UnixTime;

/// The header tells whole seconds, and the answer has been on its way: less than this is no difference, in
/// seconds.
const UNCERTAIN: i64 = 2;

/// By how many seconds Vault's clock is ahead of this host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Skew(i64);

impl Skew {
    /// By the `Date` of an answer (RFC 9110, 6.6.1) that came when this host's clock showed `here`. One that
    /// isn't there, or can't be read, tells nothing.
    pub fn of(date: Option<&str>, here: UnixTime) -> Skew {
        let ahead = date.and_then(http_date).map_or(0, |there| there.saturating_sub(here.seconds));
        Skew(if ahead.saturating_abs() < UNCERTAIN { 0 } else { ahead })
    }

    /// How far apart they are, in seconds.
    pub fn apart(self) -> u64 {
        self.0.unsigned_abs()
    }

    /// What Vault's clock shows when this host's shows `here`.
    pub fn there(self, here: UnixTime) -> UnixTime {
        UnixTime { seconds: here.seconds.saturating_add(self.0), ..here }
    }

    /// What this host's clock shows when Vault's shows `there`.
    pub fn here(self, there: UnixTime) -> UnixTime {
        UnixTime { seconds: there.seconds.saturating_sub(self.0), ..there }
    }
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that servers write.
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, date) = text.split_once(", ")?;
    let [day, month, year, time, "GMT"] = date.split(' ').collect::<Vec<_>>()[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let instant = humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()?;
    i64::try_from(instant.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> UnixTime {
        UnixTime { seconds, nanoseconds: 7 }
    }

    #[test]
    fn dates_are_translated_between_two_clocks() {
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        let there = 784_111_777;
        for (here, apart) in
            [(there, 0), (there + 1, 0), (there - 1, 0), (there - 300, 300), (there + 90, 90)]
        {
            let skew = Skew::of(date, at(here));
            assert_eq!(skew.apart(), apart, "{here}");
            assert_eq!(skew.here(skew.there(at(here))), at(here));
        }
        assert_eq!(Skew::of(date, at(there - 300)).there(at(1000)), at(1300));
    }

    #[test]
    fn what_is_no_date_tells_nothing() {
        for text in ["", "now", "Sun, 06 Nov 1994 08:49:37", "Sun, 6 Xyz 1994 08:49:37 GMT", "1994-11-06"] {
            assert_eq!(Skew::of(Some(text), at(5)), Skew::default(), "{text}");
        }
        assert_eq!(Skew::of(None, at(5)), Skew::default());
    }
}
