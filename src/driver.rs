//! The one async actor between the engine and the world: it carries effects out and feeds what comes
//! back to the engine.
//!
//! Invariants: the engine's lock is held for one call of the engine and never across an `.await`, a
//! reply or a log line; each caller that waits is answered once, at the latest at its deadline; a request
//! that may mint is never cut off because a reader gave up.
//!
//! [`Service`] is what handlers hold: it never waits. [`Driver`] is the actor.

pub mod breaker;
pub mod clock;
pub mod compose;
mod limits;
mod mounts;
mod queue;
mod report;
pub mod seal;
mod settle;
mod upstream;
mod work;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::config::plan::Format;
use crate::core::effect::{Answer, Credential, Effect};
use crate::core::engine::{Effects, Engine, FetchResult, Granted};
use crate::core::error::{Failure, FsError};
use crate::core::generation::Body;
use crate::core::identity::TokenTerms;
use crate::core::listing::Keys;
use crate::core::name::{FileId, IdentityId, Ino, LeaseId, RequestId, SourceId, Ticket};
use crate::core::state::Forsaken;
use crate::core::time::{BootTime, Chance, Moment};
use crate::driver::seal::{News, Seal};
use crate::sealed::Full;
use crate::secret::SecretBytes;
use crate::vault::{Token, Vault};

use breaker::Breaker;
pub use breaker::Health;
use clock::{Clock, Timer};
pub use report::LOGIN_LOST;
pub use settle::Unrevoked;
use upstream::Upstream;

impl Body for SecretBytes {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn same_as(&self, other: &SecretBytes) -> bool {
        self.equals(other)
    }
}

/// A caller's reply, kept until there is an answer.
pub trait Reply: Send {
    /// Answers; must not block.
    fn answer(self: Box<Self>, answer: Result<Answer, FsError>);
}

/// What the kernel is told to forget; must not block.
pub trait Kernel: Send + 'static {
    /// Pages and attributes of a file.
    fn invalidate(&self, ino: Ino);
    /// A name.
    fn invalidate_name(&self, parent: Ino, name: String);
    /// The cached listing of a directory.
    fn invalidate_listing(&self, ino: Ino);
    /// Does this once the kernel has forgotten all that it was told to forget before; must not block.
    fn afterwards(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}

/// Names for log lines.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Of each identity, by number.
    pub identities: Vec<String>,
}

/// What the driver must know of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The longest that a caller waits.
    pub read_timeout: Duration,
    /// How the declared files of each source are rendered that show it alone.
    pub rendering: HashMap<SourceId, Vec<(FileId, Format)>>,
    /// The sources that have a part in files of several: of these all values are kept.
    pub values: HashSet<SourceId>,
    /// Names for log lines.
    pub names: Names,
}

enum Message {
    Effects(Effects),
    Wait {
        ticket: Ticket,
        reply: Box<dyn Reply>,
    },
    Completed(Completed),
    /// Vault has stopped to answer, or answers again.
    HealthChanged,
    Stop {
        patience: Duration,
        done: oneshot::Sender<Vec<Unrevoked>>,
    },
}

/// What has come back.
enum Completed {
    LoggedIn {
        identity: IdentityId,
        request: RequestId,
        result: Result<(Token, TokenTerms), Failure>,
    },
    TokenRenewed {
        with: Credential,
        request: RequestId,
        result: Result<TokenTerms, Failure>,
    },
    Fetched {
        source: SourceId,
        request: RequestId,
        with: Credential,
        result: FetchResult<SecretBytes>,
    },
    Listed {
        directory: Ino,
        request: RequestId,
        with: Credential,
        sent: BootTime,
        result: Result<Keys, Failure>,
    },
    LeaseRenewed {
        source: SourceId,
        request: RequestId,
        result: Result<Granted, Failure>,
    },
    LeaseLookedUp {
        source: SourceId,
        request: RequestId,
        result: Result<Granted, Failure>,
    },
    LeaseRevoked {
        lease: LeaseId,
        result: Result<(), Failure>,
    },
}

/// What handlers hold: the engine, and the way to the driver. Cheap to clone.
pub struct Service<C> {
    shared: Arc<Shared<C>>,
}

struct Shared<C> {
    held: Mutex<Held>,
    inbox: mpsc::UnboundedSender<Message>,
    clock: C,
    breaker: Mutex<Breaker>,
}

/// What the one lock holds.
struct Held {
    engine: Engine<SecretBytes>,
    seal: Option<Seal>,
}

/// The engine, locked. What was changed is sealed before anybody else sees it.
struct Locked<'a>(MutexGuard<'a, Held>);

impl Deref for Locked<'_> {
    type Target = Engine<SecretBytes>;

    fn deref(&self) -> &Engine<SecretBytes> {
        &self.0.engine
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Engine<SecretBytes> {
        &mut self.0.engine
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let Held { engine, seal } = &mut *self.0;
        if let Some(seal) = seal {
            seal.follow(engine);
        }
    }
}

impl<C> Clone for Service<C> {
    fn clone(&self) -> Service<C> {
        Service { shared: Arc::clone(&self.shared) }
    }
}

/// When a caller is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// At once.
    AtOnce,
    /// After the kernel was told to forget: it drops attributes that come in an answer which it takes up
    /// after a notice about the same file.
    AfterNotices,
}

/// What is to be handed to [`Driver::new`].
pub struct Inbox(mpsc::UnboundedReceiver<Message>);

impl<C: Clock> Service<C> {
    /// A service for an engine; what it sends waits in the inbox until the driver runs.
    pub fn new(engine: Engine<SecretBytes>, clock: C) -> (Service<C>, Inbox) {
        Service::sealed(engine, None, clock)
    }

    /// As [`Service::new`]; whatever changes is sealed.
    pub fn sealed(engine: Engine<SecretBytes>, seal: Option<Seal>, clock: C) -> (Service<C>, Inbox) {
        let (inbox, messages) = mpsc::unbounded_channel();
        let breaker = Mutex::new(Breaker::default());
        let shared = Arc::new(Shared { held: Mutex::new(Held { engine, seal }), inbox, clock, breaker });
        (Service { shared }, Inbox(messages))
    }

    /// The clock.
    pub fn clock(&self) -> &C {
        &self.shared.clock
    }

    /// Calls the engine and sends on what it asks for. `call` must not block.
    pub fn call<T>(&self, call: impl FnOnce(&mut Engine<SecretBytes>, Moment) -> (T, Effects)) -> T {
        let at = self.moment();
        let (outcome, effects) = call(&mut self.engine(), at);
        if !effects.is_empty() {
            self.send(Message::Effects(effects));
        }
        outcome
    }

    /// Looks at the engine. `look` must not block.
    pub fn look<T>(&self, look: impl FnOnce(&mut Engine<SecretBytes>, BootTime) -> T) -> T {
        let now = self.shared.clock.now();
        look(&mut self.engine(), now)
    }

    /// Hands over the reply of a caller that waits.
    pub fn wait(&self, ticket: Ticket, reply: Box<dyn Reply>) {
        self.send(Message::Wait { ticket, reply });
    }

    /// Ends everything: bytes are dropped, leases and tokens are given back within `patience`. Returns
    /// what could not be.
    pub async fn stop(&self, patience: Duration) -> Vec<Unrevoked> {
        let (done, ended) = oneshot::channel();
        self.send(Message::Stop { patience, done });
        ended.await.unwrap_or_default()
    }

    /// Whether Vault answers.
    pub fn health(&self) -> Health {
        self.shared.breaker.lock().unwrap_or_else(PoisonError::into_inner).health()
    }

    fn moment(&self) -> Moment {
        Moment { now: self.shared.clock.now(), chance: Chance(fastrand::u64(..)) }
    }

    fn engine(&self) -> Locked<'_> {
        Locked(self.shared.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why no state is kept for a successor at present, although there is memory for it.
    pub fn unkept(&self) -> Option<Full> {
        self.seal(|seal| seal.lack()).flatten()
    }

    /// Changes what is sealed of tokens.
    fn seal<T>(&self, change: impl FnOnce(&mut Seal) -> T) -> Option<T> {
        self.engine().0.seal.as_mut().map(change)
    }

    fn send(&self, message: Message) {
        // Without a driver the mount is over; what waits is answered by the kernel then.
        let _ = self.shared.inbox.send(message);
    }
}

/// The actor.
pub struct Driver<V, C: Clock, K> {
    service: Service<C>,
    inbox: mpsc::UnboundedReceiver<Message>,
    timer: C::Timer,
    upstream: Upstream<V, C>,
    kernel: K,
    settings: Arc<Settings>,
    tokens: HashMap<Credential, Token>,
    waiting: HashMap<Ticket, (BootTime, Box<dyn Reply>)>,
    deadlines: BTreeSet<(BootTime, Ticket)>,
    /// Answers that overtook their replies on the way here.
    early: HashMap<Ticket, Result<Answer, FsError>>,
    next_wake: Option<BootTime>,
    /// What a predecessor has left to be done.
    inherited: (Effects, Vec<(Forsaken, Token)>),
}

/// What a driver goes on with.
#[derive(Default)]
pub struct Inheritance {
    /// The tokens that the engine knows.
    pub tokens: HashMap<Credential, Token>,
    /// What is to be done at once.
    pub effects: Effects,
    /// Tokens of identities that are not configured any more, and what they have obtained.
    pub forsaken: Vec<(Forsaken, Token)>,
}

impl<V: Vault, C: Clock, K: Kernel> Driver<V, C, K> {
    /// A driver for a service.
    pub fn new(
        service: Service<C>,
        inbox: Inbox,
        timer: C::Timer,
        vault: V,
        kernel: K,
        settings: Settings,
    ) -> Driver<V, C, K> {
        Driver {
            upstream: Upstream::new(vault, service.clone()),
            service,
            inbox: inbox.0,
            timer,
            kernel,
            settings: Arc::new(settings),
            tokens: HashMap::new(),
            waiting: HashMap::new(),
            deadlines: BTreeSet::new(),
            early: HashMap::new(),
            next_wake: None,
            inherited: Default::default(),
        }
    }

    /// Goes on where a predecessor has ended.
    #[must_use]
    pub fn inheriting(mut self, inheritance: Inheritance) -> Driver<V, C, K> {
        self.tokens = inheritance.tokens;
        self.inherited = (inheritance.effects, inheritance.forsaken);
        self
    }

    /// Logs in and then works until it is stopped.
    pub async fn run(mut self) {
        let (effects, forsaken) = std::mem::take(&mut self.inherited);
        self.carry_out(effects);
        for (forsaken, token) in forsaken {
            self.give_back(&forsaken, token);
        }
        let at = self.service.moment();
        let effects = self.service.engine().start(at);
        self.carry_out(effects);
        loop {
            let deadline = self.deadlines.first().map(|(at, _)| *at);
            let wake = [self.next_wake, deadline].into_iter().flatten().min().unwrap_or(BootTime::NEVER);
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(Message::Stop { patience, done }) => {
                        let unrevoked = self.settle(patience).await;
                        let _ = done.send(unrevoked);
                        return;
                    }
                    Some(message) => self.take(message),
                    None => return,
                },
                () = self.timer.wait_until(wake) => self.time_passes(),
            }
            self.tell_of_the_seal();
        }
    }

    fn tell_of_the_seal(&self) {
        match self.service.seal(Seal::news).flatten() {
            Some(News::Full(full)) => {
                tracing::warn!(reason = %full, "the state can't be kept for a successor: a restart would log in anew");
            }
            Some(News::Whole) => tracing::info!("the state is kept for a successor again"),
            None => {}
        }
    }

    /// What an identity had that is not configured any more.
    fn give_back(&self, forsaken: &Forsaken, token: Token) {
        if forsaken.ours {
            return self.work().revoke_token(forsaken.with, token);
        }
        for lease in &forsaken.leases {
            self.work().revoke_lease(Some(token.clone()), lease.clone());
        }
    }

    fn time_passes(&mut self) {
        let at = self.service.moment();
        if self.next_wake.is_some_and(|wake| at.now >= wake) {
            self.next_wake = None;
            let effects = self.service.engine().tick(at);
            self.carry_out(effects);
        }
        while let Some((_, ticket)) =
            self.deadlines.first().copied().filter(|(deadline, _)| at.now >= *deadline)
        {
            self.deadlines.pop_first();
            if self.waiting.contains_key(&ticket) {
                let effects = self.service.engine().give_up(at, ticket);
                self.carry_out(effects);
                // The engine did not know the ticket: it has answered already, or never will.
                self.answer(ticket, Err(FsError::TimedOut), Order::AtOnce);
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Effects(effects) => self.carry_out(effects),
            Message::Wait { ticket, reply } => match self.early.remove(&ticket) {
                Some(answer) => reply.answer(answer),
                None => {
                    let deadline = self.service.shared.clock.now() + self.settings.read_timeout;
                    self.deadlines.insert((deadline, ticket));
                    self.waiting.insert(ticket, (deadline, reply));
                }
            },
            Message::Completed(completed) => self.complete(completed),
            Message::HealthChanged => self.tell_health(),
            Message::Stop { done, .. } => {
                // A second stop while the first one is under way.
                let _ = done.send(Vec::new());
            }
        }
    }

    /// Vault counts as silent from the first failure in a row on. That costs little if it was an accident
    /// (the question for its health follows at once, and what may still be shown is shown meanwhile), and
    /// spares all other readers the wait for a request that hangs.
    fn tell_health(&mut self) {
        let answers = self.service.health() == Health::Well;
        let at = self.service.moment();
        let effects = self.service.engine().vault_answers(at, answers);
        self.carry_out(effects);
    }

    fn complete(&mut self, completed: Completed) {
        let at = self.service.moment();
        let mut engine = self.service.engine();
        let effects = match completed {
            Completed::LoggedIn { identity, request, result } => {
                let (token, terms) = match result {
                    Ok((token, terms)) => {
                        let current = engine.current_token(identity).and_then(|with| self.tokens.get(&with));
                        let known = current.is_some_and(|current| current.secret().equals(token.secret()));
                        (Some(token), Ok(TokenTerms { known, ..terms }))
                    }
                    Err(failure) => (None, Err(failure)),
                };
                let (id, effects) = engine.logged_in(at, identity, request, terms);
                if let (Some(id), Some(token)) = (id, token) {
                    let with = Credential { identity, token: id };
                    if let Some(seal) = &mut engine.0.seal {
                        seal.keep(with, token.clone());
                    }
                    self.tokens.insert(with, token);
                }
                effects
            }
            Completed::TokenRenewed { with, request, result } => {
                engine.token_renewed(at, with, request, result)
            }
            Completed::Fetched { source, request, with, result } => {
                engine.fetched(at, source, request, with, result)
            }
            Completed::Listed { directory, request, with, sent, result } => {
                engine.listed(at, directory, request, with, sent, result)
            }
            Completed::LeaseRenewed { source, request, result } => {
                engine.lease_renewed(at, source, request, result)
            }
            Completed::LeaseLookedUp { source, request, result } => {
                engine.lease_looked_up(at, source, request, result)
            }
            Completed::LeaseRevoked { lease, result } => engine.lease_revoked(at, &lease, result),
        };
        drop(engine);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Effects) {
        let forgets = |effect: &Effect| {
            matches!(
                effect,
                Effect::Invalidate(_) | Effect::InvalidateName { .. } | Effect::InvalidateListing(_)
            )
        };
        let order = if effects.list.iter().any(forgets) { Order::AfterNotices } else { Order::AtOnce };
        for effect in effects.list {
            self.do_one(effect, order);
        }
        self.next_wake = [self.next_wake, effects.wake].into_iter().flatten().min();
    }

    fn do_one(&mut self, effect: Effect, order: Order) {
        match effect {
            Effect::Answer { ticket, answer } => {
                if self.waiting.contains_key(&ticket) {
                    self.answer(ticket, answer, order);
                } else {
                    self.early.insert(ticket, answer);
                }
            }
            Effect::Invalidate(ino) => self.kernel.invalidate(ino),
            Effect::InvalidateName { parent, name } => self.kernel.invalidate_name(parent, name),
            Effect::InvalidateListing(ino) => self.kernel.invalidate_listing(ino),
            Effect::Report(report) => report::log(&report, &self.service, &self.settings.names),
            Effect::DropToken { with } => {
                self.tokens.remove(&with);
                self.service.seal(|seal| seal.forget(with));
            }
            Effect::LogIn { request, identity } => self.work().log_in(request, identity),
            Effect::RenewToken { request, with } => self.work().renew_token(request, self.token(with), with),
            Effect::RevokeToken { with } => {
                if let Some(token) = self.tokens.remove(&with) {
                    self.work().revoke_token(with, token);
                }
            }
            Effect::Read { request, source, with, read, fields, minting, urgency } => {
                let fetch = work::Fetch { request, source, with, read, fields, minting, urgency };
                self.work().fetch(fetch, self.token(with));
            }
            Effect::List { request, directory, with, prefix, engine: _ } => {
                self.work().list(request, directory, self.token(with), with, prefix);
            }
            Effect::RenewLease { request, source, with, lease, increment } => {
                self.work().renew_lease(request, source, self.token(with), lease, increment);
            }
            Effect::LookUpLease { request, source, with, lease } => {
                self.work().look_up_lease(request, source, self.token(with), lease);
            }
            Effect::RevokeLease { with, lease } => self.work().revoke_lease(self.token(with), lease),
        }
    }

    fn token(&self, with: Credential) -> Option<Token> {
        self.tokens.get(&with).cloned()
    }

    fn answer(&mut self, ticket: Ticket, answer: Result<Answer, FsError>, order: Order) {
        if let Some((deadline, reply)) = self.waiting.remove(&ticket) {
            self.deadlines.remove(&(deadline, ticket));
            match order {
                Order::AtOnce => reply.answer(answer),
                Order::AfterNotices => self.kernel.afterwards(Box::new(move || reply.answer(answer))),
            }
        }
    }

    fn work(&self) -> work::Work<V, C> {
        work::Work {
            upstream: self.upstream.clone(),
            service: self.service.clone(),
            settings: Arc::clone(&self.settings),
        }
    }
}
