//! `leasefs refresh`: fetches now.

use std::path::PathBuf;

use clap::Args;

use crate::cli::daemon_of;
use crate::cli::exit::{CommandError, Exit};
use crate::cli::output::{clean, counted, print, table};
use crate::control::AskError;
use crate::control::protocol::{Ask, RefreshReport, Reply};

/// Fetches files now, as if what they show were over; names that had vanished come back.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  leasefs refresh /run/leasefs/agent                 all files
  leasefs refresh /run/leasefs/agent weather.json

It ends with 1 if a file could not be fetched; the reason is printed.")]
pub struct RefreshArgs {
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
pub fn run(args: &RefreshArgs) -> Result<Exit, CommandError> {
    let ask = Ask::Refresh { names: args.names.clone() };
    let Reply::Refreshed(report) = daemon_of::connect(Some(&args.mount_point))?.ask(ask)? else {
        return Err(AskError::OtherVersion.into());
    };
    let failed = report.files.iter().any(|file| file.error.is_some());
    print(&text(report))?;
    Ok(if failed { Exit::NotWell } else { Exit::Ok })
}

fn text(report: RefreshReport) -> String {
    let fresh = report.files.iter().filter(|file| file.error.is_none()).count();
    let failed = report.files.into_iter().filter_map(|file| Some([file.name, clean(&file.error?)]));
    let failed = table(["NOT FETCHED", "WHY"], failed.collect());
    format!("{} fetched\n{failed}", counted(fresh, "file"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::RefreshedFile;

    #[test]
    fn each_file_that_could_not_be_fetched_has_its_reason() {
        let file = |name: &str, error: Option<&str>| RefreshedFile {
            name: name.to_owned(),
            error: error.map(str::to_owned),
        };
        let report = RefreshReport { files: vec![file("a", None), file("b", Some("Vault is sealed"))] };
        assert_eq!(text(report), "1 file fetched\nNOT FETCHED  WHY\nb            Vault is sealed\n");
    }
}
