//! Which node a request goes to, for how long, and which one next.
//!
//! Invariants: what may mint is sent on only if it can't have been carried out; all attempts of a call,
//! its pauses included, share its time; a node that is passed over gets no request before it has answered
//! a question for its health.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::standing::Standings;
use super::{Again, Answer, Call, Http, Method, Missed, PROBE};
use crate::core::error::{Failure, Fault};
use crate::sys;
use crate::vault::refusal;

/// For how long a node that lags behind is asked again, each time 50 to 200 ms later. Most have caught up
/// after 100 ms; one that has much else to do takes half a second.
const LAG_PATIENCE: Duration = Duration::from_millis(1500);
/// What part of a call's time a node has to answer while there is another one to ask instead.
const SHARE: u32 = 4;

impl Http {
    /// Sends a request and reads the answer, whatever its status.
    pub async fn send(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let began = Instant::now();
        let end = began + call.timeout;
        let patience = end.min(began + LAG_PATIENCE);
        let mut lagging = false;
        loop {
            let answer = match self.reach(call, end).await {
                // The time ended while it was asked again: what it has said says more.
                Err(failure) if lagging && failure.fault == Fault::TimedOut => break,
                outcome => outcome?,
            };
            if !answer.says_node_lags() {
                return Ok(answer);
            }
            lagging = true;
            let pause = Duration::from_millis(fastrand::u64(50..=200));
            if Instant::now() + pause >= patience {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        // An index that the server never reaches (it was restored from a backup) must not block for good.
        *self.0.index.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Err(lags())
    }

    /// Asks all nodes for their health.
    ///
    /// # Errors
    /// None serves.
    pub async fn health(&self) -> Result<(), Failure> {
        let mut questions = JoinSet::new();
        for at in 0..self.0.nodes.len() {
            let http = self.clone();
            questions.spawn(async move { http.probe(at).await });
        }
        let mut outcome = Err(Failure::new(Fault::Unreachable, "Vault could not be asked for its health"));
        while let Some(answer) = questions.join_next().await {
            match answer {
                Ok(Ok(())) => {
                    // What the others say is noted when it comes.
                    questions.detach_all();
                    return Ok(());
                }
                Ok(Err(failure)) => outcome = Err(failure),
                Err(_) => {}
            }
        }
        outcome
    }

    /// The node that worked last, then the others, until one serves. A single node is asked in any case:
    /// whoever sends requests knows how it does.
    async fn reach(&self, call: &Call<'_>, end: Instant) -> Result<Answer, Failure> {
        if let [_] = self.0.nodes.as_slice() {
            let outcome = self.attempt(0, call, end.saturating_duration_since(Instant::now())).await;
            return outcome.map_err(Missed::into_failure);
        }
        let mut left = self.standings().worth_asking();
        if !left.is_empty() {
            drop(self.look_after_the_others());
        }
        let mut asked = left.clone();
        let mut missed = None;
        loop {
            if left.is_empty() {
                // Known to be down a while ago: they may be back by now.
                left = self.healthy_again(&asked).await;
                asked.extend(&left);
            }
            let time = end.saturating_duration_since(Instant::now());
            if left.is_empty() || time.is_zero() {
                break;
            }
            let at = left.remove(0);
            // What changes something may take its time: an account that is dropped, for one.
            let hurries = call.again == Again::Elsewhere && call.method == Method::Get && !left.is_empty();
            let time = if hurries { time.min(call.timeout / SHARE) } else { time };
            let outcome = self.attempt(at, call, time).await;
            let (now, chance) = (sys::boot_time(), fastrand::f64());
            let mut standings = self.standings();
            match outcome {
                // It serves what needs no leader; another node may reach one.
                Ok(answer) if refusal::says_no_leader(&answer) => missed = Some(Ok(answer)),
                Ok(answer) if answer.says_node_is_out() => {
                    let why = refusal::of_request(&answer, call.path);
                    standings.is_out(at, now, why, chance);
                    missed = Some(Ok(answer));
                }
                Ok(answer) => {
                    standings.works(at);
                    return Ok(answer);
                }
                Err(Missed::NotSent(failure)) => {
                    standings.is_out(at, now, failure.clone(), chance);
                    // What Vault itself has said says more.
                    missed = missed.filter(Result::is_ok).or(Some(Err(failure)));
                }
                Err(Missed::Cut(failure)) => {
                    standings.cut(at, now, failure.clone(), chance);
                    if call.again == Again::Never {
                        return Err(failure);
                    }
                    missed = Some(Err(failure));
                }
                Err(Missed::Unusable(failure)) => return Err(failure),
            }
        }
        missed.unwrap_or_else(|| {
            let unknown = || Failure::new(Fault::Unreachable, "no node of Vault answers");
            Err(self.standings().why_out().unwrap_or_else(unknown))
        })
    }

    /// Asks those for their health that are passed over and whose pause is over. The questions go on if
    /// nobody waits for them.
    fn look_after_the_others(&self) -> Vec<(usize, JoinHandle<Result<(), Failure>>)> {
        let due = self.standings().due(sys::boot_time());
        let ask = |at| {
            let http = self.clone();
            (at, tokio::spawn(async move { http.probe(at).await }))
        };
        due.into_iter().map(ask).collect()
    }

    /// Nodes that were passed over and answer again, without those that this request was sent to already.
    async fn healthy_again(&self, asked: &[usize]) -> Vec<usize> {
        let mut healthy = Vec::new();
        for (at, question) in self.look_after_the_others() {
            if !asked.contains(&at) && matches!(question.await, Ok(Ok(()))) {
                healthy.push(at);
            }
        }
        healthy
    }

    async fn probe(&self, at: usize) -> Result<(), Failure> {
        let health = match self.attempt(at, &Call::health(), PROBE).await {
            Ok(answer) if (200..300).contains(&answer.status) => Ok(()),
            Ok(answer) => Err(refusal::of_request(&answer, "health")),
            Err(missed) => Err(missed.into_failure()),
        };
        let failure = health.as_ref().err().cloned();
        self.standings().probed(at, sys::boot_time(), failure, fastrand::f64());
        health
    }

    fn standings(&self) -> MutexGuard<'_, Standings> {
        self.0.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nothing was carried out. With a leader a node catches up: it has none, or can't reach it.
fn lags() -> Failure {
    Failure::new(Fault::NoLeader, "the Vault node lags behind the others and did not catch up")
}
