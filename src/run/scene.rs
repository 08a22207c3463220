//! What the command sees outside of its tree: files bound over others, in a namespace that the server is not
//! in, so that the server still reads the credentials that are covered here.
//!
//! Dropped, all of it is taken away again: what stayed mounted here would keep the server from ending the
//! mount.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::sys::namespace;

/// What a covered credential reads like: empty.
const NOTHING: &str = "/dev/null";

/// A file, or a directory, that is shown at another path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Its name in the tree.
    pub name: String,
    /// Where it is shown: absolute.
    pub at: PathBuf,
}

/// Why the command can't be shown what it was promised.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SceneError {
    /// No namespace for it.
    #[error("the command's own namespace can't be made: {}: run as root", text(*errno))]
    NoNamespace {
        /// What the system said.
        errno: i32,
    },
    /// A file that can't be bound.
    #[error(
        "{name} can't be shown at {}: {}: both must be files, or both directories",
        at.display(), text(*errno)
    )]
    NotBound {
        /// Its name in the tree.
        name: String,
        /// Where it was to be shown.
        at: PathBuf,
        /// What the system said.
        errno: i32,
    },
    /// A credential that stays in sight.
    #[error(
        "{} can't be hidden from the command: {}: move it away, or write --keep-vault-env",
        path.display(), text(*errno)
    )]
    NotHidden {
        /// The credential.
        path: PathBuf,
        /// What the system said.
        errno: i32,
    },
}

fn text(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// All that was mounted for the command, and the tree as it is seen from here.
#[derive(Debug)]
pub struct Scene {
    mounted: Vec<PathBuf>,
}

impl Scene {
    /// Moves this process, which is in the server's namespace, into one of the command, binds what is to be
    /// bound, and covers what is to be hidden.
    ///
    /// # Errors
    /// [`SceneError`].
    pub fn set(tree: &Path, binds: &[Bind], hidden: &[PathBuf]) -> Result<Scene, SceneError> {
        let errno = |error: &io::Error| error.raw_os_error().unwrap_or_default();
        namespace::own_mounts().map_err(|error| SceneError::NoNamespace { errno: errno(&error) })?;
        let mut scene = Scene { mounted: vec![tree.to_owned()] };
        for path in hidden {
            namespace::bind(Path::new(NOTHING), path)
                .map_err(|error| SceneError::NotHidden { path: path.clone(), errno: errno(&error) })?;
            scene.mounted.push(path.clone());
        }
        for Bind { name, at } in binds {
            namespace::bind(&tree.join(name), at).map_err(|error| SceneError::NotBound {
                name: name.clone(),
                at: at.clone(),
                errno: errno(&error),
            })?;
            scene.mounted.push(at.clone());
        }
        Ok(scene)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for path in self.mounted.iter().rev() {
            // Whatever is left goes with the namespace.
            let _ = namespace::detach(path);
        }
    }
}
