//! The parts of a systemd unit that need root: it mounts, has systemd keep the mount's descriptors, and takes the
//! mount away. The unit's main process is a server without privileges.
//!
//! Must never touch the mount itself: while no server is there, that would wait for ever. Invariant: *one mount*: it
//! is made when systemd keeps nothing for the unit, and taken away when no server will come.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::daemon::{DaemonError, Options, Prepared, ServerPapers, system};
use crate::fuse::mount_point::{MountError, errno};
use crate::fuse::mountinfo;
use crate::fuse::session::{FILE_SYSTEM_TYPE, SOURCE};
use crate::sealed::End;
use crate::sys::errand::{self, Errand};
use crate::sys::{self, Unmount};

/// The mount namespace of the system's first process, in which everybody sees what is mounted.
const HOST: &str = "/proc/1/ns/mnt";

/// What descriptors are called while systemd keeps them.
const DEVICE: &str = "leasefs-device";
const RECORD: &str = "leasefs-record";
const STATE: &str = "leasefs-state";
const REQUESTS: &str = "leasefs-requests";

/// For how long systemd may take to note what it is given or told.
const NOTED: Duration = Duration::from_secs(5);

/// What becomes of a unit when its server has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Future {
    /// Another server comes.
    GoesOn,
    /// It is over.
    Ends,
}

/// What systemd knows of how a server has ended (systemd.exec(5), `$SERVICE_RESULT`, `$EXIT_STATUS`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// The result.
    pub result: String,
    /// The exit code, or the name of the signal.
    pub status: String,
}

/// Mounts, unless systemd keeps the mount of an earlier server; to be called before that of the unit is started.
///
/// # Errors
/// [`DaemonError`]; nothing stays behind.
pub fn mount(options: &Options, unit: &str) -> Result<(), DaemonError> {
    sys::enter_mount_namespace(Path::new(HOST)).map_err(system("the host's mounts can't be reached"))?;
    if kept(unit)? > 0 && is_mounted(&options.mount_point)? {
        return Ok(());
    }
    let Prepared { mount, papers, shared } = super::prepare(SOURCE, options)?;
    let store = |name: &'static str, fd: BorrowedFd<'_>| {
        sd_notify::notify_with_fds(false, &[NotifyState::FdStore, NotifyState::FdName(name)], &[fd])
            .map_err(system("systemd can't be given the mount"))
    };
    store(DEVICE, mount.device().as_fd())?;
    store(RECORD, papers.record.as_fd())?;
    for (name, fd) in [(STATE, &papers.state), (REQUESTS, &papers.requests)] {
        if let Some(fd) = fd {
            store(name, fd.as_fd())?;
        }
    }
    barrier().map_err(system("systemd does not take the mount"))?;
    mount.leave();
    // It goes on as long as the mount does.
    std::mem::forget(shared);
    Ok(())
}

/// Waits until systemd has read what it was sent (sd_notify(3), `BARRIER=1`): it closes the other end then.
fn barrier() -> io::Result<()> {
    let (wait, end) = io::pipe()?;
    sd_notify::notify_with_fds(false, &[NotifyState::Custom("BARRIER=1")], &[end.as_fd()])?;
    drop(end);
    let deadline = sys::boot_time() + NOTED;
    sys::process::wait_for(&[wait.as_fd()], Some(NOTED))?;
    if sys::boot_time() >= deadline { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
}

/// The descriptors that systemd has kept for the server of this unit.
///
/// # Errors
/// [`DaemonError::NotKept`]: there are none.
pub fn kept_papers() -> Result<ServerPapers, DaemonError> {
    let none = || DaemonError::NotKept;
    let fds =
        sd_notify::listen_fds_with_names(false).map_err(system("systemd's descriptors can't be read"))?;
    let fds: Vec<(RawFd, String)> = fds.collect();
    let number = |wanted: &str| fds.iter().find(|(_, name)| name == wanted).map(|(number, _)| *number);
    Ok(ServerPapers {
        device: number(DEVICE).ok_or_else(none)?,
        record: number(RECORD).ok_or_else(none)?,
        state: number(STATE),
        requests: number(REQUESTS),
        keeper: None,
        // systemd does not say which; it matters only for what ends two servers in a row.
        predecessor: End::Fault,
    })
}

/// Takes the mount away, lazily if it is in use, unless it is gone, or another one than that of the unit.
///
/// # Errors
/// [`DaemonError`].
pub fn unmount(mount_point: &Path, unit: &str) -> Result<(), DaemonError> {
    if kept(unit)? == 0 {
        return Ok(());
    }
    sys::enter_mount_namespace(Path::new(HOST)).map_err(system("the host's mounts can't be reached"))?;
    if !is_mounted(mount_point)? {
        return Ok(());
    }
    match sys::unmount(mount_point, Unmount::Idle) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => sys::unmount(mount_point, Unmount::Lazy),
        result => result,
    }
    .map_err(|error| {
        let path = mount_point.to_owned();
        DaemonError::Mount(MountError::NotUnmounted { path, errno: errno(&error) })
    })
}

/// Whether another server comes after one that has ended.
///
/// # Errors
/// [`DaemonError::System`]: systemd can't be asked.
pub fn future(unit: &str, ending: &Ending) -> Result<Future, DaemonError> {
    Ok(judge(&job(unit)?, ending))
}

/// Whether the unit is being stopped only to be started again.
///
/// # Errors
/// [`DaemonError::System`]: systemd can't be asked.
pub fn restarts(unit: &str) -> Result<bool, DaemonError> {
    Ok(job(unit)? == "restart")
}

/// The unit whose main process this is; nothing if it can't be told.
pub(super) fn own_unit() -> Option<String> {
    unit_in(&std::fs::read_to_string("/proc/self/cgroup").ok()?)
}

/// The unit that a list of control groups names (cgroups(7), `/proc/T/cgroup`).
fn unit_in(groups: &str) -> Option<String> {
    let of_systemd = |line: &str| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let unit = path.rsplit('/').next().filter(|unit| unit.ends_with(".service"))?;
        ["", "name=systemd"].contains(&controllers).then(|| unit.to_owned())
    };
    groups.lines().find_map(of_systemd)
}

/// Has systemd restart a unit, and does not wait for it: that is, has the program as it is installed now take over.
///
/// # Errors
/// [`DaemonError::NotRestarted`], [`DaemonError::System`].
pub fn restart(unit: &str) -> Result<(), DaemonError> {
    let mut command = Command::new("systemctl");
    command.args(["--no-block", "--no-ask-password", "restart", "--", unit]);
    let done = errand::run(&mut command, NOTED).map_err(system("systemctl can't be run"))?;
    let said = match done {
        Errand::Done { success: true, .. } => return Ok(()),
        Errand::Done { success: false, said } => said.trim().to_owned(),
        Errand::TookTooLong => "it does not answer".to_owned(),
    };
    Err(DaemonError::NotRestarted { unit: unit.to_owned(), said })
}

/// `Restart=on-failure`, `RestartForceExitStatus=` and `RestartPreventExitStatus=` of the unit, as words.
fn judge(job: &str, ending: &Ending) -> Future {
    let failed = ending.result != "success" && !["64", "73", "78"].contains(&ending.status.as_str());
    match job {
        "stop" => Future::Ends,
        "restart" | "start" => Future::GoesOn,
        _ if failed || ending.status == "75" => Future::GoesOn,
        _ => Future::Ends,
    }
}

/// What systemd is about to do with a unit: `start`, `stop`, `restart`; empty: nothing.
fn job(unit: &str) -> Result<String, DaemonError> {
    let jobs = systemctl(&["list-jobs", "--no-legend", "--plain", unit])?;
    let job = jobs.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != unit);
        words.nth(1).map(str::to_owned)
    });
    Ok(job.unwrap_or_default())
}

/// How many descriptors systemd keeps for a unit.
fn kept(unit: &str) -> Result<u32, DaemonError> {
    let count = systemctl(&["show", "--value", "--property=NFileDescriptorStore", unit])?;
    Ok(count.trim().parse().unwrap_or_default())
}

fn systemctl(arguments: &[&str]) -> Result<String, DaemonError> {
    let output = Command::new("systemctl").args(arguments).output();
    let output = output.map_err(system("systemctl can't be run"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn is_mounted(mount_point: &Path) -> Result<bool, DaemonError> {
    let mounts = mountinfo::mounts().map_err(|error| MountError::NoMountList { errno: errno(&error) })?;
    let top = mountinfo::topmost(&mounts, mount_point);
    Ok(top.is_some_and(|entry| entry.kind == FILE_SYSTEM_TYPE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_told_by_its_control_group() {
        for (groups, unit) in [
            ("0::/system.slice/system-leasefs.slice/leasefs@agent.service\n", Some("leasefs@agent.service")),
            (
                "4:cpu:/a.service\n1:name=systemd:/system.slice/leasefs@a:b.service\n",
                Some("leasefs@a:b.service"),
            ),
            ("0::/user.slice/user-0.slice/session-1.scope\n", None),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(unit_in(groups).as_deref(), unit, "{groups:?}");
        }
    }

    #[test]
    fn the_mount_stays_as_long_as_a_server_will_come() {
        for (job, result, status, future) in [
            ("stop", "success", "0", Future::Ends),
            ("stop", "signal", "KILL", Future::Ends),
            ("restart", "success", "0", Future::GoesOn),
            ("restart", "signal", "KILL", Future::GoesOn),
            ("", "success", "0", Future::Ends),
            ("", "success", "75", Future::GoesOn),
            ("", "signal", "KILL", Future::GoesOn),
            ("", "watchdog", "ABRT", Future::GoesOn),
            ("", "exit-code", "71", Future::GoesOn),
            ("", "exit-code", "73", Future::Ends),
            ("", "exit-code", "78", Future::Ends),
        ] {
            let ending = Ending { result: result.to_owned(), status: status.to_owned() };
            assert_eq!(judge(job, &ending), future, "{job} {ending:?}");
        }
    }
}
