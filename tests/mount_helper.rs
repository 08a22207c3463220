//! `mount.leasefs`, called as mount(8) calls it: when it ends, what it says, what goes on behind it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, and reads the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;

use support::mount::{eventually, leasefs};
use support::scenarios::{run_together, scenarios};
use support::world::World;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn helper() {
    let world = World::start();
    run_together(
        &world,
        &scenarios![
            it_ends_once_the_tree_serves_and_umount_revokes_everything,
            what_is_wrong_is_said_by_the_helper_and_nothing_stays_behind,
            a_dead_leasefs_is_taken_over_and_anything_else_is_refused,
            it_mounts_in_the_namespace_that_it_is_told,
            sighup_logs_in_with_what_the_files_hold_now,
            another_user_serves_it_if_the_configuration_says_so,
        ],
    );
}

/// A directory with the helper by its name, a configuration and an empty mount point.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new(config: &str) -> Place {
        let directory = tempfile::tempdir().unwrap();
        symlink(env!("CARGO_BIN_EXE_leasefs"), directory.path().join("mount.leasefs")).unwrap();
        fs::create_dir(directory.path().join("mnt")).unwrap();
        fs::write(directory.path().join("agent.toml"), config).unwrap();
        Place { directory }
    }

    fn of(world: &World, role: &str) -> Place {
        world.role(role, 60, 180);
        let identity = world.approle(role, json!({"token_ttl": "1h"}));
        Place::new(&format!(
            "[vault]\naddress = \"{}\"\n{identity}[file.user]\nsecret = \"database/creds/{role}#username\"\n",
            world.bao.address()
        ))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The helper, with its two paths and more arguments.
    fn helper(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.path("mount.leasefs"));
        for (name, _) in leasefs().get_envs().filter(|(_, value)| value.is_none()) {
            command.env_remove(name);
        }
        command.env("STATE_DIRECTORY", self.path("state")).env("HOME", "/nonexistent");
        // Relative, as a user may type it.
        command.current_dir(self.directory.path()).args(["./agent.toml", "mnt"]).args(arguments);
        command.output().unwrap()
    }

    /// Mounts, and returns the daemon's process.
    fn mount(&self) -> Pid {
        let output = self.helper(&["-v", "-o", "rw,nofail,_netdev,x-systemd.automount"]);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{errors}");
        let pid = told.trim_end().rsplit(' ').next().and_then(|pid| pid.parse().ok());
        Pid::from_raw(pid.unwrap_or_else(|| panic!("no process in {told:?}")))
    }

    /// What mount(8) would show: source and type.
    fn shown(&self) -> Option<(String, String)> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.path("mnt");
        let line = table.lines().rfind(|line| line.split(' ').nth(4).map(Path::new) == Some(&root))?;
        let mut words = line.split(" - ").nth(1)?.split(' ');
        let kind = words.next()?.to_owned();
        Some((words.next()?.to_owned(), kind))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while self.shown().is_some() {
            if nix::mount::umount2(&self.path("mnt"), nix::mount::MntFlags::MNT_DETACH).is_err() {
                break;
            }
        }
    }
}

fn is_gone(process: Pid) -> bool {
    // It is no child of this test: whoever adopted it may not have waited for it yet.
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim().is_empty() || rest.trim().starts_with('Z'))
}

fn another_user_serves_it_if_the_configuration_says_so(world: &World) {
    const SERVER: u32 = 12_345;
    let place = Place::of(world, "others");
    let config = fs::read_to_string(place.path("agent.toml")).unwrap();
    let line = config.lines().find(|line| line.starts_with("secret-id-file")).unwrap();
    let config = config.replace(line, &format!("secret-id-file = \"{}\"", place.path("secret-id").display()));
    fs::write(place.path("agent.toml"), format!("[mount]\nserver-user = {SERVER}\n{config}")).unwrap();
    fs::copy(line.split('"').nth(1).unwrap(), place.path("secret-id")).unwrap();
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(place.path("secret-id"), fs::Permissions::from_mode(0o400)).unwrap();
    let output = place.helper(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("can't be read by user 12345"), "{said}");
    assert_eq!(place.shown(), None);
    chown(place.path("secret-id"), Some(SERVER), None).unwrap();
    let daemon = place.mount();
    assert!(!fs::read_to_string(place.path("mnt/user")).unwrap().is_empty());
    let server = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", server.trim())).unwrap();
    assert!(status.contains(&format!("Uid:\t{SERVER}\t{SERVER}\t{SERVER}\t{SERVER}\n")), "{status}");
    let output = leasefs().arg("unmount").arg(place.path("mnt")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    world.wait_until_nothing_is_left_of("others", Duration::from_secs(20));
}

fn it_ends_once_the_tree_serves_and_umount_revokes_everything(world: &World) {
    let place = Place::of(world, "helper");
    let daemon = place.mount();
    assert_eq!(place.shown(), Some(("./agent.toml".to_owned(), "fuse.leasefs".to_owned())));
    assert!(!fs::read_to_string(place.path("mnt/user")).unwrap().is_empty());
    assert_eq!(world.leases("helper").len(), 1);
    for (stream, to) in [("0", "/dev/null"), ("1", "/dev/null"), ("2", "/dev/null")] {
        let link = fs::read_link(format!("/proc/{daemon}/fd/{stream}")).unwrap();
        assert_eq!(link, Path::new(to), "nothing of its starter is held");
    }
    assert_eq!(fs::read_link(format!("/proc/{daemon}/cwd")).unwrap(), Path::new("/"));
    nix::mount::umount(&place.path("mnt")).unwrap();
    world.wait_until_nothing_is_left_of("helper", PATIENCE);
    eventually(PATIENCE, || is_gone(daemon)).expect("the daemon ends with its mount");
    assert!(world.accessors("helper").is_empty());
}

fn what_is_wrong_is_said_by_the_helper_and_nothing_stays_behind(_world: &World) {
    let wrong = Place::new("[file.a]\nsecrets = \"x\"\n");
    for (arguments, code, told) in [
        (&[][..], 32, "secrets"),
        (&["-f"], 32, "secrets"),
        (&["-o", "rw,uid=7"], 1, "uid=7"),
        (&["-z"], 1, "-z"),
        (&["-N", "/proc/self/ns/none"], 1, "-N /proc/self/ns/none"),
    ] {
        let output = wrong.helper(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(told), "{arguments:?}: {errors}");
        assert_eq!(wrong.shown(), None);
    }
    let good = Place::new(
        "[vault]\naddress = \"http://127.0.0.1:1\"\n[identity.default]\nmethod = \"token\"\n\
         token-file = \"/nowhere\"\n[file.a]\nsecret = \"secret/a\"\n",
    );
    assert_eq!(good.helper(&["-s", "-f", "-n", "-o", "uid=7"]).status.code(), Some(0), "only looked");
    assert_eq!(good.shown(), None);
    // Vault need not be there.
    good.mount();
}

fn a_dead_leasefs_is_taken_over_and_anything_else_is_refused(world: &World) {
    let place = Place::of(world, "dead");
    let daemon = place.mount();
    let again = place.helper(&[]);
    let errors = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(32), "{errors}");
    assert!(errors.contains("serves"), "{errors}");
    kill(daemon, Signal::SIGKILL).unwrap();
    // Its first thread may be gone before the last one that holds the connection.
    let is_dead =
        || fs::read(place.path("mnt/user")).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN));
    eventually(PATIENCE, is_dead).expect("it is killed");
    place.mount();
    assert!(!fs::read_to_string(place.path("mnt/user")).unwrap().is_empty());
    nix::mount::umount(&place.path("mnt")).unwrap();
    assert_eq!(place.shown(), None, "the dead one was taken away, not covered");
    nix::mount::mount(
        Some("none"),
        &place.path("mnt"),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let refused = place.helper(&[]);
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(32), "{errors}");
    assert!(errors.contains("tmpfs is mounted"), "{errors}");
}

fn it_mounts_in_the_namespace_that_it_is_told(world: &World) {
    let place = Place::of(world, "space");
    let mut other = Command::new("unshare").args(["--mount", "sleep", "60"]).spawn().unwrap();
    let namespace = format!("/proc/{}/ns/mnt", other.id());
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    eventually(PATIENCE, || fs::read_link(&namespace).is_ok_and(|link| link != own)).expect("a namespace");
    let output = place.helper(&["-N", &namespace]);
    let seen = fs::read_to_string(format!("/proc/{}/root{}/user", other.id(), place.path("mnt").display()));
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!seen.unwrap().is_empty());
    assert_eq!(place.shown(), None, "not in this one");
}

fn sighup_logs_in_with_what_the_files_hold_now(world: &World) {
    let place = Place::of(world, "hangup");
    let daemon = place.mount();
    fs::read_to_string(place.path("mnt/user")).unwrap();
    let first = world.accessors("hangup");
    assert_eq!(first.len(), 1);
    kill(daemon, Signal::SIGHUP).unwrap();
    eventually(PATIENCE, || world.accessors("hangup").iter().any(|one| !first.contains(one)))
        .expect("it has logged in anew");
    assert!(fs::read_to_string(place.path("mnt/user")).is_ok());
    nix::mount::umount(&place.path("mnt")).unwrap();
    world.wait_until_nothing_is_left_of("hangup", PATIENCE);
    eventually(PATIENCE, || world.accessors("hangup").is_empty()).expect("both tokens are given back");
}
