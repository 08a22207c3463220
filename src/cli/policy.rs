//! `leasefs policy`: the least policy that a configuration needs, as HCL.
//!
//! | file | responsibility |
//! | --- | --- |
//! | `rules.rs` | from a plan and its engines to rules |
//! | `hcl.rs` | from rules to a text that Vault takes |

mod hcl;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::{CommandError, Exit};
use crate::cli::operator::{self, Operator};
use crate::cli::output::print;
use crate::cli::policy::rules::{DeniedPath, RuleError};
use crate::config::plan::MountPlan;
use crate::config::{self, Environment};
use crate::core::error::{Failure, Fault};
use crate::core::name::{IdentityId, VaultPath};
use crate::vault::client::Client;
use crate::vault::{EngineMount, Token, Vault};

pub(super) use hcl::quoted;

/// Prints the least policy that a configuration needs, as HCL: for each identity, or for one.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  leasefs policy ./agent.toml
  leasefs policy ./agent.toml | bao policy write agent -
  leasefs policy ./tenants.toml --identity billing --deny secret/search/
  leasefs policy ./agent.toml --offline

Which engine serves a path is asked of Vault, unless the configuration says so by `engine`: with the token of
the \"vault\" command (VAULT_TOKEN or ~/.vault-token) if there is one, else as the identity logs in. With
--offline, and where Vault does not say, both forms of KV are printed.

--deny is for tokens that have other policies, too. Vault takes the most specific rule alone: a path that a
longer rule allows stays allowed.")]
pub struct PolicyArgs {
    /// The configuration file
    #[arg(value_name = "CONFIG")]
    pub config: PathBuf,
    /// Of this identity alone
    #[arg(long, value_name = "NAME")]
    pub identity: Option<String>,
    /// Deny a path; with "/" at its end all that is below it, with "*" all that begins like it
    #[arg(long, value_name = "PATH")]
    pub deny: Vec<String>,
    /// Don't ask Vault
    #[arg(long)]
    pub offline: bool,
}

/// Prints policies.
///
/// # Errors
/// [`CommandError`].
pub fn run(args: &PolicyArgs) -> Result<Exit, CommandError> {
    let environment = Environment::from_process();
    let plan = config::load(&args.config, &environment)?;
    let identities = chosen(&plan, args.identity.as_deref())?;
    let denied: Vec<DeniedPath> = args
        .deny
        .iter()
        .map(|path| DeniedPath::new(path))
        .collect::<Result<_, _>>()
        .map_err(CommandError::Usage)?;
    let mut texts = Vec::new();
    for identity in &identities {
        let mut wanted = rules::open_questions(&plan, *identity);
        wanted.extend(denied.iter().filter_map(|denied| denied.path.clone()));
        let mounts = if args.offline || wanted.is_empty() {
            BTreeMap::new()
        } else {
            ask(&plan, *identity, &wanted, &environment)?
        };
        let policy = rules::policy(&plan, *identity, &mounts, &denied).map_err(of_rules)?;
        texts.push(hcl::text(&title(args, &plan, *identity, identities.len()), &policy));
    }
    print(&texts.join("\n"))?;
    Ok(Exit::Ok)
}

/// The identities whose policies are wanted.
fn chosen(plan: &MountPlan, wanted: Option<&str>) -> Result<Vec<IdentityId>, CommandError> {
    let all = plan.identities.iter().enumerate();
    let fitting = all.filter(|(_, identity)| wanted.is_none_or(|wanted| identity.name == wanted));
    let found: Vec<IdentityId> = fitting.map(|(index, _)| IdentityId(index as u32)).collect();
    match wanted {
        Some(wanted) if found.is_empty() => {
            let names: Vec<&str> = plan.identities.iter().map(|one| one.name.as_str()).collect();
            let names = names.join(", ");
            Err(CommandError::Usage(format!("--identity {wanted}: the configuration has {names}")))
        }
        Some(_) | None => Ok(found),
    }
}

fn title(args: &PolicyArgs, plan: &MountPlan, identity: IdentityId, of: usize) -> String {
    let name = plan.identities.get(identity.0 as usize).map_or("", |identity| identity.name.as_str());
    let config = args.config.display();
    let alone = if of > 1 { format!("; alone with --identity {name}") } else { String::new() };
    format!("The least policy of identity {name} in {config}, by `leasefs policy`{alone}")
}

/// Which engines serve these paths, as far as Vault says.
fn ask(
    plan: &MountPlan,
    identity: IdentityId,
    paths: &BTreeSet<VaultPath>,
    environment: &Environment,
) -> Result<BTreeMap<VaultPath, EngineMount>, CommandError> {
    let own = plan.identities.get(identity.0 as usize).cloned();
    let namespace = own.as_ref().and_then(|own| own.namespace.clone());
    let asker = match Operator::of(environment) {
        Some(operator) => Some(operator.identity(namespace)),
        None => own,
    };
    let client = Client::new(&plan.vault, &Vec::from_iter(asker))?;
    operator::with_login(&client, async |token: &Token| engines(&client, token, paths).await).map_err(|error| {
        match error {
            CommandError::Vault(failure) => CommandError::Vault(Failure {
                reason: format!(
                    "{}; Vault is asked which engine serves a path: say `engine` of each in the configuration, \
                     use --offline, or give another token in VAULT_TOKEN",
                    failure.reason
                ),
                ..failure
            }),
            error => error,
        }
    })
}

async fn engines(
    vault: &impl Vault,
    token: &Token,
    paths: &BTreeSet<VaultPath>,
) -> Result<BTreeMap<VaultPath, EngineMount>, Failure> {
    let mut found = BTreeMap::new();
    for path in paths {
        match vault.mount_of(token, path).await {
            Ok(mount) => drop(found.insert(path.clone(), mount)),
            // It won't say: both forms are printed then.
            Err(failure) if matches!(failure.fault, Fault::Denied | Fault::NotFound) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(found)
}

fn of_rules(error: RuleError) -> CommandError {
    match error {
        RuleError::AtOdds { .. } => CommandError::AtOdds(error.to_string()),
        RuleError::Needed { .. } => CommandError::Usage(error.to_string()),
    }
}
