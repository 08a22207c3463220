//! `leasefs revoke`: ends generations now, here and in Vault.

use std::path::PathBuf;

use clap::Args;

use crate::cli::daemon_of;
use crate::cli::exit::{CommandError, Exit};
use crate::cli::output::{clean, counted, print};
use crate::cli::status::leases;
use crate::control::AskError;
use crate::control::protocol::{Ask, Reply, RevokeReport};

/// Ends what files show, here and in Vault; the next open fetches anew.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  leasefs revoke /run/leasefs/agent                all files
  leasefs revoke /run/leasefs/agent db/password    one file, and all that share its lease
  leasefs revoke agent db                          all files below db/ in /run/leasefs/agent

It ends with 1 if a lease could not be revoked; its id is printed.")]
pub struct RevokeArgs {
    /// The mount point, or the NAME of /run/leasefs/NAME
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// Files, or directories for all that is below them; default all
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// Asks and prints.
///
/// # Errors
/// [`CommandError`].
pub fn run(args: &RevokeArgs) -> Result<Exit, CommandError> {
    let ask = Ask::Revoke { names: args.names.clone() };
    let Reply::Revoked(report) = daemon_of::connect(Some(&args.mount_point))?.ask(ask)? else {
        return Err(AskError::OtherVersion.into());
    };
    let exit = if report.unrevoked.is_empty() { Exit::Ok } else { Exit::NotWell };
    print(&text(report))?;
    Ok(exit)
}

pub(super) fn text(report: RevokeReport) -> String {
    let RevokeReport { ended, revoked, unrevoked } = report;
    let mut text = match ended {
        0 => "nothing was live\n".to_owned(),
        _ => format!("{} ended here\n", counted(ended, "generation")),
    };
    for lease in revoked {
        text += &format!("revoked in Vault: {}\n", clean(&lease));
    }
    if !unrevoked.is_empty() {
        text += "gone here, but these leases live on in Vault:\n";
        text += &leases(unrevoked);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{Instant, LeaseReport};

    #[test]
    fn a_lease_that_lives_on_is_named_in_full() {
        let lives_on = LeaseReport {
            lease: "database/creds/a/0123456789abcdef".to_owned(),
            path: "database/creds/a".to_owned(),
            expires: Instant { in_seconds: 90, at: "2026-01-02T03:05:05Z".to_owned() },
            reason: "the policy does not allow it".to_owned(),
        };
        let report =
            RevokeReport { ended: 2, revoked: vec!["aws/creds/b/1".to_owned()], unrevoked: vec![lives_on] };
        assert_eq!(
            text(report),
            "\
2 generations ended here
revoked in Vault: aws/creds/b/1
gone here, but these leases live on in Vault:
LEASE                              ENDS IN  WHY
database/creds/a/0123456789abcdef  1m 30s   the policy does not allow it
"
        );
        let nothing = RevokeReport { ended: 0, revoked: Vec::new(), unrevoked: Vec::new() };
        assert_eq!(text(nothing), "nothing was live\n");
    }
}
