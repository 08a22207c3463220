//! The directory that the tree of a command is mounted on.
//!
//! A fresh one is empty and stays so: the tree is mounted over it in the command's namespace alone, and all
//! that others ever see is the empty directory. Dropped, it is removed.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::sys::{self, namespace};

/// What the names of fresh directories begin with.
const NAME: &str = "leasefs-run.";

/// Letters and digits after that: as many as nobody guesses.
const LETTERS: usize = 12;

/// How often another name is tried.
const TRIES: usize = 16;

/// Where the tree is mounted.
#[derive(Debug)]
pub enum Place {
    /// A directory of the user.
    Given(PathBuf),
    /// One that goes with the command.
    Fresh(PathBuf),
}

impl Place {
    /// A fresh directory: for root below `/run`, so that a command that gives up root still gets there, for
    /// others below `$XDG_RUNTIME_DIR`; below `/tmp` if that is not there.
    ///
    /// # Errors
    /// What the system says.
    pub fn fresh() -> io::Result<Place> {
        let (uid, _) = sys::effective_ids();
        let of_user = || std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let first = if uid == 0 { Some(PathBuf::from("/run")) } else { of_user() };
        let first = first.filter(|path| path.is_absolute()).and_then(|path| path.canonicalize().ok());
        match first.map(|parent| Place::below(&parent)) {
            Some(Ok(place)) => Ok(place),
            Some(Err(_)) | None => Place::below(&std::env::temp_dir().canonicalize()?),
        }
    }

    fn below(parent: &Path) -> io::Result<Place> {
        let mut tries = 0;
        loop {
            let letters: String = std::iter::repeat_with(fastrand::alphanumeric).take(LETTERS).collect();
            let path = parent.join(format!("{NAME}{letters}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Place::Fresh(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        match self {
            Place::Given(path) | Place::Fresh(path) => path,
        }
    }

    /// Removes a fresh directory, if it is still there.
    pub fn remove(&self) {
        // The other process may have removed it already; if that one was killed, its dead mount is in the way.
        if let Place::Fresh(path) = self
            && fs::remove_dir(path).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
            && namespace::detach(path).is_ok()
        {
            let _ = fs::remove_dir(path);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_fresh_directory_is_the_users_alone_and_goes_with_its_value() {
        let parent = tempfile::tempdir().unwrap();
        let (one, two) = (Place::below(parent.path()).unwrap(), Place::below(parent.path()).unwrap());
        assert_ne!(one.path(), two.path());
        let path = one.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
        drop(one);
        assert!(!path.exists());
    }
}
