//! `make install` and the Debian package: which files they bring, that they work, that nothing of them stays.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and reads the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use support::programs::run;
use support::systemd::{Machine, Tree};
use support::world::World;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// What `make install` puts in place, and nothing else.
const INSTALLED: [&str; 44] = [
    "/usr/bin/leasefs",
    "/usr/lib/systemd/system/leasefs@.service",
    "/usr/lib/sysusers.d/leasefs.conf",
    "/usr/sbin/mount.fuse.leasefs",
    "/usr/sbin/mount.leasefs",
    "/usr/share/bash-completion/completions/leasefs",
    "/usr/share/doc/leasefs/CHANGELOG.md",
    "/usr/share/doc/leasefs/README.md",
    "/usr/share/doc/leasefs/docs/comparison.md",
    "/usr/share/doc/leasefs/docs/configuration.md",
    "/usr/share/doc/leasefs/docs/docker.md",
    "/usr/share/doc/leasefs/docs/guides.md",
    "/usr/share/doc/leasefs/docs/leases.md",
    "/usr/share/doc/leasefs/docs/ordinary-user.md",
    "/usr/share/doc/leasefs/docs/performance.md",
    "/usr/share/doc/leasefs/docs/protections.md",
    "/usr/share/doc/leasefs/docs/run.md",
    "/usr/share/doc/leasefs/docs/scale.md",
    "/usr/share/doc/leasefs/docs/status.md",
    "/usr/share/doc/leasefs/docs/systemd.md",
    "/usr/share/doc/leasefs/examples/agent.conf.example",
    "/usr/share/doc/leasefs/examples/approle.toml",
    "/usr/share/doc/leasefs/examples/database.toml",
    "/usr/share/doc/leasefs/examples/kv.toml",
    "/usr/share/doc/leasefs/examples/tenants.toml",
    "/usr/share/fish/vendor_completions.d/leasefs.fish",
    "/usr/share/man/man8/leasefs-check.8",
    "/usr/share/man/man8/leasefs-explain.8",
    "/usr/share/man/man8/leasefs-init.8",
    "/usr/share/man/man8/leasefs-lock.8",
    "/usr/share/man/man8/leasefs-mount.8",
    "/usr/share/man/man8/leasefs-policy.8",
    "/usr/share/man/man8/leasefs-refresh.8",
    "/usr/share/man/man8/leasefs-revoke.8",
    "/usr/share/man/man8/leasefs-run.8",
    "/usr/share/man/man8/leasefs-status.8",
    "/usr/share/man/man8/leasefs-unlock.8",
    "/usr/share/man/man8/leasefs-unmount.8",
    "/usr/share/man/man8/leasefs-upgrade.8",
    "/usr/share/man/man8/leasefs-wait.8",
    "/usr/share/man/man8/leasefs.8",
    "/usr/share/man/man8/mount.fuse.leasefs.8",
    "/usr/share/man/man8/mount.leasefs.8",
    "/usr/share/zsh/vendor-completions/_leasefs",
];

const BINARY: &str = concat!("BINARY=", env!("CARGO_BIN_EXE_leasefs"));

#[test]
fn make_install_brings_these_files_and_make_uninstall_takes_them_away() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let target = format!("DESTDIR={}", root.display());
    // Others' files, and an operator's, which are none of its business.
    let others = ["/etc/leasefs/agent.toml", "/usr/sbin/mount.other", "/usr/share/man/man8/other.8"];
    for path in others {
        let path = root.join(&path[1..]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    make(&["install", &target, BINARY]);
    assert_eq!(files(root), set(INSTALLED.iter().chain(&others)));
    for helper in ["mount.leasefs", "mount.fuse.leasefs"] {
        let helped = fs::canonicalize(root.join("usr/sbin").join(helper)).unwrap();
        assert_eq!(helped, root.join("usr/bin/leasefs"), "a link that a moved tree keeps");
    }
    // Once more, over the first.
    make(&["install", &target, BINARY]);
    make(&["uninstall", &target]);
    assert_eq!(files(root), set(&others));
    fs::remove_file(root.join("etc/leasefs/agent.toml")).unwrap();
    make(&["uninstall", &target]);
    assert!(!root.join("etc/leasefs").exists() && !root.join("usr/share/doc/leasefs").exists());
}

#[test]
fn elsewhere_the_units_name_the_binary_there() {
    let directory = tempfile::tempdir().unwrap();
    make(&["install", &format!("DESTDIR={}", directory.path().display()), "PREFIX=/opt/leasefs", BINARY]);
    let read = |path: &str| fs::read_to_string(directory.path().join("opt/leasefs").join(path)).unwrap();
    for path in ["lib/systemd/system/leasefs@.service", "share/doc/leasefs/examples/agent.conf.example"] {
        let text = read(path);
        assert!(text.contains("=/opt/leasefs/bin/leasefs ") && !text.contains("=/usr/bin/leasefs"), "{text}");
    }
    assert!(read("share/zsh/site-functions/_leasefs").starts_with("#compdef leasefs"));
}

#[test]
fn the_manual_has_a_clean_page_for_each_command() {
    let directory = tempfile::tempdir().unwrap();
    let man = directory.path().join("man8");
    run(Command::new(env!("CARGO_BIN_EXE_leasefs")).args(["generate", "man"]).arg(&man));
    for page in fs::read_dir(&man).unwrap().map(|entry| entry.unwrap().path()) {
        let mut command = Command::new("man");
        command.args(["--warnings", "--encoding=UTF-8", "--local-file"]).arg(&page);
        let output = command.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "80").output();
        let output = output.expect("this test needs man(1): run `make deps`");
        let (text, warnings) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success() && warnings.is_empty(), "{}: {warnings}", page.display());
        let name = page.file_stem().unwrap().to_str().unwrap();
        for told in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "SEE ALSO"] {
            assert!(text.lines().any(|line| line == told), "{told} of {name}:\n{text}");
        }
        let found = run(Command::new("lexgrog").arg(&page));
        assert!(found.contains(&format!(": \"{name} - ")), "whatis(1) finds it: {found}");
        assert!(!text.contains("generate"), "hidden:\n{text}");
    }
}

#[test]
fn the_package_installs_runs_and_leaves_nothing_behind() {
    let world = World::start();
    let directory = tempfile::tempdir().unwrap();
    let package = package(directory.path());
    let tree = Tree::bare();
    let told = run(Command::new("dpkg-deb").arg("--contents").arg(&package));
    assert_eq!(contents(&told), packaged(), "{told}");
    assert!(told.lines().all(|line| line.contains(" 0/0 ") || line.contains(" root/root ")), "{told}");
    let told = run(Command::new("dpkg-deb").arg("--info").arg(&package));
    for line in [" Package: leasefs", " Recommends: fuse3"] {
        assert!(told.lines().any(|other| other == line), "{told}");
    }
    assert!(told.contains("Depends: libc6 (>= "), "{told}");

    // Those that it depends on; their files are the host's.
    tree.write("/var/lib/dpkg/status", &run(Command::new("dpkg").args(["--status", "libc6", "systemd"])));
    let wants = "/etc/systemd/system/multi-user.target.wants";
    for folder in ["/var/lib/dpkg/info", "/var/lib/dpkg/updates", "/var/tmp", wants] {
        fs::create_dir_all(tree.path(folder)).unwrap();
    }
    for file in ["/etc/shadow", "/etc/gshadow"] {
        tree.write(file, "");
    }
    let manpath = fs::read_to_string("/etc/manpath.config").expect("this test needs man-db: run `make deps`");
    tree.write("/etc/manpath.config", &manpath);
    fs::copy(&package, tree.path("/var/tmp/leasefs.deb")).unwrap();
    let machine = tree.boot();
    let before = traces(&machine);

    machine.run("dpkg --install /var/tmp/leasefs.deb");
    assert_eq!(machine.run("getent passwd leasefs | cut -d: -f1,6,7"), "leasefs:/:/usr/sbin/nologin\n");
    assert_eq!(machine.run("systemctl list-units --all --no-legend 'leasefs@*'"), "", "nothing is started");
    for (page, told) in [("leasefs", "Vault secrets as files"), ("mount.fuse.leasefs", "for mount(8)")] {
        let text = machine.run(&format!("man {page} | cat"));
        assert!(text.contains(told), "{text}");
    }
    let complete = "bash -c '. /usr/share/bash-completion/completions/leasefs; COMP_WORDS=(leasefs un); COMP_CWORD=1; \
                    _leasefs leasefs un leasefs; echo \"${COMPREPLY[@]}\"'";
    assert_eq!(machine.run(complete), "unlock unmount\n");

    configure(&world, &machine);
    machine.run("systemctl enable --now leasefs@agent");
    machine.run("mkdir -p /mnt/hand && mount -t leasefs agent /mnt/hand");
    let user = machine.run("cat /run/leasefs/agent/user");
    assert_ne!(machine.run("cat /mnt/hand/user"), user);
    assert_eq!(world.leases("agent").len(), 2);

    // As an upgrade does.
    let process = machine.property("leasefs@agent", "MainPID");
    let told = machine.run("dpkg --install /var/tmp/leasefs.deb");
    assert!(told.contains("systemctl restart leasefs@NAME"), "{told}");
    assert_eq!(machine.property("leasefs@agent", "MainPID"), process);
    assert_eq!(machine.run("cat /run/leasefs/agent/user"), user);

    machine.run("dpkg --remove leasefs");
    assert_eq!(world.leases("agent"), [""; 0], "{}", machine.journal());
    world.wait_until_nothing_is_left_of("agent", PATIENCE);
    assert_eq!(machine.property("leasefs@agent", "ActiveState"), "inactive");
    assert_eq!((machine.mounted("/run/leasefs/agent"), machine.mounted("/mnt/hand")), Default::default());
    assert_eq!(machine.run("ls /etc/leasefs"), "agent.secret-id\nagent.toml\n", "configurations stay");
    assert_eq!(machine.run("find /.usr/upper ! -type d"), "");
    assert_eq!(machine.run("find /run -path '/run/leasefs*'"), "");

    machine.run("dpkg --purge leasefs && rmdir /mnt/hand");
    assert_eq!(machine.run("ls /etc/leasefs"), "agent.secret-id\nagent.toml\n", "somebody wrote them");
    machine.run("rm /etc/leasefs/* && dpkg --install /var/tmp/leasefs.deb && dpkg --purge leasefs");
    assert_eq!(traces(&machine), before);
}

/// Runs make.
fn make(arguments: &[&str]) -> String {
    run(Command::new("make").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")))
}

/// The package of the binary that this test was built with.
fn package(directory: &Path) -> PathBuf {
    let target = format!("DEB={}/", directory.display());
    // Without its symbols the binary is a tenth; what it is packed with makes no difference here.
    make(&["package", BINARY, "INSTALL_PROGRAM=install --strip", "DEBFLAGS=-Z gz --fast", &target]);
    let mut made = fs::read_dir(directory).unwrap();
    made.next().expect("a package was made").unwrap().path()
}

/// The files in a package, as `dpkg-deb --contents` shows them.
fn contents(told: &str) -> BTreeSet<String> {
    let files = told.lines().filter(|line| !line.starts_with('d'));
    let paths = files.filter_map(|line| line.split(" ./").nth(1));
    paths.map(|path| format!("/{}", path.split(" -> ").next().unwrap())).collect()
}

/// What `make install` brings, the way that Debian wants it.
fn packaged() -> BTreeSet<String> {
    let debianized =
        |path: &&str| if path.contains("/man/") { format!("{path}.gz") } else { (*path).to_owned() };
    let copyright = "/usr/share/doc/leasefs/copyright".to_owned();
    INSTALLED.iter().map(debianized).chain([copyright]).collect()
}

/// A role, a login for it, and a configuration with both.
fn configure(world: &World, machine: &Machine) {
    world.role("agent", 60, 180);
    let identity = world.approle("agent", json!({"token_ttl": "1h"}));
    let host =
        identity.lines().find_map(|line| line.strip_prefix("secret-id-file = ")).unwrap().trim_matches('"');
    let text = format!(
        "[vault]\naddress = \"{}\"\n{}[file.user]\nsecret = \"database/creds/agent#username\"\n",
        world.bao.address(),
        identity.replace(host, "/etc/leasefs/agent.secret-id")
    );
    machine.write("/etc/leasefs/agent.toml", &text);
    machine.write("/etc/leasefs/agent.secret-id", &fs::read_to_string(host).unwrap());
}

/// Everything that a package may have left, but for the logs, and what dpkg, systemd and useradd keep for themselves.
fn traces(machine: &Machine) -> BTreeSet<String> {
    let own =
        "^/var/log/|^/var/lib/dpkg|^/var/lib/systemd|^/etc/(passwd|group|shadow|gshadow)-$|^/etc/.pwd.lock$";
    let found = machine.run(&format!(
        "find /etc /var /mnt /root | grep -Ev '{own}'; find /.usr/upper ! -type d; find /run -name '*leasefs*'; \
         cat /etc/passwd /etc/group /etc/shadow /etc/gshadow"
    ));
    found.lines().map(str::to_owned).collect()
}

/// The files and links below a directory.
fn files(root: &Path) -> BTreeSet<String> {
    let found = run(Command::new("find").arg(root).args(["!", "-type", "d", "-printf", "/%P\n"]));
    found.lines().map(str::to_owned).collect()
}

fn set<'a>(paths: impl IntoIterator<Item = &'a &'a str>) -> BTreeSet<String> {
    paths.into_iter().map(|path| (*path).to_owned()).collect()
}
