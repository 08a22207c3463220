//! Tokens: obtained, extended, replaced while the old one still lives, lost.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::core::effect::{Credential, Effect, End, Report};
use crate::core::engine::{Effects, Engine};
use crate::core::error::{Failure, Fault};
use crate::core::generation::{Body, Next, Validity};
use crate::core::identity::{LoginState, Token, TokenNext, TokenTerms, login_pause};
use crate::core::name::{GenerationId, IdentityId, Ino, RequestId, SourceId, TokenId};
use crate::core::source::Source;
use crate::core::time::{BootTime, Moment, scaled};

/// After a token was lost, what it had obtained is fetched anew at this pace: a quarter of what one
/// database engine can issue.
const ONE_BY_ONE: Duration = Duration::from_millis(50);

/// Within that long all identities log in that could not while Vault did not answer.
const LOGIN_SPREAD: Duration = Duration::from_secs(1);

/// How a token was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Vault says that it is dead.
    Told,
    /// Its time is over by our clock.
    Lapsed,
}

impl<B: Body> Engine<B> {
    /// The mount begins: every identity that something is read with logs in.
    pub fn start(&mut self, at: Moment) -> Effects {
        self.run(at, |engine, fx| {
            for id in engine.used_identities() {
                let identity = engine.identity(id);
                // One that was restored may have a token, or may just have been refused.
                let rests = matches!(identity.login, LoginState::Failed { again, .. } if at.now < again);
                let has_token = identity.credential(at.now).is_some() && !identity.anew;
                if !rests && !has_token {
                    engine.log_in(id, fx);
                }
            }
            for id in engine.sources.keys().copied().collect::<Vec<_>>() {
                // Those that are required have something to do from the first moment on.
                engine.touch_source(id);
            }
        })
        .1
    }

    /// An operator has replaced credentials: every identity that something is read with logs in anew, with
    /// what its files hold now. A token that lives is used until the login has gone well, and then until
    /// what it obtained has moved to the new one.
    pub fn log_in_anew(&mut self, at: Moment) -> Effects {
        self.run(at, |engine, fx| {
            if engine.stopping {
                return;
            }
            for id in engine.used_identities() {
                // One that is on its way may have read what was there before: its token is given back.
                let request = engine.request();
                let identity = engine.identity_mut(id);
                identity.login = LoginState::InFlight(request);
                identity.anew = true;
                // Whoever asked is told why it fails, even if it did before.
                identity.last_fault = None;
                engine.touch_identity(id);
                fx.push(Effect::LogIn { request, identity: id });
            }
        })
        .1
    }

    /// The token that an identity's next request would be sent with, be it over or not.
    pub fn current_token(&self, id: IdentityId) -> Option<Credential> {
        Some(Credential { identity: id, token: self.identity(id).current()?.id })
    }

    /// Whether a login is on its way.
    pub fn is_logging_in(&self) -> bool {
        self.identities.iter().any(|identity| matches!(identity.login, LoginState::InFlight(_)))
    }

    fn used_identities(&self) -> BTreeSet<IdentityId> {
        let sources = self.sources.values().map(|source| source.spec.identity);
        let trees = self.trees.iter().map(|tree| tree.identity);
        sources.chain(trees).collect()
    }

    /// Starts a login, if none is on its way.
    pub(super) fn log_in(&mut self, id: IdentityId, fx: &mut Effects) {
        if matches!(self.identity(id).login, LoginState::InFlight(_)) || self.stopping {
            return;
        }
        let request = self.request();
        self.identity_mut(id).login = LoginState::InFlight(request);
        self.touch_identity(id);
        fx.push(Effect::LogIn { request, identity: id });
    }

    /// A login has come back. Returns the number under which the driver keeps the token, if there is one:
    /// it must keep it before it carries out the effects.
    pub fn logged_in(
        &mut self,
        at: Moment,
        id: IdentityId,
        request: RequestId,
        result: Result<TokenTerms, Failure>,
    ) -> (Option<TokenId>, Effects) {
        self.run(at, |engine, fx| {
            let expected = engine.identity(id).login == LoginState::InFlight(request) && !engine.stopping;
            engine.touch_identity(id);
            match result {
                Ok(terms) => {
                    let token = TokenId(engine.fresh_id());
                    if expected {
                        engine.take_token(at, id, token, terms, fx);
                    } else {
                        let with = Credential { identity: id, token };
                        fx.push(if terms.ours {
                            Effect::RevokeToken { with }
                        } else {
                            Effect::DropToken { with }
                        });
                    }
                    Some(token)
                }
                Err(failure) => {
                    if expected {
                        engine.take_login_failure(at, id, failure, fx);
                    }
                    None
                }
            }
        })
    }

    fn take_token(
        &mut self,
        at: Moment,
        id: IdentityId,
        token: TokenId,
        terms: TokenTerms,
        fx: &mut Effects,
    ) {
        let new = Token::new(token, terms, at.chance);
        if at.now >= new.end {
            let with = Credential { identity: id, token };
            fx.push(if terms.ours { Effect::RevokeToken { with } } else { Effect::DropToken { with } });
            let reason =
                "the token's time is over: put a new one in its place, or ask for tokens that live longer";
            self.take_login_failure(at, id, Failure::new(Fault::TokenLost, reason), fx);
            return;
        }
        let identity = self.identity_mut(id);
        let replaced = std::mem::take(&mut identity.anew) && !terms.known;
        identity.login = LoginState::Idle;
        identity.failed_logins = 0;
        identity.last_fault = None;
        identity.lost_logins.retain(|lost| lost.may_live(at.now));
        for lost in &mut identity.lost_logins {
            // It was issued before it was found, to the same role, most likely for as long.
            lost.expires.get_or_insert(terms.ttl.map_or(BootTime::NEVER, |ttl| lost.found + ttl));
        }
        if let Some(current) = identity.tokens.last_mut()
            && !terms.ours
            && !replaced
            && at.now < current.end
            && new.end <= current.end + Duration::from_secs(1)
        {
            // The user has not put a better token there: the one we have goes on.
            if let TokenNext::Replace(_) = current.next {
                let pause = scaled(current.end.since(at.now), at.chance.between(0.3, 0.5, token.0));
                current.next = TokenNext::Replace(at.now + pause.max(Duration::from_secs(1)));
            }
            fx.push(Effect::DropToken { with: Credential { identity: id, token } });
            self.resume_all(at, id, fx);
            return;
        }
        identity.tokens.push(new);
        fx.push(Effect::Report(Report::LoggedIn { identity: id, end: new.end }));
        self.move_sources(at, id, fx);
        self.drop_unused_tokens(id, fx);
        self.resume_all(at, id, fx);
    }

    /// When an identity must be looked at again: after the stop it keeps nothing alive any more.
    pub(super) fn identity_wake(&self, id: IdentityId) -> Option<BootTime> {
        self.identity(id).wake().filter(|_| !self.stopping)
    }

    /// What an earlier token obtained moves to the current one before the earlier one ends: KV is read
    /// again, leases are replaced, spread over half of the time that is left.
    fn move_sources(&mut self, at: Moment, id: IdentityId, fx: &mut Effects) {
        let of_identity =
            |source: &Source<B>| source.current.as_ref().is_some_and(|current| current.with.identity == id);
        let moving: Vec<SourceId> =
            self.sources.iter().filter(|(_, source)| of_identity(source)).map(|(id, _)| *id).collect();
        for source in moving {
            self.move_source(at, source, fx);
        }
    }

    /// As [`Engine::move_sources`], for one source: its read may have been on its way meanwhile.
    pub(super) fn move_source(&mut self, at: Moment, id: SourceId, fx: &mut Effects) {
        let Some(current) = self.sources.get(&id).and_then(|source| source.current.as_ref()) else { return };
        if self.is_of_current_token(current.with) {
            return;
        }
        let until = self.end_of(current);
        let Some(current) = self.sources.get_mut(&id).and_then(|source| source.current.as_mut()) else {
            return;
        };
        let rotate = at.now + scaled(until.since(at.now), at.chance.between(0.0, 0.5, current.id.0));
        match &mut current.validity {
            Validity::Kv { fresh_until, .. } | Validity::Static { fresh_until, .. } => {
                *fresh_until = (*fresh_until).min(at.now);
            }
            Validity::Leased(lease) => lease.next = Next::Rotate { at: rotate },
            Validity::Fixed { replace } => *replace = (*replace).min(rotate),
        }
        self.touch_source(id);
        self.invalidate(id, fx);
    }

    fn take_login_failure(&mut self, at: Moment, id: IdentityId, failure: Failure, fx: &mut Effects) {
        let identity = self.identity_mut(id);
        identity.failed_logins = identity.failed_logins.saturating_add(1);
        let pause = login_pause(&failure, identity.failed_logins, at.chance, u64::from(id.0));
        identity.login = LoginState::Failed { failure: failure.clone(), again: at.now + pause };
        let waiting: Vec<SourceId> = std::mem::take(&mut identity.waiting_sources).into_iter().collect();
        let lists: Vec<Ino> = std::mem::take(&mut identity.waiting_lists).into_iter().collect();
        // Once for each way to fail: it is tried again and again.
        if identity.last_fault.replace(failure.fault) != Some(failure.fault) {
            let report = Report::LoginFailed { identity: id, failure: failure.clone(), again: pause };
            fx.push(Effect::Report(report));
        }
        for source in waiting {
            self.note_failure(at, source, failure.clone());
            self.give_up_fetch(at, source, fx);
        }
        for ino in lists {
            self.give_up_list(at, ino, failure.clone(), fx);
        }
    }

    /// Logins that failed because Vault did not answer are tried again soon: it does now.
    pub(super) fn log_in_again(&mut self, at: Moment) {
        let mut soon = Vec::new();
        for identity in &self.identities {
            if let LoginState::Failed { failure, .. } = &identity.login
                && failure.fault.is_transient()
            {
                soon.push(identity.id);
            }
        }
        for id in soon {
            let pause = scaled(LOGIN_SPREAD, at.chance.between(0.0, 1.0, u64::from(id.0)));
            if let LoginState::Failed { again, .. } = &mut self.identity_mut(id).login {
                *again = (*again).min(at.now + pause);
            }
            self.touch_identity(id);
        }
    }

    /// A token's extension has come back.
    pub fn token_renewed(
        &mut self,
        at: Moment,
        with: Credential,
        request: RequestId,
        result: Result<TokenTerms, Failure>,
    ) -> Effects {
        self.run(at, |engine, fx| {
            engine.touch_identity(with.identity);
            let Some(token) = engine.identity_mut(with.identity).token_mut(with.token) else { return };
            if token.next != TokenNext::Renewing(request) {
                return;
            }
            if at.now >= token.end {
                // Readers were told that it has ended: a late grant does not bring it back.
                engine.lose_token(at, with, Loss::Lapsed, fx);
                return;
            }
            match result {
                Ok(terms) => {
                    token.grant(terms, at.chance);
                    // What it obtained may live on with it.
                    let sources: Vec<SourceId> = engine
                        .sources
                        .iter()
                        .filter(|(_, source)| {
                            let generations = [&source.current, &source.previous];
                            generations.into_iter().flatten().any(|one| one.with == with)
                        })
                        .map(|(id, _)| *id)
                        .collect();
                    for source in sources {
                        engine.touch_source(source);
                    }
                }
                Err(failure) => {
                    let remaining = token.end.since(at.now);
                    let salt = token.id.0;
                    token.next = if failure.fault.is_transient() {
                        let pause = scaled(remaining / 4, at.chance.between(0.5, 1.0, salt));
                        TokenNext::Renew(at.now + pause.max(Duration::from_millis(250)))
                    } else {
                        TokenNext::Replace(at.now + scaled(remaining, at.chance.between(0.1, 0.3, salt)))
                    };
                    let lost = failure.fault == Fault::TokenLost;
                    fx.push(Effect::Report(Report::TokenRenewalFailed { identity: with.identity, failure }));
                    if lost {
                        engine.lose_token(at, with, Loss::Told, fx);
                    }
                }
            }
        })
        .1
    }

    /// A token is dead: all that it obtained ends now, and the identity logs in again.
    pub(super) fn lose_token(&mut self, at: Moment, with: Credential, loss: Loss, fx: &mut Effects) {
        let identity = self.identity_mut(with.identity);
        let Some(token) = identity.token(with.token).copied() else { return };
        let was_current = identity.current().is_some_and(|token| token.id == with.token);
        identity.tokens.retain(|token| token.id != with.token);
        self.touch_identity(with.identity);
        fx.push(Effect::Report(Report::TokenLost { identity: with.identity }));
        // By Vault's clock it may live on for a while, or an extension may be on its way.
        let may_live = token.ours && loss == Loss::Lapsed;
        fx.push(if may_live { Effect::RevokeToken { with } } else { Effect::DropToken { with } });
        let ended: Vec<(SourceId, GenerationId)> = self
            .sources
            .iter()
            .flat_map(|(id, source)| {
                let lost = [&source.current, &source.previous].into_iter().flatten();
                lost.filter(|one| one.with == with).map(|one| (*id, one.id))
            })
            .collect();
        // What is fetched anew by itself does not come back in one moment.
        let spread = ONE_BY_ONE.saturating_mul(u32::try_from(ended.len()).unwrap_or(u32::MAX));
        for (id, which) in ended {
            self.end_generation(at, id, which, End::TokenGone, fx);
            if let Some(source) = self.sources.get_mut(&id) {
                let window = spread.min(source.lease_duration / 4);
                let later = at.now + scaled(window, at.chance.between(0.0, 1.0, u64::from(id.0)));
                source.not_before = source.not_before.max(later);
            }
        }
        let dead: Vec<_> = self
            .retiring
            .iter()
            .filter(|(_, one)| one.with == with)
            .map(|(lease, _)| lease.clone())
            .collect();
        for lease in dead {
            self.retiring.remove(&lease);
            self.wakes.touch(super::wakes::WakeKey::Lease(lease));
        }
        if was_current {
            self.log_in(with.identity, fx);
        }
    }

    /// An identity is due: a token has ended, is to be extended or replaced, or a login is tried again.
    pub(super) fn identity_due(&mut self, at: Moment, id: IdentityId, fx: &mut Effects) {
        let over: Vec<TokenId> = self
            .identity(id)
            .tokens
            .iter()
            .filter(|token| at.now >= token.end)
            .map(|token| token.id)
            .collect();
        for token in over {
            self.lose_token(at, Credential { identity: id, token }, Loss::Lapsed, fx);
        }
        if let LoginState::Failed { again, .. } = self.identity(id).login
            && at.now >= again
        {
            self.log_in(id, fx);
        }
        let Some(token) = self.identity(id).current().copied() else { return };
        match token.next {
            TokenNext::Renew(due) if at.now >= due => {
                let request = self.request();
                if let Some(token) = self.identity_mut(id).token_mut(token.id) {
                    token.next = TokenNext::Renewing(request);
                }
                let with = Credential { identity: id, token: token.id };
                fx.push(Effect::RenewToken { request, with });
            }
            TokenNext::Replace(due) if at.now >= due && self.identity(id).login == LoginState::Idle => {
                self.log_in(id, fx);
            }
            TokenNext::Nothing | TokenNext::Renew(_) | TokenNext::Renewing(_) | TokenNext::Replace(_) => {}
        }
    }
}
