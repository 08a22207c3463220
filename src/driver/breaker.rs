//! The circuit breaker: while Vault does not answer, reads fail at once instead of waiting.
//!
//! Pure: events in, a verdict out. Only what speaks of the server counts (no connection, no answer,
//! sealed), never what it says of one request.

use crate::core::error::Fault;
use crate::core::time::BootTime;

/// Failures in a row that open it.
const FAILURES: u32 = 3;

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

/// The breaker.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    /// The first of the failures in a row.
    since: Option<BootTime>,
}

/// What to do after a request.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// It has just opened: ask for the server's health until it answers.
    Opened,
}

impl Breaker {
    /// Whether requests may be sent.
    pub fn health(&self) -> Health {
        match self.since {
            None => Health::Well,
            Some(since) if self.failures < FAILURES => Health::Shaky { since },
            Some(since) => Health::Down { since },
        }
    }

    /// Notes what became of a request.
    pub fn note(&mut self, now: BootTime, fault: Option<Fault>) -> Change {
        match fault {
            Some(Fault::Unreachable | Fault::TimedOut | Fault::Sealed) => {
                self.failures = self.failures.saturating_add(1);
                self.since.get_or_insert(now);
                if self.failures == FAILURES {
                    return Change::Opened;
                }
            }
            Some(_) | None => self.close(),
        }
        Change::None
    }

    /// The server is well again.
    pub fn close(&mut self) {
        self.failures = 0;
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_in_a_row_open_it_and_an_answer_closes_it() {
        let mut breaker = Breaker::default();
        let down = Some(Fault::Unreachable);
        assert_eq!(breaker.note(BootTime(1), down), Change::None);
        assert_eq!(breaker.note(BootTime(2), None), Change::None);
        assert_eq!(breaker.note(BootTime(3), down), Change::None);
        assert_eq!(breaker.note(BootTime(4), Some(Fault::TimedOut)), Change::None);
        assert_eq!(breaker.health(), Health::Shaky { since: BootTime(3) });
        assert_eq!(breaker.note(BootTime(5), Some(Fault::Sealed)), Change::Opened);
        assert_eq!(breaker.health(), Health::Down { since: BootTime(3) });
        assert_eq!(breaker.note(BootTime(6), down), Change::None, "it is open already");
        breaker.close();
        assert_eq!(breaker.health(), Health::Well);
    }

    #[test]
    fn what_vault_says_of_one_request_does_not_count() {
        let mut breaker = Breaker::default();
        for fault in [Fault::NotFound, Fault::Denied, Fault::Refused, Fault::ServerError, Fault::RateLimited]
        {
            for _ in 0..10 {
                assert_eq!(breaker.note(BootTime(1), Some(fault)), Change::None);
            }
        }
        assert_eq!(breaker.health(), Health::Well);
    }
}
