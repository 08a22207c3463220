//! The driver of the model: carries effects out, with delays and losses, and feeds the answers back. It
//! writes down what the engine may know of each one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use leasefs::core::effect::{Credential, Effect, End, Minting, Report, Urgency};
use leasefs::core::engine::{Effects, FetchResult, Granted};
use leasefs::core::error::{Failure, Fault};
use leasefs::core::generation::{Fetched, FetchedKind, Piece};
use leasefs::core::identity::TokenTerms;
use leasefs::core::listing::Keys;
use leasefs::core::name::{FileId, RequestId, SourceId};
use leasefs::core::policy::{lease_end, static_end};
use leasefs::core::sources::Sources;
use leasefs::core::time::{BootTime, Moment, UnixTime};
use leasefs::core::tree::FileSpec;

use crate::checks;
use crate::layout::is_user_s;
use crate::vault::{Read, Vault};
use crate::world::{Issue, Kind, Pace, TestBody, Weather, World};

/// What comes back.
#[derive(Clone, Debug)]
pub enum Reply {
    Token(Result<(u64, TokenTerms), Failure>),
    Renewed(Result<TokenTerms, Failure>),
    Read(Read),
    Keys(Result<Vec<String>, Failure>),
    Granted(Result<Granted, Failure>),
    Revoked(Result<(), Failure>),
}

/// How far a request is.
#[derive(Clone, Debug)]
pub enum Step {
    /// It reaches Vault; the answer takes so long, if it comes at all.
    Arrive { way_back: Option<Duration>, twice: bool },
    /// The driver gives it up.
    TimeOut,
    /// The answer reaches the driver.
    Reply(Reply),
}

/// What happens to a request next.
#[derive(Clone, Debug)]
pub struct Event {
    /// When.
    pub at: BootTime,
    /// Which comes first at one moment.
    pub order: u64,
    /// When it was sent.
    sent: BootTime,
    /// The token that it carries.
    token: u64,
    /// What it asks.
    effect: Effect,
    /// What happens.
    pub step: Step,
}

impl World {
    fn send(&mut self, effect: Effect) {
        let (there, back) = match self.weather {
            Weather::Slow(there, back) => (there, back),
            Weather::Fair | Weather::Foul => (self.delay(), self.delay()),
        };
        self.sent.push(effect.clone());
        let is_read = matches!(effect, Effect::Read { .. });
        let (lost, twice) = match self.weather {
            Weather::Foul => (self.rng.u32(..100) < 2, is_read && self.rng.u32(..100) < 3),
            Weather::Fair | Weather::Slow(..) => (false, self.twice && is_read),
        };
        let timeout = Duration::from_secs(30);
        let (sent, order) = (self.now, self.next_order());
        // The driver holds the token for as long as the request takes.
        let token = credential(&effect).and_then(|with| self.tokens.get(&with).copied()).unwrap_or_default();
        let event = |at, order, step| Event { at, order, sent, token, effect: effect.clone(), step };
        let mut events = Vec::new();
        let at = sent + there;
        // A lost request may have been carried out all the same.
        if !lost || self.rng.bool() {
            let way_back = (!lost).then_some(back);
            events.push(event(at, order, Step::Arrive { way_back, twice }));
        }
        if lost || there + back > timeout {
            events.push(event(sent + timeout, order, Step::TimeOut));
        }
        self.events.extend(events);
    }

    fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    fn delay(&mut self) -> Duration {
        let millis = match (self.weather, self.rng.u32(..100)) {
            (Weather::Fair | Weather::Slow(..), _) => self.rng.u64(1..3),
            (Weather::Foul, 0..85) => self.rng.u64(1..25),
            (Weather::Foul, 85..94) => self.rng.u64(25..900),
            (Weather::Foul, 94..98) => self.rng.u64(900..8_000),
            (Weather::Foul, _) => self.rng.u64(8_000..60_000),
        };
        Duration::from_millis(millis)
    }

    /// Lets an event happen.
    pub fn happen(&mut self, at: BootTime, order: u64, until: BootTime, pace: Pace) {
        let Some(index) = self.events.iter().position(|one| (one.at, one.order) == (at, order)) else {
            return;
        };
        let event = self.events.swap_remove(index);
        if pace == Pace::Prompt {
            self.now = self.now.max(at);
        }
        match event.step.clone() {
            Step::Arrive { way_back, twice } => {
                let reply = self.arrive(at, &event);
                let Some(way_back) = way_back else { return };
                for again in 0..=u64::from(twice) {
                    let order = self.next_order();
                    let at = at + way_back + Duration::from_millis(700) * again as u32;
                    self.events.push(Event { at, order, step: Step::Reply(reply.clone()), ..event.clone() });
                }
            }
            Step::TimeOut => {
                if pace == Pace::Late {
                    self.now = self.now.max(until);
                }
                let failure = Failure::new(Fault::TimedOut, "the model lost it");
                let reply = match &event.effect {
                    Effect::LogIn { .. } => Reply::Token(Err(failure)),
                    Effect::RenewToken { .. } => Reply::Renewed(Err(failure)),
                    Effect::Read { .. } => Reply::Read(Read::Failed(failure)),
                    Effect::List { .. } => Reply::Keys(Err(failure)),
                    Effect::RenewLease { .. } | Effect::LookUpLease { .. } => Reply::Granted(Err(failure)),
                    Effect::RevokeLease { .. } => Reply::Revoked(Err(failure)),
                    _ => return,
                };
                self.deliver(&event, reply);
            }
            Step::Reply(reply) => {
                if pace == Pace::Late {
                    self.now = self.now.max(until);
                }
                let over = at.since(event.sent) > Duration::from_secs(30);
                // The driver has given up; only what may have made something is still taken.
                if !over || matches!(event.effect, Effect::Read { .. } | Effect::LogIn { .. }) {
                    self.deliver(&event, reply);
                }
            }
        }
    }

    /// A request reaches Vault.
    fn arrive(&mut self, at: BootTime, event: &Event) -> Reply {
        let (vault, token) = (&mut self.vault, event.token);
        match &event.effect {
            Effect::LogIn { identity, .. } => {
                let result = vault.log_in(at, is_user_s(*identity));
                Reply::Token(result.map(|token| (token, terms(vault, at, event.sent, token))))
            }
            Effect::RenewToken { .. } => {
                let result = vault.renew_token(at, token);
                Reply::Renewed(result.map(|()| terms(vault, at, event.sent, token)))
            }
            Effect::Read { read, minting, .. } => {
                Reply::Read(vault.read(at, token, read.path.as_str(), *minting))
            }
            Effect::List { prefix, .. } => Reply::Keys(vault.list(at, token, prefix.as_str())),
            Effect::RenewLease { lease, increment, .. } => {
                Reply::Granted(vault.renew_lease(at, token, lease, *increment))
            }
            Effect::LookUpLease { lease, .. } => Reply::Granted(vault.look_up_lease(at, token, lease)),
            Effect::RevokeLease { lease, .. } => Reply::Revoked(vault.revoke_lease(at, token, lease)),
            other => panic!("not a request: {other:?}"),
        }
    }

    fn deliver(&mut self, event: &Event, reply: Reply) {
        self.say(|| format!("{:?} -> {reply:?}", event.effect));
        let at = self.at();
        let sent = event.sent;
        let fx = match (&event.effect, reply) {
            (Effect::LogIn { request, identity }, Reply::Token(result)) => {
                let current = self.engine.current_token(*identity).and_then(|with| self.tokens.get(&with));
                let known = result.as_ref().is_ok_and(|(number, _)| current == Some(number));
                let result = result.map(|(number, terms)| (number, TokenTerms { known, ..terms }));
                let terms = result.clone().map(|(_, terms)| terms);
                let (token, fx) = self.engine.logged_in(at, *identity, *request, terms);
                if let (Some(token), Ok((number, terms))) = (token, result) {
                    let with = Credential { identity: *identity, token };
                    let end = token_end(terms);
                    self.tokens.insert(with, number);
                    self.token_ends.insert(with, (end, end));
                }
                fx
            }
            (Effect::RenewToken { request, with }, Reply::Renewed(result)) => {
                if let (Ok(terms), Some(ends)) = (&result, self.token_ends.get_mut(with))
                    && self.now < ends.0
                {
                    let end = token_end(*terms);
                    *ends = (ends.0.max(end), ends.1.min(end));
                }
                self.engine.token_renewed(at, *with, *request, result)
            }
            (Effect::Read { request, source, with, read, fields, .. }, Reply::Read(result)) => {
                let path = read.path.as_str().to_owned();
                self.deliver_read(at, sent, *source, *request, *with, &path, *fields, result)
            }
            (Effect::List { request, directory, with, prefix, .. }, Reply::Keys(result)) => {
                let result = result.map(|names| Keys { below: prefix.clone(), names });
                self.engine.listed(at, *directory, *request, *with, sent, result)
            }
            (Effect::RenewLease { request, source, lease, .. }, Reply::Granted(result)) => {
                let result = result.map(|granted| Granted { sent, ..granted });
                if let Ok(granted) = &result {
                    let end = lease_end(sent, granted.duration);
                    let now = self.now;
                    for issue in self.issues.iter_mut().filter(|one| one.lease.as_ref() == Some(lease)) {
                        // What was over stays over.
                        if now < issue.end.0 {
                            issue.end = (issue.end.0.max(end), issue.end.1.min(end));
                        }
                    }
                }
                self.engine.lease_renewed(at, *source, *request, result)
            }
            (Effect::LookUpLease { request, source, lease, .. }, Reply::Granted(result)) => {
                if result.as_ref().is_err_and(|failure| failure.fault == Fault::LeaseGone) {
                    self.kill("Vault said that its lease is gone", |one| one.lease.as_ref() == Some(lease));
                }
                let result = result.map(|granted| Granted { sent, ..granted });
                self.engine.lease_looked_up(at, *source, *request, result)
            }
            (Effect::RevokeLease { lease, .. }, Reply::Revoked(result)) => {
                self.engine.lease_revoked(at, lease, result)
            }
            (effect, reply) => panic!("{reply:?} is no answer to {effect:?}"),
        };
        self.take(fx);
    }

    #[expect(clippy::too_many_arguments, reason = "it is what the driver knows of an answer")]
    fn deliver_read(
        &mut self,
        at: Moment,
        sent: BootTime,
        source: SourceId,
        request: RequestId,
        with: Credential,
        path: &str,
        fields: bool,
        result: Read,
    ) -> Effects {
        let expected = self.in_flight.get(&source) == Some(&request);
        if expected {
            self.in_flight.remove(&source);
        }
        match result {
            Read::WouldMint => {
                if expected && !self.stopped {
                    self.minting.entry(source).or_default();
                }
                self.engine.fetched(at, source, request, with, FetchResult::WouldMint)
            }
            Read::Failed(failure) => {
                if expected && failure.fault.made_nothing() {
                    let waits = self.last_mint.get(&source).copied().unwrap_or_default();
                    self.mints.entry((source, waits)).or_default().pop();
                }
                if expected && !self.stopped && matches!(failure.fault, Fault::NotFound | Fault::Denied) {
                    self.kill("Vault does not give it any more", |one| {
                        one.kind != Kind::Minted && one.source == source
                    });
                }
                self.engine.fetched(at, source, request, with, FetchResult::Failed(failure))
            }
            Read::Secret { kind, content, fields: names } => {
                let names = if fields { names } else { Vec::new() };
                let fetched = self.render(sent, source, with, path, kind, content, names);
                let issue = self.issues.len() - 1;
                let fx = self.engine.fetched(at, source, request, with, FetchResult::Secret(fetched));
                self.accepted(source, issue, path, sent, expected, &fx.list);
                fx
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "it is what the driver knows of an answer")]
    fn render(
        &mut self,
        sent: BootTime,
        source: SourceId,
        with: Credential,
        path: &str,
        kind: FetchedKind,
        content: u64,
        names: Vec<String>,
    ) -> Fetched<TestBody> {
        let issue = self.issues.len();
        let shows = |file: &FileSpec| file.sources == Sources::one(source);
        let files = self.layout.files.iter().enumerate().filter(|(_, file)| shows(file));
        let files = files.map(|(index, _)| Piece::File(FileId(index as u32)));
        let has_part = |file: &FileSpec| file.sources.are_several() && file.sources.contains(source);
        let values = self.layout.files.iter().any(has_part).then_some(Piece::Values);
        let pieces: Vec<Piece> = files.chain(names.into_iter().map(Piece::Field)).chain(values).collect();
        let unrenderable = if self.weather == Weather::Foul { self.rng.usize(..40) } else { usize::MAX };
        let bodies: BTreeMap<Piece, Result<Arc<TestBody>, Failure>> = pieces
            .into_iter()
            .enumerate()
            .map(|(index, piece)| {
                if index == unrenderable && index > 0 && piece != Piece::Values {
                    return (piece, Err(Failure::new(Fault::Unusable, "the model can't render it")));
                }
                let size = 20 + (content * 7 + index as u64 * 3) % 40;
                let (issues, path) = (vec![issue], path.to_owned());
                let body = TestBody { issues, path, content, piece: piece.clone(), size, note: None };
                (piece, Ok(Arc::new(body)))
            })
            .collect();
        let policy = checks::policy_of(&self.layout, source);
        let (own_end, lease, kind_of) = match &kind {
            FetchedKind::Kv { deleted, .. } => {
                let end = sent + policy.max_age + policy.grace;
                (end.min(deleted.unwrap_or(BootTime::NEVER)), None, Kind::Kv)
            }
            FetchedKind::Static { ttl, .. } => {
                let fresh = policy.max_age.min(self.layout.settings.leases.revocation_check);
                let ends = static_end(sent, *ttl);
                // One that should have been replaced is shown for a moment.
                let ends = if self.now < ends { ends } else { sent + checks::MOMENT };
                (((sent + fresh).min(ends) + policy.grace).min(ends), None, Kind::Static)
            }
            FetchedKind::Leased { lease, duration, .. } => {
                self.delivered.insert(lease.clone(), with);
                (lease_end(sent, *duration), Some(lease.clone()), Kind::Minted)
            }
            FetchedKind::Other { minted: false, ends: None, .. } => {
                (sent + policy.max_age + policy.grace, None, Kind::Kv)
            }
            FetchedKind::Other { ends, .. } => (ends.unwrap_or(BootTime::NEVER), None, Kind::Minted),
        };
        self.issues.push(Issue {
            source,
            with,
            token: self.tokens.get(&with).copied().unwrap_or_default(),
            content,
            lease,
            kind: kind_of,
            end: (own_end, own_end),
            dead: None,
            excuse: None,
            newer: 0,
            bodies: bodies.values().flatten().map(Arc::downgrade).collect(),
        });
        let received = UnixTime { seconds: (self.now.0 / 1_000_000_000) as i64, nanoseconds: 0 };
        Fetched { sent, received, kind, bodies }
    }

    /// What became of an answer: a new generation, more time for the one that is there, or nothing.
    fn accepted(
        &mut self,
        source: SourceId,
        issue: usize,
        path: &str,
        sent: BootTime,
        expected: bool,
        effects: &[Effect],
    ) {
        let with = self.issues[issue].with;
        let published = effects
            .iter()
            .any(|one| matches!(one, Effect::Report(Report::Published { source: of, .. }) if *of == source));
        // A source that a tree brought in and that nobody holds is gone, and what failed with it.
        let reported = effects.iter().any(
            |one| matches!(one, Effect::Report(Report::FetchFailed { source: of, .. }) if *of == source),
        );
        let failed = reported || self.engine.failure_of(source).is_some();
        let shut = checks::is_shut(self, source, path);
        if !expected || self.stopped || shut {
            assert!(!published, "an answer that nobody waited for was published");
            return;
        }
        let kind = self.issues[issue].kind;
        if kind == Kind::Static && !published && self.issues[issue].end.0 == sent + checks::MOMENT {
            // It should have been replaced by now: the next one is awaited, or this one shown for a moment.
            let ends = self.issues[issue].end;
            if let Some(current) = self.current.get(&source) {
                let shown = &mut self.issues[*current].end;
                *shown = (shown.0.max(ends.0), shown.1.min(ends.1));
            }
            return;
        }
        if kind == Kind::Minted {
            let duration = match &self.issues[issue].lease {
                Some(lease) => {
                    let path = lease.0.rsplit_once('/').map_or("", |(path, _)| path);
                    match self.vault.paths.get(path) {
                        Some(crate::vault::Engine::Dynamic { lease, .. }) => {
                            // Without the margin before the end.
                            lease.mul_f64(0.98).min(self.token_ends[&with].1.since(sent))
                        }
                        _ => Duration::ZERO,
                    }
                }
                None => self.minting.get(&source).copied().unwrap_or_default(),
            };
            self.minting.insert(source, duration);
        } else {
            self.minting.remove(&source);
        }
        if published {
            self.living.insert(issue);
            let grace = checks::policy_of(&self.layout, source).grace;
            let now = self.now;
            for older in self.living.iter().filter(|older| **older != issue) {
                let older = &mut self.issues[*older];
                if older.source == source {
                    older.newer += 1;
                    let over = match older.kind {
                        Kind::Kv => now + grace,
                        Kind::Static => now,
                        Kind::Minted => BootTime::NEVER,
                    };
                    older.end = (older.end.0.min(over), older.end.1.min(over));
                }
            }
            self.current.insert(source, issue);
        } else if !failed {
            let (end, with, token) =
                (self.issues[issue].end, self.issues[issue].with, self.issues[issue].token);
            let current = self.current.get(&source).copied().expect("something was extended");
            let content = self.issues[issue].content;
            let current = &mut self.issues[current];
            assert_eq!(current.content, content, "another value was taken for the same: {effects:?}");
            current.end = end;
            (current.with, current.token) = (with, token);
        }
    }

    fn kill(&mut self, why: &'static str, which: impl Fn(&Issue) -> bool) {
        for index in &self.living {
            let issue = &mut self.issues[*index];
            if which(issue) {
                issue.dead = Some(why);
                issue.excuse = Some(why.to_owned());
            }
        }
    }

    /// Carries effects out.
    pub fn take(&mut self, effects: Effects) {
        if let Some(wake) = effects.wake {
            assert_eq!(self.engine.next_wake(), Some(wake));
        }
        self.last.clone_from(&effects.list);
        for effect in effects.list {
            self.say(|| format!("    {effect:?}"));
            self.credential_is_held(&effect);
            checks::what_is_locked_is_not_read(self, &effect);
            match effect {
                Effect::Read { source, request, minting, urgency, .. } => {
                    let before = self.in_flight.insert(source, request);
                    assert_eq!(before, None, "two reads of {source:?} at once");
                    if minting == Minting::Allowed {
                        *self.reads.entry(source).or_default() += 1;
                        if let Some(duration) = self.minting.get(&source) {
                            let shortest = Duration::from_secs(1);
                            let interval = match urgency {
                                Urgency::Reader => shortest,
                                Urgency::Renewal | Urgency::Background => (*duration / 10).max(shortest),
                            };
                            let waits = urgency == Urgency::Reader;
                            self.last_mint.insert(source, waits);
                            self.mints.entry((source, waits)).or_default().push((self.now, interval));
                        }
                    }
                    self.send(effect);
                }
                Effect::RevokeLease { lease, with } => {
                    self.kill("its lease is being revoked", |one| one.lease.as_ref() == Some(&lease));
                    self.send(Effect::RevokeLease { with, lease });
                }
                Effect::LogIn { .. }
                | Effect::RenewToken { .. }
                | Effect::List { .. }
                | Effect::RenewLease { .. }
                | Effect::LookUpLease { .. } => self.send(effect),
                Effect::RevokeToken { with } | Effect::DropToken { with } => {
                    let number = self.tokens.get(&with).copied().unwrap_or_default();
                    if matches!(effect, Effect::RevokeToken { .. }) {
                        assert!(
                            self.vault.tokens[&number].ours,
                            "the user's own token is not ours to revoke"
                        );
                        self.vault.revoke_token(self.now, number);
                    }
                    self.tokens.remove(&with);
                    self.kill("its token was given back", |one| one.with == with);
                }
                Effect::Answer { ticket, answer } => self.answered(ticket, answer),
                Effect::Invalidate(_) | Effect::InvalidateName { .. } | Effect::InvalidateListing(_) => {
                    self.notices.push(effect);
                }
                Effect::Report(report) => {
                    if let Report::Ended { source, why, .. } = &report
                        && *why != End::Lapsed
                    {
                        for index in &self.living {
                            let issue = &mut self.issues[*index];
                            if issue.source == *source {
                                issue.excuse = Some(format!("{why:?}"));
                            }
                        }
                    }
                    self.reports.push(report);
                }
            }
        }
        if !self.deaf && (self.weather != Weather::Foul || self.rng.u32(..100) < 70) {
            self.notify();
        }
        self.check();
    }

    /// The notifications reach the kernel.
    pub fn notify(&mut self) {
        for notice in std::mem::take(&mut self.notices) {
            if let Effect::Invalidate(ino) = notice
                && let Some(node) = self.kernel.get_mut(&ino)
            {
                node.size = None;
            }
        }
    }

    fn credential_is_held(&self, effect: &Effect) {
        if let Some(with) = credential(effect) {
            assert!(self.tokens.contains_key(&with), "{effect:?} needs a token that was given back");
        }
    }
}

fn terms(vault: &Vault, at: BootTime, sent: BootTime, token: u64) -> TokenTerms {
    let one = &vault.tokens[&token];
    TokenTerms { sent, ttl: vault.ttl_of(at, token), renewable: one.renewable, ours: one.ours, known: false }
}

fn token_end(terms: TokenTerms) -> BootTime {
    terms.ttl.map_or(BootTime::NEVER, |ttl| lease_end(terms.sent, ttl))
}

fn credential(effect: &Effect) -> Option<Credential> {
    match effect {
        Effect::RenewToken { with, .. }
        | Effect::RevokeToken { with }
        | Effect::DropToken { with }
        | Effect::Read { with, .. }
        | Effect::List { with, .. }
        | Effect::RenewLease { with, .. }
        | Effect::LookUpLease { with, .. }
        | Effect::RevokeLease { with, .. } => Some(*with),
        _ => None,
    }
}
