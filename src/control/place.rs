//! Where the socket of a mount lies: one directory per user, one socket per mount point.
//!
//! The name of a socket is its mount point, written as systemd writes paths into the names of units
//! (systemd-escape(1)), so that it can be read back. A socket's whole path has to fit 108 bytes
//! (unix(7)): for a longer one a hash of the mount point is its name.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::control::ControlError;
use crate::control::listener::{self, Listener};
use crate::sys::{self, LockedFile};

/// Where the sockets of root's mounts lie.
const ROOTS: &str = "/run/leasefs-control";

/// Where those of systemd's units lie, whose servers are not root (`RuntimeDirectory=` of the unit).
const UNITS: &str = "/run/leasefs-control/units";

/// The name of the directory below a user's own runtime directory.
const NAME: &str = "leasefs-control";

/// The longest path of a socket, in bytes, its final NUL left out (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// What names of sockets end in.
const SUFFIX: &str = ".sock";

/// What the names of sockets begin with whose mount point would be too long.
const HASHED: &str = "hash=";

/// A directory of control sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlDirectory(PathBuf);

impl ControlDirectory {
    /// That of the user whom this process runs as: below `$XDG_RUNTIME_DIR`, unless that is somebody else's, as
    /// after su(1), else where systemd makes one.
    ///
    /// # Errors
    /// [`ControlError::NoDirectory`].
    pub fn own() -> Result<ControlDirectory, ControlError> {
        let (uid, _) = sys::effective_ids();
        if uid == 0 {
            return Ok(ControlDirectory::at(ROOTS));
        }
        let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let usual = runtime_directory(uid);
        let found = named.iter().chain([&usual]).find(|directory| is_of(directory, uid));
        match found {
            Some(directory) => Ok(ControlDirectory(directory.join(NAME))),
            None => Err(ControlError::NoDirectory { named, usual }),
        }
    }

    /// A certain one.
    pub fn at(path: impl Into<PathBuf>) -> ControlDirectory {
        ControlDirectory(path.into())
    }

    /// That of another user, as systemd lays it out (`$XDG_RUNTIME_DIR`, pam_systemd(8)).
    pub fn of_user(uid: u32) -> ControlDirectory {
        match uid {
            0 => ControlDirectory::at(ROOTS),
            _ => ControlDirectory(runtime_directory(uid).join(NAME)),
        }
    }

    /// That of systemd's units.
    pub fn of_units() -> ControlDirectory {
        ControlDirectory::at(UNITS)
    }

    /// Whether a socket of this mount is in it.
    pub fn has(&self, mount_point: &Path) -> bool {
        self.socket(mount_point).is_ok_and(|socket| socket.exists())
    }

    /// Where a user looks who says no more: in their own, then in root's. Never in that of another user,
    /// who could pretend to serve any mount.
    pub(super) fn usual() -> Vec<ControlDirectory> {
        let mut usual: Vec<ControlDirectory> = ControlDirectory::own().into_iter().collect();
        if usual.iter().all(|own| own.0 != Path::new(ROOTS)) {
            usual.push(ControlDirectory::at(ROOTS));
        }
        usual.push(ControlDirectory::at(UNITS));
        usual
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Opens the socket of a mount. A socket that a dead daemon left behind is replaced.
    ///
    /// # Errors
    /// [`ControlError`], all but `NoDirectory`.
    pub fn listen(&self, mount_point: &Path) -> Result<Listener, ControlError> {
        self.make()?;
        let socket = self.socket(mount_point)?;
        let _held = self.lock()?;
        self.sweep();
        Listener::bind(&socket, mount_point)
    }

    /// Removes what a server has left behind that may not do so itself.
    pub fn tidy(&self) {
        if let Ok(_held) = self.lock() {
            self.sweep();
        }
    }

    /// Two daemons that find the same dead socket must not both replace it. The file can't be locked by others,
    /// since they can't open it.
    fn lock(&self) -> Result<LockedFile, ControlError> {
        let lock = self.0.join(".lock");
        let not_made =
            |error: io::Error| ControlError::NotMade { path: lock.clone(), trouble: error.to_string() };
        let mut options = OpenOptions::new();
        let file =
            options.write(true).create(true).truncate(false).mode(0o600).open(&lock).map_err(not_made)?;
        sys::lock_file(file).map_err(not_made)
    }

    /// Removes the sockets that killed daemons left behind. The lock must be held: a daemon that is about
    /// to listen does not answer yet either.
    fn sweep(&self) {
        for (socket, _) in self.sockets() {
            if listener::is_dead(&socket) {
                // Somebody else's to remove, or gone already: nothing is lost.
                let _ = fs::remove_file(socket);
            }
        }
    }

    /// The path of a mount's socket.
    ///
    /// # Errors
    /// [`ControlError::TooLong`].
    pub(super) fn socket(&self, mount_point: &Path) -> Result<PathBuf, ControlError> {
        let plain = self.0.join(escape(mount_point) + SUFFIX);
        if plain.as_os_str().len() <= SOCKET_PATH_MAX {
            return Ok(plain);
        }
        let hash = hash(mount_point.as_os_str().as_bytes());
        let hashed = self.0.join(format!("{HASHED}{hash:016x}{SUFFIX}"));
        if hashed.as_os_str().len() <= SOCKET_PATH_MAX {
            return Ok(hashed);
        }
        Err(ControlError::TooLong { path: self.0.clone() })
    }

    /// Every socket in it, with its mount point if the name tells; none if it can't be read.
    pub(super) fn sockets(&self) -> Vec<(PathBuf, Option<PathBuf>)> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut sockets: Vec<(PathBuf, Option<PathBuf>)> = entries
            .filter_map(|entry| {
                let name = entry.file_name();
                let stem = name.to_str()?.strip_suffix(SUFFIX)?;
                Some((entry.path(), unescape(stem)))
            })
            .collect();
        sockets.sort();
        sockets
    }

    /// Makes it if it is not there, and sees to it that nobody else can put anything into it. Others may
    /// look at root's, so that `leasefs status` can tell them whose mount it is.
    fn make(&self) -> Result<(), ControlError> {
        let not_made =
            |error: io::Error| ControlError::NotMade { path: self.0.clone(), trouble: error.to_string() };
        let (uid, _) = sys::effective_ids();
        let mode = if uid == 0 { 0o755 } else { 0o700 };
        match DirBuilder::new().mode(mode).create(&self.0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(not_made(error)),
        }
        let found = fs::symlink_metadata(&self.0).map_err(not_made)?;
        if !found.is_dir() || found.uid() != uid || found.mode() & 0o022 != 0 {
            return Err(ControlError::UnsafeDirectory { path: self.0.clone() });
        }
        Ok(())
    }
}

/// Where systemd makes the runtime directory of a user who has a session, or lingers (pam_systemd(8)).
fn runtime_directory(uid: u32) -> PathBuf {
    Path::new("/run/user").join(uid.to_string())
}

/// Whether it is a directory of this user's. What is in it is checked when it is made.
fn is_of(directory: &Path, uid: u32) -> bool {
    let found = fs::metadata(directory);
    directory.is_absolute() && found.is_ok_and(|found| found.is_dir() && found.uid() == uid)
}

/// The longest name of a file that is named after a mount point, in bytes; leaves room for a draft's.
const FILE_NAME_MAX: usize = 200;

/// The name of a file about a mount, in a directory of such files.
pub(super) fn file_name(mount_point: &Path, suffix: &str) -> String {
    let plain = escape(mount_point) + suffix;
    if plain.len() <= FILE_NAME_MAX {
        return plain;
    }
    format!("{HASHED}{:016x}{suffix}", hash(mount_point.as_os_str().as_bytes()))
}

/// A path as a name: `/` becomes `-`, and what is neither a letter nor a digit nor one of `:_.` becomes
/// `\xHH`, as does a dot at the beginning.
fn escape(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let trimmed = bytes.strip_prefix(b"/").unwrap_or(bytes);
    if trimmed.is_empty() {
        return "-".to_owned();
    }
    let mut name = String::with_capacity(trimmed.len());
    for (index, byte) in trimmed.iter().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if index == 0 => name.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => name.push(char::from(*byte)),
            _ => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    name
}

/// The path that a name was made of; `None` if it was not made by [`escape`].
fn unescape(name: &str) -> Option<PathBuf> {
    if name == "-" {
        return Some(PathBuf::from("/"));
    }
    let mut path = vec![b'/'];
    let mut rest = name.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'-', _) => (b'/', after),
            (b'\\', [b'x', high, low, after @ ..]) => {
                let hex = [*high, *low];
                (u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?, after)
            }
            (b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.', _) => (*first, after),
            _ => return None,
        };
        path.push(byte);
        rest = after;
    }
    let path = PathBuf::from(OsString::from_vec(path));
    (escape(&path) == name).then_some(path)
}

/// FNV-1a, 64 bits: the same in every version of leasefs.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_be_read_back_whatever_bytes_the_path_has() {
        for (path, name) in [
            ("/", "-"),
            ("/run/leasefs/agent", "run-leasefs-agent"),
            ("/srv/a-b", "srv-a\\x2db"),
            ("/.hidden/.x", "\\x2ehidden-.x"),
            ("/a b\\c", "a\\x20b\\x5cc"),
            ("/ü", "\\xc3\\xbc"),
        ] {
            assert_eq!(escape(Path::new(path)), name);
            assert_eq!(unescape(name), Some(PathBuf::from(path)));
        }
        let every = OsString::from_vec((1..=255).filter(|byte| *byte != b'/').collect());
        let path = Path::new("/x").join(every);
        assert_eq!(unescape(&escape(&path)), Some(path));
    }

    #[test]
    fn a_name_that_is_no_escaped_path_is_not_taken_for_one() {
        for name in ["a b", "\\x", "\\xzz", "hash=0123456789abcdef", "\\x61", "", "a/b"] {
            assert_eq!(unescape(name), None, "{name}");
        }
    }

    #[test]
    fn nobody_is_sent_to_the_directory_of_another_user_unasked() {
        assert_eq!(ControlDirectory::of_user(0), ControlDirectory::at(ROOTS));
        assert_eq!(ControlDirectory::of_user(1000), ControlDirectory::at("/run/user/1000/leasefs-control"));
        assert!(ControlDirectory::usual().contains(&ControlDirectory::at(ROOTS)));
        assert!(ControlDirectory::usual().len() <= 2);
    }

    #[test]
    fn a_socket_always_fits_its_address() {
        let directory = ControlDirectory::at("/run/leasefs-control");
        let short = directory.socket(Path::new("/run/leasefs/agent")).unwrap();
        assert_eq!(short, Path::new("/run/leasefs-control/run-leasefs-agent.sock"));
        let deep = PathBuf::from(format!("/{}", "d/".repeat(100)));
        let long = directory.socket(&deep).unwrap();
        assert!(long.as_os_str().len() <= SOCKET_PATH_MAX);
        assert_ne!(long, directory.socket(&deep.join("e")).unwrap());
        let nowhere = ControlDirectory::at(format!("/{}", "x".repeat(100)));
        assert!(matches!(nowhere.socket(&deep), Err(ControlError::TooLong { .. })));
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
