//! Opens a file whose content is trusted: nobody but its owner can have written it, and its path leads to it
//! without a detour.
//!
//! Invariants, all checked on the open file: *regular*: a directory, device or pipe is never read; *whose it
//! is*: root's or this process's user's, and nobody else may write to it; *where it is*: a symlink at the end of
//! the path stays below its directory, as those do that Kubernetes mounts (`token -> ..data/token`).
//! Directories before that are taken as they are: whoever wrote the path down chose them.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use zeroize::Zeroizing;

/// Why a file is not trusted, or can't be read. Its text names the file and says what to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distrust {
    path: PathBuf,
    why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    /// What the system says.
    Unreadable(Errno),
    /// A symlink leads out of its directory.
    LeadsAway,
    Directory,
    /// A device, a pipe or a socket.
    Special,
    /// It is this user's.
    Owner(u32),
    WritableByOthers,
    /// It has more bytes than this.
    TooLarge(u64),
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// [`Distrust`].
pub fn read(path: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>, Distrust> {
    let distrust = |why| Distrust { path: path.to_owned(), why };
    let unreadable = |error: std::io::Error| {
        distrust(Why::Unreadable(Errno::from_raw(error.raw_os_error().unwrap_or_default())))
    };
    let file = open_beneath(path).map_err(|error| match error {
        // Out of the directory, or round and round.
        Errno::EXDEV | Errno::ELOOP => distrust(Why::LeadsAway),
        Errno::EISDIR => distrust(Why::Directory),
        other => distrust(Why::Unreadable(other)),
    })?;
    let facts = file.metadata().map_err(unreadable)?;
    if facts.is_dir() {
        return Err(distrust(Why::Directory));
    }
    if !facts.is_file() {
        return Err(distrust(Why::Special));
    }
    if facts.uid() != 0 && facts.uid() != geteuid().as_raw() {
        return Err(distrust(Why::Owner(facts.uid())));
    }
    if facts.mode() & 0o022 != 0 {
        return Err(distrust(Why::WritableByOthers));
    }
    if facts.len() > most {
        return Err(distrust(Why::TooLarge(most)));
    }
    // One byte more than the file has, so that the vector need not move when it reads the end.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(facts.len()).unwrap_or_default() + 1));
    file.take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    // It may have grown meanwhile.
    if bytes.len() as u64 > most { Err(distrust(Why::TooLarge(most))) } else { Ok(bytes) }
}

/// How many symlinks are followed (path_resolution(7)).
const LINKS: usize = 40;

/// How often it is tried again while links are replaced.
const TRIES: usize = 4;

/// Opens a file; symlinks stay below its directory. Name by name, as openat2(2) would do it: that is not there for
/// units with `RestrictSUIDSGID=` (systemd.exec(5)), whose filter can't see into its arguments.
fn open_beneath(path: &Path) -> Result<File, Errno> {
    let name = path.file_name().ok_or(Errno::EISDIR)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut last = Errno::EAGAIN;
    for _ in 0..TRIES {
        let directory = open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut walk = Walk { inside: vec![directory], ahead: VecDeque::from([name.to_owned()]), links: 0 };
        match walk.finish() {
            // What a link has led to was replaced at that very moment.
            Err(error @ (Errno::ENOENT | Errno::EAGAIN)) if walk.links > 0 => last = error,
            opened => return opened,
        }
    }
    Err(last)
}

/// A way through directories that never leaves the first one.
struct Walk {
    /// The first directory, and those that were entered from there.
    inside: Vec<OwnedFd>,
    ahead: VecDeque<OsString>,
    links: usize,
}

impl Walk {
    fn finish(&mut self) -> Result<File, Errno> {
        while let Some(name) = self.ahead.pop_front() {
            if name == ".." {
                self.inside.pop();
            }
            let here = self.inside.last().ok_or(Errno::EXDEV)?;
            if name == ".." || name == "." {
                continue;
            }
            match readlinkat(here, name.as_os_str()) {
                Ok(target) => self.follow(Path::new(&target))?,
                Err(Errno::EINVAL) if self.ahead.is_empty() => return open_last(here, &name),
                Err(Errno::EINVAL) => {
                    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                    let next = openat(here, name.as_os_str(), flags, Mode::empty())?;
                    self.inside.push(next);
                }
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EISDIR)
    }

    fn follow(&mut self, target: &Path) -> Result<(), Errno> {
        self.links += 1;
        if self.links > LINKS {
            return Err(Errno::ELOOP);
        }
        let names = target.components().map(|component| match component {
            Component::RootDir | Component::Prefix(_) => Err(Errno::EXDEV),
            Component::CurDir | Component::ParentDir | Component::Normal(_) => {
                Ok(component.as_os_str().to_owned())
            }
        });
        for name in names.collect::<Result<Vec<_>, _>>()?.into_iter().rev() {
            self.ahead.push_front(name);
        }
        Ok(())
    }
}

fn open_last(directory: &OwnedFd, name: &OsStr) -> Result<File, Errno> {
    // Not blocking: a pipe that nobody writes to would be waited for, for good.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    match openat(directory, name, flags, Mode::empty()) {
        // It has become a link since it was looked at.
        Err(Errno::ELOOP) => Err(Errno::EAGAIN),
        opened => opened.map(File::from),
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.why {
            Why::Unreadable(Errno::ENOENT) => {
                write!(f, "{path} does not exist: make it, or name another file")
            }
            Why::Unreadable(Errno::EACCES | Errno::EPERM) => {
                let user = geteuid();
                write!(
                    f,
                    "{path} may not be read by user {user}: change its owner, its mode or a directory's"
                )
            }
            Why::Unreadable(error) => write!(f, "{path} can't be read: {}", error.desc()),
            Why::LeadsAway => {
                write!(
                    f,
                    "{path} is a symlink that leads out of its directory: name the file that it leads to"
                )
            }
            Why::Directory => {
                write!(f, "{path} is a directory: name a file in it")
            }
            Why::Special => write!(f, "{path} is not a regular file: name one"),
            Why::Owner(owner) => {
                let user = geteuid();
                write!(
                    f,
                    "{path} belongs to user {owner}, who could change it: chown it to root or to user {user}"
                )
            }
            Why::WritableByOthers => write!(f, "{path} may be written by others: chmod go-w {path}"),
            Why::TooLarge(most) => write!(f, "{path} is larger than {most} bytes: name another file"),
        }
    }
}

impl std::error::Error for Distrust {}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    const MOST: u64 = 100;

    fn written(directory: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn each_file_that_is_not_trusted_says_what_to_change() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let outside = tempfile::tempdir().unwrap();
        let target = written(outside.path(), "target", "marker", 0o400);
        symlink(&target, at.join("absolute")).unwrap();
        symlink("../../../../../etc/hostname", at.join("up")).unwrap();
        symlink("loop", at.join("loop")).unwrap();
        nix::unistd::mkfifo(&at.join("pipe"), Mode::S_IRUSR).unwrap();
        for (path, told) in [
            (at.join("absent"), "does not exist: make it"),
            (at.join("absent/too"), "does not exist: make it"),
            (at.to_owned(), "is a directory: name a file in it"),
            (PathBuf::from("/"), "is a directory"),
            (at.join("pipe"), "is not a regular file"),
            (PathBuf::from("/dev/zero"), "is not a regular file"),
            (at.join("absolute"), "leads out of its directory: name the file that it leads to"),
            (at.join("up"), "leads out of its directory"),
            (at.join("loop"), "leads out of its directory"),
            (written(at, "group", "marker", 0o620), "chmod go-w"),
            (written(at, "world", "marker", 0o602), "chmod go-w"),
            (written(at, "large", &"x".repeat(101), 0o400), "larger than 100 bytes"),
        ] {
            let told_so = read(&path, MOST).unwrap_err().to_string();
            assert!(told_so.contains(told), "{told_so}");
            assert!(
                told_so.contains(&path.display().to_string()) && !told_so.contains("marker"),
                "{told_so}"
            );
        }
    }

    #[test]
    fn a_file_of_another_user_is_not_trusted_whatever_its_mode() {
        if !geteuid().is_root() {
            // Nobody else can give a file away; who runs the tests as root sees it.
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = written(directory.path(), "theirs", "marker", 0o400);
        chown(&path, Some(12345), None).unwrap();
        let told = read(&path, MOST).unwrap_err().to_string();
        assert!(told.contains("belongs to user 12345, who could change it: chown it to root"), "{told}");
    }

    #[test]
    fn links_below_the_directory_are_followed_as_kubernetes_replaces_them() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        for version in ["..first", "..second"] {
            fs::create_dir(at.join(version)).unwrap();
            written(&at.join(version), "token", version, 0o440);
        }
        symlink("..first", at.join("..data")).unwrap();
        symlink("..data/token", at.join("token")).unwrap();
        assert_eq!(read(&at.join("token"), MOST).unwrap().as_slice(), b"..first");
        symlink("..second", at.join("..tmp")).unwrap();
        fs::rename(at.join("..tmp"), at.join("..data")).unwrap();
        assert_eq!(read(&at.join("token"), MOST).unwrap().as_slice(), b"..second");
        // A link to the directory itself is the business of whoever wrote the path.
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(at, elsewhere.path().join("link")).unwrap();
        assert!(read(&elsewhere.path().join("link/token"), MOST).is_ok());
    }
}
