//! The circuit breaker of Vault as a whole: while it does not answer, reads fail at once instead of
//! waiting.
//!
//! Pure: events in, a verdict out. Only what speaks of the server counts (no connection, no answer,
//! sealed), never what it says of one request; and not what was asked before the last answer came: a
//! request that hung in an outage may fail long after it. The addresses of one Vault are told apart where
//! they are known, in `vault/http`; what fails here has failed on every one of them that was worth trying.

use std::time::Duration;

use crate::core::error::Fault;
use crate::core::identity::backoff_ceiling;
use crate::core::time::{BootTime, scaled};

/// Failures in a row that open it.
const FAILURES: u32 = 3;
/// The longest pause before the server is asked for its health again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Whether Vault answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers, or nothing was asked yet.
    Well,
    /// The last request was not answered; the next one is sent all the same.
    Shaky {
        /// Since when.
        since: BootTime,
    },
    /// It does not; it is asked for its health until it does.
    Down {
        /// Since when.
        since: BootTime,
    },
}

/// How many identities send requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tenancy {
    /// One.
    #[default]
    One,
    /// Several: what hangs for one of them may be of its own making.
    Many,
}

/// The breaker.
#[derive(Debug, Default)]
pub struct Breaker {
    tenancy: Tenancy,
    failures: u32,
    /// The first of the failures in a row.
    since: Option<BootTime>,
    /// When the last answer came.
    answered: Option<BootTime>,
    /// Questions for the server's health since a request was answered.
    probes: u32,
    /// Whether somebody is at it.
    probing: bool,
}

/// What has changed with a request.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The first failure in a row: ask for the server's health until it answers. Requests are sent
    /// meanwhile.
    Faltered,
    /// It has just opened: nothing is sent until the server answers.
    Opened,
    /// The server answers again.
    Recovered {
        /// How it was until now.
        from: Health,
    },
}

impl Breaker {
    /// One for so many identities.
    pub fn new(tenancy: Tenancy) -> Breaker {
        Breaker { tenancy, ..Breaker::default() }
    }

    /// Whether requests may be sent.
    pub fn health(&self) -> Health {
        match self.since {
            None => Health::Well,
            Some(since) if self.failures < FAILURES => Health::Shaky { since },
            Some(since) => Health::Down { since },
        }
    }

    /// Notes what became of a request that was sent at `sent`.
    pub fn note(&mut self, now: BootTime, sent: BootTime, fault: Option<Fault>) -> Change {
        if fault == Some(Fault::TimedOut) && self.tenancy == Tenancy::Many {
            return self.hung(now, sent);
        }
        if fault.is_some_and(is_trouble) {
            return self.failed(now, sent);
        }
        let change = self.recovered(now);
        self.failures = 0;
        self.probes = 0;
        change
    }

    /// Notes what became of a question for the server's health, sent at `sent`. Its answer counts less
    /// than that to a request: one more failure opens the breaker again, and the pauses go on growing.
    pub fn note_probe(&mut self, now: BootTime, sent: BootTime, fault: Option<Fault>) -> Change {
        match fault {
            Some(fault) if is_trouble(fault) => self.failed(now, sent),
            // Not Vault's words: a proxy before it finds nobody.
            Some(Fault::ServerError) => Change::None,
            Some(_) | None => {
                let change = self.recovered(now);
                self.failures = self.failures.min(FAILURES - 1);
                change
            }
        }
    }

    /// Whether somebody must begin to ask for the server's health; not so if somebody does already.
    pub fn begin_probing(&mut self) -> bool {
        self.since.is_some() && !std::mem::replace(&mut self.probing, true)
    }

    /// How long to wait before the next question for the server's health; `chance` is in `0..1`. `None`:
    /// it is well, and whoever asks is done.
    pub fn pause(&mut self, chance: f64) -> Option<Duration> {
        self.probing = self.since.is_some();
        if !self.probing {
            return None;
        }
        self.probes = self.probes.saturating_add(1);
        Some(scaled(backoff_ceiling(self.probes).min(LONGEST_PAUSE), chance))
    }

    /// A request of one of several identities hung. Only the question for the server's health, which follows the
    /// first failure, can tell whether the others would have to wait as well.
    fn hung(&mut self, now: BootTime, sent: BootTime) -> Change {
        if self.failures + 1 < FAILURES {
            return self.failed(now, sent);
        }
        if self.since.is_some() || self.answered.is_some_and(|answered| sent < answered) {
            return Change::None;
        }
        self.since = Some(now);
        Change::Faltered
    }

    fn failed(&mut self, now: BootTime, sent: BootTime) -> Change {
        if self.answered.is_some_and(|answered| sent < answered) {
            return Change::None;
        }
        self.failures = self.failures.saturating_add(1);
        let is_first = self.since.is_none();
        self.since.get_or_insert(now);
        match self.failures {
            // After an outage that a question ended, the first failure is the third in a row.
            FAILURES => Change::Opened,
            _ if is_first => Change::Faltered,
            _ => Change::None,
        }
    }

    fn recovered(&mut self, now: BootTime) -> Change {
        let from = self.health();
        self.answered = Some(now);
        self.since.take().map_or(Change::None, |_| Change::Recovered { from })
    }
}

fn is_trouble(fault: Fault) -> bool {
    matches!(fault, Fault::Unreachable | Fault::TimedOut | Fault::Sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWN: Option<Fault> = Some(Fault::Unreachable);

    /// A request that is answered, or not, in no time.
    fn note(breaker: &mut Breaker, now: u64, fault: Option<Fault>) -> Change {
        breaker.note(BootTime(now), BootTime(now), fault)
    }

    fn millis(breaker: &mut Breaker, chance: f64) -> Option<u128> {
        breaker.pause(chance).map(|pause| pause.as_millis())
    }

    #[test]
    fn requests_that_hang_never_open_it_for_all_identities_unless_the_server_is_not_well() {
        let mut breaker = Breaker::new(Tenancy::Many);
        let hung = Some(Fault::TimedOut);
        assert_eq!(note(&mut breaker, 1, hung), Change::Faltered);
        for now in 2..20 {
            assert_eq!(note(&mut breaker, now, hung), Change::None);
        }
        let from = Health::Shaky { since: BootTime(1) };
        assert_eq!(breaker.health(), from);
        assert_eq!(breaker.note_probe(BootTime(20), BootTime(20), None), Change::Recovered { from });
        assert_eq!(note(&mut breaker, 21, hung), Change::Faltered, "asked again, and not opened");
        assert_eq!(breaker.note_probe(BootTime(22), BootTime(22), hung), Change::Opened);
        let mut breaker = Breaker::new(Tenancy::Many);
        assert_eq!(note(&mut breaker, 1, DOWN), Change::Faltered);
        assert_eq!(note(&mut breaker, 2, DOWN), Change::None);
        assert_eq!(note(&mut breaker, 3, DOWN), Change::Opened, "a server that is not there is so for all");
    }

    #[test]
    fn three_failures_in_a_row_open_it_and_an_answer_closes_it() {
        let mut breaker = Breaker::default();
        assert_eq!(note(&mut breaker, 1, DOWN), Change::Faltered);
        let from = Health::Shaky { since: BootTime(1) };
        assert_eq!(note(&mut breaker, 2, None), Change::Recovered { from });
        assert_eq!(note(&mut breaker, 3, DOWN), Change::Faltered);
        assert_eq!(note(&mut breaker, 4, Some(Fault::TimedOut)), Change::None);
        assert_eq!(breaker.health(), Health::Shaky { since: BootTime(3) });
        assert_eq!(note(&mut breaker, 5, Some(Fault::Sealed)), Change::Opened);
        assert_eq!(breaker.health(), Health::Down { since: BootTime(3) });
        assert_eq!(note(&mut breaker, 6, DOWN), Change::None, "it is open already");
        let from = Health::Down { since: BootTime(3) };
        assert_eq!(note(&mut breaker, 7, None), Change::Recovered { from });
        assert_eq!(breaker.health(), Health::Well);
    }

    #[test]
    fn what_vault_says_of_one_request_does_not_count() {
        let mut breaker = Breaker::default();
        for fault in [
            Fault::NotFound,
            Fault::Denied,
            Fault::Refused,
            Fault::ServerError,
            Fault::RateLimited,
            Fault::NoLeader,
        ] {
            for now in 0..10 {
                assert_eq!(note(&mut breaker, now, Some(fault)), Change::None);
            }
        }
        assert_eq!(breaker.health(), Health::Well);
    }

    #[test]
    fn questions_that_are_not_answered_open_it_too() {
        let mut breaker = Breaker::default();
        assert_eq!(note(&mut breaker, 1, DOWN), Change::Faltered);
        assert_eq!(breaker.note_probe(BootTime(2), BootTime(2), DOWN), Change::None);
        assert_eq!(breaker.note_probe(BootTime(3), BootTime(3), DOWN), Change::Opened);
    }

    #[test]
    fn a_server_that_is_healthy_and_serves_nobody_is_let_go_at_its_first_failure() {
        let mut breaker = Breaker::default();
        for now in 1..=3 {
            let _ = note(&mut breaker, now, Some(Fault::Sealed));
        }
        assert_eq!([(); 3].map(|()| millis(&mut breaker, 1.0)), [Some(250), Some(500), Some(1000)]);
        let from = Health::Down { since: BootTime(1) };
        assert_eq!(breaker.note_probe(BootTime(4), BootTime(4), None), Change::Recovered { from });
        assert_eq!(breaker.health(), Health::Well);
        assert_eq!(note(&mut breaker, 5, Some(Fault::Sealed)), Change::Opened);
        assert_eq!(breaker.health(), Health::Down { since: BootTime(5) });
        assert_eq!(millis(&mut breaker, 1.0), Some(2000), "the pauses go on growing");
    }

    #[test]
    fn pauses_double_up_to_two_seconds_and_start_over_after_an_answer() {
        let mut breaker = Breaker::default();
        let _ = note(&mut breaker, 1, DOWN);
        let longest = [(); 6].map(|()| millis(&mut breaker, 1.0));
        assert_eq!(longest, [250, 500, 1000, 2000, 2000, 2000].map(Some));
        assert_eq!(millis(&mut breaker, 0.0), Some(0), "any part of it, at random");
        let _ = note(&mut breaker, 2, None);
        assert_eq!(millis(&mut breaker, 1.0), None, "it is well");
        let _ = note(&mut breaker, 3, DOWN);
        assert_eq!(millis(&mut breaker, 1.0), Some(250));
    }

    #[test]
    fn one_asks_for_the_servers_health_at_a_time() {
        let mut breaker = Breaker::default();
        assert!(!breaker.begin_probing(), "it is well");
        let _ = note(&mut breaker, 1, DOWN);
        assert!(breaker.begin_probing());
        assert!(!breaker.begin_probing());
        let _ = note(&mut breaker, 2, None);
        let _ = note(&mut breaker, 3, DOWN);
        assert!(!breaker.begin_probing(), "it has not noticed that all was well for a moment");
        let _ = note(&mut breaker, 4, None);
        assert_eq!(breaker.pause(1.0), None);
        let _ = note(&mut breaker, 5, DOWN);
        assert!(breaker.begin_probing());
    }

    #[test]
    fn what_was_asked_before_the_last_answer_says_nothing_new() {
        let mut breaker = Breaker::default();
        let _ = note(&mut breaker, 10, None);
        for _ in 0..5 {
            assert_eq!(breaker.note(BootTime(20), BootTime(9), Some(Fault::TimedOut)), Change::None);
        }
        assert_eq!(breaker.health(), Health::Well);
    }

    #[test]
    fn a_proxy_that_lets_no_question_pass_does_not_keep_it_open() {
        let mut breaker = Breaker::default();
        for now in 1..=3 {
            let _ = note(&mut breaker, now, DOWN);
        }
        let gateway = breaker.note_probe(BootTime(4), BootTime(4), Some(Fault::ServerError));
        assert_eq!(gateway, Change::None, "nobody stands behind the proxy");
        let denied = breaker.note_probe(BootTime(5), BootTime(5), Some(Fault::Denied));
        assert_eq!(denied, Change::Recovered { from: Health::Down { since: BootTime(1) } });
    }
}
