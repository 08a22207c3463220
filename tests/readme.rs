//! The commands of the README and of the pages that go with it, run as they stand there and in the order in which
//! somebody would type them: on terminals of a system apart with a real systemd, a real OpenBao and a real PostgreSQL
//! under the names of the examples, and a real Docker. A block that nobody here takes fails the test.
//!
//! Root has no use for sudo there: it is a function of the shell that runs its arguments.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and reads the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use support::bao::Bao;
use support::certificates;
use support::docker::{self, Daemon};
use support::guide::{Guide, commands};
use support::mount::{eventually, leasefs};
use support::programs::run;
use support::systemd::{Machine, Tree};
use support::terminal::Terminal;
use support::world::World;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

const README: &str = "README.md";
const SYSTEMD: &str = "docs/systemd.md";
const PROTECTIONS: &str = "docs/protections.md";

/// All that is read here; docs/docker.md is run by tests/docker.rs, and mount-config/ by tests/mount_examples.rs.
const PAGES: [(&str, &str); 7] = [
    (README, include_str!("../README.md")),
    ("docs/configuration.md", include_str!("../docs/configuration.md")),
    ("docs/leases.md", include_str!("../docs/leases.md")),
    ("docs/ordinary-user.md", include_str!("../docs/ordinary-user.md")),
    (PROTECTIONS, include_str!("../docs/protections.md")),
    ("docs/run.md", include_str!("../docs/run.md")),
    (SYSTEMD, include_str!("../docs/systemd.md")),
];

/// Blocks that can't be run as they stand, and where what they say is tested.
const ELSEWHERE: [(&str, usize, &str); 3] = [
    // An optimised build of minutes. What it installs is what this test's system has, and tests/package.rs looks at.
    ("Quick start", 0, "make build"),
    // The same, and the package: tests/package.rs.
    ("Installing", 0, "make deb"),
    // What developers call; that there is each target is tested below.
    ("Development", 0, "make test"),
];

/// The ordinary user.
const USER: u32 = 1000;

/// What the image of the container does.
const IMAGE: (&str, Option<&str>) =
    ("example/agent", Some("#!/bin/sh\nid -u\ncat /run/secrets/weather.json\n"));

/// The secret of the examples, as its file shows it.
const WEATHER: &str = r#""api-key":"k1""#;

/// The role of the examples, as far as names of accounts have it.
const ROLE: &str = "agent-re";

struct Host {
    world: World,
    machine: Machine,
    guide: Guide,
    /// May do what the README says that Vault has to allow.
    token: String,
}

#[test]
fn each_command_works_as_it_stands_there() {
    let guide = Guide::new(&PAGES);
    for (heading, nth, command) in ELSEWHERE {
        assert!(guide.take(README, heading, "sh", nth).contains(command), "{heading}");
    }
    let (world, certificates, address) = world();
    let token = prepare(&world, &guide);
    let machine = boot(&certificates, address);
    let host = Host { world, machine, guide, token };
    host.quick_start();
    host.a_command_of_its_own();
    host.as_an_ordinary_user();
    host.mount_and_fstab();
    host.systemd();
    host.docker();
    host.protections();
    assert!(host.guide.untaken().is_empty(), "no test runs:\n{}", host.guide.untaken().join("\n"));
}

#[test]
fn each_target_of_make_that_is_named_is_there() {
    let makefile = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile")).unwrap();
    let blocks = support::guide::blocks(PAGES[0].1).filter(|block| block.kind == "sh");
    let lines: Vec<String> = blocks.flat_map(|block| commands(block.text)).collect();
    let targets =
        lines.iter().flat_map(|line| line.split("make ").skip(1).map(|rest| rest.split([' ', ';']).next()));
    let targets: Vec<&str> = targets.flatten().collect();
    assert!(targets.len() > 8, "{targets:?}");
    for target in targets {
        assert!(makefile.contains(&format!("\n{target}:")), "make {target}");
    }
}

/// `make demo`, with the binary that is tested.
#[test]
fn the_demo_comes_to_its_end() {
    let mut demo = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/run"));
    demo.env("LEASEFS", env!("CARGO_BIN_EXE_leasefs"));
    let shown = run(&mut demo);
    assert!(shown.contains("16 log-ins as v-approle-agent-re-"), "{shown}");
    assert!(shown.contains("\n9. ") && shown.ends_with("until Ctrl-C\n"), "{shown}");
}

// ---- The world of the examples ----

/// OpenBao at `https://vault.example.internal:8200`, which is an address of the loopback that no other test has; its
/// certificates; that address.
fn world() -> (World, TempDir, String) {
    let certificates = tempfile::tempdir().unwrap();
    let directory = certificates.path();
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = format!("127.82.{high}.{low}");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let bao = Bao::start().await;
        certificates::make_authority(&bao, "pki", directory, "authority").await;
        let wanted = json!({"common_name": "vault.example.internal", "ttl": "1h"});
        certificates::make_certificate(&bao, "pki", wanted, directory, "vault").await;
    });
    let listener = certificates::listener(&format!("{address}:8200"), directory, "vault");
    let world = World::with(async move { Bao::start_with_listeners(&listener).await });
    (world, certificates, address)
}

/// Secrets, a database and a policy as the examples want them; a token with that policy.
fn prepare(world: &World, guide: &Guide) -> String {
    world.postgres.query("create database weather");
    world.postgres.query("create role root superuser login password 'reports'");
    world.postgres.query("create database root");
    let policy = guide.take(README, "What Vault has to allow", "hcl", 0);
    world.wait(async {
        let (bao, minute) = (&world.bao, Duration::from_secs(60));
        bao.write_kv2("secret", "agents/weather", json!({"api-key": "k1", "units": "metric"})).await;
        bao.write_kv2("secret", "agents/reports", json!({"pgpass": "*:*:*:*:reports"})).await;
        world.postgres.add_role(bao, "database", "agent-read-only", minute, minute * 3).await;
        bao.write_policy("agent", policy).await;
        bao.create_token(json!({"policies": ["agent"]})).await
    })
}

/// A system on which leasefs is installed, and which knows the hosts and the authority.
fn boot(certificates: &TempDir, address: String) -> Machine {
    let tree = Tree::new();
    docker::equip(&tree, &[IMAGE]);
    tree.write(
        "/etc/hosts",
        &format!("127.0.0.1 localhost db.example.internal\n{address} vault.example.internal\n"),
    );
    tree.write("/etc/nsswitch.conf", "hosts: files\n");
    let authority = fs::read_to_string(certificates.path().join("authority.crt")).unwrap();
    tree.write("/etc/ssl/certs/ca-certificates.crt", &authority);
    let machine = tree.boot();
    machine.run("mkdir -p /mnt/agent /mnt/other");
    machine.run(&format!("echo dev:x:{USER}:{USER}::/home/dev:/bin/sh >>/etc/passwd"));
    machine.run(&format!("install -d -o {USER} -g {USER} /home/dev /run/user/{USER}"));
    // systemd makes no key for credentials on a file system in memory, as all of this system's are but /usr.
    machine.run(
        "mkdir -p /usr/share/lasting /var/lib/systemd && mount --bind /usr/share/lasting /var/lib/systemd",
    );
    machine.run("umount /dev/fuse && rm /dev/fuse && mknod -m 0666 /dev/fuse c 10 229");
    machine
}

impl Host {
    /// A shell of root's, in its home.
    fn terminal(&self) -> Terminal {
        self.terminal_of("HOME=/root", "")
    }

    fn terminal_of(&self, environment: &str, before: &str) -> Terminal {
        let port = self.world.postgres.port();
        let script = self.machine.command(&format!(
            "export {environment} PS1= TERM=dumb PAGER=cat PGPORT={port}; cd ~; \
             exec {before} script -qfec 'bash --norc --noediting -i' /dev/null"
        ));
        let mut terminal = Terminal::start(script);
        terminal.run("stty -echo; PS1= PS2=");
        terminal.run("sudo() { [ \"$1\" != -E ] || shift; \"$@\"; }");
        terminal
    }

    /// The quick start's configuration, and more.
    fn configure(&self, path: &str, more: &str) {
        let text = self.guide.take(README, "Quick start", "toml", 0);
        self.machine.write(path, &format!("{text}\n{more}"));
    }

    fn token_line(&self) -> String {
        format!("export VAULT_TOKEN={}", self.token)
    }

    /// Types what mounts in the foreground, and waits for the mount.
    fn serve(&self, terminal: &mut Terminal, line: &str, at: &str) -> usize {
        let began = terminal.seen().len();
        terminal.press(&format!("{line}\n"));
        let mounted = eventually(PATIENCE, || self.machine.mounted(at).starts_with("fuse"));
        assert!(mounted.is_some(), "{}", terminal.seen());
        began
    }

    /// Everything that was mounted or issued is gone.
    fn nothing_is_left(&self, at: &str) {
        assert_eq!(self.machine.mounted(at), "", "{at}");
        let leases = || self.world.leases("agent-read-only");
        let gone = eventually(PATIENCE, || leases().is_empty() && self.world.accounts(ROLE) == 0);
        assert!(gone.is_some(), "{at}: {:?}, {} accounts", leases(), self.world.accounts(ROLE));
    }

    // ---- The sections ----

    fn quick_start(&self) {
        self.configure("/etc/leasefs/agent.toml", "");
        let [login, check, mount] = self.lines(README, "Quick start", 1);
        let mut first = self.terminal();
        first.run(&login.replace('…', &self.token));
        let table = first.run(&check);
        assert!(table.contains("secret/agents/weather") && table.contains("db/password"), "{table}");
        let began = self.serve(&mut first, &mount, "/run/leasefs/agent");

        let [enter, list, cat, psql, status] = self.lines(README, "Quick start", 2);
        let mut second = self.terminal();
        second.run(&enter);
        let listed = second.run(&list);
        for name in ["weather.json", "username", "password", "reports"] {
            assert!(listed.contains(name), "{listed}");
        }
        let weather: Value = serde_json::from_str(&second.run(&cat)).unwrap();
        assert_eq!(weather, json!({"api-key": "k1", "units": "metric"}));
        self.log_in(&mut second, &psql, "weather=> ", "v-token-agent-re");
        let shown = second.run(&status);
        assert!(shown.contains("db/password") && shown.contains("live"), "{shown}");

        second.run("cd /");
        first.press("\u{3}");
        first.ended(began);
        self.nothing_is_left("/run/leasefs/agent");

        // The page's first lines.
        let [_, mount] = self.lines(README, "", 0);
        first.run("cd /etc/leasefs");
        let began = self.serve(&mut first, &mount, "/mnt/agent");
        assert!(second.run("cat /mnt/agent/weather.json").contains(WEATHER));
        second.run("leasefs unmount /mnt/agent");
        first.ended(began);
        self.nothing_is_left("/mnt/agent");
    }

    /// Types a line that ends in psql, asks who one is, and leaves.
    fn log_in(&self, terminal: &mut Terminal, line: &str, prompt: &str, user: &str) {
        let began = terminal.seen().len();
        terminal.press(&format!("{line}\n"));
        terminal.wait_for(prompt);
        terminal.press("select 'I am ' || current_user;\n");
        terminal.wait_for(&format!("I am {user}"));
        terminal.press("\\q\n");
        terminal.ended(began);
    }

    fn a_command_of_its_own(&self) {
        let [anything, variable, bound, tree] = self.lines(README, "A command of its own: leasefs run", 0);
        let mut shell = self.terminal();
        shell.run("mkdir work && cd work && touch ~/.pgpass && chmod 0600 ~/.pgpass");
        self.configure("/root/work/agent.toml", "");
        let agent =
            "#!/bin/sh\ncat \"${API_KEY_FILE:-$LEASEFS_DIR/db/password}\"\necho \" ${VAULT_TOKEN-none}\"\n";
        self.machine.write("/root/work/agent", agent);
        shell.run("chmod +x agent; export VAULT_ADDR=https://vault.example.internal:8200");
        shell.run(&self.token_line());
        let shown = shell.run(&anything);
        let login: Value = serde_json::from_str(&shown).unwrap_or_else(|_| panic!("{shown}"));
        let (user, password) = (login["username"].as_str().unwrap(), login["password"].as_str().unwrap());
        assert!(user.starts_with("v-token-agent-re"), "{user}");
        assert!(!self.world.postgres.admits(user, password));
        assert_eq!(shell.run(&variable), "k1 none\n");
        self.log_in(&mut shell, &bound, "root=# ", "root");
        assert_eq!(shell.run("cat ~/.pgpass"), "");
        let password = shell.run(&tree);
        assert!(password.len() > " none\n".len() && password.ends_with(" none\n"), "{password}");
        self.nothing_is_left("/run/leasefs/agent");
    }

    fn as_an_ordinary_user(&self) {
        let [make, mount, cat, status, unmount] = self.lines(README, "As an ordinary user", 0);
        self.configure("/home/dev/agent.toml", "");
        let environment = format!("HOME=/home/dev XDG_RUNTIME_DIR=/run/user/{USER}");
        let before = format!("setpriv --reuid {USER} --regid {USER} --clear-groups");
        let mut first = self.terminal_of(&environment, &before);
        let mut second = self.terminal_of(&environment, &before);
        first.run(&self.token_line());
        first.run(&make);
        let began = self.serve(&mut first, &mount, "/home/dev/secrets");
        assert!(second.run(&cat).contains(WEATHER));
        let shown = second.run(&status);
        assert!(shown.contains("weather.json"), "{shown}");
        second.run(&unmount);
        first.ended(began);
        self.nothing_is_left("/home/dev/secrets");
    }

    fn mount_and_fstab(&self) {
        let identity = "[identity.default]\nmethod = \"token\"\ntoken-file = \"/etc/leasefs/agent.token\"\n";
        for name in ["agent", "other"] {
            self.configure(&format!("/etc/leasefs/{name}.toml"), identity);
        }
        self.machine.run(&format!("umask 077; echo {} >/etc/leasefs/agent.token", self.token));
        let [by_path, by_name, unmount] = self.lines(README, "mount and fstab", 0);
        let mut shell = self.terminal();
        for mount in [by_path, by_name] {
            shell.run(&mount);
            assert!(shell.run("cat /mnt/agent/weather.json; cat /mnt/agent/db/password").contains(WEATHER));
            shell.run(&unmount);
            self.nothing_is_left("/mnt/agent");
        }

        let lines = self.guide.take(README, "mount and fstab", "fstab", 0);
        self.machine.write("/etc/fstab", &format!("{lines}\n"));
        shell.run("systemctl daemon-reload");
        // As at a boot, which does not wait for what is `nofail`; the second start does.
        shell.run("systemctl start remote-fs.target mnt-other.automount");
        shell.run("systemctl start mnt-agent.mount");
        for at in ["/mnt/agent", "/mnt/other"] {
            assert!(shell.run(&format!("cat {at}/weather.json")).contains(WEATHER));
        }
        shell.run("systemctl stop mnt-other.automount mnt-other.mount mnt-agent.mount");
        self.nothing_is_left("/mnt/agent");

        self.machine.write("/etc/fstab", "");
        let unit = self.guide.take(README, "mount and fstab", "ini", 0);
        self.machine.write("/etc/systemd/system/mnt-agent.mount", unit);
        shell.run("systemctl daemon-reload; systemctl start mnt-agent.mount");
        assert!(shell.run("cat /mnt/agent/weather.json").contains(WEATHER));
        shell.run("systemctl stop mnt-agent.mount; rm /etc/systemd/system/mnt-agent.mount");
        self.nothing_is_left("/mnt/agent");
    }

    fn systemd(&self) {
        // What comes first in time stands further down on the page.
        let role =
            self.world.wait(self.world.bao.create_approle("agent", json!({"token_policies": "agent"})));
        let secret_id = fs::read_to_string(&role.secret_id_file).unwrap();
        let mut shell = self.terminal();
        shell.run(&format!("ROLE_ID={} SECRET_ID={}", role.role_id, secret_id.trim()));
        for line in commands(self.guide.take(README, "systemd", "sh", 2)) {
            shell.run(&line);
        }
        self.configure("/etc/leasefs/agent.toml", self.guide.take(README, "systemd", "toml", 0));

        let program = "[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                       ExecStart=/bin/sh -c 'cat /run/leasefs/agent/db/username >/run/program.out'\n";
        self.machine.write("/etc/systemd/system/program.service", program);
        for line in commands(self.guide.take(README, "systemd", "sh", 1)) {
            shell.run(&line.replace("PROGRAM", "program"));
        }
        let waits = self.guide.take(SYSTEMD, "Ready", "ini", 0);
        self.machine.write("/etc/systemd/system/program.service.d/wait.conf", waits);

        let [enable] = self.lines(README, "systemd", 0);
        shell.run(&enable);
        assert_eq!(self.machine.property("leasefs@agent", "ActiveState"), "active");
        assert_eq!(self.machine.property("leasefs@agent", "UnitFileState"), "enabled");
        shell.run("systemctl stop leasefs@agent");
        // The program brings it.
        shell.run("systemctl daemon-reload; systemctl start program");
        assert!(shell.run("cat /run/program.out").starts_with("v-approle-agent-re"));
        for event in ["reload", "restart"] {
            shell.run(&format!("systemctl {event} leasefs@agent"));
            assert!(shell.run("cat /run/leasefs/agent/weather.json").contains(WEATHER));
        }
        shell.run("systemctl stop leasefs@agent");
        self.nothing_is_left("/run/leasefs/agent");
    }

    /// On what `systemd` has left.
    fn docker(&self) {
        docker::start(&self.machine, Daemon::USUAL, &[IMAGE]);
        let identity = self.guide.take(README, "systemd", "toml", 0);
        self.configure("/etc/leasefs/agent.toml", &format!("{identity}\n[defaults]\nowner = 1000\n"));
        let mut shell = self.terminal();
        shell.run(&format!("export DOCKER_HOST={}; systemctl start leasefs@agent", Daemon::USUAL.address()));
        let [line] = self.lines(README, "Docker", 0);
        let shown = shell.run(&line.replace("IMAGE", IMAGE.0));
        assert!(shown.contains("1000\n{") && shown.contains(WEATHER), "{shown}");
        shell.run("systemctl stop leasefs@agent");
        self.nothing_is_left("/run/leasefs/agent");
    }

    fn protections(&self) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.toml");
        let table = self.guide.take(PROTECTIONS, "Switching one off", "toml", 0);
        fs::write(&file, format!("{table}\n[file.key]\nsecret = \"secret/app#key\"\n")).unwrap();
        run(leasefs().args(["check", "--offline"]).arg(&file));
    }

    /// The commands of a block of shell, of which there are `N`.
    #[track_caller]
    fn lines<const N: usize>(&self, page: &'static str, heading: &'static str, nth: usize) -> [String; N] {
        let lines = commands(self.guide.take(page, heading, "sh", nth));
        lines.try_into().unwrap_or_else(|lines| panic!("{heading}, not {N} commands: {lines:?}"))
    }
}
