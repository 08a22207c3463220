//! A Vault without a server: it keeps the rules that leasefs relies on (`tests/vault_contract.rs` holds it
//! to what the real one does), counts what it is asked, and can be told to be slow or to fail.
//!
//! Time is tokio's, so a paused clock moves it: leases and tokens end when the test advances the clock.

mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use leasefs::core::effect::ReadRequest;
use leasefs::core::error::{Failure, Fault};
use leasefs::core::name::{IdentityId, LeaseId, VaultPath};
use leasefs::core::time::UnixTime;
use leasefs::vault::{EngineMount, Login, Origin, Renewal, Secret, SecretKind, Token, TokenInfo, Vault};
use tokio::time::Instant;

use state::{State, StaticRole, Version};

/// The kinds of requests, for scripts and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// `login`.
    Login,
    /// `look_up_self`.
    LookUpSelf,
    /// `renew_self`.
    RenewSelf,
    /// `revoke_self`.
    RevokeSelf,
    /// `read`; its key is the path as it was written.
    Read,
    /// `list`; its key is the prefix.
    List,
    /// `renew_lease`; its key is the lease's id.
    RenewLease,
    /// `look_up_lease`; its key is the lease's id.
    LookUpLease,
    /// `revoke_lease`; its key is the lease's id.
    RevokeLease,
    /// `mount_of`; its key is the path.
    MountOf,
    /// `capabilities`.
    Capabilities,
    /// `health`.
    Health,
}

/// What happens to a request instead of, or before, its usual answer.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// How long it takes. What it does to the server, it does at the start.
    pub delay: Duration,
    /// What it ends in; nothing is done to the server then.
    pub failure: Option<Failure>,
}

impl Step {
    /// The usual answer, late.
    pub fn slow(delay: Duration) -> Step {
        Step { delay, failure: None }
    }

    /// A failure, at once.
    pub fn fault(fault: Fault) -> Step {
        Step { delay: Duration::ZERO, failure: Some(Failure::new(fault, format!("scripted: {fault:?}"))) }
    }
}

/// What has happened so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests of each kind, failed ones too.
    pub requests: BTreeMap<Op, u64>,
    /// Requests whose future was dropped before its answer.
    pub abandoned: BTreeMap<Op, u64>,
    /// Leases made.
    pub minted: u64,
    /// Renewals granted.
    pub renewed: u64,
    /// Leases that ended by a revocation, their token's included.
    pub revoked: u64,
}

/// A request, as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When.
    pub at: Instant,
    /// What kind.
    pub op: Op,
    /// What it was about; see [`Op`].
    pub key: String,
}

/// What a dynamic role gives out.
#[derive(Clone, Debug)]
pub struct Role {
    /// What a lease lasts at first.
    pub ttl: Duration,
    /// What it may last at most.
    pub max_ttl: Duration,
    /// Whether it can be renewed.
    pub renewable: bool,
}

/// How an identity of the fake logs in, and what its token may do.
#[derive(Clone, Debug)]
pub struct FakeIdentity {
    /// Whether the token is the user's own.
    pub origin: Origin,
    /// What a token lasts; `None`: for ever.
    pub ttl: Option<Duration>,
    /// Prefixes of API paths that it may read, write and list; an empty prefix is everything.
    pub grants: Vec<String>,
    /// Whether its logins are refused.
    pub refused: bool,
}

impl FakeIdentity {
    /// The user's own token, which may do everything and never ends.
    pub fn root() -> FakeIdentity {
        FakeIdentity { origin: Origin::Given, ttl: None, grants: vec![String::new()], refused: false }
    }

    /// A login whose tokens last `ttl` and may do everything below these API paths.
    pub fn login(ttl: Duration, grants: &[&str]) -> FakeIdentity {
        let grants = grants.iter().map(|&grant| grant.to_owned()).collect();
        FakeIdentity { origin: Origin::Obtained, ttl: Some(ttl), grants, refused: false }
    }
}

/// The fake; clones share one state.
#[derive(Clone)]
pub struct FakeVault(Arc<Mutex<State>>);

impl FakeVault {
    /// A server with these identities and nothing else.
    pub fn new(identities: Vec<FakeIdentity>) -> FakeVault {
        FakeVault(Arc::new(Mutex::new(State { identities, ..State::default() })))
    }

    /// Mounts KV of a version.
    pub fn mount_kv(&self, path: &str, version: u8) {
        let mount = EngineMount { path: path.to_owned(), kind: "kv".to_owned(), kv_version: Some(version) };
        self.state().mounts.push(mount);
    }

    /// Mounts another engine.
    pub fn mount(&self, path: &str, kind: &str) {
        self.state().mounts.push(EngineMount {
            path: path.to_owned(),
            kind: kind.to_owned(),
            kv_version: None,
        });
    }

    /// Writes a KV secret; `path` is logical, `fields` the text of a JSON object.
    pub fn write_kv(&self, path: &str, fields: &str) {
        self.write_version(path, Some(fields), None);
    }

    /// Writes a KV v2 version that will be deleted at `deletion`.
    pub fn write_kv_until(&self, path: &str, fields: &str, deletion: UnixTime) {
        self.write_version(path, Some(fields), Some(deletion));
    }

    /// Deletes the current version of a KV v2 secret, or a KV v1 secret.
    pub fn delete_kv(&self, path: &str) {
        let mut state = self.state();
        let api = state.api_path(path);
        let versioned = state.mount_for(path).is_some_and(|mount| mount.is_kv2());
        if !versioned {
            state.kv.remove(&api);
        } else if let Some(version) = state.kv.get_mut(&api).and_then(|versions| versions.last_mut()) {
            version.fields = None;
        }
    }

    /// Adds a role that mints under leases: reading `path` gives a new `username` and `password`.
    pub fn add_role(&self, path: &str, role: Role) {
        self.state().roles.insert(path.to_owned(), role);
    }

    /// Adds a role whose `password` is replaced every `period`, and each time `late` after the moment that its
    /// `ttl` tells.
    pub fn add_static_role(&self, path: &str, period: Duration, late: Duration) {
        let role = StaticRole { since: Instant::now(), period, late, earlier: 0 };
        self.state().static_roles.insert(path.to_owned(), role);
    }

    /// Replaces the password of a static role now, as an operator does; its period begins anew.
    pub fn rotate(&self, path: &str) {
        if let Some(role) = self.state().static_roles.get_mut(path) {
            (role.earlier, role.since) = (role.turn().0 + 1, Instant::now());
        }
    }

    /// Sets what reading a path of another engine answers.
    pub fn set_answer(&self, path: &str, fields: &str, kind: SecretKind) {
        self.state().others.insert(path.to_owned(), (fields.to_owned(), kind));
    }

    /// What happens to the next request of a kind; `key: None` means whatever it is about. Steps queue up.
    pub fn script_once(&self, op: Op, key: Option<&str>, step: Step) {
        self.state().scripts.entry((op, key.map(str::to_owned))).or_default().once.push_back(step);
    }

    /// What happens to every request of a kind that no single step is queued for; `None` takes it back.
    pub fn script(&self, op: Op, key: Option<&str>, step: Option<Step>) {
        self.state().scripts.entry((op, key.map(str::to_owned))).or_default().standing = step;
    }

    /// Makes all requests fail until [`FakeVault::come_back`].
    pub fn go_down(&self, fault: Fault) {
        for op in Op::ALL {
            self.script(op, None, Some(Step::fault(fault)));
        }
    }

    /// Ends [`FakeVault::go_down`].
    pub fn come_back(&self) {
        for op in Op::ALL {
            self.script(op, None, None);
        }
    }

    /// Revokes a lease as an operator would: no request is counted.
    pub fn revoke_upstream(&self, lease: &LeaseId) {
        self.state().end_lease(&lease.0);
    }

    /// Revokes a token and its leases as an operator would.
    pub fn revoke_token_upstream(&self, token: &Token) {
        let text = String::from_utf8_lossy(token.secret().expose()).into_owned();
        self.state().end_token(&text);
    }

    /// Revokes every token, and with them all leases.
    pub fn revoke_all_tokens(&self) {
        let mut state = self.state();
        let tokens: Vec<String> = state.tokens.iter().map(|token| token.text.clone()).collect();
        tokens.iter().for_each(|token| state.end_token(token));
    }

    /// Refuses an identity's logins, or takes that back.
    pub fn refuse_logins(&self, identity: IdentityId, refused: bool) {
        self.state().identities[identity.0 as usize].refused = refused;
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    /// How many requests of one kind there were.
    pub fn count(&self, op: Op) -> u64 {
        self.state().counts.requests.get(&op).copied().unwrap_or(0)
    }

    /// All requests so far, in the order in which they arrived.
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// The most requests of one kind that were under way at once.
    pub fn peak(&self, op: Op) -> u64 {
        self.state().under_way.get(&op).map_or(0, |(_, peak)| *peak)
    }

    /// The leases that live now.
    pub fn live_leases(&self) -> Vec<LeaseId> {
        let state = self.state();
        let live = state.leases.iter().filter(|(_, lease)| state.lives(lease));
        live.map(|(id, _)| LeaseId(id.clone())).collect()
    }

    /// How many tokens live that were not given to leasefs.
    pub fn live_tokens(&self) -> usize {
        let (held, now) = (self.state(), Instant::now());
        let lives = |token: &&state::TokenState| {
            token.text.starts_with("obtained") && !token.revoked && token.end.is_none_or(|end| now < end)
        };
        held.tokens.iter().filter(lives).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panicked inside the fake")
    }

    fn write_version(&self, path: &str, fields: Option<&str>, deletion: Option<UnixTime>) {
        let mut state = self.state();
        state.serial += 1;
        let created = UnixTime { seconds: 1_700_000_000 + state.serial as i64, nanoseconds: 0 };
        let (api, version) =
            (state.api_path(path), Version { fields: fields.map(str::to_owned), created, deletion });
        state.kv.entry(api).or_default().push(version);
    }

    /// One request: counted, delayed and failed as the script says. The server's state changes at once, so
    /// that an answer which nobody waits for has still happened.
    async fn serve<T>(
        &self,
        op: Op,
        key: &str,
        work: impl FnOnce(&mut State) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (step, outcome, minted) = {
            let mut state = self.state();
            *state.counts.requests.entry(op).or_default() += 1;
            state.asked.push(Asked { at: Instant::now(), op, key: key.to_owned() });
            let (count, peak) = state.under_way.entry(op).or_default();
            *count += 1;
            *peak = (*peak).max(*count);
            let step = state.next_step(op, key);
            let outcome = match &step.failure {
                Some(failure) => Err(failure.clone()),
                None => work(&mut state),
            };
            (step, outcome, state.newest.take())
        };
        let mut watch = Watch { fake: self, op, minted, done: false };
        if !step.delay.is_zero() {
            tokio::time::sleep(step.delay).await;
        }
        watch.done = true;
        outcome
    }
}

impl Op {
    /// Every kind.
    pub const ALL: [Op; 12] = [
        Op::Login,
        Op::LookUpSelf,
        Op::RenewSelf,
        Op::RevokeSelf,
        Op::Read,
        Op::List,
        Op::RenewLease,
        Op::LookUpLease,
        Op::RevokeLease,
        Op::MountOf,
        Op::Capabilities,
        Op::Health,
    ];
}

/// Notices a request that is dropped while it waits. As with the real client, what it minted is revoked.
struct Watch<'a> {
    fake: &'a FakeVault,
    op: Op,
    minted: Option<String>,
    done: bool,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut state = self.fake.state();
        if let Some((count, _)) = state.under_way.get_mut(&self.op) {
            *count -= 1;
        }
        if !self.done {
            *state.counts.abandoned.entry(self.op).or_default() += 1;
            self.minted.iter().for_each(|lease| state.end_lease(lease));
        }
    }
}

impl Vault for FakeVault {
    async fn login(&self, identity: IdentityId) -> Result<Login, Failure> {
        self.serve(Op::Login, "", |state| state.log_in(identity)).await
    }

    async fn look_up_self(&self, token: &Token) -> Result<TokenInfo, Failure> {
        self.serve(Op::LookUpSelf, "", |state| Ok(state.info(state.token(token)?))).await
    }

    async fn renew_self(&self, token: &Token) -> Result<TokenInfo, Failure> {
        self.serve(Op::RenewSelf, "", |state| {
            let (text, identity) = state.token(token).map(|token| (token.text.clone(), token.identity))?;
            let Some(ttl) = state.identities[identity].ttl else {
                return Err(Failure::new(Fault::NotRenewable, "the token has no end"));
            };
            let renewed = state.tokens.iter_mut().find(|token| token.text == text);
            renewed.into_iter().for_each(|token| token.end = Some(Instant::now() + ttl));
            Ok(state.info(state.token(token)?))
        })
        .await
    }

    async fn revoke_self(&self, token: &Token) -> Result<(), Failure> {
        self.serve(Op::RevokeSelf, "", |state| {
            let text = state.token(token)?.text.clone();
            state.end_token(&text);
            Ok(())
        })
        .await
    }

    async fn read(&self, token: &Token, request: &ReadRequest) -> Result<Secret, Failure> {
        self.serve(Op::Read, request.path.as_str(), |state| state.read(token, request)).await
    }

    async fn list(&self, token: &Token, prefix: &VaultPath) -> Result<Vec<String>, Failure> {
        self.serve(Op::List, prefix.as_str(), |state| state.list(token, prefix)).await
    }

    async fn renew_lease(
        &self,
        token: &Token,
        id: &LeaseId,
        increment: Duration,
    ) -> Result<Renewal, Failure> {
        self.serve(Op::RenewLease, &id.0, |state| {
            state.token(token)?;
            let lease = state.live_lease(id, "lease not found")?;
            if !lease.renewable {
                return Err(Failure::new(Fault::NotRenewable, "lease is not renewable"));
            }
            let now = Instant::now();
            lease.end = lease.last.min(now + increment);
            let duration = lease.end.saturating_duration_since(now);
            state.counts.renewed += 1;
            // Vault speaks in whole seconds.
            Ok(Renewal { duration: Duration::from_secs(duration.as_secs()), renewable: true })
        })
        .await
    }

    async fn look_up_lease(&self, token: &Token, id: &LeaseId) -> Result<Duration, Failure> {
        self.serve(Op::LookUpLease, &id.0, |state| {
            state.token(token)?;
            let lease = state.live_lease(id, "invalid lease")?;
            Ok(Duration::from_secs(lease.end.saturating_duration_since(Instant::now()).as_secs()))
        })
        .await
    }

    async fn revoke_lease(&self, token: &Token, id: &LeaseId) -> Result<(), Failure> {
        self.serve(Op::RevokeLease, &id.0, |state| {
            state.allow(token, "sys/leases/revoke")?;
            state.end_lease(&id.0);
            Ok(())
        })
        .await
    }

    async fn mount_of(&self, token: &Token, path: &VaultPath) -> Result<EngineMount, Failure> {
        self.serve(Op::MountOf, path.as_str(), |state| {
            let unknown =
                || Failure::new(Fault::Denied, format!("Vault doesn't say which engine serves {path}"));
            let mount = state.mount_for(path.as_str()).cloned().ok_or_else(unknown);
            let held = state.token(token)?;
            let grants = &state.identities[held.identity].grants;
            let mount = mount?;
            let reachable = grants
                .iter()
                .any(|grant| grant.starts_with(&mount.path) || mount.path.starts_with(grant.as_str()));
            if reachable { Ok(mount) } else { Err(unknown()) }
        })
        .await
    }

    async fn capabilities(
        &self,
        token: &Token,
        paths: &[String],
    ) -> Result<BTreeMap<String, Vec<String>>, Failure> {
        self.serve(Op::Capabilities, "", |state| {
            state.token(token)?;
            let of = |path: &String| match state.allow(token, path) {
                Ok(_) => (path.clone(), vec!["list".to_owned(), "read".to_owned(), "update".to_owned()]),
                Err(_) => (path.clone(), vec!["deny".to_owned()]),
            };
            Ok(paths.iter().map(of).collect())
        })
        .await
    }

    async fn health(&self) -> Result<(), Failure> {
        self.serve(Op::Health, "", |_| Ok(())).await
    }
}
