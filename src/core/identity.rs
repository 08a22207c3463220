//! The life of one identity: its tokens, its logins, and what waits for them.
//!
//! The last token is the current one. Earlier ones live on until what they obtained has moved or ended.
//! The tokens themselves are not here, only their numbers and ends.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::effect::Credential;
use crate::core::error::{Failure, Fault};
use crate::core::name::{IdentityId, Ino, RequestId, SourceId, TokenId};
use crate::core::policy::lease_end;
use crate::core::time::{BootTime, Chance, scaled};

/// What Vault says of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenTerms {
    /// The clock before the request was sent.
    pub sent: BootTime,
    /// How long it lives from then; `None`: it has no end.
    pub ttl: Option<Duration>,
    /// Whether it can be extended.
    pub renewable: bool,
    /// Whether leasefs logged in for it.
    pub ours: bool,
    /// Whether it is the current token of its identity once more, and no other one.
    pub known: bool,
}

/// What happens next to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenNext {
    /// Nothing: it has no end, or nothing can be done about it.
    Nothing,
    /// Extend it then.
    Renew(BootTime),
    /// The extension is on its way.
    Renewing(#[serde(skip)] RequestId),
    /// It can't be extended: log in again then.
    Replace(BootTime),
}

/// One token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Which one.
    pub id: TokenId,
    /// When it counts as over.
    pub end: BootTime,
    /// When Vault ends it.
    pub expires: BootTime,
    /// How long it was granted for at first.
    pub ttl: Option<Duration>,
    /// Whether leasefs logged in for it, and so revokes it.
    pub ours: bool,
    /// What happens next.
    pub next: TokenNext,
}

impl Token {
    /// A token just obtained.
    pub fn new(id: TokenId, terms: TokenTerms, chance: Chance) -> Token {
        let (end, expires) = (BootTime::NEVER, BootTime::NEVER);
        let mut token =
            Token { id, end, expires, ttl: terms.ttl, ours: terms.ours, next: TokenNext::Nothing };
        token.grant(terms, chance);
        token
    }

    /// Takes over what a login or a renewal granted.
    pub fn grant(&mut self, terms: TokenTerms, chance: Chance) {
        let Some(ttl) = terms.ttl else {
            (self.end, self.expires) = (BootTime::NEVER, BootTime::NEVER);
            self.next = TokenNext::Nothing;
            return;
        };
        // Not the ends: their margins differ with the length of the grants.
        let before = self.expires;
        self.expires = terms.sent + ttl;
        self.end = lease_end(terms.sent, ttl);
        let first = self.ttl.unwrap_or(ttl);
        let extended = before == BootTime::NEVER || self.expires > before + Duration::from_secs(1);
        // Below half of the first grant the cap is near: a renewal in ever smaller steps helps nobody.
        let capped = !extended || ttl < first / 2;
        self.next = if terms.renewable && !capped {
            TokenNext::Renew(terms.sent + scaled(ttl, chance.between(0.50, 0.66, self.id.0)))
        } else {
            TokenNext::Replace(terms.sent + scaled(ttl, chance.between(0.50, 0.66, self.id.0)))
        };
    }
}

/// The login of an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoginState {
    /// None is needed.
    #[default]
    Idle,
    /// On its way.
    InFlight(#[serde(skip)] RequestId),
    /// It failed and is tried again then.
    Failed {
        /// Why.
        failure: Failure,
        /// When.
        again: BootTime,
    },
}

/// A login that was under way when a server before this one ended: nobody knows its token, if one was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostLogin {
    /// When it was found: whatever was issued, was issued before.
    pub found: BootTime,
    /// When such a token is over at the latest, as far as the next login tells; `None`: there was none yet.
    pub expires: Option<BootTime>,
}

impl LostLogin {
    /// Whether its token may live.
    pub fn may_live(&self, now: BootTime) -> bool {
        self.expires.is_none_or(|end| now < end)
    }
}

/// One identity.
#[derive(Debug)]
pub struct Identity {
    /// Which one.
    pub id: IdentityId,
    /// Its tokens, the current one last.
    pub tokens: Vec<Token>,
    /// Its login.
    pub login: LoginState,
    /// Logins that failed in a row.
    pub failed_logins: u32,
    /// Why the last of them failed.
    pub last_fault: Option<Fault>,
    /// Whether the next token is taken although it lives shorter than the one that is there: the user has
    /// replaced it, and said so.
    pub anew: bool,
    /// Logins of servers before this one whose tokens may live.
    pub lost_logins: Vec<LostLogin>,
    /// Sources that wait for a token.
    pub waiting_sources: BTreeSet<SourceId>,
    /// Directories of trees that wait for a token.
    pub waiting_lists: BTreeSet<Ino>,
}

impl Identity {
    /// An identity that has not logged in yet.
    pub fn new(id: IdentityId) -> Identity {
        Identity {
            id,
            tokens: Vec::new(),
            login: LoginState::Idle,
            failed_logins: 0,
            last_fault: None,
            anew: false,
            lost_logins: Vec::new(),
            waiting_sources: BTreeSet::new(),
            waiting_lists: BTreeSet::new(),
        }
    }

    /// The token to send with the next request, if one lives.
    pub fn credential(&self, now: BootTime) -> Option<Credential> {
        let token = self.tokens.last().filter(|token| now < token.end)?;
        Some(Credential { identity: self.id, token: token.id })
    }

    /// The current token.
    pub fn current(&self) -> Option<&Token> {
        self.tokens.last()
    }

    /// A token by number.
    pub fn token(&self, id: TokenId) -> Option<&Token> {
        self.tokens.iter().find(|token| token.id == id)
    }

    /// A token by number.
    pub fn token_mut(&mut self, id: TokenId) -> Option<&mut Token> {
        self.tokens.iter_mut().find(|token| token.id == id)
    }

    /// When a token counts as over; a token that is gone is over since ever.
    pub fn end_of(&self, id: TokenId) -> BootTime {
        self.token(id).map_or(BootTime(0), |token| token.end)
    }

    /// When the engine must look at it again.
    pub fn wake(&self) -> Option<BootTime> {
        let last = self.tokens.len().saturating_sub(1);
        let tokens = self.tokens.iter().enumerate().flat_map(|(index, token)| {
            let next = match token.next {
                TokenNext::Renew(at) if index == last => Some(at),
                TokenNext::Replace(at) if index == last && self.login == LoginState::Idle => Some(at),
                _ => None,
            };
            [Some(token.end), next]
        });
        let login = match &self.login {
            LoginState::Failed { again, .. } => Some(*again),
            LoginState::Idle | LoginState::InFlight(_) => None,
        };
        tokens.chain([login]).flatten().filter(|at| *at != BootTime::NEVER).min()
    }
}

/// How long to wait after `failed` logins in a row (at least one): 250 ms, doubled each time, up to 30 s,
/// any part of it at random. A login that Vault refused is not repeated fast, for it may lock the account,
/// unless the failure says when.
pub fn login_pause(failure: &Failure, failed: u32, chance: Chance, salt: u64) -> Duration {
    match failure.retry_after {
        // Only a credential here is to be looked at again.
        Some(asked) if !failure.fault.is_transient() => return scaled(asked, chance.between(1.0, 1.5, salt)),
        None if !failure.fault.is_transient() => {
            return Duration::from_secs_f64(chance.between(10.0, 30.0, salt));
        }
        Some(_) | None => {}
    }
    let ceiling = backoff_ceiling(failed).min(Duration::from_secs(5));
    let pause = scaled(ceiling, chance.between(0.1, 1.0, salt));
    failure.retry_after.map_or(pause, |asked| asked.max(pause))
}

/// 250 ms × 2ⁿ⁻¹, at most 30 s.
pub fn backoff_ceiling(failed: u32) -> Duration {
    let doubled = Duration::from_millis(250).saturating_mul(1 << failed.saturating_sub(1).min(10));
    doubled.min(Duration::from_secs(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const CHANCE: Chance = Chance(1);

    fn terms(sent: u64, ttl: u64) -> TokenTerms {
        TokenTerms {
            sent: BootTime(0) + S * sent as u32,
            ttl: Some(S * ttl as u32),
            renewable: true,
            ours: true,
            known: false,
        }
    }

    #[test]
    fn a_token_that_grows_is_renewed_and_one_that_does_not_is_replaced() {
        let mut token = Token::new(TokenId(1), terms(0, 100), CHANCE);
        assert!(matches!(token.next, TokenNext::Renew(_)));
        token.grant(terms(60, 100), CHANCE);
        assert!(matches!(token.next, TokenNext::Renew(_)));
        token.grant(terms(120, 40), CHANCE);
        assert!(matches!(token.next, TokenNext::Replace(_)), "the cap: the same end as before");
    }

    #[test]
    fn a_token_without_an_end_needs_nothing() {
        let terms = TokenTerms { sent: BootTime(5), ttl: None, renewable: false, ours: false, known: false };
        let token = Token::new(TokenId(1), terms, CHANCE);
        assert_eq!((token.end, token.next), (BootTime::NEVER, TokenNext::Nothing));
    }

    #[test]
    fn a_refused_login_is_repeated_slowly_unless_it_says_when() {
        let mut refused = Failure::new(Fault::Denied, "refused");
        for salt in 0..100 {
            refused.retry_after = None;
            assert!(login_pause(&refused, 1, CHANCE, salt) >= S * 10);
            refused.retry_after = Some(S);
            assert!((S..=S * 3 / 2).contains(&login_pause(&refused, 1, CHANCE, salt)));
        }
    }

    #[test]
    fn the_pause_between_logins_grows_and_stays_bounded() {
        let failure = Failure::new(Fault::Unreachable, "down");
        for failed in 1..40 {
            let pause = login_pause(&failure, failed, CHANCE, u64::from(failed));
            assert!(pause <= S * 5 && pause >= Duration::from_millis(25), "{failed}: {pause:?}");
        }
    }
}
