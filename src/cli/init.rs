//! `leasefs init`: a configuration for what a KV prefix holds.
//!
//! `text.rs` makes the text; this file looks into Vault. Nothing is minted: only KV is read, and of what is
//! read nothing but the names of fields is kept.

mod text;

use clap::Args;

use crate::cli::exit::{CommandError, Exit};
use crate::cli::init::text::{Found, FoundSecret, LeftOut};
use crate::cli::operator;
use crate::cli::output::print;
use crate::config::Environment;
use crate::core::effect::{EngineHint, ReadRequest};
use crate::core::error::{Failure, Fault};
use crate::core::name::{FileName, VaultPath};
use crate::render;
use crate::vault::client::Client;
use crate::vault::{EngineMount, Token, Vault};

/// Nobody wants a longer list of files: a tree shows what lies there as well.
const MOST: usize = 2000;

/// Prints a configuration for what a KV prefix holds, with a file for each field; ready for `leasefs check`.
/// Vault is where the variables of the `vault` command say, and who asks is whom they say.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  leasefs init secret/agents/ >./agent.toml
  leasefs init secret/agents/weather
  leasefs init secret/tenants/billing --identity billing >./conf.d/billing.toml

Fields are named, values are not printed. What can't be shown as a file is named in a comment.")]
pub struct InitArgs {
    /// A KV prefix, or a single secret; with or without "/" at its end
    #[arg(value_name = "PREFIX")]
    pub prefix: String,
    /// Declare an identity of this name, by which all is read
    #[arg(long, value_name = "NAME")]
    pub identity: Option<String>,
}

/// Prints it.
///
/// # Errors
/// [`CommandError`].
pub fn run(args: &InitArgs) -> Result<Exit, CommandError> {
    let trimmed = args.prefix.strip_prefix('/').unwrap_or(&args.prefix);
    let prefix = VaultPath::new(trimmed)
        .map_err(|error| CommandError::Usage(format!("the prefix {:?} {error}", args.prefix)))?;
    if args.identity.as_deref() == Some("") {
        return Err(CommandError::Usage("--identity is empty: write a name".to_owned()));
    }
    let plan = operator::plan(&Environment::from_process())?;
    let client = Client::new(&plan.vault, &plan.identities)?;
    let found = operator::with_login(&client, async |token: &Token| look(&client, token, &prefix).await)?;
    let found = found.map_err(CommandError::Usage)?;
    if found.secrets.is_empty() {
        let why = found.left_out.first().map(|one| format!(" ({}: {})", one.path, one.why));
        return Err(CommandError::NothingThere { prefix: args.prefix.clone(), why: why.unwrap_or_default() });
    }
    print(&text::configuration(&plan, &found, args.identity.as_deref()))?;
    Ok(Exit::Ok)
}

/// Finds what lies below a prefix; the inner error is a prefix that is not KV.
async fn look(
    vault: &impl Vault,
    token: &Token,
    prefix: &VaultPath,
) -> Result<Result<Found, String>, Failure> {
    let mount = vault.mount_of(token, prefix).await?;
    if !mount.is_kv() {
        return Ok(Err(format!(
            "{prefix} is served by an engine of type {}, and only KV can be listed: name a KV prefix, and declare \
             the rest by hand, each as a [file]",
            mount.kind
        )));
    }
    let root = mount.canonical(prefix);
    let mut found = Found { prefix: prefix.clone(), secrets: Vec::new(), left_out: Vec::new() };
    let is_mount = root.as_str() == mount.path || root.as_str() == format!("{}/data", mount.path);
    if !is_mount {
        read(vault, token, &mount, (&root, ""), &mut found).await?;
    }
    // Deepest last, so that the order is that of a reader who goes down.
    let mut prefixes = vec![(root, String::new())];
    while let Some((folder, name)) = prefixes.pop() {
        let entries = match vault.list(token, &folder).await {
            Ok(entries) => entries,
            Err(failure) if is_of_the_path(&failure) => {
                found.leave_out(format!("{}/", written(&mount, &folder)), failure.reason);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let mut folders = Vec::new();
        for entry in entries {
            let (bare, is_folder) = match entry.strip_suffix('/') {
                Some(bare) => (bare, true),
                None => (entry.as_str(), false),
            };
            let full = if name.is_empty() { bare.to_owned() } else { format!("{name}/{bare}") };
            let path = match (folder.join(bare), FileName::new(&full)) {
                (Ok(path), Ok(_)) => path,
                (Err(error), _) | (_, Err(error)) => {
                    found.leave_out(format!("{}/{entry}", written(&mount, &folder)), error.to_string());
                    continue;
                }
            };
            if is_folder {
                folders.push((path, full));
            } else if found.secrets.len() >= MOST {
                let why = format!("the list ends after {MOST} secrets: show all of it as a [tree]");
                found.leave_out(written(&mount, &path), why);
                return Ok(Ok(found));
            } else {
                read(vault, token, &mount, (&path, &full), &mut found).await?;
            }
        }
        folders.reverse();
        prefixes.append(&mut folders);
    }
    Ok(Ok(found))
}

/// Reads a secret for the names of its fields. One without a name is the prefix itself, which need not be a
/// secret.
async fn read(
    vault: &impl Vault,
    token: &Token,
    mount: &EngineMount,
    (path, name): (&VaultPath, &str),
    found: &mut Found,
) -> Result<(), Failure> {
    let shown = written(mount, path);
    let request = ReadRequest { path: path.clone(), params: None, version: None, engine: EngineHint::Auto };
    let fields = match vault.read(token, &request).await {
        Ok(secret) => render::fields(&secret.data).map_err(|error| error.to_string()),
        Err(_) if name.is_empty() => return Ok(()),
        Err(failure) if is_of_the_path(&failure) => Err(failure.reason),
        Err(failure) => return Err(failure),
    };
    match fields {
        Ok(fields) if fields.is_empty() => found.leave_out(shown, "it has no fields".to_owned()),
        Ok(fields) => {
            let fields = fields.into_iter().map(|(field, _)| field).collect();
            found.secrets.push(FoundSecret { path: shown, name: name.to_owned(), fields });
        }
        Err(why) => found.leave_out(shown, why),
    }
    Ok(())
}

impl Found {
    fn leave_out(&mut self, path: String, why: String) {
        self.left_out.push(LeftOut { path, why });
    }
}

/// How a path stands in a configuration: without `data/` where it is the same without it.
fn written(mount: &EngineMount, path: &VaultPath) -> String {
    let short = path.as_str().strip_prefix(&format!("{}/data/", mount.path));
    let short = short.map(|rest| format!("{}/{rest}", mount.path)).filter(|_| mount.is_kv2());
    let is_same = |short: &String| VaultPath::new(short).is_ok_and(|short| mount.canonical(&short) == *path);
    short.filter(is_same).unwrap_or_else(|| path.to_string())
}

/// Whether another path may fare better.
fn is_of_the_path(failure: &Failure) -> bool {
    matches!(
        failure.fault,
        Fault::NotFound | Fault::Denied | Fault::Refused | Fault::Unusable | Fault::ServerError
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_without_data_where_that_means_the_same() {
        let kv2 = EngineMount { path: "team/kv".to_owned(), kind: "kv".to_owned(), kv_version: Some(2) };
        let kv1 = EngineMount { kv_version: Some(1), ..kv2.clone() };
        for (mount, path, short) in [
            (&kv2, "team/kv/data/a/b", "team/kv/a/b"),
            (&kv2, "team/kv/data/data/b", "team/kv/data/data/b"),
            (&kv2, "team/kv/data/a/data/b", "team/kv/a/data/b"),
            (&kv1, "team/kv/data/a", "team/kv/data/a"),
            (&kv1, "team/kv/a", "team/kv/a"),
        ] {
            assert_eq!(written(mount, &VaultPath::new(path).unwrap()), short, "{path}");
        }
    }
}
