//! Mounting and unmounting for whoever may not do so: by fusermount3, which is set-uid root and belongs to FUSE.
//!
//! It opens the device with the rights of its caller, mounts, and sends the device's descriptor back over the
//! socket whose number is in its environment. What it refuses is looked into by [`crate::fuse::refusal`].
//!
//! Invariants: *bounded*: it is killed when it takes longer than [`PATIENCE`]; *no secrets*: it gets nothing of
//! this process's environment but `PATH`; *nothing stays behind*: a mount whose descriptor did not come is taken
//! away.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fuser::Errno;

use crate::fuse::mount_point::{MountError, errno, is, is_dead};
use crate::fuse::mountinfo;
use crate::fuse::refusal::{Facts, Refusal, Trouble};
use crate::fuse::session::FILE_SYSTEM_TYPE;
use crate::sys::descriptors::{pass_on, receive, stream};
use crate::sys::errand::{self, Errand};
use crate::sys::{self, Unmount, privilege};

/// How long it may take. It asks the directory and the list of mounts, and has nothing to wait for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Its names: that of FUSE 3, and that of FUSE 2, which understands the same.
const NAMES: [&str; 2] = ["fusermount3", "fusermount"];

/// What the number of the socket is called.
const SOCKET: &str = "_FUSE_COMMFD";

/// What the subtype makes of the type `fuse`: [`FILE_SYSTEM_TYPE`].
const SUBTYPE: &str = "leasefs";

/// Mounts on a directory that nothing is mounted on, with the flags and options of any leasefs, for the user whom
/// this process runs as.
///
/// # Errors
/// [`MountError::NoFuse`], [`MountError::DeviceDenied`], [`MountError::Refused`],
/// [`MountError::Unprivileged`].
pub(super) fn mount(source: &str, path: &Path, allow_other: bool) -> Result<OwnedFd, MountError> {
    let program = find()?;
    let failed = |error: &std::io::Error| MountError::Refused { path: path.to_owned(), errno: errno(error) };
    let (ours, theirs) = stream().map_err(|error| failed(&error))?;
    let number = pass_on(&theirs).map_err(|error| failed(&error))?;
    let mut command = command(&program);
    command.env(SOCKET, number.to_string());
    command.arg("-o").arg(options(source, allow_other)).arg("--").arg(path);
    let ended = errand::run(&mut command, PATIENCE);
    drop(theirs);
    let trouble = match ended {
        Ok(Errand::Done { success: true, said }) => match receive(&ours) {
            Ok(device) => return Ok(device),
            Err(_) => Trouble::Said(said),
        },
        Ok(Errand::Done { success: false, said }) => Trouble::Said(said),
        Ok(Errand::TookTooLong) => Trouble::TookTooLong(PATIENCE),
        Err(error) => Trouble::NotRun(error.to_string()),
    };
    let facts = Facts::of_system(&program, path);
    // It may have been killed after it had mounted.
    drop(ours);
    if is_ours(path) && is_dead(path) {
        let _ = take_away(&program, path, Unmount::Lazy);
    }
    Err(facts.diagnose(trouble, allow_other))
}

/// Why something mounted could not be taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotGone {
    /// Somebody uses it.
    Busy,
    /// Nothing was mounted there any more.
    NotThere,
    /// It may not be, or something else.
    Failed(MountError),
}

impl NotGone {
    /// As an error: also that it is in use, or that somebody was faster.
    pub fn into_error(self, path: &Path) -> MountError {
        let not_unmounted =
            |errno: Errno| MountError::NotUnmounted { path: path.to_owned(), errno: errno.into() };
        match self {
            NotGone::Busy => not_unmounted(Errno::EBUSY),
            NotGone::NotThere => not_unmounted(Errno::EINVAL),
            NotGone::Failed(error) => error,
        }
    }
}

/// Takes the topmost mount at a path away, by the system call or, for whoever may not, by fusermount3. The mount
/// itself is not touched.
///
/// # Errors
/// [`NotGone`].
pub fn unmount(path: &Path, how: Unmount) -> Result<(), NotGone> {
    match sys::unmount(path, how) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied && !privilege::may_mount() => {
            match find() {
                Ok(program) => take_away(&program, path, how),
                Err(MountError::Unprivileged(refusal)) => Err(refused(path, refusal)),
                Err(error) => Err(NotGone::Failed(error)),
            }
        }
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Err(NotGone::Busy),
        Err(error) if is(&error, Errno::EINVAL) => Err(NotGone::NotThere),
        Err(error) => {
            let (path, errno) = (path.to_owned(), errno(&error));
            Err(NotGone::Failed(MountError::NotUnmounted { path, errno }))
        }
    }
}

fn refused(path: &Path, refusal: Refusal) -> NotGone {
    NotGone::Failed(MountError::UnmountRefused { path: path.to_owned(), refusal })
}

fn take_away(program: &Path, path: &Path, how: Unmount) -> Result<(), NotGone> {
    let mut command = command(program);
    command.arg("-u");
    if how == Unmount::Lazy {
        command.arg("-z");
    }
    command.arg("--").arg(path);
    let trouble = match errand::run(&mut command, PATIENCE) {
        Ok(Errand::Done { success: true, .. }) => return Ok(()),
        Ok(Errand::Done { said, .. }) if said.to_ascii_lowercase().contains("busy") => {
            return Err(NotGone::Busy);
        }
        Ok(Errand::Done { said, .. }) => Trouble::Said(said),
        Ok(Errand::TookTooLong) => Trouble::TookTooLong(PATIENCE),
        Err(error) => Trouble::NotRun(error.to_string()),
    };
    if !is_ours(path) {
        return Err(NotGone::NotThere);
    }
    Err(refused(path, Facts::of_system(program, path).diagnose_unmount(trouble)))
}

/// Whether a leasefs is what is to be seen at a path.
fn is_ours(path: &Path) -> bool {
    mountinfo::mounts().is_ok_and(|mounts| {
        mountinfo::topmost(&mounts, path).is_some_and(|entry| entry.kind == FILE_SYSTEM_TYPE)
    })
}

/// Where it is.
fn find() -> Result<PathBuf, MountError> {
    // No set-uid program could mount either.
    if !privilege::may_come_to_mount() {
        return Err(Refusal::CapabilityTaken.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| USUAL_PATH.into());
    find_in(&path).ok_or_else(|| Refusal::NotInstalled { path: path.to_string_lossy().into_owned() }.into())
}

/// Where a shell looks that nobody has told (environ(7)).
const USUAL_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// One that can be executed, or else one that can't, so that it can be told why.
fn find_in(path: &OsString) -> Option<PathBuf> {
    let directories: Vec<PathBuf> =
        std::env::split_paths(path).filter(|directory| directory.is_absolute()).collect();
    let found = NAMES.iter().flat_map(|name| directories.iter().map(move |directory| directory.join(name)));
    let files: Vec<PathBuf> = found.filter(|file| file.is_file()).collect();
    files.iter().find(|file| privilege::may_execute(file)).or(files.first()).cloned()
}

/// It in an environment without anything of ours, speaking English.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C");
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// The options of a mount, as fusermount3 reads them: it takes a backslash from what follows it.
fn options(source: &str, allow_other: bool) -> String {
    let source = source.replace('\\', "\\\\").replace(',', "\\,");
    let allow_other = if allow_other { ",allow_other" } else { "" };
    format!("ro,nosuid,nodev,noexec,default_permissions{allow_other},subtype={SUBTYPE},fsname={source}")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_source_can_not_end_an_option() {
        assert_eq!(
            options("a,allow_other\\", false),
            "ro,nosuid,nodev,noexec,default_permissions,subtype=leasefs,fsname=a\\,allow_other\\\\"
        );
        assert!(options("leasefs", true).contains(",allow_other,"));
        assert_eq!(FILE_SYSTEM_TYPE, format!("fuse.{SUBTYPE}"));
    }

    #[test]
    fn the_newer_one_that_can_be_executed_is_taken_and_no_relative_directory() {
        let base = tempfile::tempdir().unwrap();
        let put = |name: &str, mode: u32| {
            let path = base.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let path = std::env::join_paths([base.path().join("a"), base.path().join("b"), ".".into()]).unwrap();
        assert_eq!(find_in(&path), None);
        let locked = put("b/fusermount3", 0o644);
        assert_eq!(find_in(&path), Some(locked));
        let older = put("a/fusermount", 0o755);
        assert_eq!(find_in(&path), Some(older));
        let newer = put("b/fusermount3", 0o755);
        assert_eq!(find_in(&path), Some(newer));
    }
}
