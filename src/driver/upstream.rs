//! The discipline towards Vault: who may send a request now, and what is learned from each answer.
//!
//! Invariants: every request waits for its place, and nothing that costs a place is sent while Vault as a
//! whole, or the engine that it is for, is known to be in trouble; what was asked and not answered in time
//! counts as such. Whoever waits for a place when Vault goes down is sent away at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::core::effect::Urgency;
use crate::core::error::{Failure, Fault};
use crate::core::name::IdentityId;
use crate::core::time::BootTime;
use crate::driver::breaker::{Breaker, Change, Health};
use crate::driver::clock::Clock;
use crate::driver::limits::{Limits, Place};
use crate::driver::mounts::{Admission, Held, Mounts, Target};
use crate::driver::queue::Lane;
use crate::driver::{Message, Service};
use crate::vault::Vault;

/// How long a question for the server's health may take: a connection that hangs must not hide for long
/// that a new one would not.
const PROBE: Duration = Duration::from_secs(3);

/// The way to Vault. Cheap to clone: all clones are one.
pub(super) struct Upstream<V, C> {
    pub vault: Arc<V>,
    service: Service<C>,
    limits: Limits,
    mounts: Arc<Mutex<Mounts>>,
    /// Why the last request was not answered.
    trouble: Arc<Mutex<String>>,
}

impl<V, C> Clone for Upstream<V, C> {
    fn clone(&self) -> Upstream<V, C> {
        Upstream {
            vault: Arc::clone(&self.vault),
            service: self.service.clone(),
            limits: self.limits.clone(),
            mounts: Arc::clone(&self.mounts),
            trouble: Arc::clone(&self.trouble),
        }
    }
}

impl<V: Vault, C: Clock> Upstream<V, C> {
    pub fn new(vault: V, service: Service<C>) -> Upstream<V, C> {
        let vault = Arc::new(vault);
        Upstream {
            vault,
            service,
            limits: Limits::default(),
            mounts: Arc::default(),
            trouble: Arc::default(),
        }
    }

    /// Waits for a place, until `end`.
    ///
    /// # Errors
    /// [`Fault::Unreachable`]: Vault is down. [`Fault::TimedOut`]: no place was free in time.
    pub async fn place(
        &self,
        identity: IdentityId,
        lane: &Lane,
        urgency: Urgency,
        end: Instant,
    ) -> Result<Place, Failure> {
        loop {
            self.refuse_if_down()?;
            match timeout_at(end, self.limits.enter(identity, lane.clone(), urgency)).await {
                Ok(Some(place)) => {
                    self.refuse_if_down()?;
                    return Ok(place);
                }
                // Sent away since Vault went down; it may be back by now.
                Ok(None) => {}
                Err(_) => {
                    let reason =
                        "the request could not be sent in time: too many others were waiting for Vault";
                    return Err(Failure::new(Fault::TimedOut, reason));
                }
            }
        }
    }

    /// Whether a request for an engine may be sent now; see [`Mounts::admit`].
    ///
    /// # Errors
    /// The engine is left alone.
    pub fn admit(&self, target: &Target) -> Result<Admission, Held> {
        self.mounts().admit(target, self.service.clock().now())
    }

    /// Tells how a request for an engine went; see [`Mounts::note`].
    pub fn note_engine<T>(&self, target: &Target, result: &Result<T, Failure>) {
        let now = self.service.clock().now();
        self.mounts().note(target, now, result.as_ref().err(), fastrand::f64());
    }

    /// Sends a request, waits for its answer until `end` (if there is one) and learns from it.
    pub async fn ask<T>(
        &self,
        end: Option<Instant>,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let sent = self.service.clock().now();
        let result = within(end, call).await;
        self.learn(sent, &result);
        result
    }

    /// As [`Upstream::ask`], for a login: one that is refused by what is known here, which is looked at again
    /// soon, says nothing of Vault.
    pub async fn ask_in<T>(&self, login: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let sent = self.service.clock().now();
        let result = login.await;
        let is_known_here =
            |failure: &Failure| failure.fault == Fault::Denied && failure.retry_after.is_some();
        if !result.as_ref().is_err_and(is_known_here) {
            self.learn(sent, &result);
        }
        result
    }

    /// As [`Upstream::ask`], for what may be known without asking Vault: an answer says nothing of it then.
    pub async fn ask_or_know<T>(
        &self,
        end: Instant,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let sent = self.service.clock().now();
        let result = within(Some(end), call).await;
        if result.is_err() {
            self.learn(sent, &result);
        }
        result
    }

    /// Fails while Vault is down.
    ///
    /// # Errors
    /// [`Fault::Unreachable`].
    fn refuse_if_down(&self) -> Result<(), Failure> {
        match self.service.health() {
            Health::Well | Health::Shaky { .. } => Ok(()),
            Health::Down { since } => {
                let down = self.service.clock().now().since(since).as_secs();
                let trouble = self.trouble().clone();
                let reason = format!(
                    "Vault has not answered for {down} s: nothing is asked until it does (circuit breaker); the last trouble: {trouble}"
                );
                Err(Failure::new(Fault::Unreachable, reason))
            }
        }
    }

    /// Takes note of what an answer, or none, says of Vault as a whole.
    fn learn<T>(&self, sent: BootTime, result: &Result<T, Failure>) {
        let now = self.service.clock().now();
        let failure = result.as_ref().err();
        let change = self.breaker().note(now, sent, failure.map(|failure| failure.fault));
        self.react(change, failure);
    }

    fn react(&self, change: Change, failure: Option<&Failure>) {
        match change {
            Change::None => return,
            Change::Faltered => self.remember(failure),
            Change::Opened => {
                self.remember(failure);
                let reason = self.trouble().clone();
                tracing::error!(
                    reason,
                    "Vault does not answer; what is not cached fails at once until it does"
                );
                self.limits.dismiss();
            }
            Change::Recovered { from } => {
                if matches!(from, Health::Down { .. }) {
                    tracing::info!("Vault answers again");
                    self.limits.slow_down();
                }
            }
        }
        self.service.send(Message::HealthChanged);
        if self.breaker().begin_probing() {
            let upstream = self.clone();
            tokio::spawn(async move { upstream.probe().await });
        }
    }

    fn remember(&self, failure: Option<&Failure>) {
        if let Some(failure) = failure {
            failure.reason.clone_into(&mut self.trouble());
        }
    }

    /// Asks for the server's health until it is well.
    async fn probe(self) {
        loop {
            let Some(pause) = self.breaker().pause(fastrand::f64()) else { return };
            tokio::time::sleep(pause).await;
            if self.service.shared.inbox.is_closed() {
                return;
            }
            let sent = self.service.clock().now();
            let failure = match tokio::time::timeout(PROBE, self.vault.health()).await {
                Ok(result) => result.err(),
                Err(_) => Some(Failure::new(Fault::TimedOut, "Vault does not answer `sys/health`")),
            };
            let now = self.service.clock().now();
            let change = self.breaker().note_probe(now, sent, failure.as_ref().map(|failure| failure.fault));
            self.react(change, failure.as_ref());
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.service.shared.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mounts(&self) -> MutexGuard<'_, Mounts> {
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn within<T>(
    end: Option<Instant>,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Some(end) = end else { return call.await };
    let began = Instant::now();
    timeout_at(end, call).await.unwrap_or_else(|_| {
        let waited = Duration::from_secs_f64((end - began).as_secs_f64().round());
        let waited = humantime::format_duration(waited);
        Err(Failure::new(Fault::TimedOut, format!("Vault did not answer within {waited}")))
    })
}
