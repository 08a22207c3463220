//! A Vault of a few lines: tokens, leases, KV secrets and lists, with faults on demand.
//!
//! It knows the truth that the engine can only infer: when each lease and token really ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use leasefs::core::effect::Minting;
use leasefs::core::engine::Granted;
use leasefs::core::error::{Failure, Fault};
use leasefs::core::generation::FetchedKind;
use leasefs::core::name::LeaseId;
use leasefs::core::time::{BootTime, UnixTime};

/// A token, as Vault knows it.
#[derive(Clone, Debug)]
pub struct VaultToken {
    /// When it ends.
    pub expires: BootTime,
    /// What no renewal can pass.
    pub max: BootTime,
    /// What a renewal gives.
    pub period: Duration,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// Whether leasefs logged in for it.
    pub ours: bool,
    /// When it was revoked.
    pub revoked: Option<BootTime>,
}

/// A lease, as Vault knows it.
#[derive(Clone, Debug)]
pub struct VaultLease {
    /// The token that obtained it.
    pub token: u64,
    /// When it ends.
    pub expires: BootTime,
    /// What no renewal can pass.
    pub max: BootTime,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// When it was to end before somebody shortened it.
    pub promised: Option<BootTime>,
    /// When it was revoked.
    pub revoked: Option<BootTime>,
}

/// What stands under a path.
#[derive(Clone, Debug)]
pub enum Engine {
    /// A credential under a lease.
    Dynamic { lease: Duration, max: Duration, renewable: bool },
    /// KV v1.
    Kv1 { content: u64, exists: bool },
    /// KV v2.
    Kv2 { version: u64, exists: bool, deleted: Option<BootTime>, fields: Vec<String> },
    /// An issued certificate.
    Certificate { ttl: Option<Duration> },
    /// A static role: a new value each period, and up to `late` after the time that was told.
    StaticRole { period: Duration, late: Duration },
}

/// What a read gives.
#[derive(Clone, Debug)]
pub enum Read {
    /// A secret; `content` tells one value from the next.
    Secret { kind: FetchedKind, content: u64, fields: Vec<String> },
    /// It would mint.
    WouldMint,
    /// Nothing.
    Failed(Failure),
}

/// The server.
#[derive(Debug, Default)]
pub struct Vault {
    /// All tokens ever.
    pub tokens: BTreeMap<u64, VaultToken>,
    /// All leases ever.
    pub leases: BTreeMap<LeaseId, VaultLease>,
    /// What stands where.
    pub paths: BTreeMap<String, Engine>,
    /// Lists of folders.
    pub lists: BTreeMap<String, Vec<String>>,
    /// The way to it is broken, with this fault.
    pub down: Option<Fault>,
    /// Paths that the policy does not allow.
    pub denied: BTreeSet<String>,
    /// Whether tokens may not look leases up, or revoke them.
    pub leases_denied: bool,
    /// Whether a lease's renewal fails with this fault.
    pub renewals_fail: Option<Fault>,
    /// How long the tokens of a login live, and at most.
    pub token_ttl: (Duration, Duration),
    /// Whether they can be renewed.
    pub token_renewable: bool,
    /// The user's own token, if it lives.
    pub user_token: u64,
    /// Numbers for what is new.
    pub last: u64,
}

fn failure(fault: Fault) -> Failure {
    Failure::new(fault, format!("the model says {fault:?}"))
}

impl Vault {
    /// A number that was never used.
    pub fn fresh(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Whether a token lives.
    pub fn token_lives(&self, now: BootTime, token: u64) -> bool {
        self.tokens.get(&token).is_some_and(|one| now < one.expires && one.revoked.is_none())
    }

    /// Whether a lease lives: it needs its token too.
    pub fn lease_lives(&self, now: BootTime, lease: &LeaseId) -> bool {
        self.leases
            .get(lease)
            .is_some_and(|one| now < one.expires && one.revoked.is_none() && self.token_lives(now, one.token))
    }

    /// When a lease ends if nobody revokes it: with its token at the latest.
    pub fn natural_end(&self, lease: &LeaseId) -> BootTime {
        let lease = &self.leases[lease];
        lease.promised.unwrap_or(lease.expires).min(self.tokens[&lease.token].expires)
    }

    /// A new token.
    pub fn mint_token(&mut self, now: BootTime, ttl: Option<(Duration, Duration)>, ours: bool) -> u64 {
        let id = self.fresh();
        let (period, max) = ttl.unwrap_or((Duration::MAX, Duration::MAX));
        let (expires, max) = (now + period.min(max), now + max);
        let renewable = self.token_renewable && ttl.is_some();
        self.tokens.insert(id, VaultToken { expires, max, period, renewable, ours, revoked: None });
        id
    }

    fn check(&self, now: BootTime, token: u64, path: Option<&str>) -> Result<(), Failure> {
        if let Some(fault) = self.down {
            return Err(failure(fault));
        }
        if !self.token_lives(now, token) {
            return Err(failure(Fault::TokenLost));
        }
        match path {
            Some(path) if self.denied.contains(path) => Err(failure(Fault::Denied)),
            _ => Ok(()),
        }
    }

    /// A login: the number of the token.
    pub fn log_in(&mut self, now: BootTime, user: bool) -> Result<u64, Failure> {
        if let Some(fault) = self.down {
            return Err(failure(fault));
        }
        if user {
            return match self.token_lives(now, self.user_token) {
                true => Ok(self.user_token),
                false => Err(failure(Fault::TokenLost)),
            };
        }
        Ok(self.mint_token(now, Some(self.token_ttl), true))
    }

    /// How long a token still lives; `None`: for ever.
    pub fn ttl_of(&self, now: BootTime, token: u64) -> Option<Duration> {
        let expires = self.tokens[&token].expires;
        (expires != BootTime::NEVER).then(|| expires.since(now))
    }

    /// `renew-self`.
    pub fn renew_token(&mut self, now: BootTime, token: u64) -> Result<(), Failure> {
        self.check(now, token, None)?;
        if let Some(one) = self.tokens.get_mut(&token) {
            if !one.renewable {
                return Err(failure(Fault::NotRenewable));
            }
            one.expires = (now + one.period).min(one.max);
        }
        Ok(())
    }

    /// `revoke-self`.
    pub fn revoke_token(&mut self, now: BootTime, token: u64) {
        if let Some(one) = self.tokens.get_mut(&token) {
            one.revoked.get_or_insert(now);
        }
    }

    /// Reads a path.
    pub fn read(&mut self, now: BootTime, token: u64, path: &str, minting: Minting) -> Read {
        if let Err(failure) = self.check(now, token, Some(path)) {
            return Read::Failed(failure);
        }
        let serial = self.fresh();
        match (self.paths.get(path).cloned(), minting) {
            (None | Some(Engine::Kv1 { exists: false, .. } | Engine::Kv2 { exists: false, .. }), _) => {
                Read::Failed(failure(Fault::NotFound))
            }
            (Some(Engine::Kv1 { content, .. }), _) => {
                let kind = FetchedKind::Kv { version: None, created: None, deleted: None };
                Read::Secret { kind, content, fields: vec!["k1".into()] }
            }
            (Some(Engine::Kv2 { deleted: Some(deleted), .. }), _) if now >= deleted => {
                Read::Failed(failure(Fault::NotFound))
            }
            (Some(Engine::Kv2 { version, deleted, fields, .. }), _) => {
                let created = Some(UnixTime { seconds: version as i64, nanoseconds: 0 });
                let kind = FetchedKind::Kv { version: Some(version), created, deleted };
                Read::Secret { kind, content: version, fields }
            }
            (Some(_), Minting::Forbidden) => Read::WouldMint,
            (Some(Engine::Dynamic { lease: duration, max, renewable }), Minting::Allowed) => {
                let lease = LeaseId(format!("{path}/{serial}"));
                let (expires, max) = (now + duration, now + max);
                let made = VaultLease { token, expires, max, renewable, promised: None, revoked: None };
                self.leases.insert(lease.clone(), made);
                let kind = FetchedKind::Leased { lease, duration, renewable };
                Read::Secret { kind, content: serial, fields: vec!["username".into()] }
            }
            (Some(Engine::Certificate { ttl }), Minting::Allowed) => {
                let kind = FetchedKind::Other { minted: true, ends: ttl.map(|ttl| now + ttl) };
                Read::Secret { kind, content: serial, fields: vec!["certificate".into()] }
            }
            (Some(Engine::StaticRole { period, late }), Minting::Allowed) => {
                let turn = now.0.saturating_sub(late.as_nanos() as u64) / period.as_nanos().max(1) as u64;
                let ttl = BootTime((turn + 1) * period.as_nanos() as u64).since(now);
                // As the server tells it: to the nearest second.
                let ttl = Duration::from_secs(ttl.as_secs_f64().round() as u64);
                let rotated = UnixTime { seconds: turn as i64, nanoseconds: 0 };
                let kind = FetchedKind::Static { ttl, rotated };
                Read::Secret { kind, content: turn, fields: vec!["password".into()] }
            }
        }
    }

    /// When a value of a static role is replaced; nothing for what is none.
    pub fn replaced(&self, path: &str, content: u64) -> Option<BootTime> {
        match self.paths.get(path)? {
            Engine::StaticRole { period, late } => {
                Some(BootTime((content + 1) * period.as_nanos() as u64) + *late)
            }
            Engine::Dynamic { .. } | Engine::Kv1 { .. } | Engine::Kv2 { .. } | Engine::Certificate { .. } => {
                None
            }
        }
    }

    /// Lists a folder.
    pub fn list(&self, now: BootTime, token: u64, prefix: &str) -> Result<Vec<String>, Failure> {
        self.check(now, token, Some(prefix))?;
        Ok(self.lists.get(prefix).cloned().unwrap_or_default())
    }

    /// Extends a lease.
    pub fn renew_lease(
        &mut self,
        now: BootTime,
        token: u64,
        lease: &LeaseId,
        increment: Duration,
    ) -> Result<Granted, Failure> {
        self.check(now, token, None)?;
        if let Some(fault) = self.renewals_fail {
            return Err(failure(fault));
        }
        if !self.lease_lives(now, lease) {
            return Err(failure(Fault::LeaseGone));
        }
        let Some(one) = self.leases.get_mut(lease).filter(|one| one.renewable) else {
            return Err(failure(Fault::NotRenewable));
        };
        one.expires = (now + increment).min(one.max);
        Ok(Granted { sent: now, duration: one.expires.since(now), renewable: true })
    }

    /// Asks about a lease.
    pub fn look_up_lease(&self, now: BootTime, token: u64, lease: &LeaseId) -> Result<Granted, Failure> {
        self.check(now, token, None)?;
        if self.leases_denied {
            return Err(failure(Fault::Denied));
        }
        if !self.lease_lives(now, lease) {
            return Err(failure(Fault::LeaseGone));
        }
        let one = &self.leases[lease];
        Ok(Granted { sent: now, duration: one.expires.since(now), renewable: one.renewable })
    }

    /// Ends a lease.
    pub fn revoke_lease(&mut self, now: BootTime, token: u64, lease: &LeaseId) -> Result<(), Failure> {
        self.check(now, token, None)?;
        if self.leases_denied {
            return Err(failure(Fault::Denied));
        }
        if !self.lease_lives(now, lease) {
            return Err(failure(Fault::LeaseGone));
        }
        if let Some(one) = self.leases.get_mut(lease) {
            one.revoked.get_or_insert(now);
        }
        Ok(())
    }
}
