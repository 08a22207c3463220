//! What is served: everything that was checked before, and the course from the first answer to the last.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::mpsc;

use crate::config::plan::MountPlan;
use crate::control::protocol::ProtectionReport;
use crate::control::{Farewell, Listener, LockStore, MountInfo, ServiceHandler, Successor};
use crate::core::locks::Locks;
use crate::core::time::UnixTime;
use crate::daemon::herald::Herald;
use crate::daemon::heritage::Heritage;
use crate::daemon::lore::PlanLore;
use crate::daemon::stand::Stand;
use crate::daemon::{DaemonError, driver_settings, reload, system};
use crate::driver::clock::SystemClock;
use crate::driver::{Driver, Service, Unrevoked};
use crate::fuse::adapter::{Adapter, Wiring};
use crate::keeper::Word;
use crate::sandbox::{Entry, Protections, State};
use crate::sys::{self, BootTimer};
use crate::vault::client::Client;

/// For how long leases and tokens are given back at the end.
const REVOCATION_PATIENCE: Duration = Duration::from_secs(10);

/// For how long a server that hands over waits for a moment in which nothing is being minted.
const CALM_PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether a file was replaced.
const REPLACED_LOOK: Duration = Duration::from_secs(2);

/// How often it looks.
const CALM_LOOK: Duration = Duration::from_millis(2);

/// All that is checked before anything is served.
pub(super) struct Ground {
    plan: MountPlan,
    /// What `leasefs status` calls the configuration.
    config: PathBuf,
    stand: Stand,
    client: Client,
    heritage: Heritage,
    mounted: UnixTime,
    losses: Vec<String>,
    protections: Arc<Protections>,
    /// Who starts the next server, if there is somebody.
    succession: Option<Succession>,
    /// The user whom this process runs as.
    user: String,
}

/// Where the next server comes from.
#[derive(Clone, Debug, Default)]
pub(super) struct Succession {
    /// What it is started from.
    pub program: Option<PathBuf>,
    /// The unit of systemd that starts it, unless a keeper does.
    pub unit: Option<String>,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything is given back.
    GivenBack,
    /// A successor goes on.
    HandedOver,
}

/// What makes a server end, or log in anew.
pub(super) struct Calls<T> {
    /// Ends it; says who wants that.
    pub told: T,
    /// With each one every identity logs in anew.
    pub hangup: Option<Signal>,
}

impl Ground {
    /// For a mount; `mounted` is when that was.
    pub(super) fn new(
        plan: MountPlan,
        config: PathBuf,
        stand: Stand,
        heritage: Heritage,
        mounted: UnixTime,
        losses: Vec<String>,
    ) -> Result<Ground, DaemonError> {
        let client = Client::new(&plan.vault, &plan.identities)?;
        let protections = Arc::default();
        let (succession, user) = (None, sys::privilege::user_name(sys::effective_ids().0));
        Ok(Ground { plan, config, stand, client, heritage, mounted, losses, protections, succession, user })
    }

    /// This process has given that up.
    pub(super) fn protected(self, protections: Protections) -> Ground {
        Ground { protections: Arc::new(protections), ..self }
    }

    /// The next server will come from there.
    pub(super) fn succeeded_by(self, succession: Succession) -> Ground {
        Ground { succession: Some(succession), ..self }
    }

    /// The name of the user whom this process runs as, who may not be looked up any more.
    pub(super) fn run_by(self, user: String) -> Ground {
        Ground { user, ..self }
    }

    /// Serves until it is told that it is over, or somebody takes the mount away; then gives everything back,
    /// unless a successor comes. `announce` runs from the moment on that the tree answers.
    pub(super) async fn serve<A: Future<Output = ()> + Send + 'static>(
        self,
        listener: Option<Listener>,
        locks: LockStore,
        calls: Calls<impl Future<Output = &'static str>>,
        herald: Arc<Herald>,
        announce: impl FnOnce(Service<SystemClock>, PathBuf) -> A,
    ) -> Result<Ended, DaemonError> {
        let Ground {
            plan,
            config,
            stand,
            client,
            heritage,
            mounted,
            mut losses,
            protections,
            succession,
            user,
        } = self;
        let Heritage { mut engine, seal, requests, inheritance } = heritage;
        let Calls { told, mut hangup } = calls;
        engine.restore_locks(locks.load()?);
        report_locks(engine.locks());
        let (service, inbox) = Service::sealed(engine, seal, SystemClock);
        let wiring = Arc::new(Wiring::default());
        let (tell_end, mut session_end) = mpsc::unbounded_channel();
        let adapter = Adapter::new(service.clone(), Arc::clone(&wiring)).noting(requests);
        let (served, failed) = stand.serve(adapter, plan.mount.threads, move |end| {
            // Nobody listens any more when the end was asked for.
            let _ = tell_end.send(end);
        })?;
        for request in failed {
            service.call(|engine, at| ((), engine.failed(at, request)));
        }
        let (notices, notifier) = served.notices().map_err(system("no thread could be started"))?;
        wiring.connect(notices.clone());
        losses.extend(wiring.missing().iter().map(|feature| format!("this kernel lacks {feature}")));
        let timer = BootTimer::new().map_err(system("no timer could be made"))?;
        let lore = Box::new(PlanLore::new(&plan, client.clone()));
        let driver = Driver::new(service.clone(), inbox, timer, client, notices, driver_settings(&plan));
        let driving = tokio::spawn(driver.inheriting(inheritance).run());
        let (ends, mut asked) = mpsc::unbounded_channel();
        let successor = match &succession {
            Some(_) => Successor::Comes,
            None => Successor::None,
        };
        let Succession { program, unit } = succession.unwrap_or_default();
        let handler = ServiceHandler {
            service: service.clone(),
            info: MountInfo {
                program,
                unit,
                user,
                ..mount_info(&plan, config, served.path(), mounted, losses, &protections)
            },
            lore,
            locks: tokio::sync::Mutex::new(locks),
            ends,
            successor,
        };
        let answering = listener.map(|listener| tokio::spawn(listener.serve(handler)));
        herald.say(&Word::Serves);
        let announcing = tokio::spawn(announce(service.clone(), served.path()));
        let guarding = tokio::spawn(watch_over(service.clone(), Arc::clone(&herald)));
        let terminal = reload::Terminal::find();
        tokio::pin!(told);
        let was_stopping = service.look(|engine, _| engine.is_stopping());
        let end = loop {
            if was_stopping {
                // Its start has to be over before it can end well.
                herald.notify(&[sd_notify::NotifyState::Ready]);
                tracing::info!("stopping: the server before this one had begun to");
                break None;
            }
            tokio::select! {
                who = &mut told => { tracing::info!("stopping: {who}"); break None }
                Some(farewell) = asked.recv() => match farewell {
                    Farewell::Nothing => {
                        tracing::info!("stopping: asked by `leasefs unmount`");
                        break None;
                    }
                    Farewell::Everything => {
                        hand_over(&service, &herald).await;
                        return Ok(Ended::HandedOver);
                    }
                },
                end = session_end.recv() => break end,
                path = replaced(&protections), if successor == Successor::Comes => {
                    tracing::info!(path = %path.display(), "replaced, and not to be read by this server");
                    hand_over(&service, &herald).await;
                    return Ok(Ended::HandedOver);
                }
                () = reload::hung_up(&mut hangup) => {
                    if terminal.is_gone() {
                        tracing::info!("stopping: the terminal was closed");
                        break None;
                    }
                    let reload = reload::log_in_anew(service.clone(), announcing.abort_handle(), Arc::clone(&herald));
                    tokio::spawn(reload);
                }
            }
        };
        // A server that takes over from here goes on with this.
        service.look(|engine, _| engine.will_stop());
        announcing.abort();
        guarding.abort();
        herald.notify(&[sd_notify::NotifyState::Stopping]);
        let unrevoked = service.stop(REVOCATION_PATIENCE).await;
        let result = served.take_away(end, &herald).await;
        // The driver has ended with the stop; the thread that notifies ends with its last sender.
        let _ = driving.await;
        drop(notifier);
        if let Some(answering) = answering {
            answering.abort();
        }
        report_end(&unrevoked);
        result.map(|()| Ended::GivenBack)
    }
}

/// Tells systemd's watchdog, where there is one, that the engine can be reached and time goes on.
async fn watch_over(service: Service<SystemClock>, herald: Arc<Herald>) {
    let mut patience = 0;
    if !sd_notify::watchdog_enabled(false, &mut patience) {
        return;
    }
    loop {
        service.look(|_, _| ());
        herald.notify(&[sd_notify::NotifyState::Watchdog]);
        tokio::time::sleep(Duration::from_micros(patience / 3)).await;
    }
}

/// Waits until a file was replaced that this process may not read any more.
async fn replaced(protections: &Protections) -> PathBuf {
    loop {
        tokio::time::sleep(REPLACED_LOOK).await;
        if let Some(path) = protections.replaced() {
            return path.to_owned();
        }
    }
}

/// Waits for a moment in which nothing is being minted, so that nothing is lost, and says that the server ends.
async fn hand_over(service: &Service<SystemClock>, herald: &Herald) {
    tracing::info!("the next server takes over");
    let deadline = tokio::time::Instant::now() + CALM_PATIENCE;
    while tokio::time::Instant::now() < deadline && !service.look(|engine, _| engine.is_calm()) {
        tokio::time::sleep(CALM_LOOK).await;
    }
    herald.say(&Word::HandOver);
}

fn mount_info(
    plan: &MountPlan,
    config: PathBuf,
    mount_point: PathBuf,
    started: UnixTime,
    losses: Vec<String>,
    protections: &Protections,
) -> MountInfo {
    MountInfo {
        mount_point,
        config,
        identities: plan.identities.iter().map(|identity| identity.name.clone()).collect(),
        addresses: plan.vault.addresses.clone(),
        losses,
        protections: protections.iter().map(protection).collect(),
        started,
        pid: std::process::id(),
        program: None,
        unit: None,
        user: String::new(),
    }
}

fn protection(entry: &Entry) -> ProtectionReport {
    let (state, reason) = match &entry.state {
        State::On => ("on", None),
        State::Off { reason } => ("off", Some(reason)),
        State::Missing { reason } => ("missing", Some(reason)),
    };
    ProtectionReport { name: entry.name.to_owned(), state: state.to_owned(), reason: reason.cloned() }
}

fn report_end(unrevoked: &[Unrevoked]) {
    if unrevoked.is_empty() {
        tracing::info!("all leases were given back");
    } else {
        tracing::warn!(count = unrevoked.len(), "leases live on in Vault; each one is named above");
    }
}

fn report_locks(locks: &Locks) {
    for (scope, lock) in locks.iter() {
        let name = if scope.as_str().is_empty() { "everything" } else { scope.as_str() };
        tracing::warn!(name, reason = lock.reason, uid = lock.uid, since = %lock.since, "is locked");
    }
}
