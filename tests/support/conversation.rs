//! Engine and driver with a fake Vault, under tokio's paused clock: no kernel, no network, no waiting.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use leasefs::config::{self, Environment};
use leasefs::core::access::{Caller, Groups, ProcessOf};
use leasefs::core::effect::{Answer, Outcome};
use leasefs::core::engine::{Engine, Reader, State};
use leasefs::core::error::FsError;
use leasefs::core::name::{HandleId, Ino, Ticket};
use leasefs::core::time::{BootTime, UnixTime};
use leasefs::daemon::{driver_settings, layout};
use leasefs::driver::clock::{Clock, Timer};
use leasefs::driver::{Driver, Kernel, Reply, Service, Unrevoked};
use leasefs::vault::Vault;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::fake_vault::FakeVault;

/// When the machine of these tests was started, before the test began.
const UPTIME: Duration = Duration::from_secs(1000);

/// tokio's clock as CLOCK_BOOTTIME.
#[derive(Clone, Copy)]
pub struct TestClock {
    began: Instant,
}

impl Clock for TestClock {
    type Timer = TestTimer;

    fn now(&self) -> BootTime {
        BootTime(0) + UPTIME + self.began.elapsed()
    }

    fn wall(&self) -> UnixTime {
        let since = self.began.elapsed();
        UnixTime { seconds: 1_700_000_000 + since.as_secs() as i64, nanoseconds: since.subsec_nanos() }
    }
}

/// tokio's timer as a timerfd.
pub struct TestTimer(TestClock);

impl Timer for TestTimer {
    async fn wait_until(&mut self, at: BootTime) {
        if at == BootTime::NEVER {
            return std::future::pending().await;
        }
        tokio::time::sleep_until(self.0.began + at.since(BootTime(0) + UPTIME)).await;
    }
}

/// What the kernel was told to forget.
#[derive(Clone, Default)]
pub struct Forgotten(Arc<Mutex<Vec<Ino>>>);

impl Kernel for Forgotten {
    fn invalidate(&self, ino: Ino) {
        self.0.lock().expect("no test panicked here").push(ino);
    }

    fn invalidate_name(&self, _parent: Ino, _name: String) {}

    fn invalidate_listing(&self, _ino: Ino) {}
}

struct OneShot(oneshot::Sender<Result<Answer, FsError>>);

impl Reply for OneShot {
    fn answer(self: Box<Self>, answer: Result<Answer, FsError>) {
        // A test that stopped waiting does not mind.
        let _ = self.0.send(answer);
    }
}

/// A mount without a kernel.
pub struct World<V = FakeVault> {
    /// The Vault that it talks to.
    pub vault: V,
    service: Service<TestClock>,
    forgotten: Forgotten,
}

impl<V: Vault + Clone> World<V> {
    /// Starts a driver for this configuration (without `[vault]` and identities) on a fake Vault.
    pub fn start(config: &str, vault: V) -> World<V> {
        let text = format!(
            "[vault]\naddress = \"http://127.0.0.1:8200\"\n[identity.default]\nmethod = \"token\"\n{config}"
        );
        let environment = Environment::fixed(0, 0).with_variables([("VAULT_TOKEN", "unused")]);
        let plan = config::parse(&text, "conversation.toml".as_ref(), &environment)
            .unwrap_or_else(|complaints| panic!("{complaints}"));
        let clock = TestClock { began: Instant::now() };
        let engine = Engine::new(layout(&plan, leasefs::sys::unix_time()), leasefs::daemon::composer(&plan))
            .expect("names don't clash");
        let (service, inbox) = Service::new(engine, clock);
        let forgotten = Forgotten::default();
        let settings = driver_settings(&plan);
        let driver =
            Driver::new(service.clone(), inbox, TestTimer(clock), vault.clone(), forgotten.clone(), settings);
        tokio::spawn(driver.run());
        World { vault, service, forgotten }
    }

    /// The way to its engine and driver.
    pub fn service(&self) -> Service<TestClock> {
        self.service.clone()
    }

    /// Opens a file as root, and waits for it.
    pub async fn open(&self, name: &str) -> Result<HandleId, FsError> {
        self.open_file(self.ino(name)).await
    }

    /// Opens many files, one after the other.
    pub async fn open_all(&self, names: &[String]) -> Result<Vec<HandleId>, FsError> {
        let nodes = self.service.look(|engine, _| engine.select(names)).expect("the names are declared");
        let mut handles = Vec::new();
        for ino in nodes {
            handles.push(self.open_file(ino).await?);
        }
        Ok(handles)
    }

    /// As [`World::open`], for who knows the inode number: finding it takes longer the more files there are.
    pub async fn open_file(&self, ino: Ino) -> Result<HandleId, FsError> {
        match self.service.call(|engine, at| engine.open(at, &root(), ino)) {
            Outcome::Done(result) => result.map(|opened| opened.handle),
            Outcome::Wait(ticket) => match self.answer(ticket).await? {
                Answer::Opened(opened) => Ok(opened.handle),
                other => panic!("not an answer to open: {other:?}"),
            },
            Outcome::NeedGroups | Outcome::NeedProcess => panic!("root needs no groups"),
        }
    }

    /// The size that `stat` shows root.
    pub async fn stat(&self, name: &str) -> Result<u64, FsError> {
        let ino = self.ino(name);
        match self.service.call(|engine, at| engine.getattr(at, &root(), ino)) {
            Outcome::Done(result) => result.map(|attributes| attributes.size),
            Outcome::Wait(ticket) => match self.answer(ticket).await? {
                Answer::Attributes(attributes) => Ok(attributes.size),
                other => panic!("not an answer to stat: {other:?}"),
            },
            Outcome::NeedGroups | Outcome::NeedProcess => panic!("root needs no groups"),
        }
    }

    async fn answer(&self, ticket: Ticket) -> Result<Answer, FsError> {
        let (give, take) = oneshot::channel();
        self.service.wait(ticket, Box::new(OneShot(give)));
        take.await.expect("each caller is answered")
    }

    /// What a handle reads.
    pub fn read(&self, handle: HandleId) -> Result<String, FsError> {
        let body = self.service.look(|engine, now| engine.read(now, handle, Reader::Handle))?;
        Ok(String::from_utf8_lossy(body.expose()).into_owned())
    }

    /// Closes a file.
    pub fn close(&self, handle: HandleId) {
        self.service.call(|engine, at| ((), engine.release(at, handle)));
    }

    /// Opens, reads and closes a file.
    pub async fn cat(&self, name: &str) -> Result<String, FsError> {
        let handle = self.open(name).await?;
        let text = self.read(handle);
        self.close(handle);
        text
    }

    /// How a file stands.
    pub fn state(&self, name: &str) -> State {
        let status = self.service.look(|engine, now| engine.status(now));
        status.files.iter().find(|file| file.name == name).expect("the file is declared").state
    }

    /// Why the last try to read a file failed.
    pub fn error(&self, name: &str) -> Option<String> {
        let status = self.service.look(|engine, now| engine.status(now));
        status.files.into_iter().find(|file| file.name == name).expect("the file is declared").error
    }

    /// Has a file fetched now, as an operator would.
    pub fn refresh(&self, name: &str) {
        let ino = self.ino(name);
        self.service.call(|engine, at| engine.refresh(at, &[ino]));
    }

    /// Whether the kernel was told to forget a file since the last time that this was asked.
    pub fn was_forgotten(&self, name: &str) -> bool {
        let ino = self.ino(name);
        std::mem::take(&mut *self.forgotten.0.lock().expect("no test panicked here")).contains(&ino)
    }

    /// Has every identity log in anew, as SIGHUP does.
    pub fn log_in_anew(&self) {
        self.service.call(|engine, at| ((), engine.log_in_anew(at)));
    }

    /// Why the first identity's last login failed.
    pub fn login_error(&self) -> Option<String> {
        self.service.look(|engine, now| engine.status(now)).identities.remove(0).error
    }

    /// Ends the mount.
    pub async fn stop(&self) -> Vec<Unrevoked> {
        self.service.stop(Duration::from_secs(10)).await
    }

    /// Bytes of secrets that the engine holds.
    pub fn memory(&self) -> u64 {
        self.service.look(|engine, _| engine.memory())
    }

    /// All declared files, in the order of their names.
    pub fn files(&self) -> Vec<Ino> {
        self.service.look(|engine, _| engine.select(&[])).expect("all there are")
    }

    fn ino(&self, name: &str) -> Ino {
        let names = [name.to_owned()];
        self.service.look(|engine, _| engine.select(&names)).expect("the name is declared")[0]
    }
}

fn root() -> Caller {
    Caller { uid: 0, gid: 0, groups: Groups::Unread, thread: 1, process: ProcessOf::Hidden, request: 0 }
}

/// Lets `span` pass, with everything that is due in it.
pub async fn pass(span: Duration) {
    tokio::time::sleep(span).await;
}
