//! `leasefs lock` and `leasefs unlock`: files that nobody may open for now.

use std::path::PathBuf;

use clap::Args;

use crate::cli::daemon_of;
use crate::cli::exit::{CommandError, Exit};
use crate::cli::output::{clean, print};
use crate::cli::revoke;
use crate::control::AskError;
use crate::control::protocol::{Ask, LockedReport, Reply, UnlockedReport};

/// Ends what files show, here and in Vault, and lets nobody open them until they are unlocked.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  leasefs lock /run/leasefs/agent --reason \"incident 4711\"              all files
  leasefs lock agent db --reason \"the host may be compromised\"          all that is below db/
  leasefs lock agent kv/billing --reason \"moved\"                        also names that a tree shows later

To open a locked file fails with EACCES; its attribute user.leasefs.error is the reason. Locks survive a
restart of the daemon and of the machine. It ends with 1 if a lease could not be revoked, or if the lock
could not be stored and so would not survive a restart.")]
pub struct LockArgs {
    /// The mount point, or the NAME of /run/leasefs/NAME
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// Files, or directories for all that is or will be below them; default all
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Why, in one line, for whoever finds a file locked
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
}

/// Lets locked files be opened again.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  leasefs unlock /run/leasefs/agent            all locks of the mount
  leasefs unlock agent db                      the lock of db, and all locks below it

The next open fetches anew. It ends with 1 if a name is locked all the same, since a wider lock covers it,
or if the change could not be stored.")]
pub struct UnlockArgs {
    /// The mount point, or the NAME of /run/leasefs/NAME
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// Files, or directories for all locks below them; default all
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

fn reason(text: &str) -> Result<String, String> {
    let reason = clean(text).trim().to_owned();
    if reason.is_empty() { Err("say in a few words why".to_owned()) } else { Ok(reason) }
}

/// Locks and prints.
///
/// # Errors
/// [`CommandError`].
pub fn lock(args: &LockArgs) -> Result<Exit, CommandError> {
    let ask = Ask::Lock { names: args.names.clone(), reason: args.reason.clone() };
    let Reply::Locked(report) = daemon_of::connect(Some(&args.mount_point))?.ask(ask)? else {
        return Err(AskError::OtherVersion.into());
    };
    let well = report.unsaved.is_none() && report.revocation.unrevoked.is_empty();
    print(&locked(report))?;
    Ok(if well { Exit::Ok } else { Exit::NotWell })
}

/// Unlocks and prints.
///
/// # Errors
/// [`CommandError`].
pub fn unlock(args: &UnlockArgs) -> Result<Exit, CommandError> {
    let ask = Ask::Unlock { names: args.names.clone() };
    let Reply::Unlocked(report) = daemon_of::connect(Some(&args.mount_point))?.ask(ask)? else {
        return Err(AskError::OtherVersion.into());
    };
    let well = report.unsaved.is_none() && report.still_locked.is_empty();
    print(&unlocked(report))?;
    Ok(if well { Exit::Ok } else { Exit::NotWell })
}

fn locked(report: LockedReport) -> String {
    let LockedReport { names, revocation, unsaved } = report;
    let mut text: String = names.iter().map(|name| format!("locked: {}\n", shown(name))).collect();
    text += &revoke::text(revocation);
    if let Some(trouble) = unsaved {
        text += &format!("locked for now, but not after a restart of the daemon: {}\n", clean(&trouble));
    }
    text
}

fn unlocked(report: UnlockedReport) -> String {
    let UnlockedReport { unlocked, still_locked, unsaved } = report;
    let mut text: String = unlocked.iter().map(|name| format!("unlocked: {}\n", shown(name))).collect();
    for still in &still_locked {
        let (name, by) = (shown(&still.name), shown(&still.by));
        text += &format!("still locked: {name}, since {by} is: unlock that\n");
    }
    if text.is_empty() {
        text = "nothing was locked\n".to_owned();
    }
    if let Some(trouble) = unsaved {
        text += &format!("unlocked for now, but locked again after a restart: {}\n", clean(&trouble));
    }
    text
}

/// A name of a lock, for people.
pub(super) fn shown(name: &str) -> String {
    if name.is_empty() { "everything".to_owned() } else { clean(name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{RevokeReport, StillLocked};

    #[test]
    fn a_lock_that_is_not_stored_is_told_to_end_with_a_restart() {
        let revocation =
            RevokeReport { ended: 1, revoked: vec!["db/creds/a/1".to_owned()], unrevoked: Vec::new() };
        let unsaved = Some("/var/lib/leasefs/x can't be written: no space".to_owned());
        let report = LockedReport { names: vec![String::new(), "db".to_owned()], revocation, unsaved };
        assert_eq!(
            locked(report),
            "\
locked: everything
locked: db
1 generation ended here
revoked in Vault: db/creds/a/1
locked for now, but not after a restart of the daemon: /var/lib/leasefs/x can't be written: no space
"
        );
    }

    #[test]
    fn an_unlock_names_the_wider_lock_that_is_left() {
        let still = StillLocked { name: "db/a".to_owned(), by: String::new() };
        let report =
            UnlockedReport { unlocked: vec!["db/a".to_owned()], still_locked: vec![still], unsaved: None };
        assert_eq!(
            unlocked(report),
            "unlocked: db/a\nstill locked: db/a, since everything is: unlock that\n"
        );
        let nothing = UnlockedReport { unlocked: Vec::new(), still_locked: Vec::new(), unsaved: None };
        assert_eq!(unlocked(nothing), "nothing was locked\n");
    }

    #[test]
    fn a_lock_wants_a_reason_that_can_be_read() {
        assert_eq!(reason(" key\tleaked "), Ok("key leaked".to_owned()));
        assert!(reason(" \n").is_err());
    }
}
