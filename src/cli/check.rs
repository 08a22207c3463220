//! `leasefs check`: says what of a configuration would work, without minting anything.
//!
//! | file | responsibility |
//! | --- | --- |
//! | `inspect.rs` | asks Vault about each path |
//! | `identity.rs` | logs in, and what a token can't do |
//! | `rights.rs` | what a token can do, though nobody needs it |
//! | `lifetime.rs` | how long the leases of a role live |
//! | `report.rs` | what was found, as tables, as JSON and as an exit code |

mod identity;
mod inspect;
mod lifetime;
mod report;
mod rights;

use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::{CommandError, Exit};
use crate::cli::output::{print, print_json};
use crate::config::plan::MountPlan;
use crate::config::{self, Complaints, Environment};
use crate::core::engine::Engine;
use crate::daemon::{self, DaemonError};
use crate::secret::SecretBytes;
use crate::sys;
use crate::vault::Vault;
use crate::vault::client::Client;
pub(super) use report::names_of_source;
pub use report::{CheckReport, ComplaintReport, IdentityCheck, PathCheck, Readable, RejectedReport};

/// Says what of a configuration would work: parses it, logs in and asks Vault about each path. Nothing is
/// minted. Warns of rights that nobody needs, and of leases and tokens that live too long or not long enough.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  leasefs check ./agent.toml
  leasefs check ./agent.toml --offline    only the file itself; Vault is not asked
  leasefs check ./agent.toml --json

It ends with 0 if all is well, 1 if something would fail, 78 if the configuration is wrong, 69 if Vault
can't be reached.")]
pub struct CheckArgs {
    /// The configuration file
    #[arg(value_name = "CONFIG")]
    pub config: PathBuf,
    /// Don't ask Vault
    #[arg(long)]
    pub offline: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Checks and prints.
///
/// # Errors
/// [`CommandError`].
pub fn run(args: &CheckArgs) -> Result<Exit, CommandError> {
    let plan = match config::load(&args.config, &Environment::from_process()) {
        Ok(plan) => plan,
        Err(complaints) => return Err(rejected(args, complaints)),
    };
    // Two names that clash only once they are numbered.
    Engine::<SecretBytes>::new(daemon::layout(&plan, sys::unix_time()), daemon::composer(&plan))
        .map_err(DaemonError::Layout)?;
    let report = if args.offline { report::offline(args.config.clone(), &plan) } else { ask(args, &plan)? };
    if args.json {
        print_json(&report)?
    } else {
        print(&report.text())?
    }
    Ok(report.exit())
}

/// The complaints, as JSON too if that was wanted.
fn rejected(args: &CheckArgs, complaints: Complaints) -> CommandError {
    if args.json
        && let Err(error) = print_json(&RejectedReport::new(&complaints))
    {
        return error;
    }
    complaints.into()
}

fn ask(args: &CheckArgs, plan: &MountPlan) -> Result<CheckReport, CommandError> {
    // Tokens and secrets are in memory from here on.
    sys::forbid_core_dumps().map_err(CommandError::Runtime)?;
    let client = Client::new(&plan.vault, &plan.identities)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(CommandError::Runtime)?.block_on(inspect_and_log_out(args, plan, &client))
}

/// Whatever happens, the tokens that were logged in for are revoked.
async fn inspect_and_log_out(
    args: &CheckArgs,
    plan: &MountPlan,
    vault: &impl Vault,
) -> Result<CheckReport, CommandError> {
    let mut sessions = identity::Sessions::new(plan);
    let inspection = async {
        sessions.log_in(vault).await;
        inspect::paths(vault, plan, &mut sessions).await
    };
    let paths = tokio::select! {
        paths = inspection => Some(paths),
        _ = tokio::signal::ctrl_c() => None,
    };
    sessions.log_out(vault).await;
    let paths = paths.ok_or(CommandError::Interrupted)?;
    Ok(CheckReport::new(args.config.clone(), plan, sessions.into_checks(), paths))
}
