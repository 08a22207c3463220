//! What an operator has locked: names, and whatever lies below them.
//!
//! Pure data. A lock goes by path alone, so it also covers names that a tree shows later, and it means the
//! same after a restart. Invariant: *no exceptions*: what lies below a locked name is locked; to open a part
//! of it, the wider lock has to go.

use std::collections::BTreeMap;

use crate::core::name::{FileName, NameError};
use crate::core::time::UnixTime;

/// What one lock is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The whole mount.
    Everything,
    /// This name and all that is below it.
    Name(FileName),
}

impl Scope {
    /// Takes a name as an operator types it: slashes around it don't matter, and nothing, or `.`, is the
    /// whole mount.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn new(text: &str) -> Result<Scope, NameError> {
        match text.trim_matches('/') {
            "" | "." => Ok(Scope::Everything),
            name => FileName::new(name).map(Scope::Name),
        }
    }

    /// The name; empty for the whole mount.
    pub fn as_str(&self) -> &str {
        match self {
            Scope::Everything => "",
            Scope::Name(name) => name.as_str(),
        }
    }

    /// Whether `path`, relative to the root, is this name or lies below it.
    pub fn covers(&self, path: &str) -> bool {
        is_at_or_below(path, self.as_str())
    }

    /// Whether `path` is covered, or is a directory on the way to this name.
    pub fn touches(&self, path: &str) -> bool {
        self.covers(path) || is_at_or_below(self.as_str(), path)
    }
}

/// Why something is locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// What the operator said, in one line.
    pub reason: String,
    /// Who locked it.
    pub uid: u32,
    /// When.
    pub since: UnixTime,
}

/// All locks of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locks(BTreeMap<Scope, Lock>);

impl Locks {
    /// Locks these; what is locked already has the new reason from now on.
    pub fn lock(&mut self, scopes: &[Scope], lock: &Lock) {
        self.0.extend(scopes.iter().map(|scope| (scope.clone(), lock.clone())));
    }

    /// Takes away the locks of these, and all locks below them. Returns which there were.
    pub fn unlock(&mut self, scopes: &[Scope]) -> Vec<Scope> {
        let goes = |held: &Scope| scopes.iter().any(|scope| scope.covers(held.as_str()));
        let gone = self.0.keys().filter(|held| goes(held)).cloned().collect();
        self.0.retain(|held, _| !goes(held));
        gone
    }

    /// The lock that covers a path; of several the one that names it most closely.
    pub fn covering(&self, path: &str) -> Option<(&Scope, &Lock)> {
        // Of names that cover one path, a longer one lies below a shorter one.
        self.0.iter().filter(|(scope, _)| scope.covers(path)).max_by_key(|(scope, _)| scope.as_str().len())
    }

    /// Whether nothing is locked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Scope, &Lock)> {
        self.0.iter()
    }
}

impl FromIterator<(Scope, Lock)> for Locks {
    fn from_iter<T: IntoIterator<Item = (Scope, Lock)>>(locks: T) -> Locks {
        Locks(locks.into_iter().collect())
    }
}

fn is_at_or_below(path: &str, above: &str) -> bool {
    above.is_empty() || path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(names: &[&str]) -> Vec<Scope> {
        names.iter().map(|name| Scope::new(name).unwrap()).collect()
    }

    fn locked(names: &[&str]) -> Locks {
        let since = UnixTime { seconds: 0, nanoseconds: 0 };
        let lock = |scope: Scope| {
            let reason = format!("because of {}", scope.as_str());
            (scope, Lock { reason, uid: 0, since })
        };
        scopes(names).into_iter().map(lock).collect()
    }

    #[test]
    fn a_lock_covers_its_name_and_what_is_below_and_no_neighbour() {
        for (lock, path, covered) in [
            ("db", "db", true),
            ("db", "db/password", true),
            ("/db/", "db/a/b", true),
            ("db", "dbs", false),
            ("db", "a/db", false),
            ("db/password", "db", false),
            ("db/password", "db/password2", false),
            ("", "db", true),
            (".", "db/password", true),
            ("/", "", true),
            ("db", "", false),
        ] {
            assert_eq!(Scope::new(lock).unwrap().covers(path), covered, "{lock:?} {path:?}");
        }
    }

    #[test]
    fn a_directory_on_the_way_to_a_locked_name_is_touched_and_not_covered() {
        let scope = Scope::new("kv/weather/key").unwrap();
        for (path, touched) in
            [("", true), ("kv", true), ("kv/weather", true), ("kv/weather/key", true), ("kv/sun", false)]
        {
            assert_eq!(scope.touches(path), touched, "{path}");
        }
    }

    #[test]
    fn the_closest_lock_gives_the_reason() {
        let locks = locked(&["", "db", "db/password"]);
        for (path, reason) in [
            ("db/password", "because of db/password"),
            ("db/user", "because of db"),
            ("x", "because of "),
            ("", "because of "),
        ] {
            assert_eq!(locks.covering(path).unwrap().1.reason, reason, "{path}");
        }
        assert_eq!(locked(&["db"]).covering("x"), None);
    }

    #[test]
    fn an_unlock_takes_what_is_below_along_and_leaves_what_is_above() {
        for (held, unlocked, gone, left) in [
            (&["db", "db/a", "x"][..], &["db"][..], &["db", "db/a"][..], &["x"][..]),
            (&["db"], &["db/a"], &[], &["db"]),
            (&["db", "x"], &[""], &["db", "x"], &[]),
            (&["", "x"], &["x"], &["x"], &[""]),
            (&[""], &[""], &[""], &[]),
            (&[], &["x"], &[], &[]),
        ] {
            let mut locks = locked(held);
            assert_eq!(locks.unlock(&scopes(unlocked)), scopes(gone), "{held:?} - {unlocked:?}");
            assert_eq!(locks, locked(left), "{held:?} - {unlocked:?}");
        }
    }

    #[test]
    fn a_second_lock_of_a_name_has_its_own_reason() {
        let mut locks = locked(&["db"]);
        let again =
            Lock { reason: "once more".to_owned(), uid: 7, since: UnixTime { seconds: 9, nanoseconds: 0 } };
        locks.lock(&scopes(&["db"]), &again);
        assert_eq!(locks.iter().map(|(_, lock)| lock).collect::<Vec<_>>(), [&again]);
    }

    #[test]
    fn a_name_that_no_file_can_have_can_not_be_locked() {
        for name in ["..", "a/../b", "a//b", "a\nb"] {
            assert!(Scope::new(name).is_err(), "{name:?}");
        }
    }
}
