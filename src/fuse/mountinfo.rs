//! What is mounted where, as the kernel lists it (proc_pid_mountinfo(5)).
//!
//! Looking here touches no mount, so that a file system whose daemon is gone can't make it hang.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount in the mount namespace of the calling thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Device number of the file system, major and minor. The minor one of a FUSE mount is the number of
    /// its connection in `/sys/fs/fuse/connections`.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub path: PathBuf,
    /// Options of this mount, separated by commas, such as `ro,nosuid`.
    pub options: String,
    /// Whether what is mounted below it also appears where it was bound to (mount_namespaces(7)).
    pub shared: bool,
    /// Type of the file system, such as `ext4` or `fuse.leasefs`.
    pub kind: String,
    /// Options of the file system, separated by commas.
    pub file_system_options: String,
}

impl MountEntry {
    /// The user whom a FUSE mount belongs to.
    pub fn owner(&self) -> Option<u32> {
        let mut options = self.file_system_options.split(',');
        options.find_map(|option| option.strip_prefix("user_id="))?.parse().ok()
    }
}

/// All mounts, the later ones on top.
///
/// # Errors
/// What reading `/proc` gives; `/proc` may not be mounted.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&fs::read("/proc/thread-self/mountinfo")?))
}

/// The mount that a path leads to if it is a mount point: of several the topmost.
pub fn topmost<'a>(mounts: &'a [MountEntry], at: &Path) -> Option<&'a MountEntry> {
    mounts.iter().rfind(|entry| entry.path == at)
}

/// The mount that a path lies in, or that it is the root of.
pub fn containing<'a>(mounts: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    path.ancestors().find_map(|above| topmost(mounts, above))
}

/// Reads the kernel's text; what is not understood is left out.
fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut words = line.split(|&byte| byte == b' ');
    let device = text(words.nth(2)?);
    let (major, minor) = device.split_once(':')?;
    let path = PathBuf::from(OsString::from_vec(unescape(words.nth(1)?)));
    let options = text(words.next()?);
    // Any number of optional fields, then a hyphen.
    let optional = words.by_ref().take_while(|word| *word != b"-");
    let shared = optional.fold(false, |shared, word| shared | word.starts_with(b"shared:"));
    let kind = text(words.next()?);
    let file_system_options = text(words.nth(1)?);
    let device = (major.parse().ok()?, minor.parse().ok()?);
    Some(MountEntry { device, path, options, shared, kind, file_system_options })
}

fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(word)).into_owned()
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, after @ ..] = rest {
        let (byte, after) = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), after)
            }
            _ => (*first, after),
        };
        plain.push(byte);
        rest = after;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
36 22 0:47 / /run/leasefs/agent ro,nosuid,nodev,noexec,relatime shared:12 master:1 - fuse.leasefs leasefs ro,user_id=0,group_id=0
40 22 0:48 /sub /mnt/a\\040b\\134c\\011d rw - tmpfs tm\\040pfs rw
41 22 0:49 / /mnt/\xff rw - tmpfs none rw
too short
42 22 0:50 / /run/leasefs/agent rw - tmpfs none rw
";

    #[test]
    fn a_line_is_read_with_and_without_optional_fields() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.len(), 5);
        assert_eq!(mounts[0].device, (254, 0));
        assert!(!mounts[0].shared);
        assert_eq!(
            mounts[1],
            MountEntry {
                device: (0, 47),
                path: PathBuf::from("/run/leasefs/agent"),
                options: "ro,nosuid,nodev,noexec,relatime".to_owned(),
                shared: true,
                kind: "fuse.leasefs".to_owned(),
                file_system_options: "ro,user_id=0,group_id=0".to_owned(),
            }
        );
    }

    #[test]
    fn the_owner_of_a_mount_stands_in_its_options() {
        let mounts = parse(TEXT);
        assert_eq!(mounts[0].owner(), None);
        assert_eq!(mounts[1].owner(), Some(0));
    }

    #[test]
    fn escapes_and_bytes_that_are_no_text_stay_part_of_the_path() {
        let mounts = parse(TEXT);
        assert_eq!(mounts[2].path, PathBuf::from("/mnt/a b\\c\td"));
        assert_eq!(mounts[3].path.as_os_str().as_encoded_bytes(), b"/mnt/\xff");
        assert_eq!(unescape(b"\\04"), b"\\04");
        assert_eq!(unescape(b"\\777"), b"\\777");
    }

    #[test]
    fn the_last_mount_at_a_path_is_on_top() {
        let mounts = parse(TEXT);
        let kind = |path: &str| topmost(&mounts, Path::new(path)).map(|entry| entry.kind.as_str());
        assert_eq!(kind("/run/leasefs/agent"), Some("tmpfs"));
        assert_eq!(kind("/run/leasefs"), None);
    }

    #[test]
    fn a_path_lies_in_the_nearest_mount_above_it() {
        let mounts = parse(TEXT);
        let kind = |path: &str| containing(&mounts, Path::new(path)).map(|entry| entry.kind.as_str());
        assert_eq!(kind("/run/leasefs/agent/db/user"), Some("tmpfs"));
        assert_eq!(kind("/run/leasefs/agents"), Some("ext4"));
        assert_eq!(kind("/"), Some("ext4"));
    }

    #[test]
    fn the_root_of_this_machine_is_mounted() {
        assert!(topmost(&mounts().unwrap(), Path::new("/")).is_some());
    }
}
