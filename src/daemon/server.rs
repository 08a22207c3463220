//! A server: takes up a mount that another process holds, with what its predecessor has left.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::plan::{Account, MountPlan};
use crate::config::{self, Environment};
use crate::control::{ControlDirectory, LockStore};
use crate::daemon::ground::{Calls, Ended, Ground, Succession};
use crate::daemon::herald::Herald;
use crate::daemon::heritage::{Heritage, Memory};
use crate::daemon::record::Record;
use crate::daemon::stand::Stand;
use crate::daemon::{
    DaemonError, command, composer, end_on_panic, layout, locked_in_part, readiness, runtime, system, unit,
};
use crate::fuse::kept::{Seat, Unanswered};
use crate::keeper::Word;
use crate::link::ServerEnd;
use crate::sandbox::{self, Places, Protections};
use crate::sealed::{End, Requests};
use crate::sys::descriptors::inherited;
use crate::sys::{self, MemoryLock};

/// The numbers of the descriptors that a server was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerPapers {
    /// The device.
    pub device: RawFd,
    /// What is written down of the mount.
    pub record: RawFd,
    /// The sealed state.
    pub state: Option<RawFd>,
    /// Where there is none: what is kept of the kernel's requests.
    pub requests: Option<RawFd>,
    /// The link to the keeper, if there is one.
    pub keeper: Option<RawFd>,
    /// How the server before this one ended, if there was one.
    pub predecessor: End,
}

/// What a server was started with.
struct Inheritance {
    device: OwnedFd,
    record: Record,
    memory: Memory,
    keeper: Option<ServerEnd<Word>>,
    predecessor: End,
}

impl Inheritance {
    fn take(papers: ServerPapers) -> Result<Inheritance, DaemonError> {
        let take = |number| inherited(number).map_err(system("a descriptor is missing"));
        let keeper = papers.keeper.map(take).transpose()?.map(ServerEnd::from);
        let record = Record::read(take(papers.record)?)
            .map_err(|error: io::Error| DaemonError::Record { why: error.kind() })?;
        let memory = match (papers.state, papers.requests) {
            (Some(state), _) => Memory::State(take(state)?),
            (None, Some(page)) => Memory::Requests(take(page)?),
            (None, None) => Memory::Nothing,
        };
        Ok(Inheritance {
            device: take(papers.device)?,
            record,
            memory,
            keeper,
            predecessor: papers.predecessor,
        })
    }
}

/// Serves until a signal, an unmount or an operator ends it, or a successor is to take over. What keeps it from
/// serving the keeper prints and ends with, by the exit code that `code` gives it.
///
/// # Errors
/// [`DaemonError`].
pub fn serve(papers: ServerPapers, code: impl Fn(&DaemonError) -> u8) -> Result<Ended, DaemonError> {
    end_on_panic();
    sys::forbid_core_dumps().map_err(system("core dumps can't be forbidden"))?;
    let inheritance = Inheritance::take(papers)?;
    let keeper = inheritance.keeper.as_ref();
    let last_words = keeper.map(ServerEnd::again).transpose().map_err(system("no keeper"))?;
    let result = inheritance.serve();
    if let (Err(error), Some(mut keeper)) = (&result, last_words) {
        keeper.say(&Word::Failed { code: code(error), message: error.to_string() });
    }
    result
}

impl Inheritance {
    fn serve(self) -> Result<Ended, DaemonError> {
        let Inheritance { device, record, memory, keeper, predecessor } = self;
        // The next one is started from the same place.
        let succession = Succession {
            program: std::env::current_exe().ok(),
            unit: keeper.is_none().then(unit::own_unit).flatten(),
        };
        // As it was read by whoever has mounted.
        let mut environment = Environment::from_process();
        (environment.uid, environment.gid) = record.owner;
        environment.home.clone_from(&record.home);
        let plan = config::load(&record.config, &environment)?;
        for warning in &plan.warnings {
            tracing::warn!("{warning}");
        }
        let mut losses = Vec::new();
        if let MemoryLock::SecretPagesOnly { reason } = sys::lock_memory() {
            tracing::warn!(reason, "only the pages of secrets are locked in memory");
            losses.push(locked_in_part(&reason));
        }
        let Record { seat, config, mounted, .. } = record;
        let mapped = memory.map();
        let directory = match (&keeper, std::env::var_os("RUNTIME_DIRECTORY")) {
            (None, Some(own)) => ControlDirectory::at(own),
            _ => ControlDirectory::own()?,
        };
        let listener = directory.listen(&seat.path)?;
        let (locks, user) = match (sys::effective_ids().0, &plan.mount.server_user) {
            (0, Some(Account { uid, gid, .. })) => {
                listener.hand_to(*uid)?;
                (LockStore::usual(&seat.path).of_server(Some((*uid, *gid)))?, *uid)
            }
            (0, None) => (LockStore::usual(&seat.path).of_server(None)?, 0),
            (uid, _) => (LockStore::usual(&seat.path), uid),
        };
        let user = sys::privilege::user_name(user);
        let protections = shut_in(&plan, &directory, &locks)?;
        for reason in protections.losses() {
            tracing::warn!(reason, "only the pages of secrets are locked in memory");
            losses.push(reason.to_owned());
        }
        let heritage = Heritage::take(mapped, layout(&plan, mounted), composer(&plan), &mut losses)?;
        let unanswered = unanswered(&seat, heritage.requests.as_deref());
        if unanswered != Unanswered::Resent {
            losses.push(
                "this kernel can't send requests again (Linux 6.9): at a restart, calls that wait get EINTR"
                    .to_owned(),
            );
        }
        if let Some(requests) = &heritage.requests {
            requests.take_stock(predecessor);
        }
        let stand = Stand { seat, device, unanswered };
        let ground = Ground::new(plan, config, stand, heritage, mounted, losses)?
            .protected(protections)
            .run_by(user)
            .succeeded_by(succession);
        let runtime = runtime()?;
        let ended = runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).map_err(system("signals can't be caught"))?;
            let mut interrupt = signal(SignalKind::interrupt()).map_err(system("signals can't be caught"))?;
            let hangup = Some(signal(SignalKind::hangup()).map_err(system("signals can't be caught"))?);
            let (herald, gone) = match keeper {
                Some(keeper) => {
                    let gone = keeper
                        .again()
                        .and_then(|keeper| keeper.into_stream())
                        .map_err(system("no keeper"))?;
                    (Herald::to_keeper(keeper), Some(gone))
                }
                None => (Herald::to_systemd(), None),
            };
            let told = async {
                tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                    () = is_gone(gone) => "the keeper of the mount has died",
                }
            };
            let herald = Arc::new(herald);
            let announce = {
                let herald = Arc::clone(&herald);
                |service, mount_point| readiness::announce(service, mount_point, herald)
            };
            ground.serve(Some(listener), locks, Calls { told, hangup }, herald, announce).await
        })?;
        if ended == Ended::HandedOver {
            // Whoever waits for an answer gets it from the successor: dropped here, it would be an error.
            std::mem::forget(runtime);
        }
        Ok(ended)
    }
}

/// Gives up what is not needed from now on. Before there is a thread, and any secret in memory.
fn shut_in(
    plan: &MountPlan,
    control: &ControlDirectory,
    locks: &LockStore,
) -> Result<Protections, DaemonError> {
    let places = Places {
        control: Some(control.path().to_owned()),
        locks: locks.path().and_then(|path| path.parent().map(Path::to_owned)),
        ..Places::default()
    };
    Ok(sandbox::Plan::of(plan, &places, plan.mount.server_user.clone()).enter()?)
}

/// Set to `off`, requests are not sent again, as on kernels that can't do it.
const RESEND: &str = "LEASEFS_RESEND";

/// What becomes of requests that a predecessor has not answered. For the first server there are none, which
/// does no harm.
fn unanswered(seat: &Seat, requests: Option<&Requests>) -> Unanswered {
    if seat.handshake.can_resend() && std::env::var_os(RESEND).is_none_or(|value| value != "off") {
        return Unanswered::Resent;
    }
    match requests.map_or(0, Requests::highest) {
        0 => Unanswered::None,
        highest => Unanswered::Swept { highest },
    }
}

/// Returns when a keeper is gone.
async fn is_gone(keeper: Option<std::os::unix::net::UnixStream>) {
    match keeper.and_then(|keeper| tokio::net::UnixStream::from_std(keeper).ok()) {
        Some(keeper) => command::is_over(&keeper).await,
        None => std::future::pending().await,
    }
}
