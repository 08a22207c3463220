//! Where secrets are and where they are not: in the daemon's memory while they live, and nowhere once they
//! have ended; never in a log, an error, a core dump or a file. Needs root, to look into the daemon.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, and measures time"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use support::bao::Bao;
use support::memory::{find, status};
use support::mount::{Mount, eventually};
use support::scenarios::{run_together, scenarios};
use support::stub::{Reply, Stub};
use support::world::{World, attribute, reason, try_read};

/// How long after the end of a secret the last copy of it may be there.
const AFTER_THE_END: Duration = Duration::from_secs(1);

#[test]
fn leaks() {
    let world = World::start();
    run_together(
        &world,
        &scenarios![
            a_whole_life_leaves_nothing_in_the_log_or_on_a_disk,
            a_kv_secret_is_in_memory_while_it_lives_and_nowhere_after_its_end,
            a_replaced_version_is_gone_while_the_next_one_lives,
            a_large_secret_leaves_nothing_behind,
            a_rendered_secret_leaves_nothing_behind_whatever_it_was_made_into,
            a_secret_in_a_tree_leaves_nothing_behind,
            a_secret_that_came_over_tls_leaves_nothing_behind,
            a_leased_password_is_in_memory_while_it_lives_and_nowhere_after_its_end,
            an_answer_that_cannot_be_used_leaves_nothing_behind,
            a_given_token_is_gone_once_it_is_dead,
            a_secret_id_is_gone_once_it_was_used,
            nothing_of_a_bad_answer_is_in_a_log_or_an_error,
            no_signal_makes_a_core_dump,
            memory_is_locked_or_a_warning_says_that_it_is_not,
        ],
    );
}

/// A text that is nowhere else.
fn marker() -> String {
    (0..4).map(|_| format!("{:08x}", fastrand::u32(..))).collect()
}

/// That a text is in the daemon's memory, as it must be while the secret lives: else the search is no good.
#[track_caller]
fn copies_while_live(mount: &Mount, text: &str) -> usize {
    let found = find(mount.pid(), text);
    assert!(!found.is_empty(), "a live secret must be found, or this test can't fail");
    found.len()
}

/// That no copy is left soon after the end of a secret. A search takes a while, on a busy machine longer than
/// that: what counts is what a search finds that has begun late enough.
#[track_caller]
fn nowhere(mount: &Mount, text: &str) {
    let end = Instant::now();
    loop {
        let begun = end.elapsed();
        let found = find(mount.pid(), text);
        let took = end.elapsed() - begun;
        if found.is_empty() {
            println!("nothing left {begun:.1?} after the end; a search takes {took:.1?}");
            return;
        }
        assert!(
            begun < AFTER_THE_END,
            "{} copies left {begun:?} after the end (the search took {took:?}): {found:#?}\n{}",
            found.len(),
            mount.log()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

fn a_kv_secret_is_in_memory_while_it_lives_and_nowhere_after_its_end(world: &World) {
    let marker = marker();
    world.wait(world.bao.write_kv2("secret", "marked", json!({"key": marker, "other": "x"})));
    let config = format!(
        "[vault]\naddress = \"{}\"\n[defaults]\nmax-age = \"1s\"\ngrace = \"1s\"\n\
         [file.\"raw\"]\nsecret = \"secret/marked#key\"\n[file.\"all.json\"]\nsecret = \"secret/marked\"\n",
        world.bao.address()
    );
    let mount = Mount::start(&config, &[("VAULT_TOKEN", world.bao.root_token())]);
    let files = ["raw", "all.json"].map(|name| File::open(mount.path(name)).unwrap());
    for _ in 0..20 {
        assert_eq!(mount.read("raw").unwrap(), marker);
        assert!(mount.read("all.json").unwrap().contains(&marker));
    }
    // Long enough that it was read from Vault a second time.
    thread::sleep(Duration::from_millis(1500));
    let live = copies_while_live(&mount, &marker);
    println!("KV, two files: {live} copies while live");
    assert!(live <= 2, "one for each file: {:#?}", find(mount.pid(), &marker));
    world.wait(world.bao.delete("secret/data/marked"));
    let ended =
        || files[0].read_at(&mut [0; 10], 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESTALE));
    assert!(eventually(Duration::from_secs(3), ended).is_some());
    nowhere(&mount, &marker);
    drop(files);
    nowhere(&mount, &marker);
}

fn a_rendered_secret_leaves_nothing_behind_whatever_it_was_made_into(world: &World) {
    // Short enough for a value that lies on a stack, and long enough for one on the heap.
    let [short, long, bytes] = [marker()[..20].to_owned(), marker().repeat(20), marker()];
    let encoded =
        Command::new("bash").args(["-c", "printf %s \"$1\" | base64 -w0", "-", &bytes]).output().unwrap();
    let encoded = String::from_utf8(encoded.stdout).unwrap();
    let pem = |text: &str| format!("-----BEGIN X-----\n{text}\n-----END X-----");
    let values = json!({
        "short": short, "long": long, "bytes": encoded, "list": [short, long],
        "certificate": pem(&short), "private_key": pem(&long),
    });
    world.wait(world.bao.write_kv2("secret", "rendered", values));
    let file = |name: &str, more: &str| format!("[file.\"{name}\"]\nsecret = \"secret/rendered\"\n{more}\n");
    let config = [
        format!("[vault]\naddress = \"{}\"\n", world.bao.address()),
        "[defaults]\nmax-age = \"1s\"\ngrace = \"1m\"\n".to_owned(),
        file("template", "template = '{{ short | trim | upper }} {{ long | replace(\"q\", \"r\") | json }} {{ short ~ long }}'"),
        file("loop", "template = '{% for x in list %}{{ x | lower }}{% set y = x | quote %}{{ y }}{% endfor %}'"),
        file("whole", "template = '{{ data | json | base64 }} {{ bytes | b64decode | urlencode }} {{ short | sha256 }}'"),
        file("failed", "template = '{{ short | upper }}{{ long | b64decode }}'"),
        file("env", "format = \"env\""),
        file("yaml", "format = \"yaml\""),
        file("properties", "format = \"properties\""),
        file("bytes", "field = \"bytes\"\ndecode = \"base64\""),
        file("bundle", "format = \"pem-bundle\""),
    ]
    .concat();
    let mount = Mount::start(&config, &[("VAULT_TOKEN", world.bao.root_token())]);
    let names = ["template", "loop", "whole", "env", "yaml", "properties", "bytes", "bundle"];
    // What nobody has open is not kept.
    let files = names.map(|name| File::open(mount.path(name)).unwrap());
    for _ in 0..3 {
        for name in names {
            assert!(!fs::read(mount.path(name)).unwrap().is_empty(), "{name}");
        }
        assert!(try_read(&mount, "failed").is_err());
        assert!(!reason(&mount, "failed").contains(&short));
    }
    let shown = [short.clone(), short.to_uppercase(), long.clone(), bytes];
    for text in &shown {
        println!("rendered: {} copies while live", copies_while_live(&mount, text));
    }
    world.wait(world.bao.delete("secret/data/rendered"));
    let ended =
        || files[0].read_at(&mut [0; 10], 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESTALE));
    assert!(eventually(Duration::from_secs(15), ended).is_some());
    for text in &shown {
        nowhere(&mount, text);
    }
}

fn a_replaced_version_is_gone_while_the_next_one_lives(world: &World) {
    let [old, new] = [marker(), marker()];
    world.wait(world.bao.write_kv2("secret", "versions", json!({"key": old})));
    let config = format!(
        "[vault]\naddress = \"{}\"\n[file.\"key\"]\nsecret = \"secret/versions#key\"\nmax-age = \"1s\"\n\
         grace = \"1s\"\n",
        world.bao.address()
    );
    let mount = Mount::start(&config, &[("VAULT_TOKEN", world.bao.root_token())]);
    assert_eq!(mount.read("key").unwrap(), old);
    let file = File::open(mount.path("key")).unwrap();
    world.wait(world.bao.write_kv2("secret", "versions", json!({"key": new})));
    assert!(eventually(Duration::from_secs(3), || mount.read("key").unwrap() == new).is_some());
    copies_while_live(&mount, &old);
    let ended = || file.read_at(&mut [0; 10], 0).is_err();
    assert!(eventually(Duration::from_secs(3), ended).is_some());
    nowhere(&mount, &old);
    assert_eq!(mount.read("key").unwrap(), new);
    assert_eq!(copies_while_live(&mount, &new), 1);
}

fn a_large_secret_leaves_nothing_behind(world: &World) {
    let marker = marker();
    // With escapes, so that it must be decoded; longer than any buffer on its way.
    let text = format!("{marker}\n\"").repeat(10_000);
    world.wait(world.bao.write_kv2("secret", "large", json!({"key": text})));
    let config = format!(
        "[vault]\naddress = \"{}\"\n[file.\"key\"]\nsecret = \"secret/large#key\"\nmax-age = \"1s\"\n\
         [file.\"all.json\"]\nsecret = \"secret/large\"\nmax-age = \"1s\"\n",
        world.bao.address()
    );
    let mount = Mount::start(&config, &[("VAULT_TOKEN", world.bao.root_token())]);
    assert_eq!(mount.read("key").unwrap(), text);
    assert!(mount.read("all.json").unwrap().contains(&marker));
    let live = copies_while_live(&mount, &marker);
    println!("large, two files of 10,000 each: {live} copies while live");
    assert!((10_000..=20_000).contains(&live), "{live}");
    world.wait(world.bao.delete("secret/data/large"));
    let gone = || try_read(&mount, "key") == Err(libc::ENOENT);
    assert!(eventually(Duration::from_secs(3), gone).is_some());
    nowhere(&mount, &marker);
}

fn a_secret_that_came_over_tls_leaves_nothing_behind(world: &World) {
    let bao = world.wait(Bao::start_tls());
    let marker = marker();
    world.wait(bao.write_kv2("secret", "sealed", json!({"key": marker})));
    let config = format!(
        "[vault]\naddress = \"{}\"\nca-cert = \"{}\"\n[file.\"key\"]\nsecret = \"secret/sealed#key\"\n\
         max-age = \"1s\"\n",
        bao.address(),
        bao.plan().ca_cert.unwrap().display()
    );
    let mount = Mount::start(&config, &[("VAULT_TOKEN", bao.root_token())]);
    assert_eq!(mount.read("key").unwrap(), marker);
    let live = copies_while_live(&mount, &marker);
    println!("KV over TLS, one file: {live} copies while live");
    world.wait(bao.delete("secret/data/sealed"));
    let gone = || try_read(&mount, "key") == Err(libc::ENOENT);
    assert!(eventually(Duration::from_secs(3), gone).is_some());
    nowhere(&mount, &marker);
}

fn a_secret_in_a_tree_leaves_nothing_behind(world: &World) {
    let marker = marker();
    world.wait(world.bao.write_kv2("secret", "forest/tree", json!({"leaf": marker, "number": 7})));
    let config = format!(
        "[vault]\naddress = \"{}\"\n[tree.\"kv\"]\nsecret = \"secret/forest/\"\nmax-age = \"1s\"\ngrace = \"1s\"\n",
        world.bao.address()
    );
    let mount = Mount::start(&config, &[("VAULT_TOKEN", world.bao.root_token())]);
    assert_eq!(mount.read("kv/tree/leaf").unwrap(), marker);
    copies_while_live(&mount, &marker);
    world.wait(world.bao.delete("secret/data/forest/tree"));
    let gone = || try_read(&mount, "kv/tree/leaf").is_err();
    assert!(eventually(Duration::from_secs(4), gone).is_some());
    nowhere(&mount, &marker);
}

fn a_leased_password_is_in_memory_while_it_lives_and_nowhere_after_its_end(world: &World) {
    world.role("marked", 3, 60);
    let identity = world.approle("marked", json!({"token_ttl": "1h"}));
    let config = format!(
        "[vault]\naddress = \"{}\"\n{identity}[defaults]\nrenew = \"never\"\n\
         [file.\"password\"]\nsecret = \"database/creds/marked#password\"\n\
         [file.\"all.json\"]\nsecret = \"database/creds/marked\"\n",
        world.bao.address()
    );
    let mount = Mount::start(&config, &[]);
    let file = File::open(mount.path("all.json")).unwrap();
    let password = mount.read("password").unwrap();
    let live = copies_while_live(&mount, &password);
    println!("database, two files: {live} copies while live");
    let ended =
        || file.read_at(&mut [0; 10], 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESTALE));
    assert!(eventually(Duration::from_secs(5), ended).is_some());
    nowhere(&mount, &password);
    assert!(live <= 2, "one for each file: {live}");
}

fn an_answer_that_cannot_be_used_leaves_nothing_behind(world: &World) {
    let marker = marker();
    let large = format!("{marker} ").repeat(3000);
    world.wait(world.bao.write_kv2("secret", "toolarge", json!({"key": large})));
    world.wait(world.bao.write_kv2("secret", "nofield", json!({"key": marker})));
    let config = format!(
        "[vault]\naddress = \"{}\"\nmax-secret-size = \"64KiB\"\n[file.\"large\"]\nsecret = \"secret/toolarge#key\"\n\
         [file.\"field\"]\nsecret = \"secret/nofield#absent\"\n",
        world.bao.address()
    );
    let mount = Mount::start(&config, &[("VAULT_TOKEN", world.bao.root_token())]);
    assert_eq!(try_read(&mount, "large"), Err(libc::EIO));
    assert_eq!(try_read(&mount, "field"), Err(libc::ENOENT));
    nowhere(&mount, &marker);
    assert!(!mount.log().contains(&marker));
}

fn a_given_token_is_gone_once_it_is_dead(world: &World) {
    world.wait(world.bao.write_kv2("secret", "bytoken", json!({"key": "value"})));
    world.wait(world.bao.write_policy("reads", r#"path "secret/*" { capabilities = ["read"] }"#));
    let token = world.wait(world.bao.create_token(json!({"ttl": "1h", "policies": ["reads"]})));
    let path = world.bao.secret_file("leaks.token", &token);
    let config = format!(
        "[vault]\naddress = \"{}\"\n[identity.default]\nmethod = \"token\"\ntoken-file = \"{}\"\n\
         [file.\"key\"]\nsecret = \"secret/bytoken#key\"\nmax-age = \"1s\"\ngrace = \"1s\"\n",
        world.bao.address(),
        path.display()
    );
    let mount = Mount::start(&config, &[]);
    assert_eq!(mount.read("key").unwrap(), "value");
    thread::sleep(Duration::from_millis(200));
    let live = copies_while_live(&mount, &token);
    println!("given token: {live} copies while live");
    assert_eq!(live, 1, "{:#?}", find(mount.pid(), &token));
    world.wait(world.bao.revoke_token(&token));
    assert!(eventually(Duration::from_secs(3), || try_read(&mount, "key").is_err()).is_some());
    nowhere(&mount, &token);
    assert!(!mount.log().contains(&token));
}

fn a_secret_id_is_gone_once_it_was_used(world: &World) {
    world.wait(world.bao.write_kv2("secret", "byrole", json!({"key": "value"})));
    let identity = world.approle("byrole", json!({"token_ttl": "1h"}));
    let file = identity.lines().find_map(|line| line.strip_prefix("secret-id-file = ")).unwrap();
    let secret_id = fs::read_to_string(file.trim_matches('"')).unwrap().trim().to_owned();
    let config = format!(
        "[vault]\naddress = \"{}\"\n{identity}[file.\"key\"]\nsecret = \"secret/byrole#key\"\n",
        world.bao.address()
    );
    let mount = Mount::start(&config, &[]);
    assert_eq!(mount.read("key").unwrap(), "value");
    nowhere(&mount, &secret_id);
    let tokens: Vec<_> = find(mount.pid(), "client_token");
    assert!(tokens.is_empty(), "the login's answer is still there: {tokens:#?}");
}

/// Every file below a directory, the mount itself aside, that holds a text.
fn files_with(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name == "mnt") {
            continue;
        }
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if path.is_file()
            && fs::read(&path).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
        {
            found.push(path.display().to_string());
        }
    }
    found
}

fn a_whole_life_leaves_nothing_in_the_log_or_on_a_disk(world: &World) {
    world.role("life", 3, 5);
    let marker = marker();
    world.wait(world.bao.write_kv2("secret", "life", json!({"key": marker})));
    let identity = world.approle("life", json!({"token_ttl": "4s", "token_max_ttl": "6s"}));
    let file = identity.lines().find_map(|line| line.strip_prefix("secret-id-file = ")).unwrap();
    let secret_id = fs::read_to_string(file.trim_matches('"')).unwrap().trim().to_owned();
    let config = format!(
        "[vault]\naddress = \"{}\"\n{identity}[defaults]\nmax-age = \"1s\"\ngrace = \"1s\"\n\
         [file.\"key\"]\nsecret = \"secret/life#key\"\n\
         [file.\"password\"]\nsecret = \"database/creds/life#password\"\n\
         [file.\"denied\"]\nsecret = \"sys/policies/acl/life#policy\"\n\
         [file.\"absent\"]\nsecret = \"secret/none#key\"\n\
         [file.\"field\"]\nsecret = \"secret/life#none\"\n\
         [tree.\"kv\"]\nsecret = \"secret/\"\n",
        world.bao.address()
    );
    let scratch = tempfile::tempdir().unwrap();
    let scratch_path = scratch.path().to_str().unwrap();
    let mount = Mount::start(&config, &[("LEASEFS_LOG", "trace"), ("TMPDIR", scratch_path)]);
    let (mut passwords, mut tokens) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(9) {
        passwords.extend(try_read(&mount, "password"));
        for name in ["key", "denied", "absent", "field", "kv/life/key"] {
            let _ = try_read(&mount, name);
            assert!(!attribute(&mount, name, "error").contains(&marker));
            assert!(!reason(&mount, name).contains(&marker));
        }
        // The token itself is nowhere but in the daemon's memory: there it is found by its form.
        tokens.extend(tokens_in_memory(world, &mount));
        thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(try_read(&mount, "key"), Ok(marker.clone()));
    let directory = mount.directory().to_owned();
    passwords.sort();
    passwords.dedup();
    tokens.sort();
    tokens.dedup();
    println!("{} passwords, {} tokens", passwords.len(), tokens.len());
    assert!(passwords.len() >= 2 && tokens.len() >= 2, "{passwords:?} {}", tokens.len());
    for secret in passwords.iter().chain(&tokens).chain([&marker, &secret_id]) {
        assert_eq!(files_with(&directory, secret), [""; 0], "{secret}");
        assert_eq!(files_with(scratch.path(), secret), [""; 0], "{secret}");
    }
    assert!(open_files(&mount).iter().all(|path| path.ends_with("/log")), "{:?}", open_files(&mount));
    let (exit, log) = mount.stop();
    assert!(exit.success(), "{log}");
    assert!(log.contains("asked Vault"), "the log must be a full one, or this test can't fail");
    for secret in passwords.iter().chain(&tokens).chain([&marker, &secret_id]) {
        let line = log.lines().find(|line| line.contains(secret.as_str()));
        assert_eq!(line, None, "{secret}");
    }
}

/// The live tokens of OpenBao that a daemon holds.
fn tokens_in_memory(world: &World, mount: &Mount) -> Vec<String> {
    let found = find(mount.pid(), "s.").into_iter().filter_map(|found| {
        let token: String = found.after.chars().take_while(char::is_ascii_alphanumeric).collect();
        (token.len() == 24).then(|| format!("s.{token}"))
    });
    let lives = |token: &String| {
        let body = json!({"token": token});
        let answer = world.wait(world.bao.try_call("POST", "auth/token/lookup", Some(body)));
        answer.is_some_and(|(status, _)| status == 200)
    };
    found.filter(lives).collect()
}

/// The regular files that a daemon has open.
fn open_files(mount: &Mount) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", mount.pid())).unwrap();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let paths = targets.filter(|path| path.is_absolute() && !path.starts_with("/dev") && path.is_file());
    paths.map(|path| path.display().to_string()).collect()
}

fn nothing_of_a_bad_answer_is_in_a_log_or_an_error(world: &World) {
    let marker = marker();
    let bodies = [
        ("html", 200, "<html>MARKER</html>".to_owned()),
        ("broken", 200, r#"{"data":{"key":"MARKER"#.to_owned()),
        ("malformed", 200, r#"{"data":{"key":MARKER}}"#.to_owned()),
        ("nodata", 200, r#"{"data":"MARKER"}"#.to_owned()),
        ("wrongtype", 200, r#"{"lease_duration":"MARKER","data":{"key":"MARKER"}}"#.to_owned()),
        ("surrogate", 200, r#"{"data":{"key":"MARKER\ud83d"}}"#.to_owned()),
        ("nofield", 200, r#"{"data":{"MARKER":"MARKER"}}"#.to_owned()),
        (
            "deleted",
            404,
            r#"{"data":{"data":{"key":"MARKER"},"metadata":{"created_time":"2026-01-02T03:04:05Z",
               "deletion_time":"2026-01-03T00:00:00Z","destroyed":false,"version":3}}}"#
                .to_owned(),
        ),
        ("missing", 404, r#"{"data":{"key":"MARKER"}}"#.to_owned()),
        ("denied", 403, r#"{"errors":["permission denied"],"data":{"key":"MARKER"}}"#.to_owned()),
        ("server", 500, r#"<html>MARKER</html>"#.to_owned()),
        ("gateway", 502, r#"MARKER"#.to_owned()),
        ("moved", 302, r#"MARKER"#.to_owned()),
        ("cut", 200, format!(r#"{{"data":{{"key":"{}"}}}}"#, "MARKER".repeat(1000))),
    ];
    let answers: Vec<(String, Reply)> = bodies
        .iter()
        .map(|(name, status, body)| {
            let body = body.replace("MARKER", &marker);
            let location = format!("http://127.0.0.1:9/{marker}");
            // The index is kept for later requests; what came with it must not be.
            let headers = [("Location", location.as_str()), ("X-Vault-Index", "kept")];
            let mut reply = Reply::new(*status, &headers, body.as_bytes());
            if *name == "cut" {
                reply.bytes.truncate(reply.bytes.len() - 50);
            }
            (format!(" /v1/any/{name} "), reply)
        })
        .collect();
    let stub = world.wait(Stub::start(move |line| {
        let answer = answers.iter().find(|(path, _)| line.contains(path.as_str()));
        match answer {
            Some((_, reply)) => reply.clone(),
            None if line.contains("lookup-self") => Reply::json(
                200,
                r#"{"data":{"ttl":3600,"expire_time":"2099-01-02T03:04:05Z","type":"service","num_uses":0}}"#,
            ),
            None => Reply::json(403, r#"{"errors":["permission denied"]}"#),
        }
    }));
    let names = bodies.iter().map(|(name, ..)| *name);
    let files: String = names
        .clone()
        .map(|name| format!("[file.\"{name}\"]\nsecret = \"any/{name}#key\"\nengine = \"other\"\n"))
        .collect();
    let config = format!("[vault]\naddress = \"{}\"\n{files}", stub.address());
    let token = format!("s.{}", marker.chars().rev().collect::<String>());
    let mount = Mount::start(&config, &[("LEASEFS_LOG", "trace"), ("VAULT_TOKEN", &token)]);
    for name in names.clone() {
        let errno = try_read(&mount, name).expect_err(name);
        let (reason, error) = (reason(&mount, name), attribute(&mount, name, "error"));
        println!("{name}: {errno} {reason}");
        assert!(!reason.is_empty(), "{name}: {errno}");
        assert!(!reason.contains(&marker) && !error.contains(&marker), "{reason} {error}");
    }
    nowhere(&mount, &marker);
    let (exit, log) = mount.stop();
    assert!(exit.success(), "{log}");
    let asked = stub.requests();
    for name in names {
        assert!(asked.iter().any(|request| request.contains(name)), "{name} was asked for");
    }
    for secret in [&marker, &token] {
        assert_eq!(log.lines().find(|line| line.contains(secret.as_str())), None);
    }
}

/// Ends a process with an unlimited core size by a signal.
fn end_with_room_for_a_core(process: u32, signal: Signal) {
    let pid = process.to_string();
    // What the process itself has set as its limit must not be what saves it here.
    let raised =
        Command::new("prlimit").args(["--pid", &pid, "--core=unlimited:unlimited"]).status().unwrap();
    assert!(raised.success());
    let pid = Pid::from_raw(i32::try_from(process).unwrap());
    kill(pid, signal).unwrap();
    // Rust looks at the first SIGSEGV, in case the stack ran over, and lets the second one through.
    thread::sleep(Duration::from_millis(50));
    let _ = kill(pid, signal);
}

fn no_signal_makes_a_core_dump(world: &World) {
    let scratch = tempfile::tempdir().unwrap();
    let mut sleeper: Child =
        Command::new("sleep").arg("60").current_dir(scratch.path()).stdin(Stdio::null()).spawn().unwrap();
    end_with_room_for_a_core(sleeper.id(), Signal::SIGSEGV);
    let ordinary = sleeper.wait().unwrap();
    assert!(ordinary.core_dumped(), "an ordinary process dumps core here, or this test can't fail");
    let marker = marker();
    world.wait(world.bao.write_kv2("secret", "core", json!({"key": marker})));
    let config = format!(
        "[vault]\naddress = \"{}\"\n[file.\"key\"]\nsecret = \"secret/core#key\"\n",
        world.bao.address()
    );
    let mount = Mount::start(&config, &[("VAULT_TOKEN", world.bao.root_token())]);
    for signal in [Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGQUIT] {
        assert_eq!(mount.read("key").unwrap(), marker);
        let server = mount.pid();
        let limits = fs::read_to_string(format!("/proc/{server}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        assert_eq!(status(server, "CoreDumping"), "0");
        end_with_room_for_a_core(server, signal);
        mount.wait_for_log(&format!("code={}", 128 + signal as i32));
        assert!(!mount.log().contains("core dump"), "{signal}: {}", mount.log());
    }
}

fn memory_is_locked_or_a_warning_says_that_it_is_not(world: &World) {
    world.wait(world.bao.write_kv2("secret", "locked", json!({"key": "value"})));
    let config = format!(
        "[vault]\naddress = \"{}\"\n[file.\"key\"]\nsecret = \"secret/locked#key\"\n",
        world.bao.address()
    );
    let mount = Mount::start(&config, &[("VAULT_TOKEN", world.bao.root_token())]);
    assert_eq!(mount.read("key").unwrap(), "value");
    let kilobytes =
        |name: &str| -> u64 { status(mount.pid(), name).trim_end_matches(" kB").parse().unwrap() };
    let (locked, resident, swapped) = (kilobytes("VmLck"), kilobytes("VmRSS"), kilobytes("VmSwap"));
    println!("{locked} kB locked, {resident} kB resident, {swapped} kB in swap");
    let warned = mount.log().contains("only the pages of secrets are locked in memory");
    assert!(locked > 0 || warned, "{}", mount.log());
    assert!(warned || locked > resident / 2, "{locked} of {resident} kB are locked, and no warning says so");
    assert_eq!(swapped, 0);
}
