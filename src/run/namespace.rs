//! The namespace that the tree is mounted in, and in words why there can be none.
//!
//! Root needs a namespace of mounts alone. Others need one of users too, in which they keep their own uid and
//! gid: whoever makes it may mount in there whatever his uid is, and loses that right, as it should be, with
//! the command's `exec`. A second one inside, to map back from root, would be of no use.
//!
//! In a namespace of users every other uid is that of nobody, so whatever depends on the owner of a file must
//! have been decided before.

use std::fs;
use std::io;

use thiserror::Error;

use crate::sys::{self, namespace};

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Of mounts: every user is there.
    Mounts,
    /// Of users and mounts: only this user is there.
    Users,
}

/// Why there is no namespace. Each says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NamespaceError {
    /// Debian's switch.
    #[error("{FORBIDDEN}: the sysctl kernel.unprivileged_userns_clone is 0: set it to 1, or run as root")]
    SwitchedOff,
    /// Their number is limited.
    #[error(
        "{FORBIDDEN}: the sysctl user.max_user_namespaces is {limit}: raise it, end what has made them, or run \
         as root"
    )]
    Limit {
        /// How many there may be.
        limit: String,
    },
    /// Ubuntu's switch.
    #[error(
        "{FORBIDDEN}: AppArmor restricts them (the sysctl kernel.apparmor_restrict_unprivileged_userns is 1): \
         give leasefs a profile with \"userns,\", set the sysctl to 0, or run as root"
    )]
    AppArmor,
    /// A filter of system calls, as containers have.
    #[error(
        "{FORBIDDEN}: a seccomp filter, mostly that of a container, does not let them be made: give the \
         container \"--security-opt seccomp=unconfined\" or a profile of your own, or run leasefs outside"
    )]
    Seccomp,
    /// The kernel has none.
    #[error("this kernel has no user namespaces (CONFIG_USER_NS): run as root")]
    NotBuilt,
    /// Something else.
    #[error("{FORBIDDEN}: {step}: {}: run as root, or ask whoever runs this system", text(*errno))]
    Refused {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        errno: i32,
    },
    /// Root's namespace of mounts could not be set up.
    #[error("a namespace of mounts can't be set up: {step}: {}: check what root may do here", text(*errno))]
    NoMounts {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        errno: i32,
    },
}

const FORBIDDEN: &str = "without root, a command's tree needs a user namespace, and none can be made";

fn text(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// Puts this process, which must have one thread, into a namespace of its own, out of which no mount gets.
///
/// # Errors
/// [`NamespaceError`].
pub fn enter() -> Result<Namespace, NamespaceError> {
    let (uid, gid) = sys::effective_ids();
    let entered = if uid == 0 {
        match namespace::own_mounts() {
            Ok(()) => Namespace::Mounts,
            // Root of a container that may do little; there may still be user namespaces.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => own_users(uid, gid)?,
            Err(error) => return Err(no_mounts("unshare", &error)),
        }
    } else {
        own_users(uid, gid)?
    };
    let step = "mount --make-rslave /";
    namespace::keep_mounts_here().map_err(|error| match entered {
        Namespace::Mounts => no_mounts(step, &error),
        Namespace::Users => diagnose(step, &error, &Facts::of_system()),
    })?;
    Ok(entered)
}

fn own_users(uid: u32, gid: u32) -> Result<Namespace, NamespaceError> {
    namespace::own_users_and_mounts().map_err(|error| diagnose("unshare", &error, &Facts::of_system()))?;
    let write = |path: &'static str, text: String| {
        fs::write(path, text).map_err(|error| diagnose(path, &error, &Facts::of_system()))
    };
    // Without it a member could drop a group to get at what is denied to that group (user_namespaces(7)).
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    Ok(Namespace::Users)
}

fn no_mounts(step: &'static str, error: &io::Error) -> NamespaceError {
    NamespaceError::NoMounts { step, errno: error.raw_os_error().unwrap_or_default() }
}

/// What decides about user namespaces on a system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Facts {
    unprivileged_userns_clone: Option<String>,
    max_user_namespaces: Option<String>,
    apparmor_restricts: Option<String>,
    /// The line `Seccomp` of `/proc/self/status`: 2 with a filter (proc_pid_status(5)).
    seccomp: Option<String>,
}

impl Facts {
    fn of_system() -> Facts {
        let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let status = read("/proc/self/status").unwrap_or_default();
        let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        Facts {
            unprivileged_userns_clone: read("/proc/sys/kernel/unprivileged_userns_clone"),
            max_user_namespaces: read("/proc/sys/user/max_user_namespaces"),
            apparmor_restricts: read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            seccomp: seccomp.map(|mode| mode.trim().to_owned()),
        }
    }
}

/// The likeliest reason, the surest sign first.
fn diagnose(step: &'static str, error: &io::Error, facts: &Facts) -> NamespaceError {
    let is = |fact: &Option<String>, value: &str| fact.as_deref() == Some(value);
    let kind = error.kind();
    // What a namespace may have at most is counted in each one above it too.
    let limited = kind == io::ErrorKind::StorageFull || is(&facts.max_user_namespaces, "0");
    match &facts.max_user_namespaces {
        Some(limit) if limited => return NamespaceError::Limit { limit: limit.clone() },
        Some(_) | None => {}
    }
    match kind {
        io::ErrorKind::InvalidInput => NamespaceError::NotBuilt,
        io::ErrorKind::PermissionDenied if is(&facts.unprivileged_userns_clone, "0") => {
            NamespaceError::SwitchedOff
        }
        io::ErrorKind::PermissionDenied if is(&facts.apparmor_restricts, "1") => NamespaceError::AppArmor,
        io::ErrorKind::PermissionDenied if is(&facts.seccomp, "2") => NamespaceError::Seccomp,
        _ => NamespaceError::Refused { step, errno: error.raw_os_error().unwrap_or_default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_forbid_user_namespaces_is_told_by_its_name() {
        let some = |value: &str| Some(value.to_owned());
        let plain = Facts {
            unprivileged_userns_clone: some("1"),
            max_user_namespaces: some("9000"),
            apparmor_restricts: some("0"),
            seccomp: some("0"),
        };
        let (eperm, einval, enospc) = (1, 22, 28);
        for (errno, facts, told) in [
            (eperm, Facts { unprivileged_userns_clone: some("0"), ..plain.clone() }, "userns_clone is 0"),
            (enospc, Facts { max_user_namespaces: some("0"), ..plain.clone() }, "max_user_namespaces is 0"),
            (enospc, plain.clone(), "max_user_namespaces is 9000"),
            (eperm, Facts { apparmor_restricts: some("1"), ..plain.clone() }, "AppArmor"),
            (eperm, Facts { seccomp: some("2"), ..plain.clone() }, "seccomp"),
            (einval, plain.clone(), "CONFIG_USER_NS"),
            (eperm, plain, "unshare: Operation not permitted"),
            (eperm, Facts::default(), "unshare: Operation not permitted"),
        ] {
            let message = diagnose("unshare", &text(errno), &facts).to_string();
            assert!(message.contains(told), "{message}");
            assert!(message.contains("root"), "{message}");
        }
    }
}
