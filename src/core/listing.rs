//! What a directory of a tree shows: the folders and secrets that Vault lists below a prefix, and the
//! fields of a secret, under names that can't clash.
//!
//! The rules, which docs/leases.md repeats:
//! - KV can hold a secret `same` beside a folder `same/`. Both show as one directory `same` with the
//!   fields of the one and the entries of the other.
//! - Where a field and an entry share a name, the entry keeps it and the field shows as `#NAME` (as in
//!   `PATH#FIELD`); should that be taken as well, one more `#` is put before it.
//! - A name that Linux can't take (empty, `.`, `..`, with `/`, NUL or another control character, longer
//!   than 255 bytes) is left out and counted.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::name::{NAME_MAX, VaultPath};

/// What Vault lists under one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// `NAME/`
    pub folder: bool,
    /// `NAME`
    pub secret: bool,
}

/// What Vault answers to a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// What the names are joined to, to be read or listed themselves. It is the prefix, or another way to
    /// write it: on KV v2 a folder `data` at the top would be taken for the API's own `data/`.
    pub below: VaultPath,
    /// The names, as Vault has them.
    pub names: Vec<String>,
}

/// A list from Vault, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The names that can be shown.
    pub entries: BTreeMap<String, Listed>,
    /// How many could not.
    pub skipped: usize,
}

impl Listing {
    /// Sorts out Vault's keys; those that end in `/` are folders.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Listing {
        let mut listing = Listing::default();
        for key in keys {
            let (name, is_folder) = match key.strip_suffix('/') {
                Some(name) => (name, true),
                None => (key, false),
            };
            if !is_file_name(name) {
                listing.skipped += 1;
                continue;
            }
            let listed = listing.entries.entry(name.to_owned()).or_default();
            listed.folder |= is_folder;
            listed.secret |= !is_folder;
        }
        listing
    }

    /// Roughly how much memory it takes, in bytes.
    pub fn bytes(&self) -> u64 {
        // A map entry with its string header, about three words each.
        self.entries.keys().map(|name| name.len() as u64 + 48).sum()
    }
}

/// Whether Linux takes `name` as the name of a directory entry and people can read it.
pub fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= NAME_MAX
        && !name.chars().any(|c| c == '/' || c.is_control())
}

/// The name that each field shows under, beside `taken` entries; fields that can't be shown are left out.
pub fn field_names<'a>(
    fields: impl IntoIterator<Item = &'a str>,
    taken: &BTreeMap<String, Listed>,
) -> BTreeMap<String, &'a str> {
    let fields: BTreeSet<&str> = fields.into_iter().filter(|field| is_file_name(field)).collect();
    let mut names = BTreeMap::new();
    for field in &fields {
        if !taken.contains_key(*field) {
            names.insert((*field).to_owned(), *field);
        }
    }
    for field in &fields {
        if taken.contains_key(*field) {
            let mut name = format!("#{field}");
            while taken.contains_key(&name) || names.contains_key(&name) {
                name.insert(0, '#');
            }
            if is_file_name(&name) {
                names.insert(name, field);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_and_a_folder_of_one_name_are_one_entry() {
        let listing = Listing::new(["same", "same/", "only", "folder/"]);
        let kind = |name: &str| listing.entries.get(name).copied();
        assert_eq!(kind("same"), Some(Listed { folder: true, secret: true }));
        assert_eq!(kind("only"), Some(Listed { folder: false, secret: true }));
        assert_eq!(kind("folder"), Some(Listed { folder: true, secret: false }));
        assert_eq!(listing.skipped, 0);
    }

    #[test]
    fn names_that_can_not_be_file_names_are_counted() {
        let long = "x".repeat(256);
        let listing = Listing::new(["..", ".", "", "/", "a/b", "nul\0", "new\nline", long.as_str(), "100%?"]);
        assert_eq!(listing.entries.keys().collect::<Vec<_>>(), ["100%?"]);
        assert_eq!(listing.skipped, 8);
    }

    #[test]
    fn a_field_that_shares_its_name_with_an_entry_stays_reachable() {
        let taken = Listing::new(["x", "#x/", "z/"]).entries;
        let names = field_names(["x", "y", "##x", "z", "a/b"], &taken);
        let shown: Vec<_> = names.iter().map(|(name, field)| (name.as_str(), *field)).collect();
        assert_eq!(
            shown,
            [("##x", "##x"), ("###x", "x"), ("#z", "z"), ("y", "y")]
                .into_iter()
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .collect::<Vec<_>>()
        );
    }
}
