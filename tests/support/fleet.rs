//! Many programs with many leases on one mount, for simulated days: the production engine and driver under
//! paused time, with a fake Vault.
//!
//! Each program has a file of its own. Every other one keeps it open and looks at it now and then; the
//! others open, read and close it each time, often enough to count as in use. Whoever is refused tries
//! again a little later, as programs do.

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use leasefs::core::name::{HandleId, Ino};
use tokio::time::Instant;

use super::conversation::World;
use super::fake_vault::{FakeIdentity, FakeVault, Role};
use super::metered::{Books, Metered, Outage};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// How soon a program that was refused tries again: between half of it and all of it.
pub const AGAIN: Duration = Duration::from_secs(10);

/// Leases of one length.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    /// How many.
    pub leases: usize,
    /// What is granted at a time.
    pub ttl: Duration,
    /// What renewals can extend it to.
    pub max_ttl: Duration,
}

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The leases.
    pub classes: Vec<Class>,
    /// KV secrets, each held open by a program.
    pub kv: usize,
    /// How long.
    pub span: Duration,
    /// From when until when Vault is away, and how.
    pub outage: (Duration, Duration, Outage),
    /// How often leases in use are looked up.
    pub revocation_check: Duration,
    /// How long KV secrets are fresh.
    pub max_age: Duration,
    /// The time in which all programs start.
    pub start_within: Duration,
}

impl Plan {
    /// Leases of 15 minutes, 1 hour, 8 hours and 24 hours in equal parts, and one KV secret for nine leases.
    pub fn mixed(all: usize) -> Plan {
        let kv = all / 10;
        let class = |ttl, max_ttl| Class { leases: (all - kv) / 4, ttl, max_ttl };
        Plan {
            classes: vec![
                class(15 * MINUTE, 24 * HOUR),
                class(HOUR, 24 * HOUR),
                class(8 * HOUR, 72 * HOUR),
                class(24 * HOUR, 768 * HOUR),
            ],
            kv,
            span: 24 * HOUR,
            outage: (12 * HOUR, 13 * HOUR, Outage::Unreachable),
            revocation_check: Duration::from_secs(30),
            max_age: MINUTE,
            start_within: MINUTE,
        }
    }

    /// How many leases there are in all.
    pub fn leases(&self) -> usize {
        self.classes.iter().map(|class| class.leases).sum()
    }

    /// The configuration; its files in the order of their names are the leases, class by class, and then
    /// the KV secrets.
    fn config(&self) -> String {
        let mut config = format!(
            "[mount]\nrevocation-check = \"{}s\"\n[defaults]\nmax-age = \"{}s\"\n",
            self.revocation_check.as_secs(),
            self.max_age.as_secs()
        );
        let mut declare = |name: String, secret: String, engine: &str| {
            writeln!(config, "[file.\"{name}\"]\nsecret = \"{secret}\"\nengine = \"{engine}\"")
                .expect("text can be written");
        };
        for index in 0..self.leases() {
            declare(format!("a{index:06}"), format!("{}#password", role(index)), "other");
        }
        for index in 0..self.kv {
            declare(format!("b{index:06}"), format!("{}#key", secret(index)), "kv2");
        }
        config
    }

    fn vault(&self) -> FakeVault {
        let vault = FakeVault::new(vec![FakeIdentity::login(365 * 24 * HOUR, &[""])]);
        vault.mount("database", "database");
        vault.mount_kv("secret", 2);
        let classes = self.classes.iter().flat_map(|class| std::iter::repeat_n(class, class.leases));
        for (index, class) in classes.enumerate() {
            let Class { ttl, max_ttl, .. } = *class;
            vault.add_role(&role(index), Role { ttl, max_ttl, renewable: true });
        }
        for index in 0..self.kv {
            vault.write_kv(&secret(index), r#"{"key":"value"}"#);
        }
        vault
    }

    /// Lets it all happen. Needs a paused clock.
    pub async fn run(&self) -> Outcome {
        let wire = Metered::new(self.vault(), vec![self.outage]);
        let world = Arc::new(World::start(&self.config(), wire.clone()));
        let files = world.files();
        assert_eq!(files.len(), self.leases() + self.kv);
        let began = Instant::now();
        let refused = Arc::new(Mutex::new(Refused::default()));
        for (index, ino) in files.into_iter().enumerate() {
            let program = Program { world: Arc::clone(&world), ino, refused: Arc::clone(&refused), began };
            let begins_in = self.start_within.mul_f64(fastrand::f64());
            let holds = index >= self.leases() || index % 2 == 0;
            tokio::spawn(async move {
                tokio::time::sleep(begins_in).await;
                program.run(holds).await;
            });
        }
        tokio::time::sleep(self.span).await;
        let books = wire.close_books();
        let refused = std::mem::take(&mut *refused.lock().expect("no program panicked"));
        Outcome { books, minted: world.vault.minted(), refused }
    }
}

fn role(index: usize) -> String {
    format!("database/creds/role-{index}")
}

fn secret(index: usize) -> String {
    format!("secret/app-{index}")
}

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    /// What Vault saw.
    pub books: Books,
    /// Credentials that were minted.
    pub minted: u64,
    /// What programs were refused.
    pub refused: Refused,
}

impl Outcome {
    /// Takes in what came of another mount in the same time.
    pub fn add(&mut self, other: Outcome) {
        self.books.add(other.books);
        self.minted += other.minted;
        self.refused.at.extend(other.refused.at);
        self.refused.served_again.extend(other.refused.served_again);
    }
}

/// Opens that failed.
#[derive(Debug, Default)]
pub struct Refused {
    /// When each one failed, from the beginning.
    pub at: Vec<Duration>,
    /// When each program that had been refused was served again.
    pub served_again: Vec<Duration>,
}

impl Refused {
    /// How many opens failed in a span.
    pub fn within(&self, from: Duration, until: Duration) -> usize {
        self.at.iter().filter(|at| (from..until).contains(at)).count()
    }

    /// When the last program that had been refused in a span was served again, as long as it is in that
    /// span.
    pub fn over(&self, from: Duration, until: Duration) -> Option<Duration> {
        self.served_again.iter().copied().filter(|at| (from..until).contains(at)).max()
    }
}

/// One program and its file.
struct Program {
    world: Arc<World<Metered>>,
    ino: Ino,
    refused: Arc<Mutex<Refused>>,
    began: Instant,
}

impl Program {
    async fn run(&self, holds: bool) {
        let mut handle = self.open().await;
        loop {
            if !holds {
                self.world.close(handle);
            }
            // Less than two of the shortest leases apart, or that would not count as in use.
            tokio::time::sleep((10 * MINUTE).mul_f64(1.0 + fastrand::f64())).await;
            if !holds {
                handle = self.open().await;
            } else if self.world.read(handle).is_err() {
                self.world.close(handle);
                handle = self.open().await;
            }
        }
    }

    /// Opens the file, however often it takes.
    async fn open(&self) -> HandleId {
        let mut failed = false;
        loop {
            match self.world.open_file(self.ino).await {
                Ok(handle) => {
                    if failed {
                        self.refused().served_again.push(self.began.elapsed());
                    }
                    return handle;
                }
                Err(_) => {
                    failed = true;
                    self.refused().at.push(self.began.elapsed());
                }
            }
            tokio::time::sleep(AGAIN.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }

    fn refused(&self) -> MutexGuard<'_, Refused> {
        self.refused.lock().expect("no program panicked")
    }
}
