//! How long values are kept, in figures: what a configuration says of it, and the rules about ends and renewals.
//!
//! Nothing here has a state. Invariant: what counts as over here is never honoured for longer than
//! [`LONGEST_MARGIN`] by Vault, and is never shown after Vault has ended it.

use std::time::Duration;

use crate::core::name::GenerationId;
use crate::core::time::{BootTime, Chance, scaled};

/// How long a source's values are kept and what keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePolicy {
    /// Whether its lease is renewed.
    pub renew: Renew,
    /// For how long a KV value is fresh.
    pub max_age: Duration,
    /// For how much longer it is served while Vault can't be asked, and for how long old handles live on.
    pub grace: Duration,
    /// How long after the last open a lease counts as in use; `None`: two lease durations.
    pub idle_timeout: Option<Duration>,
    /// What becomes of a lease that is not in use any more.
    pub on_idle: OnIdle,
    /// For how long after its last open a process gets files of one generation; zero: what is current.
    pub pin: Duration,
    /// Whether it is remembered who has opened it.
    pub readers: Readers,
}

/// Whether it is remembered which processes have opened a generation, to tell them of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// It is not, beyond what pins need.
    Forgotten,
    /// It is.
    Remembered,
}

/// When a lease is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renew {
    /// While it is open, or was lately.
    InUse,
    /// Used or not.
    Always,
    /// Used or not, from the mount on: what ends is fetched again by itself.
    Required,
    /// Never: it lapses.
    Never,
}

/// What becomes of a lease that is not in use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnIdle {
    /// It is not renewed, and so lapses.
    Lapse,
    /// It is given back at once.
    Revoke,
}

/// What all leases of a mount have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// How often leases in use are looked up.
    pub revocation_check: Duration,
    /// The longest that a caller waits.
    pub read_timeout: Duration,
}

/// The longest that Vault may still honour what counts as over here.
pub const LONGEST_MARGIN: Duration = Duration::from_secs(2);

/// When a lease counts as over: a little before Vault ends it, so that no dead credential is shown. The
/// margin is 2 % of the lease, at least 100 ms, at most 2 s.
pub fn lease_end(sent: BootTime, duration: Duration) -> BootTime {
    let margin = scaled(duration, 0.02).clamp(Duration::from_millis(100), LONGEST_MARGIN);
    sent + duration.saturating_sub(margin)
}

/// When a static role's password counts as replaced. Vault rounds its `ttl` to the nearest second
/// (measured with OpenBao 2.7), so it may be half a second less than it says.
pub fn static_end(sent: BootTime, ttl: Duration) -> BootTime {
    sent + ttl.saturating_sub(Duration::from_millis(500))
}

/// When to renew a lease: between half and two thirds of it, so that many leases of one moment do not
/// come back in one.
pub fn renewal_time(sent: BootTime, duration: Duration, chance: Chance, id: GenerationId) -> BootTime {
    sent + scaled(duration, chance.between(0.50, 0.66, id.0))
}

/// Whether Vault granted less than was asked, so that `max_ttl` is near (it is no error there).
pub fn is_capped(granted: Duration, asked: Duration) -> bool {
    granted + Duration::from_secs(1) < asked
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_counts_as_over_a_little_before_vault_ends_it() {
        for (lease, margin_ms) in [(1, 100), (10, 200), (20, 400), (60, 1200), (100, 2000), (3600, 2000)] {
            let end = lease_end(BootTime(0), S * lease);
            assert_eq!(end, BootTime(0) + S * lease - Duration::from_millis(margin_ms), "{lease} s");
        }
    }

    #[test]
    fn a_lease_shorter_than_its_margin_is_over_at_once() {
        assert_eq!(lease_end(BootTime(7), Duration::from_millis(50)), BootTime(7));
    }

    #[test]
    fn a_grant_of_a_second_less_is_rounding_and_not_the_cap() {
        assert!(!is_capped(S * 19, S * 20));
        assert!(is_capped(S * 18, S * 20));
        assert!(!is_capped(S * 25, S * 20));
    }
}
