//! The recipes of docs/docker.md, run as they stand there: real containers of a real Docker, under a real systemd, with
//! a real OpenBao and a real PostgreSQL beside it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, and reads the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::json;

use support::docker::{self, Daemon};
use support::guide::{self, Block};
use support::mount::eventually;
use support::scenarios::{run_together, scenarios};
use support::systemd::{Machine, Tree};
use support::world::World;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What may pass until a stop is through, whoever uses the mount.
const STOP: Duration = Duration::from_secs(8);

const MANUAL: &str = include_str!("../docs/docker.md");

/// As the entrypoints of many images begin, PostgreSQL's for one.
const POSTGRES: &str = r#"#!/bin/sh
set -eu
if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
  POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
fi
: "${POSTGRES_PASSWORD:?must be set}"
echo "initialised with $POSTGRES_PASSWORD"
trap exit TERM
while :; do sleep 1 & wait; done
"#;

const IMAGES: [(&str, Option<&str>); 2] = [("example/agent", None), ("postgres:17", Some(POSTGRES))];

// ---- What happens to containers, as the manual has it ----

/// How a tree is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bind {
    Tree,
    TreeSlave,
    DirectorySlave,
}

/// What happens to leasefs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Killed,
    Restarted,
    StoppedAndStarted,
    CameLater,
}

/// What a container sees once leasefs is back, without having been started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    GoesOn,
    Dead,
    Empty,
}

/// One row for each bind, its outcomes in the order of [`Event::ALL`].
const OUTCOMES: [(Bind, [Outcome; 4]); 3] = [
    (Bind::Tree, [Outcome::GoesOn, Outcome::GoesOn, Outcome::Dead, Outcome::Empty]),
    (Bind::TreeSlave, [Outcome::GoesOn, Outcome::GoesOn, Outcome::Dead, Outcome::GoesOn]),
    (Bind::DirectorySlave, [Outcome::GoesOn, Outcome::GoesOn, Outcome::GoesOn, Outcome::GoesOn]),
];

/// What a container sees while leasefs is stopped, in the order of the binds above.
const WHILE_STOPPED: [Outcome; 3] = [Outcome::Dead, Outcome::Dead, Outcome::Empty];

/// What a container that was there before leasefs sees when leasefs was restarted after all.
const OLDER_AND_RESTARTED: [Outcome; 3] = [Outcome::Empty, Outcome::GoesOn, Outcome::GoesOn];

/// Whether a new leasefs has new credentials.
const CREDENTIALS_CHANGE: [(Event, bool); 3] =
    [(Event::Killed, false), (Event::Restarted, false), (Event::StoppedAndStarted, true)];

impl Bind {
    fn words(self) -> &'static str {
        match self {
            Bind::Tree => "the tree",
            Bind::TreeSlave => "the tree, `rslave`",
            Bind::DirectorySlave => "its directory, `rslave`",
        }
    }

    /// The argument of `-v`, and where the tree is in the container.
    fn argument(self, tenant: &str) -> (String, &'static str) {
        match self {
            Bind::Tree => (format!("/run/tenants/{tenant}/secrets:/run/secrets:ro"), "/run/secrets"),
            Bind::TreeSlave => {
                (format!("/run/tenants/{tenant}/secrets:/run/secrets:ro,rslave"), "/run/secrets")
            }
            Bind::DirectorySlave => {
                (format!("/run/tenants/{tenant}:/run/tenant:ro,rslave"), "/run/tenant/secrets")
            }
        }
    }
}

impl Event {
    const ALL: [Event; 4] = [Event::Killed, Event::Restarted, Event::StoppedAndStarted, Event::CameLater];
}

impl Outcome {
    fn words(self) -> &'static str {
        match self {
            Outcome::GoesOn => "goes on",
            Outcome::Dead => "`ENOTCONN` for good",
            Outcome::Empty => "empty for good",
        }
    }
}

#[test]
fn the_manual_has_the_table_that_is_tested() {
    let rows = OUTCOMES.map(|(bind, outcomes)| {
        let cells = outcomes.map(Outcome::words).join(" | ");
        format!("| {} | {cells} |\n", bind.words())
    });
    assert!(MANUAL.contains(&rows.concat()), "docs/docker.md wants these rows:\n{}", rows.concat());
}

// ---- The rest of the manual ----

struct Host {
    world: World,
    machine: Machine,
    /// The headings of the manual whose commands were run.
    run: Mutex<BTreeSet<&'static str>>,
}

#[test]
fn recipes() {
    let began = Instant::now();
    let world = World::start();
    let tree = Tree::new();
    docker::equip(&tree, &IMAGES);
    let machine = tree.boot();
    let booted = began.elapsed();
    let took = docker::start(&machine, Daemon::USUAL, &IMAGES);
    println!("servers and a system in {:.1} s, Docker in {:.1} s", booted.as_secs_f64(), took.as_secs_f64());
    let host = Host { world, machine, run: Mutex::default() };
    run_together(
        &host,
        &scenarios![
            killed,
            a_container_that_keeps_the_mount_busy_holds_nothing_up,
            without_systemd_leasefs_shares_the_directory_itself,
            users_of_a_remapped_container_are_others_on_the_host,
            restarted,
            stopped_and_started,
            came_later,
            one_tree,
            a_directory_for_each_tenant,
            compose,
            an_image_that_reads_a_file,
            the_root_of_a_container_reads_what_is_bound_unless_it_may_not,
        ],
    );
    let headings: BTreeSet<&str> =
        blocks().filter(|block| block.kind == "sh").map(|block| block.heading).collect();
    let run = host.run.into_inner().unwrap();
    assert!(
        run == headings || std::env::var_os("LEASEFS_TEST_ONLY").is_some(),
        "not run: {:?}",
        headings.difference(&run)
    );
}

fn blocks() -> impl Iterator<Item = Block> {
    guide::blocks(MANUAL)
}

impl Host {
    /// Writes what `/etc/leasefs/NAME.toml` needs: a credential with a lease, a password that stays.
    fn configure(&self, name: &str, owner: u32) {
        self.world.role(name, 60, 180);
        let identity = self.world.approle(name, json!({"token_ttl": "1h"}));
        let lines = identity.lines().filter(|line| !line.starts_with("secret-id-file"));
        let identity: String = lines.map(|line| format!("{line}\n")).collect();
        let config = format!(
            "[vault]\naddress = \"{}\"\n{identity}secret-id-file = \"/etc/leasefs/{name}.secret-id\"\n\
             [defaults]\nowner = {owner}\n\
             [file.user]\nsecret = \"database/creds/{name}#username\"\n\
             [file.password]\nsecret = \"secret/{name}#password\"\n",
            self.world.bao.address()
        );
        self.world.wait(self.world.bao.write_kv2(
            "secret",
            name,
            json!({"password": format!("{name}'s own")}),
        ));
        let path = format!("auth/approle/role/{name}/secret-id");
        let answer = self.world.wait(self.world.bao.call("POST", &path, Some(json!({}))));
        let secret_id = answer["data"]["secret_id"].as_str().unwrap();
        self.machine.write(&format!("/etc/leasefs/{name}.secret-id"), secret_id);
        self.machine.write(&format!("/etc/leasefs/{name}.toml"), &config);
    }

    /// A service whose tree is where that of "billing" is in the manual; not started yet.
    fn place(&self, tenant: &str) {
        for block in blocks().filter(|block| block.heading == "A directory for each tenant") {
            if let Some(path) = path(&block) {
                self.machine.write(&path.replace("billing", tenant), &block.text.replace("billing", tenant));
            }
        }
        self.machine.run(&format!("systemd-tmpfiles --create /etc/tmpfiles.d/leasefs-{tenant}.conf"));
        self.machine.run("systemctl daemon-reload");
    }

    /// Runs the commands below a heading of the manual, the `nth` block of them; what they printed.
    fn recipe(&self, heading: &'static str, nth: usize) -> String {
        self.recipe_on(Daemon::USUAL, heading, nth)
    }

    fn recipe_on(&self, daemon: Daemon, heading: &'static str, nth: usize) -> String {
        self.machine.run(&format!(
            "export DOCKER_HOST={}; set -e\n{}",
            daemon.address(),
            self.lines(heading, nth)
        ))
    }

    fn lines(&self, heading: &'static str, nth: usize) -> &'static str {
        self.run.lock().unwrap().insert(heading);
        let mut found = blocks().filter(|block| block.heading == heading && block.kind == "sh");
        found.nth(nth).unwrap_or_else(|| panic!("no commands {nth} below {heading}")).text
    }

    /// Starts a container for each bind of a tenant's tree.
    fn containers(&self, tenant: &str) -> Vec<Container<'_>> {
        let binds = OUTCOMES.iter().map(|(bind, _)| {
            let container = Container::of(self, tenant, *bind);
            let (argument, _) = bind.argument(tenant);
            self.machine.run(&format!("docker run -d --name {} -v {argument} example/agent", container.name));
            container
        });
        binds.collect()
    }

    fn is_active(&self, unit: &str) -> bool {
        self.machine.property(unit, "ActiveState") == "active"
    }
}

/// Where a block that is a file belongs, as its first line says.
fn path(block: &Block) -> Option<&'static str> {
    block.text.lines().next()?.strip_prefix("# ").filter(|path| path.starts_with('/'))
}

/// A container that runs and sees a tree.
struct Container<'a> {
    host: &'a Host,
    name: String,
    tree: &'static str,
    bind: Bind,
}

impl Container<'_> {
    /// That of a tenant that has this bind.
    fn of<'a>(host: &'a Host, tenant: &str, bind: Bind) -> Container<'a> {
        Container { host, name: format!("{tenant}-{bind:?}"), tree: bind.argument(tenant).1, bind }
    }

    /// Reads a file of the tree.
    fn read(&self, file: &str) -> Result<String, Outcome> {
        let line = format!("docker exec {} cat {}/{file}", self.name, self.tree);
        match self.host.machine.try_run(&line) {
            (0, text) => Ok(text),
            (_, told) if told.contains("not connected") => Err(Outcome::Dead),
            (_, told) if told.contains("No such file") => Err(Outcome::Empty),
            (code, told) => panic!("{line}: {code} {told}"),
        }
    }

    fn outcome(&self) -> Outcome {
        self.read("user").err().unwrap_or(Outcome::GoesOn)
    }
}

// ---- What happens when ----

fn tenant_before(host: &Host, tenant: &str) {
    host.configure(tenant, 0);
    host.place(tenant);
}

/// Starts a tenant's containers, lets something happen, and looks at each of them.
fn after(host: &Host, event: Event, tenant: &str, happens: impl Fn(&str)) {
    tenant_before(host, tenant);
    let unit = format!("leasefs@{tenant}");
    host.machine.run(&format!("systemctl start {unit}"));
    let containers = host.containers(tenant);
    let user = host.machine.run(&format!("cat /run/tenants/{tenant}/secrets/user"));
    for container in &containers {
        assert_eq!(container.read("user").unwrap(), user, "{:?}", container.bind);
    }
    happens(&unit);
    assert_outcomes(event, &containers);
    let user_now = host.machine.run(&format!("cat /run/tenants/{tenant}/secrets/user"));
    let changes = CREDENTIALS_CHANGE.iter().find(|(of, _)| *of == event).unwrap().1;
    assert_eq!(user_now != user, changes);
    all_read_when_started_again(&containers);
    host.machine.run(&format!("systemctl stop {unit}"));
}

fn assert_outcomes(event: Event, containers: &[Container<'_>]) {
    let nth = Event::ALL.iter().position(|one| *one == event).unwrap();
    for (container, (bind, outcomes)) in containers.iter().zip(OUTCOMES) {
        assert_eq!(container.outcome(), outcomes[nth], "{event:?}, {bind:?}");
    }
}

fn all_read_when_started_again(containers: &[Container<'_>]) {
    for container in containers {
        container.host.machine.run(&format!("docker restart --time 1 {}", container.name));
        assert_eq!(container.outcome(), Outcome::GoesOn, "{:?}", container.bind);
    }
}

fn killed(host: &Host) {
    after(host, Event::Killed, "killed", |unit| {
        let before = host.machine.property(unit, "MainPID");
        host.machine.run(&format!("systemctl kill --kill-who=main --signal=KILL {unit}"));
        let is_back = || host.is_active(unit) && host.machine.property(unit, "MainPID") != before;
        eventually(PATIENCE, is_back).expect("systemd starts it again");
    });
}

fn restarted(host: &Host) {
    after(host, Event::Restarted, "again", |unit| {
        drop(host.machine.run(&format!("systemctl restart {unit}")))
    });
}

fn stopped_and_started(host: &Host) {
    after(host, Event::StoppedAndStarted, "stopped", |unit| {
        host.machine.run(&format!("systemctl stop {unit}"));
        host.world.wait_until_nothing_is_left_of("stopped", PATIENCE);
        let seen = OUTCOMES.map(|(bind, _)| Container::of(host, "stopped", bind).outcome());
        assert_eq!(seen, WHILE_STOPPED);
        host.machine.run(&format!("systemctl start {unit}"));
    });
}

fn came_later(host: &Host) {
    tenant_before(host, "later");
    let containers = host.containers("later");
    for container in &containers {
        assert_eq!(container.outcome(), Outcome::Empty, "{:?}", container.bind);
    }
    host.machine.run("systemctl start leasefs@later");
    assert_outcomes(Event::CameLater, &containers);
    host.machine.run("systemctl restart leasefs@later");
    let seen: Vec<Outcome> = containers.iter().map(Container::outcome).collect();
    assert_eq!(seen, OLDER_AND_RESTARTED);
    all_read_when_started_again(&containers);
    host.machine.run("systemctl stop leasefs@later");
    host.world.wait_until_nothing_is_left_of("later", PATIENCE);
}

fn a_container_that_keeps_the_mount_busy_holds_nothing_up(host: &Host) {
    tenant_before(host, "busy");
    host.machine.run("systemctl start leasefs@busy");
    // One has a file open, one its working directory in it; both binds keep the file system itself.
    let line = "exec 3</run/secrets/user; touch /open; until [ -e /go ]; do sleep 0.1; done; cat <&3";
    let (bind, _) = Bind::Tree.argument("busy");
    host.machine.run(&format!("docker run -d --name holder -v {bind} example/agent sh -c '{line}'"));
    host.machine.run(&format!("docker run -d --name dweller -w /run/secrets -v {bind} example/agent"));
    let is_open = || host.machine.try_run("docker exec holder test -e /open").0 == 0;
    eventually(PATIENCE, is_open).expect("it is open");
    let began = Instant::now();
    host.machine.run("systemctl stop leasefs@busy");
    assert!(began.elapsed() < STOP, "{:?}", began.elapsed());
    println!("stopped a mount in use in {:.1} s", began.elapsed().as_secs_f64());
    assert_eq!(host.machine.mounted("/run/tenants/busy/secrets"), "");
    host.world.wait_until_nothing_is_left_of("busy", PATIENCE);
    host.machine.run("systemctl start leasefs@busy");
    host.machine.run("cat /run/tenants/busy/secrets/user");
    host.machine.run("docker exec -w / holder touch /go; docker wait holder");
    let (_, told) = host.machine.try_run("docker logs holder");
    assert!(told.contains("Stale file handle") || told.contains("not connected"), "{told}");
    host.machine.run("systemctl stop leasefs@busy");
}

// ---- Recipes ----

fn one_tree(host: &Host) {
    host.configure("agent", 1000);
    assert!(host.recipe("One tree", 0).contains("agent's own"));
    let container = Container { host, name: "agent".to_owned(), tree: "/run/secrets", bind: Bind::Tree };
    host.machine.run("systemctl restart leasefs@agent");
    assert_eq!(container.outcome(), Outcome::GoesOn);
    host.machine.run("systemctl stop leasefs@agent && systemctl start leasefs@agent");
    assert_eq!(container.outcome(), Outcome::Dead);
    host.recipe("One tree", 1);
    assert_eq!(container.read("password").unwrap(), "agent's own");
    // The stricter form.
    host.recipe("One tree", 2);
    assert_eq!(host.machine.run("docker exec -u 1000 strict cat /run/secrets/password"), "agent's own");
    let missing =
        host.lines("One tree", 2).replace("leasefs/agent", "leasefs/none").replace("strict", "none");
    let (code, told) = host.machine.try_run(&missing);
    assert!(code != 0 && told.contains("does not exist"), "{told}");
    host.machine.run("systemctl stop leasefs@agent");
    host.world.wait_until_nothing_is_left_of("agent", PATIENCE);
}

fn a_directory_for_each_tenant(host: &Host) {
    host.configure("billing", 0);
    for block in blocks().filter(|block| block.heading == "A directory for each tenant") {
        if let Some(path) = path(&block) {
            host.machine.write(path, block.text);
        }
    }
    assert!(host.recipe("A directory for each tenant", 0).contains("billing's own"));
    assert!(host.machine.run("leasefs status /run/tenants/billing/secrets").contains("password"));
    assert_eq!(host.machine.run("docker exec billing find /run/tenant -type s"), "", "no control socket");
    assert_eq!(host.machine.run("docker exec billing ls /run/tenant"), "secrets\n");
    let (code, told) = host.machine.try_run("docker exec billing touch /run/tenant/x /run/tenant/secrets/x");
    assert!(code != 0 && told.matches("Read-only file system").count() == 2, "{told}");
    host.machine.run("systemctl stop leasefs@billing");
}

fn compose(host: &Host) {
    host.configure("search", 1000);
    host.machine.run("mkdir -p /srv/compose");
    let files: Vec<Block> =
        blocks().filter(|block| block.heading == "Compose" && block.kind == "yaml").collect();
    host.machine.write("/srv/compose/compose.yaml", files[0].text);
    // There is no bridge in this system that a network could be made of.
    host.machine.write("/srv/compose/compose.override.yaml", "services:\n  agent:\n    network_mode: none\n");
    let lines = host.lines("Compose", 0).replace("docker compose", "cd /srv/compose; docker compose");
    let (up, read) = lines.split_once('\n').unwrap();
    if host.machine.try_run("cd /srv/compose; docker compose config").1.contains("create_host_path") {
        // Older ones don't know the word, and never make such a directory.
        host.machine.run("sed -i /create_host_path/d /srv/compose/compose.yaml");
    }
    let (code, told) = host.machine.try_run(up);
    assert!(code != 0 && told.contains("/run/tenants/search"), "the directory is not there: {told}");
    assert_ne!(host.machine.try_run("test -e /run/tenants/search").0, 0, "and was not made");
    host.place("search");
    host.machine.run(up);
    // The container came first.
    host.machine.run("systemctl start leasefs@search");
    assert!(host.machine.run(read).contains("search's own"));
    host.machine.run("systemctl stop leasefs@search");
}

fn users_of_a_remapped_container_are_others_on_the_host(host: &Host) {
    docker::start(&host.machine, Daemon::REMAPPED, &IMAGES);
    host.configure("remapped", 101_000);
    let heading = "Containers with users of their own";
    assert!(host.recipe_on(Daemon::REMAPPED, heading, 0).contains("remapped's own"));
    let exec = format!("docker -H {} exec", Daemon::REMAPPED.address());
    let read = "remapped cat /run/secrets/password";
    let may_read = |user: u32| {
        let (code, told) = host.machine.try_run(&format!("{exec} -u {user} {read}"));
        assert!(code == 0 || told.contains("Permission denied"), "{user}: {told}");
        code == 0
    };
    assert!(may_read(1000));
    assert!(!may_read(0), "root of its users, which is nobody's root on the host");
    for (owner, user) in [("100000", 0), ("1000", 1000), ("0", 0), ("101000\\ngroup = 101000", 0)] {
        let edit = format!("sed -i 's/owner = .*/owner = {owner}/' /etc/leasefs/remapped.toml");
        host.machine.run(&format!("{edit}; systemctl restart leasefs@remapped"));
        host.machine.run(&format!("docker -H {} restart --time 1 remapped", Daemon::REMAPPED.address()));
        assert_eq!(may_read(user), owner == "100000", "{owner}");
    }
    host.machine.run("systemctl stop leasefs@remapped");
}

fn an_image_that_reads_a_file(host: &Host) {
    host.configure("db", 0);
    host.recipe("Images that read a `_FILE`", 0);
    let logged = || host.machine.run("docker logs db").contains("initialised with db's own");
    eventually(PATIENCE, logged).expect("the image has read the file");
    host.machine.run("systemctl stop leasefs@db");
}

fn the_root_of_a_container_reads_what_is_bound_unless_it_may_not(host: &Host) {
    host.configure("mode", 1000);
    host.machine.run("systemctl start leasefs@mode");
    for (options, may_read) in [
        ("", true),
        ("--user 1000:1000", true),
        ("--user 1001:1001", false),
        ("--cap-drop DAC_OVERRIDE", false),
        ("--cap-drop ALL --user 1000:1000", true),
    ] {
        let bind = "-v /run/leasefs/mode:/run/secrets:ro";
        let line = format!("docker run --rm {options} {bind} example/agent cat /run/secrets/password");
        let (code, told) = host.machine.try_run(&line);
        assert_eq!(code == 0, may_read, "{options}: {told}");
        assert!(may_read || told.contains("Permission denied"), "{options}: {told}");
    }
    host.machine.run("systemctl stop leasefs@mode");
}

fn without_systemd_leasefs_shares_the_directory_itself(host: &Host) {
    let daemon = Daemon::UNSHARED;
    docker::start(&host.machine, daemon, &IMAGES);
    host.configure("plain", 0);
    let heading = "Hosts without systemd";
    let inside = format!("nsenter --mount --target {}", host.machine.property(&daemon.unit(), "MainPID"));
    let run = |line: &str| {
        host.machine
            .write("/run/unshared.sh", &format!("export DOCKER_HOST={}; set -e\n{line}", daemon.address()));
        host.machine.try_run(&format!("{inside} sh /run/unshared.sh 2>&1"))
    };
    let shared = || run("grep -c ' /srv/plain .* shared:' /proc/self/mountinfo").1;
    // The daemon gives everything back after its mount is gone, and nobody else may mount there until it has.
    let is_over = |tenant: &str| {
        let status = format!("leasefs status /srv/{tenant}/secrets");
        eventually(PATIENCE, || run(&status).0 == 69).expect("EX_UNAVAILABLE: nobody serves it");
    };
    let lines = host.lines(heading, 0);
    let line = |nth: usize| lines.lines().nth(nth).unwrap();
    assert_eq!(run("mkdir -p /srv/plain/secrets").0, 0);
    let (code, told) = run(line(2));
    assert!(code != 0 && told.contains("not a shared or slave mount"), "{told}");
    assert_eq!(run("docker rm plain").0, 0);

    let leasefs = |order: &str| {
        assert_eq!(order.rsplit(' ').next(), Some("&"));
        run(&format!("exec >/run/plain.log 2>&1; {order}"));
        let (code, told) = run(line(1));
        assert_eq!(code, 0, "{told}");
    };
    leasefs(line(0));
    assert_eq!(shared(), "1\n");
    let (code, told) = run(&[line(2), line(3)].join("\n"));
    assert_eq!((code, told.lines().last()), (0, Some("plain's own")), "{told}");
    assert_eq!(run("docker exec plain find /run/tenant -type s"), (0, String::new()), "no control socket");
    // A second start shares anew, and who has bound the first one does not see it.
    assert_eq!(run("leasefs unmount /srv/plain/secrets").0, 0);
    is_over("plain");
    eventually(PATIENCE, || shared() == "0\n").expect("undone");
    leasefs(line(0));
    let (code, told) = run(line(3));
    assert!(code != 0 && told.contains("No such file"), "{told}");
    assert_eq!(run(&format!("docker restart --time 1 plain; {}", line(3))).0, 0);
    assert_eq!(run("leasefs unmount /srv/plain/secrets").0, 0);

    // By mount(8); then shared for good, which a container outlives.
    is_over("plain");
    eventually(PATIENCE, || shared() == "0\n").expect("undone");
    let mount = "mount -t leasefs -o shared_parent plain /srv/plain/secrets";
    assert_eq!(run(mount), (0, String::new()));
    assert_eq!(shared(), "1\n");
    assert_eq!(run("umount /srv/plain/secrets").0, 0);
    host.configure("lasting", 0);
    let (code, told) = run(host.lines(heading, 1));
    assert_eq!(code, 0, "{told}");
    let [mount, bound] = [mount, line(2)].map(|line| line.replace("plain", "lasting"));
    assert_eq!(run(&bound).0, 0);
    for _ in 0..2 {
        assert_eq!(run(&mount), (0, String::new()));
        let (code, told) = run(&line(3).replace("plain", "lasting"));
        assert_eq!((code, told.as_str()), (0, "lasting's own"));
        assert_eq!(run("umount /srv/lasting/secrets").0, 0);
        is_over("lasting");
    }
}
