//! Where the same files lie side by side: on leasefs, on tmpfs, and on the bare FUSE file system, which is
//! served by a process of its own as leasefs is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use leasefs::fuse::mount_point::MountPoint;
use leasefs::fuse::session::{self, MountOptions};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;
use tempfile::TempDir;

use crate::bare::BareFs;
use crate::support::bao::Bao;
use crate::support::mount::Mount;

/// The files, by name and size in bytes.
pub const SIZES: [(&str, usize); 3] = [("64-B", 64), ("4-KiB", 4 << 10), ("64-KiB", 64 << 10)];

/// With this argument the benchmark serves the bare file system.
pub const SERVE_BARE: &str = "--serve-bare";

/// The three places.
pub struct Places {
    leasefs: Mount,
    scratch: TempDir,
    bare: Child,
}

impl Places {
    /// Puts the files everywhere.
    pub async fn start(bao: &Bao) -> Places {
        let mut config = format!("[vault]\naddress = \"{}\"\n[defaults]\nmax-age = \"1h\"\n", bao.address());
        for (name, size) in SIZES {
            bao.write_kv2("secret", &format!("bench/{name}"), json!({"value": content(size)})).await;
            config += &format!("[file.\"{name}\"]\nsecret = \"secret/bench/{name}#value\"\n");
        }
        let leasefs = Mount::start(&config, &[("VAULT_TOKEN", bao.root_token()), ("LEASEFS_LOG", "info")]);
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let tmpfs = scratch.path().join("tmpfs");
        fs::create_dir(&tmpfs).expect("a directory");
        mount(Some("tmpfs"), &tmpfs, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs");
        for (name, size) in SIZES {
            fs::write(tmpfs.join(name), content(size)).expect("a file");
        }
        let point = scratch.path().join("bare");
        fs::create_dir(&point).expect("a directory");
        let bare = Command::new(std::env::current_exe().expect("this program"))
            .arg(SERVE_BARE)
            .arg(&point)
            .stdin(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let places = Places { leasefs, scratch, bare };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !places.bare().join(SIZES[0].0).exists() {
            assert!(Instant::now() < deadline, "the bare file system was not mounted");
        }
        places
    }

    /// Each place with its name; leasefs first.
    pub fn all(&self) -> [(&'static str, PathBuf); 3] {
        [("leasefs", self.leasefs.root()), ("bare FUSE", self.bare()), ("tmpfs", self.tmpfs())]
    }

    /// The mount of leasefs.
    pub fn leasefs(&self) -> &Mount {
        &self.leasefs
    }

    fn bare(&self) -> PathBuf {
        self.scratch.path().join("bare")
    }

    fn tmpfs(&self) -> PathBuf {
        self.scratch.path().join("tmpfs")
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        // Its standard input closes, and so it ends; what is left is taken away below.
        drop(self.bare.stdin.take());
        let _ = self.bare.wait();
        for path in [self.bare(), self.tmpfs()] {
            let _ = umount2(&path, MntFlags::MNT_DETACH);
        }
    }
}

/// Serves the bare file system at `point` until standard input closes.
pub fn serve_bare(point: &Path) {
    let files = SIZES.map(|(name, size)| (name.to_owned(), content(size).into_bytes())).to_vec();
    let (file_system, _) = BareFs::new(files);
    let options = MountOptions { uid: 0, gid: 0, allow_other: true };
    let device = session::mount(MountPoint::check(point).expect("a mount point"), &options).expect("mounted");
    let mounted = device.serve(file_system, 2, |_| {}).expect("served");
    // Whatever comes, the end of it is meant.
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    drop(mounted);
}

fn content(size: usize) -> String {
    "leasefs-".chars().cycle().take(size).collect()
}
