//! The unit, the mount helpers and the drop-in for agents under a real systemd, with a real OpenBao and a real
//! PostgreSQL beside it.
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
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;

use support::mount::eventually;
use support::proxy::{Proxy, Trouble};
use support::scenarios::{run_together, scenarios};
use support::systemd::{Machine, Tree};
use support::world::World;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program that reads its credential once and goes on to exist.
const READER: &str = "[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                      ExecStart=/bin/sh -c 'cat /run/leasefs/agent/user >/run/reader.out'\n";

/// Where `make install` puts the drop-in.
const DROP_IN: &str = "/usr/share/doc/leasefs/examples/agent.conf.example";

struct Host {
    world: World,
    machine: Machine,
}

#[test]
fn units() {
    let world = World::start();
    let tree = Tree::new();
    tree.write(
        "/etc/fstab",
        &format!("{}\n{}\n", line("plain", "auto"), line("lazy", "noauto,x-systemd.automount")),
    );
    for name in ["plain", "lazy"] {
        tree.write(&format!("/etc/leasefs/{name}.toml"), &config(&world, name));
        tree.write(&format!("/etc/leasefs/{name}.secret-id"), &secret_id(&world, name));
    }
    // Debian enables it; what fstab calls `_netdev` belongs to it.
    tree.enable("remote-fs.target", "/usr/lib/systemd/system/remote-fs.target");
    let host = Host { world, machine: tree.boot() };
    run_together(
        &host,
        &scenarios![
            without_vault_the_mount_is_there_at_once_and_a_reader_waits_for_its_time_out_alone,
            an_agent_reads_its_credential_and_stop_revokes_it,
            stop_ends_a_mount_in_use_in_bounded_time,
            nobody_notices_that_the_server_is_killed,
            upgrade_has_systemd_restart_the_unit,
            killed_while_it_is_unmounted_the_next_server_goes_on_with_it,
            what_somebody_else_has_mounted_is_left_alone,
            an_agent_without_the_host_s_run_sees_a_mount_that_is_made_anew,
            a_wrong_configuration_fails_for_good_and_says_why,
            reload_takes_a_new_secret_id_and_a_wrong_one_changes_nothing,
            credentials_come_encrypted_from_the_store,
            a_mount_unit_brings_the_mount_up_and_down,
            a_line_in_fstab_brings_the_mount_up_and_down,
            a_line_in_fstab_mounts_when_it_is_used,
        ],
    );
}

#[test]
fn at_boot_the_mount_comes_before_the_agent() {
    let world = World::start();
    let tree = Tree::new();
    tree.write("/etc/leasefs/agent.toml", &config(&world, "agent"));
    tree.write("/etc/leasefs/agent.secret-id", &secret_id(&world, "agent"));
    let drop_in = fs::read_to_string(tree.path(DROP_IN)).unwrap();
    // With everything in it that an operator may turn on.
    let drop_in = drop_in.replace("#ExecStartPre=", "ExecStartPre=").replace("#Bind", "Bind");
    tree.write("/etc/systemd/system/reader.service.d/leasefs.conf", &drop_in);
    tree.write("/etc/systemd/system/reader.service", READER);
    tree.enable("reader.service", "/etc/systemd/system/reader.service");
    tree.enable("leasefs@agent.service", "/usr/lib/systemd/system/leasefs@.service");
    let machine = tree.boot();
    assert_eq!(machine.property("reader.service", "Result"), "success", "{}", machine.journal());
    assert_eq!(machine.run("cat /run/reader.out"), machine.run("cat /run/leasefs/agent/user"));
    let entered = |unit| machine.property(unit, "ActiveEnterTimestampMonotonic").parse::<u64>().unwrap();
    assert!(entered("leasefs@agent.service") < entered("reader.service"));
    // As at a shutdown.
    machine.run("systemctl stop leasefs@agent");
    world.wait_until_nothing_is_left_of("agent", PATIENCE);
}

/// A line of `/etc/fstab`.
fn line(name: &str, option: &str) -> String {
    format!("{name} /mnt/{name} leasefs nofail,_netdev,{option} 0 0")
}

/// A role, a login for it, and a configuration with both.
fn config(world: &World, name: &str) -> String {
    world.role(name, 60, 180);
    let identity = world.approle(name, json!({"token_ttl": "1h"}));
    let lines = identity.lines().filter(|line| !line.starts_with("secret-id-file"));
    let identity: String = lines.map(|line| format!("{line}\n")).collect();
    format!(
        "[vault]\naddress = \"{}\"\n{identity}secret-id-file = \"/etc/leasefs/{name}.secret-id\"\n\
         [file.user]\nsecret = \"database/creds/{name}#username\"\n",
        world.bao.address()
    )
}

/// One more secret id.
fn secret_id(world: &World, name: &str) -> String {
    let path = format!("auth/approle/role/{name}/secret-id");
    let answer = world.wait(world.bao.call("POST", &path, Some(json!({}))));
    answer["data"]["secret_id"].as_str().unwrap().to_owned()
}

impl Host {
    /// Writes what `leasefs@NAME` needs.
    fn configure(&self, name: &str) {
        self.machine.write(&format!("/etc/leasefs/{name}.toml"), &config(&self.world, name));
        self.machine.write(&format!("/etc/leasefs/{name}.secret-id"), &secret_id(&self.world, name));
    }

    fn is_gone(&self, name: &str, at: &str) {
        assert_eq!(self.machine.mounted(at), "", "{at} is still mounted");
        self.world.wait_until_nothing_is_left_of(name, PATIENCE);
        eventually(PATIENCE, || self.world.accessors(name).is_empty()).expect("its tokens are given back");
    }
}

fn without_vault_the_mount_is_there_at_once_and_a_reader_waits_for_its_time_out_alone(host: &Host) {
    // Takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = config(&host.world, "down").replace(
        &format!("\"{}\"", host.world.bao.address()),
        &format!("\"http://{}\"\nread-timeout = \"1s\"", silent.local_addr().unwrap()),
    );
    host.machine.write("/etc/leasefs/down.toml", &text);
    host.machine.write("/etc/leasefs/down.secret-id", "unused");
    let start = Instant::now();
    host.machine.run("systemctl start leasefs@down");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(host.machine.mounted("/run/leasefs/down"), "fuse.leasefs");
    assert_eq!(host.machine.run("ls /run/leasefs/down"), "user\n");
    let start = Instant::now();
    let (code, told) = host.machine.try_run("cat /run/leasefs/down/user");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(code == 1 && (told.contains("timed out") || told.contains("Host is down")), "{told}");
    host.machine.run("systemctl stop leasefs@down");
    assert_eq!(host.machine.mounted("/run/leasefs/down"), "");
}

fn an_agent_reads_its_credential_and_stop_revokes_it(host: &Host) {
    let machine = &host.machine;
    host.configure("agent");
    machine.write("/etc/systemd/system/reader.service", READER);
    machine.run(&format!("mkdir /etc/systemd/system/reader.service.d && cp {DROP_IN} /etc/systemd/system/reader.service.d/leasefs.conf"));
    machine.run("systemctl daemon-reload && systemctl start reader");
    assert_eq!(machine.property("leasefs@agent", "ActiveState"), "active", "it was wanted");
    let user = machine.run("cat /run/reader.out");
    assert_eq!(machine.run("cat /run/leasefs/agent/user"), user);
    let logins = host.world.accessors("agent");
    let first = machine.property("leasefs@agent", "MainPID");
    assert_eq!(
        machine.run("exec 3</run/leasefs/agent/user; systemctl restart leasefs@agent; cat <&3"),
        user,
        "an open file goes on"
    );
    assert_eq!(machine.property("reader", "ActiveState"), "active", "a restart does not touch the agent");
    assert_ne!(machine.property("leasefs@agent", "MainPID"), first);
    assert_eq!(machine.run("cat /run/leasefs/agent/user"), user, "nothing was given back");
    assert_eq!((host.world.leases("agent").len(), host.world.accessors("agent")), (1, logins));
    machine.run("systemctl stop leasefs@agent");
    host.is_gone("agent", "/run/leasefs/agent");
    assert_eq!(machine.property("leasefs@agent", "Result"), "success");
}

fn stop_ends_a_mount_in_use_in_bounded_time(host: &Host) {
    host.configure("busy");
    host.machine.run("systemctl start leasefs@busy");
    let line = "exec 3</run/leasefs/busy/user; touch /run/busy.open; \
                until [ -e /run/busy.go ]; do sleep 0.05; done; cat <&3";
    let mut reader = host.machine.command(line);
    let reader =
        reader.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    eventually(PATIENCE, || host.machine.try_run("test -e /run/busy.open").0 == 0).expect("it is open");
    let start = Instant::now();
    host.machine.run("systemctl stop leasefs@busy");
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    host.is_gone("busy", "/run/leasefs/busy");
    host.machine.run("touch /run/busy.go");
    let output = reader.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.stdout.is_empty());
    assert!(told.contains("Stale file handle") || told.contains("not connected"), "{told}");
}

fn nobody_notices_that_the_server_is_killed(host: &Host) {
    const KILLS: usize = 5;
    host.configure("crash");
    host.machine.run("systemctl start leasefs@crash");
    let user = host.machine.run("cat /run/leasefs/crash/user");
    let logins = host.world.accessors("crash");
    // Reads without a pause, until it is told to end, and at last through what it has had open since then.
    let line = "exec 3</run/leasefs/crash/user; touch /run/crash.open; \
                until [ -e /run/crash.go ]; do cat /run/leasefs/crash/user || exit 1; done; cat <&3";
    let mut reader = host.machine.command(line);
    let reader =
        reader.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    eventually(PATIENCE, || host.machine.try_run("test -e /run/crash.open").0 == 0).expect("it is open");
    let reading = std::thread::spawn(move || reader.wait_with_output().unwrap());
    for kill in 1..=KILLS {
        host.machine.run("systemctl kill --kill-who=main --signal=KILL leasefs@crash");
        let again = eventually(PATIENCE, || {
            host.machine.property("leasefs@crash", "NRestarts") == kill.to_string()
                && host.machine.property("leasefs@crash", "ActiveState") == "active"
        });
        assert!(again.is_some(), "{}", host.machine.journal());
    }
    host.machine.run("touch /run/crash.go");
    let output = reading.join().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{}", host.machine.journal());
    let read = String::from_utf8_lossy(&output.stdout);
    assert_eq!(read.replace(&user, ""), "", "nothing else is ever read");
    assert!(read.matches(&user).count() > 2 * KILLS, "{} reads", read.matches(&user).count());
    assert_eq!((host.world.leases("crash").len(), host.world.accessors("crash")), (1, logins));
    // Before it is started again: systemd lets go of the mount, and the next start replaces what is left of it.
    host.machine.run("systemctl kill --kill-who=main --signal=KILL leasefs@crash");
    host.machine.run("systemctl stop leasefs@crash");
    host.machine.run("systemctl start leasefs@crash && cat /run/leasefs/crash/user");
    let table = host.machine.run("cat /proc/self/mountinfo");
    assert_eq!(table.matches("/run/leasefs/crash ").count(), 1, "a dead mount is replaced:\n{table}");
    host.machine.run("systemctl stop leasefs@crash");
    assert_eq!(host.machine.mounted("/run/leasefs/crash"), "");
}

fn upgrade_has_systemd_restart_the_unit(host: &Host) {
    let machine = &host.machine;
    host.configure("newer");
    machine.run("systemctl start leasefs@newer");
    let user = machine.run("cat /run/leasefs/newer/user");
    let (logins, first) = (host.world.accessors("newer"), machine.property("leasefs@newer", "MainPID"));
    // As a package manager brings a newer one.
    machine.run("cp /usr/bin/leasefs /usr/bin/leasefs.new && mv /usr/bin/leasefs.new /usr/bin/leasefs");
    let said = machine.run("exec 3</run/leasefs/newer/user; leasefs upgrade newer; cat <&3 >/run/newer.read");
    let second = machine.property("leasefs@newer", "MainPID");
    assert_ne!(first, second);
    assert!(said.contains(&format!("(process {first}) has handed over")), "{said}");
    assert!(said.contains(&format!("(process {second})")), "{said}");
    assert_eq!(machine.run("cat /run/newer.read"), user, "an open file goes on");
    assert_eq!(machine.run("cat /run/leasefs/newer/user"), user);
    assert_eq!((host.world.leases("newer").len(), host.world.accessors("newer")), (1, logins));
    assert_eq!(machine.run(&format!("readlink /proc/{second}/exe")).trim(), "/usr/bin/leasefs");
    let told = machine.run("leasefs status newer");
    assert!(told.contains("of user leasefs"), "{told}");

    let (code, said) =
        machine.try_run("setpriv --reuid=4711 --regid=4711 --clear-groups leasefs upgrade newer");
    assert_eq!(code, 77, "{said}");
    assert!(said.contains("run \"systemctl restart leasefs@newer.service\" as root"), "{said}");
    let good = machine.run("cat /etc/leasefs/newer.toml");
    machine.write("/etc/leasefs/newer.toml", "[file.user]\nsecrets = \"x\"\n");
    let (code, said) = machine.try_run("leasefs upgrade newer");
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("nothing was changed"), "{said}");
    machine.write("/etc/leasefs/newer.toml", &good);
    assert_eq!(machine.property("leasefs@newer", "MainPID"), second);
    machine.run("systemctl stop leasefs@newer");
    host.is_gone("newer", "/run/leasefs/newer");
}

fn killed_while_it_is_unmounted_the_next_server_goes_on_with_it(host: &Host) {
    let machine = &host.machine;
    host.configure("midway");
    let proxy = Proxy::start(host.world.bao.address());
    let text = config(&host.world, "midway").replace(host.world.bao.address(), &proxy.address());
    machine.write("/etc/leasefs/midway.toml", &text);
    machine.write("/etc/leasefs/midway.secret-id", &secret_id(&host.world, "midway"));
    machine.run("systemctl start leasefs@midway && cat /run/leasefs/midway/user");
    let before = proxy.count("revoke");
    proxy.trouble_for("revoke", Trouble::Delay(PATIENCE));
    let mut unmounting = machine.command("leasefs unmount midway");
    let unmounting = std::thread::spawn(move || unmounting.output().unwrap());
    eventually(PATIENCE, || proxy.count("revoke") > before).expect("it gives its token back");
    machine.run("systemctl kill --kill-who=main --signal=KILL leasefs@midway");
    proxy.recover();
    let output = unmounting.join().unwrap();
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), machine.journal());
    host.is_gone("midway", "/run/leasefs/midway");
    let ended = eventually(PATIENCE, || machine.property("leasefs@midway", "ActiveState") == "inactive");
    assert!(ended.is_some(), "{}", machine.journal());
    assert_eq!(machine.property("leasefs@midway", "Result"), "success");
}

fn what_somebody_else_has_mounted_is_left_alone(host: &Host) {
    host.configure("foreign");
    host.machine.run("mkdir -p /run/leasefs/foreign && mount -t tmpfs none /run/leasefs/foreign");
    assert_eq!(host.machine.try_run("systemctl start leasefs@foreign").0, 1);
    host.machine.run("systemctl stop leasefs@foreign");
    let journal = host.machine.run("journalctl --no-pager --unit leasefs@foreign");
    assert!(journal.contains("a file system of type tmpfs is mounted on /run/leasefs/foreign"), "{journal}");
    assert_eq!(host.machine.mounted("/run/leasefs/foreign"), "tmpfs");
    assert!(host.world.accessors("foreign").is_empty());
}

fn an_agent_without_the_host_s_run_sees_a_mount_that_is_made_anew(host: &Host) {
    host.configure("bound");
    let unit = "[Unit]\nWants=leasefs@bound.service\nAfter=leasefs@bound.service\n\
                [Service]\nTemporaryFileSystem=/run\nBindReadOnlyPaths=/run/leasefs\n\
                ExecStart=/bin/sh -c 'while sleep 0.1; do cat /run/leasefs/bound/user >/var/bound.new && \
                mv /var/bound.new /var/bound.out; done'\n";
    host.machine.write("/etc/systemd/system/bound.service", unit);
    host.machine.run("systemctl daemon-reload && systemctl start bound");
    let shows = |user: &str| host.machine.try_run("cat /var/bound.out").1 == user;
    let first = host.machine.run("cat /run/leasefs/bound/user");
    eventually(PATIENCE, || shows(&first)).expect("the agent reads it");
    host.machine.run("systemctl stop leasefs@bound && systemctl start leasefs@bound");
    let second = host.machine.run("cat /run/leasefs/bound/user");
    assert_ne!(second, first);
    eventually(PATIENCE, || shows(&second)).expect("the agent reads the new one");
    host.machine.run("systemctl stop bound leasefs@bound");
    host.is_gone("bound", "/run/leasefs/bound");
}

fn a_wrong_configuration_fails_for_good_and_says_why(host: &Host) {
    host.machine.write("/etc/leasefs/wrong.toml", "[file.user]\nsecrets = \"database/creds/wrong\"\n");
    let (code, _) = host.machine.try_run("systemctl start leasefs@wrong");
    assert_eq!(code, 1);
    for (name, value) in
        [("ActiveState", "failed"), ("Result", "exit-code"), ("ExecMainStatus", "78"), ("NRestarts", "0")]
    {
        assert_eq!(host.machine.property("leasefs@wrong", name), value, "{name}");
    }
    let journal = host.machine.run("journalctl --no-pager --unit leasefs@wrong");
    assert!(journal.contains("secrets"), "{journal}");
    assert_eq!(host.machine.mounted("/run/leasefs/wrong"), "");
}

fn reload_takes_a_new_secret_id_and_a_wrong_one_changes_nothing(host: &Host) {
    host.configure("reload");
    host.machine.run("systemctl start leasefs@reload");
    let first = host.machine.run("cat /run/leasefs/reload/user");
    let before = host.world.accessors("reload");
    assert_eq!(before.len(), 1);

    host.machine.write("/etc/leasefs/reload.secret-id", "not-a-secret-id");
    host.machine.run("systemctl reload leasefs@reload");
    let failed = || host.machine.run("journalctl --no-pager --unit leasefs@reload").contains("login failed");
    eventually(PATIENCE, failed).expect("the journal says so");
    assert_eq!(host.machine.run("cat /run/leasefs/reload/user"), first, "the old token goes on");
    assert_eq!(host.world.accessors("reload"), before);
    assert_eq!(host.machine.property("leasefs@reload", "ActiveState"), "active");

    host.machine.write("/etc/leasefs/reload.secret-id", &secret_id(&host.world, "reload"));
    host.machine.run("systemctl reload leasefs@reload");
    let anew = || host.world.accessors("reload").iter().any(|one| !before.contains(one));
    eventually(PATIENCE, anew).expect("it has logged in with the new one");
    host.machine.run("cat /run/leasefs/reload/user");
    host.machine.run("systemctl stop leasefs@reload");
    host.is_gone("reload", "/run/leasefs/reload");
}

fn credentials_come_encrypted_from_the_store(host: &Host) {
    let text = config(&host.world, "store").replace("/etc/leasefs/store", "${CREDENTIALS_DIRECTORY}/");
    host.machine.write("/etc/leasefs/store.toml", &text.replace("/.secret-id", "/secret-id"));
    host.machine.run(&format!(
        "mkdir -p /etc/credstore.encrypted && echo {} | \
         systemd-creds encrypt --with-key=host --name=secret-id - /etc/credstore.encrypted/leasefs.store.secret-id",
        secret_id(&host.world, "store")
    ));
    host.machine.run("systemctl start leasefs@store");
    assert!(!host.machine.run("cat /run/leasefs/store/user").is_empty());
    host.machine.run("systemctl stop leasefs@store");
    host.is_gone("store", "/run/leasefs/store");
}

fn a_mount_unit_brings_the_mount_up_and_down(host: &Host) {
    host.configure("unit");
    let unit = "[Mount]\nWhat=/etc/leasefs/unit.toml\nWhere=/mnt/unit\nType=fuse.leasefs\nOptions=_netdev\n";
    host.machine.write("/etc/systemd/system/mnt-unit.mount", unit);
    host.machine.run("systemctl daemon-reload && systemctl start mnt-unit.mount");
    assert_eq!(host.machine.mounted("/mnt/unit"), "fuse.leasefs");
    assert!(!host.machine.run("cat /mnt/unit/user").is_empty());
    let journal = host.machine.run("journalctl --no-pager --unit mnt-unit.mount");
    assert!(journal.contains("mounted and ready"), "its log is that of the unit:\n{journal}");
    host.machine.run("systemctl stop mnt-unit.mount");
    host.is_gone("unit", "/mnt/unit");
}

fn a_line_in_fstab_brings_the_mount_up_and_down(host: &Host) {
    assert_eq!(host.machine.mounted("/mnt/plain"), "fuse.leasefs", "since the boot");
    let user = host.machine.run("cat /mnt/plain/user");
    host.machine.run("mount --all");
    assert_eq!(host.machine.run("cat /mnt/plain/user"), user, "mount(8) knows that it is mounted");
    host.machine.run("umount /mnt/plain");
    host.is_gone("plain", "/mnt/plain");
    // By hand, without a unit around it.
    host.machine.run("mount /mnt/plain");
    assert_ne!(host.machine.run("cat /mnt/plain/user"), user);
    let logged =
        || host.machine.run("journalctl --no-pager --identifier=leasefs").contains("mounted and ready");
    eventually(PATIENCE, logged).expect("it logs to the system's log");
    host.machine.run("umount /mnt/plain");
    host.is_gone("plain", "/mnt/plain");
}

fn a_line_in_fstab_mounts_when_it_is_used(host: &Host) {
    assert_eq!(host.machine.mounted("/mnt/lazy"), "autofs");
    assert!(!host.machine.run("cat /mnt/lazy/user").is_empty());
    assert_eq!(host.machine.mounted("/mnt/lazy"), "fuse.leasefs");
    host.machine.run("systemctl stop mnt-lazy.automount mnt-lazy.mount");
    host.is_gone("lazy", "/mnt/lazy");
}
