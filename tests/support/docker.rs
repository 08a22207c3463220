//! A system apart with Docker on it, as [`super::systemd`] boots one: everything that Docker starts, mounts and writes
//! is inside of it and goes with it. Needs what that needs, and Debian's docker.io, docker-compose and busybox-static.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::programs::run;
use super::systemd::{Machine, Tree};

/// What every daemon is told: no network of the host's is touched, and the storage needs nothing of the kernel.
const OPTIONS: &str = "--log-level=error --storage-driver=vfs \
                       --bridge=none --iptables=false --ip6tables=false --ip-forward=false";

/// Where the files of the images are.
const IMAGES: &str = "/usr/share/leasefs-test";

/// Where Docker looks for commands of its own.
const PLUGIN: &str = "/usr/libexec/docker/cli-plugins/docker-compose";

/// Makes "docker compose" of the older program of that name.
const COMPOSE: &str = r#"#!/bin/sh
if [ "$1" = docker-cli-plugin-metadata ]; then
  echo '{"SchemaVersion": "0.1.0", "Vendor": "tests", "Version": "1"}'
  exit
fi
shift
exec docker-compose "$@"
"#;

/// A program that goes on until it is told to end.
const AGENT: &str = r#"CMD ["sh", "-c", "trap exit TERM; while :; do sleep 1 & wait; done"]"#;

/// One daemon of Docker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Daemon {
    name: &'static str,
    /// What is different about it.
    options: &'static str,
    /// What starts it.
    before: &'static str,
}

impl Daemon {
    /// As everybody has it.
    pub const USUAL: Daemon = Daemon { name: "docker", options: "", before: "" };
    /// Its containers have users of their own: 0 is the host's 100000, and so on.
    pub const REMAPPED: Daemon =
        Daemon { name: "docker-remapped", options: "--userns-remap=default", before: "" };
    /// On a system on which mounts are not shared, as they are not without systemd.
    pub const UNSHARED: Daemon = Daemon {
        name: "docker-unshared",
        options: "",
        before: "/usr/bin/unshare --mount --propagation private ",
    };

    /// The unit that it runs in.
    pub fn unit(self) -> String {
        format!("{}.service", self.name)
    }

    /// For `DOCKER_HOST`.
    pub fn address(self) -> String {
        format!("unix:///run/{}.sock", self.name)
    }
}

/// Brings what Docker needs into a system that is not booted yet. `images` are the names of images and the script
/// that each one runs first; without one it goes on until it is told to end.
pub fn equip(tree: &Tree, images: &[(&str, Option<&str>)]) {
    for daemon in [Daemon::USUAL, Daemon::REMAPPED, Daemon::UNSHARED] {
        let Daemon { name, options, before } = daemon;
        let unit = format!(
            "[Service]\nType=notify\nDelegate=yes\nKillMode=process\n\
             ExecStart={before}dockerd -H {} --data-root /var/lib/{name} --exec-root /run/{name} \
             --pidfile /run/{name}.pid {OPTIONS} {options}\n",
            daemon.address()
        );
        tree.write(&format!("/etc/systemd/system/{}", daemon.unit()), &unit);
    }
    for file in ["/etc/subuid", "/etc/subgid"] {
        tree.write(file, "dockremap:100000:65536\n");
    }
    let plugins = ["/usr/libexec", "/usr/lib"].map(|lib| format!("{lib}/docker/cli-plugins/docker-compose"));
    if !plugins.iter().any(|plugin| Path::new(plugin).exists()) {
        tree.write(PLUGIN, COMPOSE);
        make_executable(&tree.path(PLUGIN));
    }
    for (image, script) in images {
        let root = format!("{IMAGES}/{}", directory_of(image));
        let busybox = tree.path(&format!("{root}/bin/busybox"));
        fs::create_dir_all(busybox.with_file_name("")).expect("a directory can be made");
        fs::copy("/bin/busybox", &busybox).expect("this test needs busybox-static: run `make deps`");
        for program in run(Command::new(&busybox).arg("--list")).lines().filter(|name| *name != "busybox") {
            let link = busybox.with_file_name(program);
            std::os::unix::fs::symlink("busybox", link).expect("a link can be made");
        }
        if let Some(script) = script {
            let entrypoint = format!("{root}/entrypoint");
            tree.write(&entrypoint, script);
            make_executable(&tree.path(&entrypoint));
        }
    }
}

/// Starts a daemon and gives it the images; how long the daemon took.
pub fn start(machine: &Machine, daemon: Daemon, images: &[(&str, Option<&str>)]) -> Duration {
    if daemon == Daemon::REMAPPED {
        machine
            .run("echo dockremap:x:900:900::/:/bin/false >>/etc/passwd; echo dockremap:x:900: >>/etc/group");
        // A user namespace may mount /proc only where one without anything over it is in sight, and that of this
        // system has its settings covered.
        machine.run("mkdir -m 0700 /run/whole-proc && mount -t proc proc /run/whole-proc");
    }
    let began = Instant::now();
    let (code, text) = machine.try_run(&format!("systemctl start {}", daemon.unit()));
    assert_eq!(code, 0, "this test needs Docker (run `make deps`): {text}\n{}", machine.journal());
    let took = began.elapsed();
    for (image, script) in images {
        let directory = directory_of(image);
        let change = script.map_or(AGENT, |_| r#"ENTRYPOINT ["/entrypoint"]"#);
        let pack = format!("tar -C {IMAGES}/{directory} -c . | docker import --change '{change}' - {image}");
        machine.run(&format!("export DOCKER_HOST={}; {pack}", daemon.address()));
    }
    took
}

/// A name without what a directory can't have.
fn directory_of(image: &str) -> String {
    image.replace(['/', ':'], "-")
}

fn make_executable(path: &Path) {
    run(Command::new("chmod").arg("0755").arg(path).stdin(Stdio::null()));
}
