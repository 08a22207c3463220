//! The command's variables: where its tree is, and nothing that a token could be had with.

use std::ffi::OsString;
use std::path::Path;

/// The variable with the path of the tree.
pub const TREE: &str = "LEASEFS_DIR";

/// What Vault's own commands take credentials from.
const CREDENTIALS: [&str; 6] =
    ["VAULT_TOKEN", "BAO_TOKEN", "VAULT_ROLE_ID", "BAO_ROLE_ID", "VAULT_SECRET_ID", "BAO_SECRET_ID"];

/// Whether the command may have the credentials that leasefs has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// It gets the files of its tree and no more.
    Withheld,
    /// It talks to Vault itself.
    Kept,
}

/// A variable with the path of a file in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathVariable {
    /// The variable.
    pub variable: String,
    /// The file.
    pub name: String,
}

/// What is different in the command's environment, to be applied in order: a value, or nothing for what is
/// taken out.
pub fn changes(
    tree: &Path,
    paths: &[PathVariable],
    credentials: Credentials,
) -> Vec<(String, Option<OsString>)> {
    let withheld = match credentials {
        Credentials::Withheld => &CREDENTIALS[..],
        Credentials::Kept => &[],
    };
    let withheld = withheld.iter().map(|name| ((*name).to_owned(), None));
    let set = paths.iter().map(|path| (path.variable.clone(), Some(tree.join(&path.name).into())));
    withheld.chain([(TREE.to_owned(), Some(tree.into()))]).chain(set).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(variable: &str, name: &str) -> PathVariable {
        PathVariable { variable: variable.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn credentials_go_and_paths_come() {
        let paths = [path("PGPASSFILE", "db/pgpass"), path("VAULT_TOKEN", "token")];
        let changes = changes(Path::new("/run/x"), &paths, Credentials::Withheld);
        let last = |name: &str| {
            changes.iter().rev().find(|(changed, _)| changed == name).map(|(_, value)| value.clone())
        };
        assert_eq!(last("BAO_TOKEN"), Some(None));
        assert_eq!(last("VAULT_SECRET_ID"), Some(None));
        assert_eq!(last("LEASEFS_DIR"), Some(Some("/run/x".into())));
        assert_eq!(last("PGPASSFILE"), Some(Some("/run/x/db/pgpass".into())));
        assert_eq!(last("VAULT_TOKEN"), Some(Some("/run/x/token".into())), "what is asked for comes last");
        assert_eq!(last("VAULT_ADDR"), None);
    }

    #[test]
    fn credentials_stay_if_the_command_is_to_have_them() {
        let changes = changes(Path::new("/run/x"), &[], Credentials::Kept);
        assert_eq!(changes, [("LEASEFS_DIR".to_owned(), Some("/run/x".into()))]);
    }
}
