//! A fake Vault behind a wire that takes time, can break, and keeps the books: what was asked in which
//! second, which credentials ended while they were in use, which renewals came late.
//!
//! The books are cheap enough for hundreds of millions of requests: a row of counters for each second.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use leasefs::core::effect::ReadRequest;
use leasefs::core::error::{Failure, Fault};
use leasefs::core::name::{IdentityId, LeaseId, VaultPath};
use leasefs::core::policy::lease_end;
use leasefs::core::time::BootTime;
use leasefs::vault::{EngineMount, Login, Renewal, Secret, SecretKind, Token, TokenInfo, Vault};
use tokio::time::Instant;

use super::fake_vault::FakeVault;

/// What a request is for, as the server's load is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// A new credential.
    Mint,
    /// A lease's renewal.
    Renew,
    /// The question whether a lease still lives.
    LookUp,
    /// A lease's revocation.
    Revoke,
    /// A KV secret.
    Kv,
    /// Logins and everything about tokens.
    Token,
    /// The server's health, asked while nothing else is.
    Health,
}

impl Kind {
    /// Everything but the look-ups, which come at a steady pace and outnumber all others.
    pub const BUT_LOOK_UPS: [Kind; 6] =
        [Kind::Mint, Kind::Renew, Kind::Revoke, Kind::Kv, Kind::Token, Kind::Health];

    /// Every kind, in the order of the counters.
    pub const ALL: [Kind; 7] =
        [Kind::Mint, Kind::Renew, Kind::LookUp, Kind::Revoke, Kind::Kv, Kind::Token, Kind::Health];

    /// How long the server takes for one.
    pub fn takes(self) -> Duration {
        Duration::from_millis(match self {
            // Two at once are then what one database makes: 80 accounts a second.
            Kind::Mint => 25,
            Kind::Renew | Kind::Revoke => 5,
            Kind::LookUp | Kind::Kv | Kind::Token | Kind::Health => 1,
        })
    }
}

/// How Vault is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Connections are refused at once.
    Unreachable,
    /// Nothing is answered; a client gives up after 10 s (twice `read-timeout`).
    Frozen,
}

/// How long a client waits for a frozen server.
const PATIENCE: Duration = Duration::from_secs(10);

/// A credential that ended before the next one was there.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    /// When, from the beginning.
    pub at: Duration,
    /// The length of its lease.
    pub lease: Duration,
}

/// What the server has seen.
#[derive(Debug, Default)]
pub struct Books {
    /// Requests that were served, by second and kind.
    seconds: Vec<[u32; Kind::ALL.len()]>,
    /// Requests that came while Vault was away.
    pub lost: u64,
    /// Credentials that ended while a program wanted them, with those that nobody has replaced yet.
    pub deaths: Vec<Death>,
    /// Credentials that were replaced while they still lived.
    pub rotations: u64,
    /// The least that was left of one when it was replaced.
    pub least_left: Option<Duration>,
    /// When a lease was renewed, as a share of what had been granted: `(at, share)` of those above 0.667.
    pub late_renewals: Vec<(Duration, f64)>,
    /// Renewals and look-ups of leases that were over.
    pub for_nothing: u64,
    /// By path: the credential that programs use.
    held: HashMap<String, Held>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    granted: Instant,
    duration: Duration,
}

impl Held {
    /// When leasefs counts it as over.
    fn end(self) -> Instant {
        self.granted + lease_end(BootTime(0), self.duration).since(BootTime(0))
    }
}

impl Books {
    /// Requests of these kinds from `from` until `until`, for each `width` of it.
    pub fn sums(&self, from: Duration, until: Duration, width: usize, kinds: &[Kind]) -> Vec<u64> {
        let (from, until) = (from.as_secs() as usize, until.as_secs() as usize);
        let of = |second: usize| {
            let row = self.seconds.get(second).copied().unwrap_or_default();
            kinds.iter().map(|kind| u64::from(row[*kind as usize])).sum::<u64>()
        };
        (from..until).step_by(width).map(|at| (at..(at + width).min(until)).map(of).sum()).collect()
    }

    /// Requests of these kinds per second, on average.
    pub fn mean(&self, from: Duration, until: Duration, kinds: &[Kind]) -> f64 {
        let sum: u64 = self.sums(from, until, 1, kinds).iter().sum();
        sum as f64 / until.saturating_sub(from).as_secs_f64()
    }

    /// The most requests of these kinds per second, over spans of `width` seconds.
    pub fn peak(&self, from: Duration, until: Duration, width: usize, kinds: &[Kind]) -> f64 {
        let most = self.sums(from, until, width, kinds).into_iter().max().unwrap_or(0);
        most as f64 / width as f64
    }

    /// Takes in what another server has seen in the same time.
    pub fn add(&mut self, other: Books) {
        if self.seconds.len() < other.seconds.len() {
            self.seconds.resize(other.seconds.len(), [0; Kind::ALL.len()]);
        }
        for (row, others) in self.seconds.iter_mut().zip(other.seconds) {
            row.iter_mut().zip(others).for_each(|(count, others)| *count += others);
        }
        self.lost += other.lost;
        self.deaths.extend(other.deaths);
        self.rotations += other.rotations;
        self.least_left = self.least_left.into_iter().chain(other.least_left).min();
        self.late_renewals.extend(other.late_renewals);
        self.for_nothing += other.for_nothing;
    }

    fn minted(&mut self, began: Instant, sent: Instant, path: &str, duration: Duration) {
        let now = Instant::now();
        let new = Held { granted: sent, duration };
        let Some(before) = self.held.insert(path.to_owned(), new) else { return };
        if before.end() > now {
            let left = before.end() - now;
            self.rotations += 1;
            self.least_left = Some(self.least_left.map_or(left, |least| least.min(left)));
        } else {
            self.deaths.push(Death { at: before.end() - began, lease: before.duration });
        }
    }

    fn renewed(&mut self, began: Instant, sent: Instant, lease: &LeaseId, granted: Duration) {
        let Some((path, _)) = lease.0.rsplit_once('/') else { return };
        let Some(held) = self.held.get_mut(path) else { return };
        let share = (sent - held.granted).as_secs_f64() / held.duration.as_secs_f64();
        if share > 0.667 {
            self.late_renewals.push((sent - began, share));
        }
        *held = Held { granted: sent, duration: granted };
    }
}

/// The server.
#[derive(Clone)]
pub struct Metered(Arc<Shared>);

struct Shared {
    fake: FakeVault,
    began: Instant,
    outages: Vec<(Duration, Duration, Outage)>,
    books: Mutex<Books>,
}

impl Metered {
    /// Puts the wire before a server; each outage has its beginning and end, from now on.
    pub fn new(fake: FakeVault, outages: Vec<(Duration, Duration, Outage)>) -> Metered {
        let began = Instant::now();
        Metered(Arc::new(Shared { fake, began, outages, books: Mutex::default() }))
    }

    /// How many credentials it has made.
    pub fn minted(&self) -> u64 {
        self.0.fake.counts().minted
    }

    /// What it has seen so far. Credentials that are over by now and were not replaced count as dead.
    pub fn close_books(&self) -> Books {
        let mut books = std::mem::take(&mut *self.books());
        let (began, now) = (self.0.began, Instant::now());
        let over = books.held.values().filter(|held| held.end() <= now);
        let deaths: Vec<Death> =
            over.map(|held| Death { at: held.end() - began, lease: held.duration }).collect();
        books.deaths.extend(deaths);
        books
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.books.lock().expect("nobody panicked over the books")
    }

    /// Carries one request over the wire.
    async fn carry<T>(
        &self,
        kind: Kind,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let since = self.0.began.elapsed();
        let away = self.0.outages.iter().find(|(from, until, _)| (*from..*until).contains(&since));
        match away {
            None => {}
            Some((_, _, Outage::Unreachable)) => {
                self.books().lost += 1;
                return Err(Failure::new(Fault::Unreachable, "connection refused"));
            }
            Some((_, until, Outage::Frozen)) => {
                let thaws_in = *until - since;
                if thaws_in > PATIENCE {
                    self.books().lost += 1;
                    tokio::time::sleep(PATIENCE).await;
                    return Err(Failure::new(Fault::TimedOut, "no answer"));
                }
                tokio::time::sleep(thaws_in).await;
            }
        }
        let second = self.0.began.elapsed().as_secs() as usize;
        {
            let mut books = self.books();
            if books.seconds.len() <= second {
                books.seconds.resize(second + 1, [0; Kind::ALL.len()]);
            }
            books.seconds[second][kind as usize] += 1;
        }
        let answer = request.await;
        tokio::time::sleep(kind.takes()).await;
        if matches!(&answer, Err(failure) if failure.fault == Fault::LeaseGone) {
            self.books().for_nothing += 1;
        }
        answer
    }
}

impl Vault for Metered {
    async fn login(&self, identity: IdentityId) -> Result<Login, Failure> {
        self.carry(Kind::Token, self.0.fake.login(identity)).await
    }

    async fn look_up_self(&self, token: &Token) -> Result<TokenInfo, Failure> {
        self.carry(Kind::Token, self.0.fake.look_up_self(token)).await
    }

    async fn renew_self(&self, token: &Token) -> Result<TokenInfo, Failure> {
        self.carry(Kind::Token, self.0.fake.renew_self(token)).await
    }

    async fn revoke_self(&self, token: &Token) -> Result<(), Failure> {
        self.carry(Kind::Token, self.0.fake.revoke_self(token)).await
    }

    async fn read(&self, token: &Token, request: &ReadRequest) -> Result<Secret, Failure> {
        let kind = if request.path.as_str().contains("/creds/") { Kind::Mint } else { Kind::Kv };
        let sent = Instant::now();
        let secret = self.carry(kind, self.0.fake.read(token, request)).await?;
        if let SecretKind::Leased(lease) = &secret.kind {
            self.books().minted(self.0.began, sent, request.path.as_str(), lease.duration);
        }
        Ok(secret)
    }

    async fn list(&self, token: &Token, prefix: &VaultPath) -> Result<Vec<String>, Failure> {
        self.carry(Kind::Kv, self.0.fake.list(token, prefix)).await
    }

    async fn renew_lease(
        &self,
        token: &Token,
        lease: &LeaseId,
        increment: Duration,
    ) -> Result<Renewal, Failure> {
        let sent = Instant::now();
        let renewal = self.carry(Kind::Renew, self.0.fake.renew_lease(token, lease, increment)).await?;
        self.books().renewed(self.0.began, sent, lease, renewal.duration);
        Ok(renewal)
    }

    async fn look_up_lease(&self, token: &Token, lease: &LeaseId) -> Result<Duration, Failure> {
        self.carry(Kind::LookUp, self.0.fake.look_up_lease(token, lease)).await
    }

    async fn revoke_lease(&self, token: &Token, lease: &LeaseId) -> Result<(), Failure> {
        self.carry(Kind::Revoke, self.0.fake.revoke_lease(token, lease)).await
    }

    /// Not counted: the real client asks once for each engine and remembers it.
    async fn mount_of(&self, token: &Token, path: &VaultPath) -> Result<EngineMount, Failure> {
        self.0.fake.mount_of(token, path).await
    }

    async fn capabilities(
        &self,
        token: &Token,
        paths: &[String],
    ) -> Result<BTreeMap<String, Vec<String>>, Failure> {
        self.carry(Kind::Token, self.0.fake.capabilities(token, paths)).await
    }

    async fn health(&self) -> Result<(), Failure> {
        self.carry(Kind::Health, self.0.fake.health()).await
    }
}
