//! Where the locks of a mount outlive its daemon: one small file for each mount point.
//!
//! Invariants: *fail closed*: a file that is there and can't be understood is an error, never "no locks";
//! *whole or not at all*: a new state takes the place of the old one by a rename; *no secrets*: names,
//! reasons, who and when.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::control::place::file_name;
use crate::core::locks::{Lock, Locks, Scope};
use crate::core::time::UnixTime;
use crate::sys;

/// The form of the file.
const VERSION: u32 = 1;

/// Where root's lie, unless systemd says otherwise (`StateDirectory=leasefs` is the same place).
const ROOTS: &str = "/var/lib/leasefs";

/// The name of the directory below a user's own state directory.
const NAME: &str = "leasefs";

/// What the names of the files end in.
const SUFFIX: &str = ".locks.json";

/// Nobody has more locks than fit, in bytes.
const LONGEST: u64 = 4 << 20;

/// Why the locks of a mount can't be told. Each says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LockStoreError {
    /// It is there and can't be read.
    #[error(
        "{}: the locks of this mount can't be read ({trouble}), so it is not mounted: make the file readable, \
         or remove it if nothing is to be locked", path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        trouble: String,
    },
    /// It is there and is not what was written.
    #[error(
        "{}: the locks of this mount can't be understood ({trouble}), so it is not mounted: restore the file, \
         or remove it if nothing is to be locked", path.display()
    )]
    NotUnderstood {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        trouble: String,
    },
    /// It is where another server of the mount had it, and can't be brought along.
    #[error(
        "{}: the locks of this mount can't be moved ({trouble}), so it is not mounted: remove what is in the way, \
         or the file if nothing is to be locked", path.display()
    )]
    NotMoved {
        /// What could not be moved or made.
        path: PathBuf,
        /// What the system said.
        trouble: String,
    },
    /// Somebody else could have written it.
    #[error(
        "{}: others than user {uid} and root could change the locks of this mount, so it is not mounted: \
         chown it to that user and chmod it to 0600, or remove it if nothing is to be locked", path.display()
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Whose it should be.
        uid: u32,
    },
}

/// The file that keeps a mount's locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockStore {
    mount_point: PathBuf,
    keep: Keep,
}

/// Where the file lies.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Keep {
    /// In this directory.
    In(PathBuf),
    /// This user has no place for it.
    Nowhere,
    /// There is none, as the mount never comes again.
    Needless,
}

/// The file, as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    v: u32,
    mount_point: String,
    locks: Vec<StoredLock>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredLock {
    name: String,
    reason: String,
    uid: u32,
    since: String,
}

impl LockStore {
    /// That of a mount of the user whom this process runs as: below `$STATE_DIRECTORY` (systemd.exec(5)),
    /// else `/var/lib/leasefs` for root, else `$XDG_STATE_HOME/leasefs` or `~/.local/state/leasefs`.
    pub fn usual(mount_point: &Path) -> LockStore {
        let (uid, _) = sys::effective_ids();
        let keep = directory_for(uid, std::env::var_os::<&str>).map_or(Keep::Nowhere, Keep::In);
        LockStore { mount_point: mount_point.to_owned(), keep }
    }

    /// This one of root's, if another user serves the mount: beside it, in a directory of that user; `None`: root
    /// serves it. To be called by root; what is stored where it was before, since somebody else served
    /// the mount, comes with it.
    ///
    /// # Errors
    /// [`LockStoreError::NotMoved`].
    pub fn of_server(self, server: Option<(u32, u32)>) -> Result<LockStore, LockStoreError> {
        let usual = self;
        let Keep::In(roots) = &usual.keep else { return Ok(usual) };
        let others = beside(roots);
        let not_moved = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| LockStoreError::NotMoved { path, trouble: error.to_string() }
        };
        let store = match server {
            None => usual.clone(),
            Some((uid, gid)) => {
                let own = others.join(uid.to_string());
                make_for(&others, &own, uid, gid).map_err(not_moved(&own))?;
                LockStore { keep: Keep::In(own), ..usual.clone() }
            }
        };
        let Some(path) = store.path() else { return Ok(store) };
        let owner = server.unwrap_or((0, 0));
        let users = fs::read_dir(&others).into_iter().flatten().flatten().map(|entry| entry.path());
        for from in users.chain([roots.clone()]) {
            let from = from.join(file_name(&usual.mount_point, SUFFIX));
            if from != path && fs::symlink_metadata(&from).is_ok() {
                carry(&from, &path, owner).map_err(not_moved(&from))?;
            }
        }
        Ok(store)
    }

    /// That of a mount at a path that no other will have: its locks end with it.
    pub fn for_once(mount_point: &Path) -> LockStore {
        LockStore { mount_point: mount_point.to_owned(), keep: Keep::Needless }
    }

    /// One in a certain directory.
    pub fn within(directory: &Path, mount_point: &Path) -> LockStore {
        LockStore { mount_point: mount_point.to_owned(), keep: Keep::In(directory.to_owned()) }
    }

    /// The file, if there is one, and if this user has a place for it.
    pub fn path(&self) -> Option<PathBuf> {
        match &self.keep {
            Keep::In(directory) => Some(directory.join(file_name(&self.mount_point, SUFFIX))),
            Keep::Nowhere | Keep::Needless => None,
        }
    }

    /// What was locked when the daemon ended; nothing if the file is not there.
    ///
    /// # Errors
    /// [`LockStoreError`].
    pub fn load(&self) -> Result<Locks, LockStoreError> {
        let Some(path) = self.path() else { return Ok(Locks::default()) };
        let unreadable =
            |error: io::Error| LockStoreError::Unreadable { path: path.clone(), trouble: error.to_string() };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Locks::default()),
            Err(error) => return Err(unreadable(error)),
        };
        let found = file.metadata().map_err(unreadable)?;
        let (uid, _) = sys::effective_ids();
        if ![0, uid].contains(&found.uid()) || found.mode() & 0o022 != 0 {
            return Err(LockStoreError::NotOurs { path, uid });
        }
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text).map_err(unreadable)?;
        self.parse(&text).map_err(|trouble| LockStoreError::NotUnderstood { path, trouble })
    }

    fn parse(&self, text: &str) -> Result<Locks, String> {
        #[derive(Deserialize)]
        struct Versioned {
            v: u32,
        }
        let versioned: Versioned = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if versioned.v != VERSION {
            return Err(format!("it is of version {}, and this leasefs writes {VERSION}", versioned.v));
        }
        let stored: Stored = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if stored.mount_point != self.mount_point.display().to_string() {
            return Err(format!("it is about {}", stored.mount_point));
        }
        stored.locks.into_iter().map(StoredLock::understand).collect()
    }

    /// Puts this state in the place of what was stored. Blocks until it is on the disk.
    ///
    /// # Errors
    /// Why it would not survive a restart, in words.
    pub fn store(&self, locks: &Locks) -> Result<(), String> {
        let Some(path) = self.path() else {
            if self.keep == Keep::Needless {
                return Ok(());
            }
            return Err("there is no directory for it: set XDG_STATE_HOME or HOME".to_owned());
        };
        let told = |error: io::Error| format!("{} can't be written: {error}", path.display());
        match locks.is_empty() {
            true => remove(&path).map_err(told),
            false => replace(&path, &self.text(locks)).map_err(told),
        }
    }

    fn text(&self, locks: &Locks) -> Vec<u8> {
        let stored = |(scope, lock): (&Scope, &Lock)| StoredLock {
            name: scope.as_str().to_owned(),
            reason: lock.reason.clone(),
            uid: lock.uid,
            since: lock.since.to_string(),
        };
        let stored = Stored {
            v: VERSION,
            mount_point: self.mount_point.display().to_string(),
            locks: locks.iter().map(stored).collect(),
        };
        // Numbers, texts and lists can always be written as JSON.
        let mut text = serde_json::to_vec_pretty(&stored).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

impl StoredLock {
    fn understand(self) -> Result<(Scope, Lock), String> {
        let scope = Scope::new(&self.name).map_err(|error| format!("the name {:?} {error}", self.name))?;
        let since = humantime::parse_rfc3339(&self.since)
            .map_err(|_| format!("{:?} is no time as in RFC 3339", self.since))?;
        let since = since.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let since = UnixTime { seconds, nanoseconds: 0 };
        Ok((scope, Lock { reason: self.reason, uid: self.uid, since }))
    }
}

/// The directory of a user's locks.
fn directory_for(uid: u32, variable: impl Fn(&'static str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // Several are separated by colons; the first one is as good as any.
    let given = variable("STATE_DIRECTORY").and_then(|given| {
        let first = given.to_str()?.split(':').next().map(PathBuf::from)?;
        first.is_absolute().then_some(first)
    });
    given
        .or_else(|| (uid == 0).then(|| PathBuf::from(ROOTS)))
        .or_else(|| absolute("XDG_STATE_HOME").map(|state| state.join(NAME)))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state").join(NAME)))
}

/// Where the directories of users lie who serve mounts of root's.
fn beside(roots: &Path) -> PathBuf {
    let mut name = roots.file_name().unwrap_or(OsStr::new(NAME)).to_owned();
    name.push("-users");
    roots.with_file_name(name)
}

/// A directory for a user, in one in which root alone makes any.
fn make_for(all: &Path, own: &Path, uid: u32, gid: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(all)?;
    match DirBuilder::new().mode(0o700).create(own) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => lchown(own, Some(uid), Some(gid)),
    }
}

/// Takes a file along to where the mount's new server looks for it, unless there is one. Whoever it belonged to may
/// have put anything there, so that no symlink is followed.
fn carry(from: &Path, to: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    if fs::symlink_metadata(to).is_err() {
        let file = sys::descriptors::open_itself(from)?;
        let mut text = Vec::new();
        file.take(LONGEST).read_to_end(&mut text)?;
        replace(to, &text)?;
        lchown(to, Some(uid), Some(gid))?;
    }
    remove(from)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_directory_of(path),
    }
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let name = path.file_name().unwrap_or(OsStr::new("locks")).to_string_lossy();
    // One daemon serves a mount, so nobody else writes this draft; what a killed one left is overwritten.
    let draft = directory.join(format!(".{name}.draft"));
    let _ = fs::remove_file(&draft);
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).and_then(|mut file| {
            file.write_all(text)?;
            file.sync_all()
        });
    let replaced = written.and_then(|()| fs::rename(&draft, path)).and_then(|()| sync_directory_of(path));
    if replaced.is_err() {
        let _ = fs::remove_file(&draft);
    }
    replaced
}

/// A rename is on the disk once its directory is.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const MOUNT_POINT: &str = "/run/leasefs/a-1";

    fn locks() -> Locks {
        let since = UnixTime { seconds: 1_767_323_045, nanoseconds: 0 };
        let lock = |reason: &str| Lock { reason: reason.to_owned(), uid: 7, since };
        let scopes = [("", "\"everything\" – for now"), ("db/password", "incident 12")];
        scopes.into_iter().map(|(name, reason)| (Scope::new(name).unwrap(), lock(reason))).collect()
    }

    fn store(directory: &tempfile::TempDir) -> LockStore {
        LockStore::within(&directory.path().join("state"), Path::new(MOUNT_POINT))
    }

    #[test]
    fn what_was_stored_is_loaded_and_belongs_to_its_user_alone() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        assert_eq!(store.load(), Ok(Locks::default()), "nothing was ever locked");
        store.store(&locks()).unwrap();
        assert_eq!(store.load(), Ok(locks()));
        let path = store.path().unwrap();
        assert!(path.ends_with("run-leasefs-a\\x2d1.locks.json"), "{}", path.display());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft is left");
        store.store(&Locks::default()).unwrap();
        assert!(!path.exists());
        store.store(&Locks::default()).unwrap();
    }

    #[test]
    fn a_file_that_can_not_be_understood_is_never_taken_for_no_locks() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        store.store(&locks()).unwrap();
        let path = store.path().unwrap();
        let good = fs::read_to_string(&path).unwrap();
        for (bad, why) in [
            (String::new(), "EOF"),
            (good[..good.len() / 2].to_owned(), "EOF"),
            (good.replace("\"v\": 1", "\"v\": 2"), "version 2"),
            (good.replace(MOUNT_POINT, "/mnt/x"), "about /mnt/x"),
            (good.replace("db/password", "../x"), "\"../x\""),
            (good.replace("2026-", "soon-"), "RFC 3339"),
            (good.replace("\"uid\"", "\"gid\""), "gid"),
        ] {
            fs::write(&path, &bad).unwrap();
            let error = store.load().unwrap_err();
            assert!(matches!(error, LockStoreError::NotUnderstood { .. }), "{bad}: {error:?}");
            let error = error.to_string();
            assert!(error.contains(why) && error.contains("remove it"), "{bad}: {error}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(store.load(), Err(LockStoreError::Unreadable { .. })));
    }

    #[test]
    fn a_file_that_others_may_write_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        store.store(&locks()).unwrap();
        fs::set_permissions(store.path().unwrap(), fs::Permissions::from_mode(0o620)).unwrap();
        assert!(matches!(store.load(), Err(LockStoreError::NotOurs { .. })));
    }

    #[test]
    fn a_state_that_can_not_be_written_is_told_and_nothing_is_left_of_the_try() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        let path = store.path().unwrap();
        fs::create_dir_all(&path).unwrap();
        let error = store.store(&locks()).unwrap_err();
        assert!(error.contains("can't be written"), "{error}");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let nowhere = LockStore { mount_point: PathBuf::from(MOUNT_POINT), keep: Keep::Nowhere };
        assert!(nowhere.store(&locks()).unwrap_err().contains("XDG_STATE_HOME"));
        assert_eq!(nowhere.load(), Ok(Locks::default()));
    }

    #[test]
    fn each_user_has_a_place_of_their_own() {
        for (uid, variables, expected) in [
            (0, &[][..], Some("/var/lib/leasefs")),
            (0, &[("STATE_DIRECTORY", "/var/lib/x:/var/lib/y"), ("HOME", "/root")], Some("/var/lib/x")),
            (0, &[("STATE_DIRECTORY", "x")], Some("/var/lib/leasefs")),
            (7, &[("HOME", "/home/a")], Some("/home/a/.local/state/leasefs")),
            (7, &[("HOME", "/home/a"), ("XDG_STATE_HOME", "/state")], Some("/state/leasefs")),
            (7, &[("HOME", "/home/a"), ("XDG_STATE_HOME", "state")], Some("/home/a/.local/state/leasefs")),
            (7, &[("STATE_DIRECTORY", "/s"), ("HOME", "/home/a")], Some("/s")),
            (7, &[], None),
        ] {
            let variable = |name: &'static str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
            };
            assert_eq!(directory_for(uid, variable), expected.map(PathBuf::from), "{uid} {variables:?}");
        }
    }
}
