//! Mounting, serving and unmounting with real system calls, on the bare file system that the benchmarks
//! compare with. Needs root and /dev/fuse.
#![expect(clippy::unwrap_used, reason = "a test may panic; the lint spares only functions with #[test]")]

#[path = "../benches/bare/mod.rs"]
mod bare;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use bare::{BareFs, Seen};
use leasefs::core::name::Ino;
use leasefs::fuse::mount_point::{MountError, MountPoint};
use leasefs::fuse::mountinfo::{self, MountEntry};
use leasefs::fuse::notify::{Notice, NoticeCounts, Notices};
use leasefs::fuse::refusal::Refusal;
use leasefs::fuse::session::{
    self, FILE_SYSTEM_TYPE, KernelFeature, MountOptions, Mounted, SessionEnd, Unmounted,
};
use leasefs::sys::{self, Unmount};
use tempfile::TempDir;

/// Longer than anything here takes, shorter than anybody's patience.
const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(100);

/// A mount with the files `hello` and `long`.
struct Mount {
    // Dropped in this order: a directory can't be removed while something is mounted on it.
    mounted: Option<Mounted>,
    ended: Receiver<SessionEnd>,
    seen: Seen,
    path: PathBuf,
    _directory: TempDir,
}

fn options() -> MountOptions {
    MountOptions { uid: 0, gid: 0, allow_other: true }
}

fn empty_directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = fs::canonicalize(directory.path()).unwrap();
    (directory, path)
}

fn mount() -> Mount {
    let (directory, path) = empty_directory();
    let long = (0..=u8::MAX).cycle().take(300_000).collect();
    let (file_system, seen) =
        BareFs::new(vec![("hello".to_owned(), b"Hello\n".to_vec()), ("long".to_owned(), long)]);
    let device = session::mount(MountPoint::check(&path).unwrap(), &options())
        .unwrap_or_else(|error| panic!("this test needs root and /dev/fuse: {error}"));
    let (tell, ended) = mpsc::channel();
    let mounted = device.serve(file_system, 2, move |end| tell.send(end).unwrap()).unwrap();
    Mount { mounted: Some(mounted), ended, seen, path, _directory: directory }
}

impl Mount {
    fn unmount(&mut self, patience: Duration) -> Unmounted {
        self.mounted.take().unwrap().unmount(patience).unwrap()
    }
}

fn entry_at(path: &Path) -> Option<MountEntry> {
    mountinfo::topmost(&mountinfo::mounts().unwrap(), path).cloned()
}

#[test]
fn a_mount_has_its_type_and_the_flags_of_a_tree_of_secrets() {
    let mount = mount();
    let entry = entry_at(&mount.path).unwrap();
    assert_eq!(entry.kind, "fuse.leasefs");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(entry.options.split(',').any(|found| found == option), "{option} in {}", entry.options);
    }
    for option in ["ro", "user_id=0", "group_id=0", "default_permissions", "allow_other"] {
        let found = &entry.file_system_options;
        assert!(found.split(',').any(|found| found == option), "{option} in {found}");
    }
    let mounted = mount.mounted.as_ref().unwrap();
    assert_eq!(mounted.path(), mount.path);
    assert_eq!(u64::from(mounted.connection()), fs::metadata(&mount.path).unwrap().dev());
}

#[test]
fn files_are_listed_and_read_and_nothing_can_be_written() {
    let mount = mount();
    let mut names: Vec<_> =
        fs::read_dir(&mount.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["hello", "long"]);
    assert_eq!(fs::read(mount.path.join("hello")).unwrap(), b"Hello\n");
    let long = fs::read(mount.path.join("long")).unwrap();
    assert_eq!(long.len(), 300_000);
    assert!(long.iter().enumerate().all(|(at, &byte)| byte == (at % 256) as u8));
    assert_eq!(fs::metadata(mount.path.join("hello")).unwrap().len(), 6);
    assert_eq!(fs::read(mount.path.join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::write(mount.path.join("hello"), "x").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::create_dir(mount.path.join("new")).unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn a_kernel_of_today_lacks_at_most_mapped_files() {
    let mount = mount();
    let missing = mount.seen.missing.lock().unwrap().clone();
    assert!(missing.iter().all(|feature| *feature == KernelFeature::MappedFiles), "{missing:?}");
}

#[test]
fn unmount_leaves_the_empty_directory() {
    let mut mount = mount();
    fs::read(mount.path.join("hello")).unwrap();
    assert_eq!(mount.unmount(LONG), Unmounted::Clean);
    assert_eq!(mount.ended.recv_timeout(LONG), Ok(SessionEnd::Asked));
    assert_eq!(entry_at(&mount.path), None);
    assert_eq!(fs::read_dir(&mount.path).unwrap().count(), 0);
    assert!(MountPoint::check(&mount.path).is_ok());
}

#[test]
fn a_mount_that_is_dropped_is_unmounted() {
    let mut mount = mount();
    drop(mount.mounted.take());
    assert_eq!(mount.ended.recv_timeout(LONG), Ok(SessionEnd::Asked));
    assert_eq!(entry_at(&mount.path), None);
}

#[test]
fn a_mount_that_was_never_served_is_taken_away() {
    let (_directory, path) = empty_directory();
    let device = session::mount(MountPoint::check(&path).unwrap(), &options()).unwrap();
    assert_eq!(entry_at(&path).unwrap().kind, FILE_SYSTEM_TYPE);
    drop(device);
    assert_eq!(entry_at(&path), None);
}

#[test]
fn an_unmount_by_somebody_else_is_noticed() {
    for how in [Unmount::Idle, Unmount::Lazy] {
        let mut mount = mount();
        sys::unmount(&mount.path, how).unwrap();
        assert_eq!(mount.ended.recv_timeout(LONG), Ok(SessionEnd::Unmounted));
        assert_eq!(mount.unmount(LONG), Unmounted::Clean);
    }
}

#[test]
fn what_somebody_else_mounted_meanwhile_is_left_alone() {
    let mut mount = mount();
    sys::unmount(&mount.path, Unmount::Idle).unwrap();
    assert_eq!(mount.ended.recv_timeout(LONG), Ok(SessionEnd::Unmounted));
    sys::mount_read_only("none", &mount.path, "tmpfs", "").unwrap();
    assert_eq!(mount.unmount(LONG), Unmounted::Clean);
    assert_eq!(entry_at(&mount.path).unwrap().kind, "tmpfs");
    sys::unmount(&mount.path, Unmount::Idle).unwrap();
}

#[test]
fn a_busy_mount_loses_its_name_at_once_and_is_read_until_it_is_closed() {
    let mut mount = mount();
    let mut file = File::open(mount.path.join("hello")).unwrap();
    let path = mount.path.clone();
    let reader = thread::spawn(move || {
        while entry_at(&path).is_some() {
            thread::yield_now();
        }
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(mount.unmount(LONG), Unmounted::Detached);
    assert_eq!(reader.join().unwrap(), "Hello\n");
    assert_eq!(mount.ended.recv_timeout(LONG), Ok(SessionEnd::Asked));
}

#[test]
fn a_file_kept_open_does_not_hold_up_the_end() {
    let mut mount = mount();
    let mut file = File::open(mount.path.join("hello")).unwrap();
    let connection = mount.mounted.as_ref().unwrap().connection();
    // Where the control file system is not mounted the connection can't be cut, and that is said.
    let can_be_cut = Path::new(&format!("/sys/fs/fuse/connections/{connection}/abort")).exists();
    let mut text = String::new();
    if can_be_cut {
        assert_eq!(mount.unmount(SHORT), Unmounted::Aborted);
        assert_eq!(file.read_to_string(&mut text).unwrap_err().kind(), ErrorKind::NotConnected);
    } else {
        assert_eq!(mount.unmount(SHORT), Unmounted::StillHeld);
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "Hello\n");
        drop(file);
    }
    assert_eq!(mount.ended.recv_timeout(LONG), Ok(SessionEnd::Asked));
    assert_eq!(entry_at(&mount.path), None);
}

#[test]
fn a_connection_that_somebody_cut_is_told_from_an_unmount() {
    let mut mount = mount();
    let mut file = File::open(mount.path.join("hello")).unwrap();
    // MNT_FORCE cuts the connection; the mount itself stays, since it is busy (umount2(2)).
    let forced = Command::new("umount").arg("-if").arg(&mount.path).output().unwrap();
    assert!(!forced.status.success());
    assert_eq!(mount.ended.recv_timeout(LONG), Ok(SessionEnd::Aborted));
    assert_eq!(file.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(MountPoint::check(&mount.path), Err(MountError::Dead { path: mount.path.clone() }));
    assert_eq!(mount.unmount(LONG), Unmounted::Detached);
    assert_eq!(entry_at(&mount.path), None);
}

#[test]
fn a_served_mount_is_not_mounted_over() {
    let mount = mount();
    let served = Err(MountError::Served { path: mount.path.clone() });
    assert_eq!(MountPoint::check(&mount.path), served);
    let link = mount.path.with_extension("link");
    std::os::unix::fs::symlink(&mount.path, &link).unwrap();
    assert_eq!(MountPoint::check(&link), served);
    fs::remove_file(link).unwrap();
}

#[test]
fn a_mount_that_does_not_answer_is_found_in_bounded_time() {
    let (_directory, path) = empty_directory();
    let device = session::mount(MountPoint::check(&path).unwrap(), &options()).unwrap();
    // Nobody serves it, so whatever touches it waits; the check must come back all the same.
    assert_eq!(MountPoint::check(&path), Err(MountError::Served { path }));
    drop(device);
}

#[test]
fn a_mount_without_its_daemon_is_called_dead() {
    let (_directory, path) = empty_directory();
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    sys::mount_read_only("leasefs", &path, FILE_SYSTEM_TYPE, &data).unwrap();
    drop(device);
    assert_eq!(MountPoint::check(&path), Err(MountError::Dead { path: path.clone() }));
    sys::unmount(&path, Unmount::Idle).unwrap();
}

#[test]
fn something_else_that_is_mounted_is_named() {
    let (_directory, path) = empty_directory();
    sys::mount_read_only("none", &path, "tmpfs", "").unwrap();
    let occupied = MountError::Occupied { path: path.clone(), kind: "tmpfs".to_owned() };
    assert_eq!(MountPoint::check(&path), Err(occupied));
    sys::unmount(&path, Unmount::Idle).unwrap();
}

#[test]
fn whoever_may_not_mount_is_told_so() {
    let (_directory, path) = empty_directory();
    let elsewhere = tempfile::tempdir().unwrap();
    let config = elsewhere.path().join("config.toml");
    fs::write(&config, "[identity.default]\nmethod = \"token\"\n[file.key]\nsecret = \"secret/a#key\"\n")
        .unwrap();
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"])
        .arg(env!("CARGO_BIN_EXE_leasefs"))
        .arg("mount")
        .args([&config, &path])
        .env("VAULT_ADDR", "http://127.0.0.1:1")
        .env("VAULT_TOKEN", "unused")
        .output()
        .unwrap_or_else(|error| panic!("this test needs setpriv of util-linux: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains(&Refusal::CapabilityTaken.to_string()), "{told}");
    assert_eq!(output.status.code(), Some(77), "EX_NOPERM");
}

#[test]
fn the_kernel_forgets_what_it_is_told_to() {
    let mut mount = mount();
    let (notices, thread) = Notices::start(mount.mounted.as_ref().unwrap().notifier()).unwrap();
    let hello = mount.path.join("hello");
    let ino = Ino(fs::metadata(&hello).unwrap().ino());
    let getattrs = || mount.seen.getattrs.load(Ordering::Relaxed);
    let stat_asks = || {
        let before = getattrs();
        fs::metadata(&hello).unwrap();
        getattrs() > before
    };
    assert!(!stat_asks(), "attributes are cached for long");
    notices.attributes_now(ino).unwrap();
    assert!(stat_asks());
    assert!(!stat_asks());

    let root = Ino::ROOT;
    for notice in [
        Notice::Inode(ino),
        Notice::Directory(root),
        Notice::Entry { parent: root, name: "hello".to_owned() },
        Notice::Entry { parent: root, name: "never-heard-of".to_owned() },
        Notice::Attributes(Ino(999)),
    ] {
        notices.send(notice);
    }
    let counts = notices.clone();
    drop(notices);
    while counts.counts().taken < 6 {
        assert_eq!(counts.counts().refused, 0);
        thread::yield_now();
    }
    assert_eq!(counts.counts(), NoticeCounts { taken: 6, refused: 0 });
    drop(counts);
    thread.join().unwrap();
    assert_eq!(fs::read(&hello).unwrap(), b"Hello\n");
    assert_eq!(mount.unmount(LONG), Unmounted::Clean);
}

#[test]
fn an_open_file_is_read_from_any_place() {
    let mount = mount();
    let mut file = File::open(mount.path.join("long")).unwrap();
    file.seek(std::io::SeekFrom::Start(299_998)).unwrap();
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [(299_998 % 256) as u8, (299_999 % 256) as u8]);
    file.seek(std::io::SeekFrom::Start(400_000)).unwrap();
    assert_eq!(file.read_to_end(&mut rest).unwrap(), 0);
}
