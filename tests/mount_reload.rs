//! A new configuration on a real mount that is in use, with a real OpenBao and a real PostgreSQL: what stays is not
//! noticed, what goes is given back, what is wrong changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, and reads the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs::{self, File};
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use support::load::{Load, holds, reads};
use support::mount::{Mount, eventually};
use support::scenarios::{run_together, scenarios};
use support::world::World;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn reloads() {
    run_together(
        &World::start(),
        &scenarios![
            whoever_reads_what_stays_notices_no_reload,
            a_configuration_that_is_wrong_changes_nothing_and_says_why,
            a_server_that_is_killed_comes_back_with_the_configuration_that_was_in_force,
            variables_are_those_of_the_mount_even_if_the_file_of_one_is_gone,
            a_tenant_that_reaches_for_another_is_refused_and_the_others_go_on,
            a_configuration_that_can_be_read_and_not_served_changes_nothing,
        ],
    );
}

/// The beginning of a configuration, with a login that may read everything.
fn head(world: &World, name: &str) -> String {
    let identity = world.approle(name, json!({"token_ttl": "1h"}));
    format!("[vault]\naddress = \"{}\"\n{identity}", world.bao.address())
}

fn credential(file: &str, role: &str) -> String {
    format!("[file.\"{file}\"]\nsecret = \"database/creds/{role}#username\"\n")
}

/// Puts a file in place as editors do, in one step.
fn replace(mount: &Mount, name: &str, text: &str) {
    let path = mount.directory().join(name);
    let draft = path.with_extension("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, path).unwrap();
}

fn reload(mount: &Mount) -> (ExitStatus, String) {
    // Answered by whoever serves it: a mount is there a moment before its first server.
    fs::read_dir(mount.root()).unwrap();
    mount.command(&["reload", mount.root().to_str().unwrap()])
}

#[track_caller]
fn reloads_well(mount: &Mount) {
    let (ended, text) = reload(mount);
    assert!(ended.success(), "{text}\n{}", mount.log());
}

/// What became of the last reload, as `leasefs status` has it.
fn last(mount: &Mount) -> Value {
    mount.status().expect("a server answers")["reload"].clone()
}

fn stops(mount: Mount) {
    let (ended, log) = mount.stop();
    assert!(ended.success(), "{log}");
    assert!(log.contains("all leases were given back"), "{log}");
}

fn whoever_reads_what_stays_notices_no_reload(world: &World) {
    for role in ["stays", "goes", "comes", "change", "tenant"] {
        world.role(role, 3600, 7200);
    }
    world.wait(world.bao.write_kv2("secret", "stays", json!({"key": "value"})));
    let head = head(world, "reloads");
    // What goes is given back by its lease, since the token stays.
    let rules = r#"path "database/creds/*" { capabilities = ["read"] }
                   path "secret/*" { capabilities = ["read"] }
                   path "sys/leases/revoke" { capabilities = ["update"] }"#;
    world.wait(world.bao.write_policy("reloads", rules));
    let kept = credential("stays", "stays") + "[file.kv]\nsecret = \"secret/stays#key\"\n";
    let main = |text: &str| {
        format!(
            "include = [\"conf.d/*.toml\"]\n{head}[grant.\"conf.d/tenant.toml\"]\nidentities = [\"default\"]\n\
             names = [\"tenant/\"]\n{kept}{text}"
        )
    };
    let mount = Mount::start(&format!("{head}{kept}"), &[]);
    fs::create_dir(mount.directory().join("conf.d")).unwrap();
    replace(&mount, "conf.d/tenant.toml", &credential("tenant/user", "tenant"));
    replace(&mount, "config.toml", &main(&(credential("goes", "goes") + &credential("change", "change"))));
    reloads_well(&mount);

    let user = mount.read("stays").unwrap();
    let [goes, change, tenant] = ["goes", "change", "tenant/user"].map(|name| mount.read(name).unwrap());
    let open = File::open(mount.path("stays")).unwrap();
    holds(&open, &user, "stays").unwrap();
    let (lease, logins) = (world.lease("stays"), world.accessors("reloads"));
    assert!(world.postgres.query(&format!("select count(*) from pg_roles where rolname = '{goes}'")) == "1");

    let mut load = Load::new();
    let (path, text) = (mount.path("stays"), user.clone());
    load.start("open, read and close a credential", move || reads(&path, &text));
    let path = mount.path("kv");
    load.start("open, read and close a secret", move || reads(&path, "value"));
    let (file, text) = (open.try_clone().unwrap(), user.clone());
    load.start("read a file that stays open", move || holds(&file, &text, "stays"));
    std::thread::sleep(Duration::from_millis(200));

    // One more file, one less, one with another secret.
    let changed =
        credential("comes", "comes") + &credential("change", "change").replace("username", "password");
    replace(&mount, "config.toml", &main(&changed));
    let server = mount.pid();
    mount.signal(Signal::SIGHUP);
    mount.wait_for_successor(server);
    let comes = mount.read("comes").unwrap();
    assert!(comes.starts_with("v-"), "{comes}");
    assert_eq!(mount.errno("goes"), libc::ENOENT);
    let password = mount.read("change").unwrap();
    assert_ne!(password, change, "it shows the other field");
    assert_eq!(mount.read("tenant/user").unwrap(), tenant);
    let left = eventually(PATIENCE, || world.leases("goes").is_empty() && world.accounts("goes") == 0);
    assert!(left.is_some(), "{:?}\n{}", world.leases("goes"), mount.log());
    assert_eq!(last(&mount)["error"], Value::Null, "{}", mount.log());

    // A file of many comes and goes.
    fs::remove_file(mount.directory().join("conf.d/tenant.toml")).unwrap();
    reloads_well(&mount);
    assert_eq!(mount.errno("tenant/user"), libc::ENOENT);
    world.wait_until_nothing_is_left_of("tenant", PATIENCE);

    // Again and again, every other time with something that is wrong.
    for turn in 0..6 {
        let broken = if turn % 2 == 0 { "[file.stays]\nsecret = 7\n" } else { "" };
        replace(&mount, "config.toml", &main(&format!("{changed}{broken}")));
        assert_eq!(reload(&mount).0.success(), turn % 2 == 1, "{}", mount.log());
    }
    let tally = load.end().unwrap_or_else(|hung| panic!("these hang: {hung}\n{}", mount.log()));
    println!("{} calls, {} failed, the longest took {:?}", tally.calls, tally.failed, tally.worst);
    assert_eq!(tally.failed, 0, "{:#?}\n{}", tally.failures, mount.log());
    assert_eq!(world.leases("stays"), [lease], "nothing is made anew for what stays");
    holds(&open, &user, "stays").unwrap();
    assert_eq!(world.accessors("reloads"), logins, "nobody has replaced a credential");
    drop(open);
    stops(mount);
    for role in ["stays", "comes", "change"] {
        world.wait_until_nothing_is_left_of(role, PATIENCE);
    }
}

fn a_configuration_that_is_wrong_changes_nothing_and_says_why(world: &World) {
    world.role("wrong", 3600, 7200);
    let good = head(world, "wrong") + &credential("user", "wrong");
    let mount = Mount::start(&good, &[]);
    let user = mount.read("user").unwrap();
    let path = mount.directory().join("config.toml").display().to_string();
    for (text, fragment) in [
        ("[file.user\n".to_owned(), ":1: is not TOML"),
        (format!("{good}secrets = 7\n"), "unknown key `secrets`: write `secret`"),
        (
            format!("{good}[mount]\nallow-other = false\n"),
            "mount.allow-other: is false now, and who may reach",
        ),
        (format!("{good}[mount]\nmax-memory = \"1GiB\"\n"), "mount.max-memory: is more than the memory"),
        (format!("{good}[file.\"user/below\"]\nsecret = \"secret/x\"\n"), "is at odds with"),
        (format!("include = [\"none.toml\"]\n{good}[grant.\"none.toml\"]\n"), "none.toml: does not exist"),
    ] {
        replace(&mount, "config.toml", &text);
        let (ended, said) = reload(&mount);
        assert_eq!(ended.code(), Some(78), "{text}\n{said}\n{}", mount.log());
        assert!(said.contains("goes on with the configuration that it has"), "{said}");
        assert!(said.contains(fragment), "{fragment}\n{said}");
        assert!(last(&mount)["error"].as_str().unwrap().contains(fragment), "{}", last(&mount));
        assert!(mount.log().contains("the configuration was not reloaded"), "{}", mount.log());
        assert_eq!(mount.read("user").unwrap(), user);
    }
    let (_, shown) = mount.command(&["status", mount.root().to_str().unwrap()]);
    assert!(shown.contains("an older configuration is in force") && shown.contains("none.toml"), "{shown}");
    fs::remove_file(&path).unwrap();
    assert_eq!(reload(&mount).0.code(), Some(78));
    assert_eq!(mount.read("user").unwrap(), user);
    replace(&mount, "config.toml", &good);
    reloads_well(&mount);
    assert_eq!(last(&mount)["error"], Value::Null);
    assert_eq!((mount.read("user").unwrap(), world.leases("wrong").len()), (user, 1));
    stops(mount);
}

fn a_server_that_is_killed_comes_back_with_the_configuration_that_was_in_force(world: &World) {
    for role in ["killed", "more"] {
        world.role(role, 3600, 7200);
    }
    let good = head(world, "killed") + &credential("user", "killed");
    let mount = Mount::start(&good, &[]);
    let user = mount.read("user").unwrap();
    let kill = || mount.wait_for_successor(mount.kill_server());
    // One that would be taken, one that would not, and none.
    replace(&mount, "config.toml", &format!("{good}{}", credential("more", "more")));
    kill();
    assert_eq!(mount.errno("more"), libc::ENOENT, "nobody has asked for it");
    replace(&mount, "config.toml", "[file.user\n");
    kill();
    assert_eq!(mount.read("user").unwrap(), user);
    fs::remove_file(mount.directory().join("config.toml")).unwrap();
    kill();
    assert_eq!(mount.read("user").unwrap(), user);
    // What was reloaded is in force from then on.
    replace(&mount, "config.toml", &(good + &credential("more", "more")));
    reloads_well(&mount);
    fs::remove_file(mount.directory().join("config.toml")).unwrap();
    kill();
    assert!(mount.read("more").unwrap().starts_with("v-"));
    assert_eq!((mount.read("user").unwrap(), world.leases("killed").len()), (user, 1));
    stops(mount);
    world.wait_until_nothing_is_left_of("killed", PATIENCE);
}

fn variables_are_those_of_the_mount_even_if_the_file_of_one_is_gone(world: &World) {
    world.wait(world.bao.write_kv2("secret", "variable", json!({"key": "value"})));
    let text = "[file.key]\nsecret = \"secret/${NAME}#key\"\n";
    let variables =
        [("VAULT_ADDR", world.bao.address()), ("VAULT_TOKEN", world.bao.root_token()), ("NAME", "variable")];
    let mount = Mount::start(text, &variables);
    assert_eq!(mount.read("key").unwrap(), "value");
    mount.wait_for_successor(mount.kill_server());
    assert_eq!(mount.read("key").unwrap(), "value");
    reloads_well(&mount);
    assert_eq!(mount.read("key").unwrap(), "value");
    let (ended, log) = mount.stop();
    assert!(ended.success(), "{log}");
    assert!(!log.contains(world.bao.root_token()));
}

fn a_tenant_that_reaches_for_another_is_refused_and_the_others_go_on(world: &World) {
    for tenant in ["a", "b"] {
        world.wait(world.bao.write_kv2("secret", &format!("of-{tenant}"), json!({"key": tenant})));
    }
    let identity = |name: &str| {
        let rules = format!("path \"secret/data/of-{name}\" {{ capabilities = [\"read\"] }}");
        world.wait(world.bao.write_policy(&format!("of-{name}"), &rules));
        let options = json!({"token_policies": format!("of-{name}"), "token_ttl": "1h"});
        let role = world.wait(world.bao.create_approle(&format!("of-{name}"), options));
        format!(
            "[identity.{name}]\nmethod = \"approle\"\nrole-id = \"{}\"\nsecret-id-file = \"{}\"\n\
             [grant.\"{name}.toml\"]\nidentities = [\"{name}\"]\nnames = [\"{name}/\"]\n",
            role.role_id,
            role.secret_id_file.display()
        )
    };
    let main = format!(
        "include = [\"a.toml\", \"b.toml\"]\n[vault]\naddress = \"{}\"\n{}{}",
        world.bao.address(),
        identity("a"),
        identity("b")
    );
    let file = |tenant: &str, of: &str| {
        format!("[file.\"{tenant}/key\"]\nsecret = \"secret/of-{of}#key\"\nengine = \"kv2\"\n")
    };
    let first = format!(
        "[vault]\naddress = \"{}\"\n[identity.default]\nmethod = \"token\"\ntoken-file = \"/nonexistent\"\n",
        world.bao.address()
    );
    let mount = Mount::start(&first, &[]);
    replace(&mount, "a.toml", &file("a", "a"));
    replace(&mount, "b.toml", &file("b", "b"));
    replace(&mount, "config.toml", &main);
    reloads_well(&mount);
    let both = || (mount.read("a/key").unwrap(), mount.read("b/key").unwrap());
    assert_eq!(both(), ("a".to_owned(), "b".to_owned()));
    for (text, fragment) in [
        (
            file("a", "b") + "identity = \"b\"\n",
            "the identity \"b\" is not granted to this file: write \"a\", or have",
        ),
        (file("b", "b"), "the name \"b/key\" is not granted to this file"),
    ] {
        replace(&mount, "a.toml", &text);
        let (ended, said) = reload(&mount);
        assert_eq!(ended.code(), Some(78), "{said}");
        assert!(said.contains("/a.toml:") && said.contains(fragment), "{said}");
        assert_eq!(both(), ("a".to_owned(), "b".to_owned()));
    }
    // With its own identity it may name what it likes: Vault says no.
    replace(&mount, "a.toml", &file("a", "b"));
    reloads_well(&mount);
    assert_eq!(mount.errno("a/key"), libc::EACCES);
    assert_eq!(mount.read("b/key").unwrap(), "b");
    stops(mount);
}

/// What is found only when a server is shut in or begins is not left to its successors either.
fn a_configuration_that_can_be_read_and_not_served_changes_nothing(world: &World) {
    world.role("unservd", 3600, 7200);
    let good = head(world, "unservd") + &credential("user", "unservd");
    let mount = Mount::start(&good, &[]);
    let user = mount.read("user").unwrap();
    let authority = mount.directory().join("ca.pem");
    fs::write(&authority, "no certificate").unwrap();
    // Certificates are looked at only for HTTPS.
    let addresses = format!("[\"{}\", \"https://127.0.0.1:1\"]", world.bao.address());
    let text = good.replacen(&format!("\"{}\"", world.bao.address()), &addresses, 1);
    let line = format!("[vault]\nca-cert = \"{}\"\n", authority.display());
    replace(&mount, "config.toml", &text.replacen("[vault]\n", &line, 1));
    let start = Instant::now();
    let (ended, said) = reload(&mount);
    assert_eq!(ended.code(), Some(78), "{said}");
    assert!(said.contains("ca.pem"), "{said}");
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(mount.read("user").unwrap(), user);
    assert!(Path::new(&mount.root()).is_dir());
    stops(mount);
}
