//! Servers that end at the worst moment, and servers that are replaced: what was under way is done again, given
//! back, or reported. With a real kernel, a real OpenBao and a real PostgreSQL. All scenarios run at once and
//! share the servers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, read the clock, and say what it has measured"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use support::load::{Load, holds, reads};
use support::mount::{Mount, eventually};
use support::proxy::{Proxy, Trouble};
use support::scenarios::{run_together, scenarios};
use support::world::World;

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Long enough to do something meanwhile.
const WHILE: Duration = Duration::from_millis(800);

#[test]
fn moments() {
    let world = World::start();
    run_together(
        &world,
        &scenarios![
            a_login_on_its_way_is_done_again,
            a_login_on_its_way_is_told_of,
            a_credential_being_minted_is_reported_and_dies_with_its_token,
            a_renewal_on_its_way_is_done_again,
            a_revocation_on_its_way_is_done_again,
            servers_killed_in_quick_succession_keep_everything,
            told_to_end_at_the_moment_of_a_kill_everything_is_given_back,
            a_kill_while_everything_is_given_back_leaves_nothing,
            a_server_killed_while_it_is_unmounted_is_followed_by_one_that_goes_on_with_it,
            another_user_serves_a_mount_of_root_s_and_so_do_its_successors,
            who_cannot_serve_is_told_before_anything_is_mounted,
            without_its_keeper_a_server_gives_everything_back_and_the_next_start_replaces_the_mount,
            where_the_kernel_cannot_send_again_nothing_hangs,
            an_upgrade_under_load_is_not_noticed,
            who_waits_for_vault_during_an_upgrade_is_answered,
            a_binary_or_a_configuration_that_cannot_serve_changes_nothing,
            commands_wait_for_a_successor,
        ],
    );
}

/// A mount with a login of its own, by way of a proxy: a KV file `key` and the two files of a role.
struct Scene<'a> {
    world: &'a World,
    name: &'static str,
    proxy: Proxy,
    config: String,
}

impl<'a> Scene<'a> {
    fn new(world: &'a World, name: &'static str, ttl: u64) -> Scene<'a> {
        world.role(name, ttl, 3600);
        world.wait(world.bao.write_kv2("secret", name, json!({"key": name})));
        let proxy = Proxy::start(world.bao.address());
        let mut config = format!("[vault]\naddress = \"{}\"\n", proxy.address());
        config += &world.approle(name, json!({"token_ttl": "1h"}));
        config += &format!(
            "[file.key]\nsecret = \"secret/{name}#key\"\n\
             [file.user]\nsecret = \"database/creds/{name}#username\"\n\
             [file.password]\nsecret = \"database/creds/{name}#password\"\n"
        );
        Scene { world, name, proxy, config }
    }

    fn mount(&self) -> Mount {
        Mount::start(&self.config, &[])
    }

    /// Waits until a request with this in it has arrived since there were `before` of them.
    #[track_caller]
    fn wait_for_request(&self, fragment: &str, before: usize) {
        let arrived = eventually(PATIENCE, || self.proxy.count(fragment) > before);
        assert!(arrived.is_some(), "no {fragment} in {:?}", self.proxy.requests());
    }

    fn assert_works(&self, mount: &Mount) {
        let user = mount.read("user").unwrap_or_else(|error| panic!("{error}\n{}", mount.log()));
        assert!(self.world.postgres.admits(&user, &mount.read("password").unwrap()), "{}", mount.log());
        assert_eq!(mount.read("key").unwrap(), self.name);
    }

    #[track_caller]
    fn assert_nothing_is_left(&self, log: &str) {
        self.world.wait_until_nothing_is_left_of(self.name, PATIENCE);
        assert_eq!(self.world.accessors(self.name), [""; 0], "{log}");
    }

    #[track_caller]
    fn stop(&self, mount: Mount) -> String {
        let (ended, log) = mount.stop();
        assert!(ended.success(), "{ended}\n{log}");
        self.assert_nothing_is_left(&log);
        log
    }
}

fn a_login_on_its_way_is_done_again(world: &World) {
    let scene = Scene::new(world, "login", 600);
    scene.proxy.trouble_for("approle/login", Trouble::Delay(WHILE));
    let mount = scene.mount();
    scene.wait_for_request("approle/login", 0);
    let killed = mount.kill_server();
    scene.assert_works(&mount);
    mount.wait_for_successor(killed);
    assert_eq!(scene.proxy.count("approle/login"), 2, "{:?}", scene.proxy.requests());
    assert_eq!(world.leases("login").len(), 1);
    let (ended, log) = mount.stop();
    assert!(ended.success(), "{ended}\n{log}");
    world.wait_until_nothing_is_left_of("login", PATIENCE);
    // The one that nobody got lives until its end: it was never known.
    assert!(world.accessors("login").len() <= 1, "{log}");
}

fn a_login_on_its_way_is_told_of(world: &World) {
    let scene = Scene::new(world, "lost", 600);
    scene.proxy.trouble_for("approle/login", Trouble::Delay(WHILE));
    let mount = scene.mount();
    scene.wait_for_request("approle/login", 0);
    let killed = mount.kill_server();
    mount.wait_for_log(
        "a login was under way when the server ended; its token, if one was issued, lives until",
    );
    mount.wait_for_successor(killed);
    scene.assert_works(&mount);
    let told = mount.status().unwrap();
    let lost = told["lost_logins"].as_array().unwrap();
    assert_eq!(lost.len(), 1, "{told}");
    assert_eq!(lost[0]["identity"], "default");
    let left = lost[0]["expires"]["in_seconds"].as_u64().unwrap();
    assert!((3000..=3600).contains(&left), "an hour is what the role gives: {left}");
    let root = mount.root();
    let (_, text) = mount.command(&["status", root.to_str().unwrap()]);
    assert!(text.contains("tokens that may live on in Vault:"), "{text}");
    let (judged, text) = mount.command(&["status", "--check", root.to_str().unwrap()]);
    assert_eq!(judged.code(), Some(1), "{text}");
    assert!(text.contains("a login was under way"), "{text}");
    // The token was issued, and is one more than those that were given back.
    assert_eq!(world.accessors("lost").len(), 2);
    let (ended, log) = mount.stop();
    assert!(ended.success(), "{ended}\n{log}");
    world.wait_until_nothing_is_left_of("lost", PATIENCE);
    assert_eq!(world.accessors("lost").len(), 1, "{log}");
}

fn a_credential_being_minted_is_reported_and_dies_with_its_token(world: &World) {
    let scene = Scene::new(world, "minting", 600);
    let mount = scene.mount();
    mount.wait_for_log("logged in");
    scene.proxy.trouble_for("/v1/database/creds", Trouble::Delay(WHILE));
    thread::scope(|scope| {
        let reading = scope.spawn(|| scene.assert_works(&mount));
        scene.wait_for_request("/v1/database/creds", 0);
        mount.kill_server();
        reading.join().unwrap();
    });
    assert_eq!(world.leases("minting").len(), 2, "one that is shown, and one that is lost");
    assert_eq!(scene.proxy.count("approle/login"), 1);
    let told =
        mount.log().lines().any(|line| line.contains("WARN") && line.contains("database/creds/minting"));
    assert!(told, "{}", mount.log());
    scene.stop(mount);
}

fn a_renewal_on_its_way_is_done_again(world: &World) {
    let scene = Scene::new(world, "renewal", 5);
    let mount = scene.mount();
    let file = File::open(mount.path("user")).unwrap();
    let user = mount.read("user").unwrap();
    let lease = world.lease("renewal");
    for _ in 0..3 {
        let before = scene.proxy.count("leases/renew");
        scene.proxy.trouble_for("leases/renew", Trouble::Delay(Duration::from_millis(300)));
        scene.wait_for_request("leases/renew", before);
        mount.kill_server();
        scene.proxy.recover();
        holds(&file, &user, "user").unwrap();
    }
    thread::sleep(Duration::from_secs(6));
    assert_eq!(world.lease("renewal"), lease, "{}", mount.log());
    holds(&file, &user, "user").unwrap();
    drop(file);
    scene.stop(mount);
}

fn a_revocation_on_its_way_is_done_again(world: &World) {
    let scene = Scene::new(world, "revoke", 600);
    // To revoke a lease by itself needs a right of its own.
    let rules = r#"path "+/creds/*" { capabilities = ["read"] }
                   path "secret/*" { capabilities = ["read"] }
                   path "sys/leases/revoke" { capabilities = ["update"] }"#;
    world.wait(world.bao.write_policy("revoke", rules));
    let mount = scene.mount();
    scene.assert_works(&mount);
    let lease = world.lease("revoke");
    scene.proxy.trouble_for("leases/revoke", Trouble::Cut);
    thread::scope(|scope| {
        let root = mount.root();
        let asking = scope.spawn(move || {
            // Its server dies under it.
            drop(support::mount::leasefs().args(["revoke", root.to_str().unwrap(), "user"]).output());
        });
        scene.wait_for_request("leases/revoke", 0);
        let killed = mount.kill_server();
        scene.proxy.recover();
        mount.wait_for_successor(killed);
        asking.join().unwrap();
    });
    let gone = eventually(PATIENCE, || world.facts(&lease).is_none());
    assert!(gone.is_some(), "{}\n{:?}", mount.log(), scene.proxy.requests());
    scene.assert_works(&mount);
    scene.stop(mount);
}

fn servers_killed_in_quick_succession_keep_everything(world: &World) {
    let scene = Scene::new(world, "quick", 600);
    let mount = scene.mount();
    scene.assert_works(&mount);
    let (lease, file) = (world.lease("quick"), File::open(mount.path("user")).unwrap());
    let user = mount.read("user").unwrap();
    for pause in [0, 5, 20, 40] {
        let mut last = mount.kill_server();
        for _ in 0..2 {
            let another = || mount.server().is_some_and(|pid| pid != last);
            assert!(eventually(PATIENCE, another).is_some(), "{}", mount.log());
            thread::sleep(Duration::from_millis(pause));
            last = mount.kill_server();
        }
        holds(&file, &user, "user").unwrap();
        scene.assert_works(&mount);
        mount.wait_for_successor(last);
    }
    assert_eq!(world.lease("quick"), lease);
    assert_eq!(scene.proxy.count("approle/login"), 1);
    drop(file);
    scene.stop(mount);
}

fn told_to_end_at_the_moment_of_a_kill_everything_is_given_back(world: &World) {
    for (round, name) in ["term1", "term2", "term3", "term4"].into_iter().enumerate() {
        let scene = Scene::new(world, name, 600);
        let mut mount = scene.mount();
        scene.assert_works(&mount);
        if round % 2 == 0 {
            mount.kill_server();
        }
        if round == 2 {
            // The successor is about to begin.
            thread::sleep(Duration::from_millis(30));
        }
        mount.signal(Signal::SIGTERM);
        if round % 2 == 1 && mount.server().is_some() {
            mount.kill_server();
        }
        let (ended, log) = (mount.wait(), mount.log());
        assert!(ended.success(), "{name}: {ended}\n{log}");
        assert!(!mount.is_mounted(), "{log}");
        scene.assert_nothing_is_left(&log);
    }
}

fn a_kill_while_everything_is_given_back_leaves_nothing(world: &World) {
    let scene = Scene::new(world, "giving", 600);
    let mut mount = scene.mount();
    scene.assert_works(&mount);
    let before = scene.proxy.count("revoke");
    scene.proxy.trouble_for("revoke", Trouble::Delay(WHILE));
    mount.signal(Signal::SIGTERM);
    scene.wait_for_request("revoke", before);
    mount.kill_server();
    scene.proxy.recover();
    let (ended, log) = (mount.wait(), mount.log());
    assert!(ended.success(), "{ended}\n{log}");
    assert!(!mount.is_mounted(), "{log}");
    scene.assert_nothing_is_left(&log);
}

fn a_server_killed_while_it_is_unmounted_is_followed_by_one_that_goes_on_with_it(world: &World) {
    let scene = Scene::new(world, "midway", 600);
    let mut mount = scene.mount();
    scene.assert_works(&mount);
    let before = scene.proxy.count("revoke");
    scene.proxy.trouble_for("revoke", Trouble::Delay(WHILE));
    let root = mount.root();
    let unmounting = thread::spawn(move || {
        support::mount::leasefs().args(["unmount", root.to_str().unwrap()]).output().unwrap()
    });
    scene.wait_for_request("revoke", before);
    mount.kill_server();
    // Once more, while the next one gives everything back.
    scene.wait_for_request("revoke", before + 1);
    mount.kill_server();
    scene.proxy.recover();
    let output = unmounting.join().unwrap();
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), mount.log());
    let (ended, log) = (mount.wait(), mount.log());
    assert!(ended.success(), "{ended}\n{log}");
    assert!(!mount.is_mounted(), "{log}");
    assert!(log.contains("the server before this one had begun to"), "{log}");
    assert_eq!(scene.proxy.count("approle/login"), 1, "{:?}", scene.proxy.requests());
    scene.assert_nothing_is_left(&log);
}

/// Who serves mounts of root's here; there is no such account.
const SERVER: u32 = 12_345;

/// A configuration whose server is another user, and whose secret id belongs to `owner`.
fn served_by_another(scene: &Scene<'_>, directory: &Path, owner: u32) -> String {
    let secret_id = directory.join("secret-id");
    let text = |line: &str| line.split('"').nth(1).unwrap().to_owned();
    let line = scene.config.lines().find(|line| line.starts_with("secret-id-file")).unwrap();
    fs::write(&secret_id, fs::read_to_string(text(line)).unwrap()).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&secret_id, fs::Permissions::from_mode(0o400)).unwrap();
    chown(&secret_id, Some(owner), Some(owner)).unwrap();
    let config = scene.config.replace(line, &format!("secret-id-file = \"{}\"", secret_id.display()));
    format!("[mount]\nserver-user = {SERVER}\n{config}")
}

/// The fields of `/proc/T/status` that say who a process is.
fn who_is(pid: u32) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let fields = ["Uid:", "Gid:", "Groups:", "CapEff:"];
    let line =
        |field| status.lines().find_map(|line: &str| line.strip_prefix(field)).unwrap().trim().to_owned();
    fields.map(line).to_vec()
}

fn another_user_serves_a_mount_of_root_s_and_so_do_its_successors(world: &World) {
    let scene = Scene::new(world, "served", 600);
    let directory = tempfile::tempdir().unwrap();
    let config = served_by_another(&scene, directory.path(), SERVER);
    let mut mount = Mount::start(&config, &[]);
    let root = mount.root();
    let root = root.to_str().unwrap();
    scene.assert_works(&mount);
    let (lease, file) = (world.lease("served"), File::open(mount.path("user")).unwrap());
    let user = mount.read("user").unwrap();
    let (ended, text) = mount.command(&["lock", root, "key", "--reason", "an incident"]);
    assert!(ended.success(), "it is stored as well: {text}");
    for _ in 0..3 {
        let ids = format!("{SERVER}\t{SERVER}\t{SERVER}\t{SERVER}");
        assert_eq!(who_is(mount.pid()), [&ids, &ids, &SERVER.to_string(), "0000000000000000"]);
        assert!(who_is(mount.keeper())[0].starts_with("0\t0"), "the keeper stays root");
        let status = mount.status().unwrap();
        assert_eq!(status["user"], SERVER.to_string());
        let protections = status["protections"].as_array().unwrap();
        assert_eq!(protections.iter().find(|one| one["name"] == "user").unwrap()["state"], "on", "{status}");
        let killed = mount.kill_server();
        mount.wait_for_successor(killed);
        holds(&file, &user, "user").unwrap();
        assert_eq!(mount.errno("key"), nix::libc::EACCES, "it stays locked");
    }
    assert_eq!(world.lease("served"), lease, "{}", mount.log());
    assert_eq!(scene.proxy.count("approle/login"), 1);
    drop(file);
    // Root serves it from the next mount on, and what was locked stays so; then the other user again.
    fs::write(mount.directory().join("config.toml"), &scene.config).unwrap();
    mount.restart(&[]);
    mount.wait_for_successor(0);
    assert!(who_is(mount.pid())[0].starts_with("0\t0"));
    assert_eq!(mount.errno("key"), nix::libc::EACCES, "{}", mount.log());
    fs::write(mount.directory().join("config.toml"), &config).unwrap();
    mount.restart(&[]);
    assert_eq!(mount.errno("key"), nix::libc::EACCES, "{}", mount.log());
    let (ended, text) = mount.command(&["unlock", root, "key"]);
    assert!(ended.success(), "{text}");
    scene.assert_works(&mount);
    let sockets = || {
        fs::read_dir("/run/leasefs-control")
            .unwrap()
            .flatten()
            .filter(|entry| {
                let name = entry.file_name().to_string_lossy().replace('-', "/");
                name.contains(&root[1..].replace("\\x2d", "-"))
            })
            .count()
    };
    assert_eq!(sockets(), 1);
    scene.stop(mount);
    assert_eq!(sockets(), 0, "its keeper removes what it may not");
}

fn who_cannot_serve_is_told_before_anything_is_mounted(world: &World) {
    let scene = Scene::new(world, "shut", 600);
    let directory = tempfile::tempdir().unwrap();
    let config = served_by_another(&scene, directory.path(), 0);
    let mut mount = Mount::launch(&config, &[]);
    assert_eq!(mount.wait().code(), Some(78), "{}", mount.log());
    let told = format!(
        "{}/secret-id can't be read by user {SERVER}, who is to serve the mount",
        directory.path().display()
    );
    assert!(mount.log().contains(&told), "{}", mount.log());
    let config = directory.path().join("agent.toml");
    fs::write(&config, format!("[mount]\nserver-user = {SERVER}\n[file.a]\nsecret = \"secret/a#b\"\n"))
        .unwrap();
    let mut command = support::mount::leasefs();
    command.args(["run", "--config", config.to_str().unwrap(), "--", "true"]);
    command.env("VAULT_TOKEN", "none").env("VAULT_ADDR", world.bao.address());
    let output = command.uid(SERVER).gid(SERVER).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{text}");
    assert!(text.contains("server-user is for mounts of root's"), "{text}");
    assert_eq!(scene.proxy.count("login"), 0);
}

fn without_its_keeper_a_server_gives_everything_back_and_the_next_start_replaces_the_mount(world: &World) {
    let scene = Scene::new(world, "keeper", 600);
    let mut mount = scene.mount();
    scene.assert_works(&mount);
    let server = mount.pid();
    kill(Pid::from_raw(mount.keeper().cast_signed()), Signal::SIGKILL).unwrap();
    mount.wait();
    scene.assert_nothing_is_left(&mount.log());
    let gone = eventually(PATIENCE, || !Path::new(&format!("/proc/{server}")).exists());
    assert!(gone.is_some(), "the server is still there:\n{}", mount.log());
    assert!(mount.log().contains("all leases were given back"), "{}", mount.log());
    // The mount that is there now is dead; the next start replaces it.
    mount.restart_after_end(&[]);
    let works = eventually(PATIENCE, || mount.read("key").is_ok());
    assert!(works.is_some(), "{}", mount.log());
    scene.assert_works(&mount);
    scene.stop(mount);
}

fn where_the_kernel_cannot_send_again_nothing_hangs(world: &World) {
    let scene = Scene::new(world, "sweep", 600);
    let mount = Mount::start(&scene.config, &[("LEASEFS_RESEND", "off")]);
    scene.assert_works(&mount);
    let (lease, file) = (world.lease("sweep"), File::open(mount.path("user")).unwrap());
    let user = mount.read("user").unwrap();
    let load = under_load(&mount, &user, "sweep");
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(200));
        let killed = mount.kill_server();
        mount.wait_for_successor(killed);
        assert_eq!(load.hung(), [""; 0], "{}", mount.log());
    }
    let tally = load.end().unwrap_or_else(|hung| panic!("these hang: {hung}\n{}", mount.log()));
    println!("without RESEND: {} of {} calls failed, {:?}", tally.failed, tally.calls, tally.failures);
    assert!(tally.failed <= 15, "{:#?}", tally.failures);
    assert!(tally.failures.iter().all(|failure| failure.contains("os error 4)")), "{:#?}", tally.failures);
    holds(&file, &user, "user").unwrap();
    scene.assert_works(&mount);
    assert_eq!(world.lease("sweep"), lease);
    drop(file);
    // A close that a server had read and not begun is lost there: at most one for each kill.
    let closed = eventually(PATIENCE, || mount.readers().values().sum::<u64>() <= 5);
    assert!(closed.is_some(), "{:?}\n{}", mount.readers(), mount.log());
    scene.stop(mount);
}

fn under_load(mount: &Mount, user: &str, key: &str) -> Load {
    let mut load = Load::new();
    for (name, text) in [("user", user), ("key", key), ("key", key)] {
        let (path, text) = (mount.path(name), text.to_owned());
        load.start(name, move || reads(&path, &text));
    }
    let (file, text) = (File::open(mount.path("user")).unwrap(), user.to_owned());
    load.start("an open file", move || holds(&file, &text, "user"));
    load
}

/// Puts something where the binary of a mount is, as package managers do.
fn replace(mount: &Mount, content: &[u8]) {
    let draft = mount.directory().join("draft");
    fs::write(&draft, content).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&draft, mount.program()).unwrap();
}

fn an_upgrade_under_load_is_not_noticed(world: &World) {
    let scene = Scene::new(world, "upgrade", 600);
    let mount = Mount::start_copy(&scene.config, &[]);
    scene.assert_works(&mount);
    let lease = world.lease("upgrade");
    let user = mount.read("user").unwrap();
    let load = under_load(&mount, &user, "upgrade");
    for _ in 0..3 {
        let (server, keeper) = (mount.pid(), mount.keeper());
        replace(&mount, &fs::read(mount.program()).unwrap());
        let (ended, text) = mount.command(&["upgrade", mount.root().to_str().unwrap()]);
        assert!(ended.success(), "{text}\n{}", mount.log());
        let next = mount.pid();
        assert_ne!(next, server);
        assert_eq!(mount.keeper(), keeper);
        let version = env!("CARGO_PKG_VERSION");
        assert!(text.contains(&format!("{version} (process {server})")), "{text}");
        assert!(text.contains(&format!("{version} (process {next})")), "{text}");
        let program = fs::read_link(format!("/proc/{next}/exe")).unwrap();
        assert_eq!(program, mount.program().canonicalize().unwrap(), "the new one, which is not deleted");
    }
    let tally = load.end().unwrap_or_else(|hung| panic!("these hang: {hung}\n{}", mount.log()));
    println!("3 upgrades: {} calls, the longest took {:?}", tally.calls, tally.worst);
    assert_eq!(tally.failed, 0, "{:#?}\n{}", tally.failures, mount.log());
    assert_eq!(world.lease("upgrade"), lease);
    assert_eq!(scene.proxy.count("approle/login"), 1);
    scene.stop(mount);
}

fn who_waits_for_vault_during_an_upgrade_is_answered(world: &World) {
    let scene = Scene::new(world, "waits", 600);
    let mount = scene.mount();
    mount.wait_for_log("logged in");
    scene.proxy.trouble_for("data/waits", Trouble::Delay(WHILE));
    thread::scope(|scope| {
        let reading = scope.spawn(|| mount.read("key").map_err(|error| error.to_string()));
        scene.wait_for_request("data/waits", 0);
        let (ended, text) = mount.command(&["upgrade", mount.root().to_str().unwrap()]);
        assert!(ended.success(), "{text}\n{}", mount.log());
        assert_eq!(reading.join().unwrap(), Ok("waits".to_owned()), "{}", mount.log());
    });
    // A credential that is being minted is waited for.
    scene.proxy.trouble_for("/v1/database/creds", Trouble::Delay(WHILE));
    thread::scope(|scope| {
        let reading = scope.spawn(|| scene.assert_works(&mount));
        scene.wait_for_request("/v1/database/creds", 0);
        let (ended, text) = mount.command(&["upgrade", mount.root().to_str().unwrap()]);
        assert!(ended.success(), "{text}\n{}", mount.log());
        reading.join().unwrap();
    });
    world.lease("waits");
    scene.stop(mount);
}

fn a_binary_or_a_configuration_that_cannot_serve_changes_nothing(world: &World) {
    let scene = Scene::new(world, "refused", 600);
    let mount = Mount::start_copy(&scene.config, &[]);
    scene.assert_works(&mount);
    let (server, lease) = (mount.pid(), world.lease("refused"));
    let good = fs::read(mount.program()).unwrap();
    let root = mount.root();
    let refused = |why: &str| {
        let (ended, text) = mount.command(&["upgrade", root.to_str().unwrap()]);
        assert!(!ended.success(), "{text}");
        assert!(text.contains(why), "{text}");
        assert_eq!(mount.pid(), server);
        scene.assert_works(&mount);
        text
    };
    replace(&mount, b"#!/bin/sh\necho this is no leasefs >&2\nexit 3\n");
    refused("this is no leasefs");
    replace(&mount, b"nonsense");
    refused("leasefs");
    fs::remove_file(mount.program()).unwrap();
    refused("No such file");
    replace(&mount, &good);
    let config = mount.directory().join("config.toml");
    fs::write(&config, scene.config.clone() + "[nonsense]\n").unwrap();
    refused("nonsense");
    fs::write(&config, &scene.config).unwrap();
    let (ended, text) = mount.command(&["upgrade", root.to_str().unwrap()]);
    assert!(ended.success(), "{text}");
    assert_ne!(mount.pid(), server);
    assert_eq!(world.lease("refused"), lease);
    let (ended, text) = mount.command(&["upgrade", "/nonexistent"]);
    assert_eq!(ended.code(), Some(69), "{text}");
    scene.stop(mount);
}

fn commands_wait_for_a_successor(world: &World) {
    let scene = Scene::new(world, "command", 600);
    let mount = scene.mount();
    scene.assert_works(&mount);
    for _ in 0..5 {
        let killed = mount.kill_server();
        let status = mount.status().expect("a successor answers");
        assert_ne!(status["pid"], json!(killed));
    }
    for _ in 0..5 {
        mount.kill_server();
        let (ended, text) = mount.command(&["explain", mount.root().to_str().unwrap(), "key"]);
        assert!(ended.success(), "{text}");
    }
    mount.kill_server();
    let (ended, text) = mount.command(&["unmount", mount.root().to_str().unwrap()]);
    assert!(ended.success(), "{text}");
    assert!(!mount.is_mounted());
    scene.assert_nothing_is_left(&mount.log());
}
