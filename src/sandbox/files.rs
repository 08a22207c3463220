//! Which files the process needs later, and in which directories they may be replaced.
//!
//! Landlock's rules stand for inodes. A credential is replaced by a rename, which is another inode, so its
//! directory has to be readable, with all that is in it. That is right for a directory of its own, such as
//! `/etc/leasefs` or `$CREDENTIALS_DIRECTORY`. In one that is shared with much else, such as `/etc` or a home, the
//! file alone can be read, as long as it is not replaced: it is *pinned*.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::config::plan::{CredentialSource, Method, MountPlan};
use crate::sandbox::{Crowd, Places};

/// What getaddrinfo(3) reads (nsswitch.conf(5), resolv.conf(5), gai.conf(5)), and where the modules of the name
/// service lie (nss(5)).
const RESOLVER: [&str; 10] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/hostname",
    "/etc/machine-id",
    "/etc/services",
    "/etc/protocols",
    "/etc/ld.so.cache",
];
const LIBRARIES: [&str; 6] = ["/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];

/// Where distributions keep the certificates of authorities (the list of rustls-native-certs' openssl-probe, but
/// for directories that hold private keys as well).
const AUTHORITIES: [&str; 9] = [
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/var/lib/ca-certificates",
];

/// Callers' groups and the list of mounts; random numbers where getrandom(2) is not there.
const KERNEL: [&str; 4] = ["/proc", "/dev/urandom", "/dev/random", "/dev/null"];

/// Directories that are shared with much else, beside homes and those that everybody may write to.
const SHARED: [&str; 26] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/run/credentials",
    "/run/user",
    "/sbin",
    "/srv",
    "/sys",
    "/usr",
    "/usr/local",
    "/usr/local/etc",
    "/usr/share",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/spool",
];

/// How many symlinks are followed (path_resolution(7)).
const LINKS: usize = 40;

/// What can be opened later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Files, and directories with all that is in them.
    pub read: BTreeSet<PathBuf>,
    /// Directories in which files and sockets are made, replaced and removed.
    pub write: BTreeSet<PathBuf>,
    /// Directories of which empty directories are removed.
    pub remove: BTreeSet<PathBuf>,
    /// Files outside directories of their own.
    single: BTreeSet<PathBuf>,
    crowd: Crowd,
}

impl Needs {
    /// Of a plan, and of what it does not know.
    pub fn of(plan: &MountPlan, places: &Places) -> Needs {
        let mut needs = Needs { crowd: places.crowd, ..Needs::default() };
        needs.read.extend(KERNEL.into_iter().chain(LIBRARIES).map(PathBuf::from));
        for path in RESOLVER {
            needs.replaceable(Path::new(path));
        }
        let vault = &plan.vault;
        let https = vault.addresses.iter().any(|address| address.starts_with("https:"));
        if https && vault.ca_cert.is_none() {
            needs.read.extend(AUTHORITIES.into_iter().map(PathBuf::from));
            let variables = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
            needs.read.extend(variables.into_iter().filter_map(std::env::var_os).map(PathBuf::from));
        }
        for path in credentials(plan).into_iter().chain(places.config.as_deref()) {
            needs.replaceable(path);
        }
        needs.remove.extend(places.mount_point.iter().filter_map(|path| path.parent()).map(Path::to_owned));
        needs.write.extend(places.control.iter().chain(&places.locks).cloned());
        needs
    }

    /// Files that can be read only as long as they are not replaced.
    pub fn pinned(&self) -> Vec<Pinned> {
        self.single.iter().map(|path| Pinned::now(path.clone())).collect()
    }

    /// A file that may be replaced, and may be a chain of symlinks through directories that are replaced as a
    /// whole, as Kubernetes does it.
    fn replaceable(&mut self, path: &Path) {
        let mut hop = path.to_owned();
        for _ in 0..LINKS {
            match hop.parent().and_then(|parent| parent.canonicalize().ok()) {
                Some(parent) if self.crowd == Crowd::Open || !is_shared(&parent) => {
                    self.read.insert(parent);
                }
                Some(_) | None => {
                    self.read.insert(hop.clone());
                    self.single.insert(hop.clone());
                }
            }
            let Ok(target) = fs::read_link(&hop) else { return };
            hop = hop.parent().unwrap_or(Path::new("/")).join(target);
        }
    }
}

/// Whether a directory holds much that has nothing to do with a certain file in it.
fn is_shared(directory: &Path) -> bool {
    let home = std::env::var_os("HOME").and_then(|home| Path::new(&home).canonicalize().ok());
    let above = directory.parent();
    SHARED.iter().any(|shared| directory == Path::new(shared))
        || home.is_some_and(|home| directory == home)
        || [Path::new("/home"), Path::new("/run/user")].into_iter().any(|homes| above == Some(homes))
        || fs::metadata(directory).is_ok_and(|found| found.mode() & 0o1002 != 0)
}

/// Makes a directory for this user alone, and those above it.
pub(super) fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// The files that a server reads to log in, and to know Vault by.
pub fn credentials(plan: &MountPlan) -> Vec<&Path> {
    let of_identities = plan.identities.iter().flat_map(|identity| match &identity.method {
        Method::Token { token } => vec![token],
        Method::AppRole { role_id, secret_id, .. } => {
            [role_id].into_iter().chain(secret_id.as_ref()).collect()
        }
    });
    let files = of_identities.filter_map(|source| match source {
        CredentialSource::File(path) => Some(path),
        CredentialSource::Variable(_) | CredentialSource::Literal(_) => None,
    });
    let client = plan.vault.client_certificate.iter().flat_map(|(certificate, key)| [certificate, key]);
    files.chain(&plan.vault.ca_cert).chain(client).map(PathBuf::as_path).collect()
}

/// A file that can be read only as long as it stays the one that it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pinned {
    path: PathBuf,
    was: Option<Inode>,
}

/// Device and inode number.
type Inode = (u64, u64);

impl Pinned {
    fn now(path: PathBuf) -> Pinned {
        let was = inode(&path);
        Pinned { path, was }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether another one stands there; one that is gone is none.
    pub fn is_replaced(&self) -> bool {
        inode(&self.path).is_some_and(|is| Some(is) != self.was)
    }
}

/// Of the file that a path leads to. Landlock lets everything be looked at that is not opened.
fn inode(path: &Path) -> Option<Inode> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}
