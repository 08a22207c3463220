//! What the fake's server knows and what it does about it; plain, and without waiting.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use leasefs::core::effect::ReadRequest;
use leasefs::core::error::{Failure, Fault};
use leasefs::core::name::{IdentityId, LeaseId, VaultPath};
use leasefs::core::time::UnixTime;
use leasefs::secret::SecretBytes;
use leasefs::vault::engine;
use leasefs::vault::{EngineMount, Lease, Login, Origin, Secret, SecretKind, Token, TokenInfo};
use tokio::time::Instant;

use super::{Asked, Counts, FakeIdentity, Op, Role, Step};

#[derive(Default)]
pub struct State {
    pub identities: Vec<FakeIdentity>,
    pub mounts: Vec<EngineMount>,
    /// By API path.
    pub kv: BTreeMap<String, Vec<Version>>,
    /// By path.
    pub roles: BTreeMap<String, Role>,
    /// By path.
    pub static_roles: BTreeMap<String, StaticRole>,
    /// By path: answers that never change.
    pub others: BTreeMap<String, (String, SecretKind)>,
    pub tokens: Vec<TokenState>,
    pub leases: BTreeMap<String, LeaseState>,
    /// By kind and, if not for all, key.
    pub scripts: BTreeMap<(Op, Option<String>), Script>,
    /// The lease that the request in hand has made.
    pub newest: Option<String>,
    pub counts: Counts,
    pub asked: Vec<Asked>,
    /// How many requests of a kind are under way, and how many there were at most.
    pub under_way: BTreeMap<Op, (u64, u64)>,
    pub serial: u64,
}

/// A password that is replaced in place.
#[derive(Clone, Copy, Debug)]
pub struct StaticRole {
    pub since: Instant,
    pub period: Duration,
    /// How long after the time that it tells the password is replaced.
    pub late: Duration,
    /// How often it was replaced before `since`.
    pub earlier: u32,
}

impl StaticRole {
    /// How often the password was replaced, and how long until the next time, as the server tells it.
    pub fn turn(&self) -> (u32, Duration) {
        let replaced = Instant::now().saturating_duration_since(self.since + self.late);
        let turn = (replaced.as_nanos() / self.period.as_nanos()) as u32;
        let left = (self.since + self.period * (turn + 1)).saturating_duration_since(Instant::now());
        (self.earlier + turn, Duration::from_secs(left.as_secs_f64().round() as u64))
    }
}

/// What happens to some requests.
#[derive(Default)]
pub struct Script {
    /// To the next ones, one each.
    pub once: VecDeque<Step>,
    /// To all that come after them.
    pub standing: Option<Step>,
}

#[derive(Clone, Debug)]
pub struct Version {
    pub fields: Option<String>,
    pub created: UnixTime,
    pub deletion: Option<UnixTime>,
}

pub struct TokenState {
    pub text: String,
    pub identity: usize,
    pub end: Option<Instant>,
    pub revoked: bool,
}

pub struct LeaseState {
    pub token: String,
    pub end: Instant,
    /// Where renewals stop.
    pub last: Instant,
    pub renewable: bool,
    pub revoked: bool,
}

impl State {
    pub fn next_step(&mut self, op: Op, key: &str) -> Step {
        let mut chosen = None;
        for key in [Some(key.to_owned()), None] {
            let Some(script) = self.scripts.get_mut(&(op, key)) else { continue };
            chosen = chosen.or_else(|| script.once.pop_front()).or_else(|| script.standing.clone());
        }
        chosen.unwrap_or_default()
    }

    pub fn mount_for(&self, path: &str) -> Option<&EngineMount> {
        self.mounts.iter().find(|mount| {
            path.strip_prefix(mount.path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    pub fn api_path(&self, path: &str) -> String {
        let request = ReadRequest {
            path: VaultPath::new(path).expect("a path"),
            params: None,
            version: None,
            engine: Default::default(),
        };
        engine::read_call(self.mount_for(path), &request).expect("no parameters").path
    }

    pub fn token(&self, token: &Token) -> Result<&TokenState, Failure> {
        let text = token.secret().expose();
        let found = self.tokens.iter().find(|state| state.text.as_bytes() == text);
        found
            .filter(|state| !state.revoked && state.end.is_none_or(|end| Instant::now() < end))
            .ok_or_else(|| Failure::new(Fault::TokenLost, "the token is dead"))
    }

    pub fn allow(&self, token: &Token, api_path: &str) -> Result<String, Failure> {
        let state = self.token(token)?;
        let grants = &self.identities[state.identity].grants;
        if grants.iter().any(|grant| api_path.starts_with(grant.as_str())) {
            Ok(state.text.clone())
        } else {
            Err(Failure::new(Fault::Denied, format!("the policy does not allow {api_path}")))
        }
    }

    pub fn info(&self, token: &TokenState) -> TokenInfo {
        let identity = &self.identities[token.identity];
        TokenInfo {
            ttl: token.end.map(|end| end.saturating_duration_since(Instant::now())),
            renewable: token.end.is_some(),
            batch: false,
            period: None,
            ours: identity.origin == Origin::Obtained,
            num_uses: 0,
            policies: vec!["fake".to_owned()],
        }
    }

    pub fn lives(&self, lease: &LeaseState) -> bool {
        let token = self.tokens.iter().find(|token| token.text == lease.token);
        let token_lives =
            token.is_some_and(|token| !token.revoked && token.end.is_none_or(|end| Instant::now() < end));
        !lease.revoked && Instant::now() < lease.end && token_lives
    }

    pub fn live_lease(&mut self, id: &LeaseId, words: &str) -> Result<&mut LeaseState, Failure> {
        let lives = self.leases.get(&id.0).is_some_and(|lease| self.lives(lease));
        let gone = || Failure::new(Fault::LeaseGone, words.to_owned());
        if lives { self.leases.get_mut(&id.0).ok_or_else(gone) } else { Err(gone()) }
    }

    pub fn end_lease(&mut self, id: &str) {
        if let Some(lease) = self.leases.get_mut(id)
            && !lease.revoked
        {
            lease.revoked = true;
            self.counts.revoked += 1;
        }
    }

    pub fn end_token(&mut self, text: &str) {
        self.tokens.iter_mut().filter(|token| token.text == text).for_each(|token| token.revoked = true);
        let of_token = self.leases.iter().filter(|(_, lease)| lease.token == text && !lease.revoked);
        let ids: Vec<String> = of_token.map(|(id, _)| id.clone()).collect();
        ids.iter().for_each(|id| self.end_lease(id));
    }

    pub fn log_in(&mut self, identity: IdentityId) -> Result<Login, Failure> {
        let at = identity.0 as usize;
        let FakeIdentity { origin, ttl, refused, .. } = self.identities[at].clone();
        if refused {
            return Err(Failure::new(Fault::Denied, "Vault refused the credentials"));
        }
        self.serial += 1;
        let text = match origin {
            Origin::Given => format!("given-{at}"),
            Origin::Obtained => format!("obtained-{at}-{}", self.serial),
        };
        if !self.tokens.iter().any(|token| token.text == text) {
            let end = ttl.map(|ttl| Instant::now() + ttl);
            self.tokens.push(TokenState { text: text.clone(), identity: at, end, revoked: false });
        }
        let token = Token::new(SecretBytes::new(text.into_bytes()), None, origin);
        let info = self.info(self.token(&token)?);
        Ok(Login { token, info })
    }

    pub fn read(&mut self, token: &Token, request: &ReadRequest) -> Result<Secret, Failure> {
        let path = request.path.as_str();
        let mount = self.mount_for(path).cloned();
        let api_path = engine::read_call(mount.as_ref(), request)?.path;
        let token = self.allow(token, &api_path)?;
        if mount.as_ref().is_some_and(EngineMount::is_kv) {
            return self.read_kv(&api_path, mount.is_some_and(|mount| mount.is_kv2()), request.version);
        }
        if let Some((fields, kind)) = self.others.get(path) {
            return Ok(answer(fields, kind.clone()));
        }
        if let Some(role) = self.static_roles.get(path) {
            let (turn, ttl) = role.turn();
            let rotated = UnixTime { seconds: i64::from(turn), nanoseconds: 0 };
            let fields = format!(r#"{{"password":"password-{turn}","username":"fixed"}}"#);
            return Ok(answer(&fields, SecretKind::Static { ttl, rotated }));
        }
        let role = self.roles.get(path).cloned();
        let role = role.ok_or_else(|| Failure::new(Fault::NotFound, format!("{path}: no such role")))?;
        self.serial += 1;
        self.counts.minted += 1;
        let (serial, now) = (self.serial, Instant::now());
        let id = format!("{path}/{serial}");
        let lease = LeaseState {
            token,
            end: now + role.ttl.min(role.max_ttl),
            last: now + role.max_ttl,
            renewable: role.renewable,
            revoked: false,
        };
        self.leases.insert(id.clone(), lease);
        self.newest = Some(id.clone());
        let fields = format!(r#"{{"password":"password-{serial}","username":"user-{serial}"}}"#);
        let duration = role.ttl.min(role.max_ttl);
        Ok(answer(
            &fields,
            SecretKind::Leased(Lease { id: LeaseId(id), duration, renewable: role.renewable }),
        ))
    }

    pub fn read_kv(&self, api_path: &str, versioned: bool, pinned: Option<u64>) -> Result<Secret, Failure> {
        let missing = || Failure::new(Fault::NotFound, format!("{api_path}: it does not exist in Vault"));
        let versions = self.kv.get(api_path).ok_or_else(missing)?;
        let number = pinned.unwrap_or(versions.len() as u64);
        let at = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        let version = at.and_then(|at| versions.get(at)).ok_or_else(missing)?;
        let deleted = || Failure::new(Fault::NotFound, format!("{api_path}: version {number} was deleted"));
        let fields = version.fields.as_deref().ok_or_else(deleted)?;
        let kind = if versioned {
            let (created, deletion) = (Some(version.created), version.deletion);
            SecretKind::Kv { version: Some(number), created, deletion }
        } else {
            SecretKind::Kv { version: None, created: None, deletion: None }
        };
        Ok(answer(fields, kind))
    }

    pub fn list(&self, token: &Token, prefix: &VaultPath) -> Result<Vec<String>, Failure> {
        let mount = self.mount_for(prefix.as_str());
        let listed = engine::list_call(mount, prefix).path;
        self.allow(token, &listed)?;
        // Entries are kept under the paths that they are read at.
        let kept = match mount.filter(|mount| mount.is_kv2()) {
            Some(mount) => {
                listed.replacen(&format!("{}/metadata/", mount.path), &format!("{}/data/", mount.path), 1)
            }
            None => listed,
        };
        let below = self.kv.keys().filter_map(|path| path.strip_prefix(&kept));
        let mut names: Vec<String> = below
            .map(|rest| match rest.split_once('/') {
                Some((directory, _)) => format!("{directory}/"),
                None => rest.to_owned(),
            })
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }
}

fn answer(fields: &str, kind: SecretKind) -> Secret {
    Secret { data: SecretBytes::new(fields.as_bytes().to_vec()), kind, warnings: Vec::new() }
}
