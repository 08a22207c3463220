//! Directories whose names come from Vault: `[tree]`, and `[dir]` without names, on a real mount.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::thread;
use std::time::Duration;

use libc::{EACCES, EIO, ENOENT};
use serde_json::json;
use support::bao::Bao;
use support::mount::{Mount, eventually};
use support::programs::{attribute, run_in};
use support::stub::{Reply, Stub};
use tokio::sync::OnceCell;

const PATIENCE: Duration = Duration::from_secs(10);
const FORGET: &str = "this test needs root and a /proc/sys that can be written";

/// One OpenBao for all tests; each test keeps to an engine of its own.
async fn bao() -> &'static Bao {
    static BAO: OnceCell<Bao> = OnceCell::const_new();
    BAO.get_or_init(Bao::start).await
}

async fn kv2(mount: &str) -> &'static Bao {
    bao().await.enable_kv2(mount).await;
    bao().await
}

/// Mounts `files` of what is at `address`, with this token.
fn mount_with(address: &str, token: &str, files: &str) -> Mount {
    let config = format!("[vault]\naddress = \"{address}\"\n{files}");
    Mount::start(&config, &[("VAULT_TOKEN", token), ("NO_COLOR", "1")])
}

fn mount(address: &str, files: &str) -> Mount {
    mount_with(address, "dev-only-root-token", files)
}

fn stop(mount: Mount) {
    let (status, log) = mount.stop();
    assert!(status.success(), "{log}");
}

/// The names in a directory, as `ls` shows them.
fn names(mount: &Mount, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(mount.path(directory)).unwrap_or_else(|error| panic!("{directory}: {error}"));
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn errno_of<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_listed_live() {
    let bao = kv2("live").await;
    bao.write_kv2("live", "agents/one", json!({"key": "1"})).await;
    bao.write_kv2("live", "other", json!({"key": "x"})).await;
    let mount = mount(
        bao.address(),
        "[mount]\nlist-max-age = \"200ms\"\n[defaults]\nmax-age = \"200ms\"\n\
         [tree.\"deep/kv\"]\nsecret = \"live/agents/\"\n[dir.fields]\nsecret = \"live/agents/one\"\n",
    );
    assert_eq!(names(&mount, "deep/kv"), ["one"], "and nothing of what is beside the prefix");
    assert_eq!(names(&mount, "fields"), ["key"]);
    assert_eq!(mount.errno("deep/kv/two/key"), ENOENT);
    bao.write_kv2("live", "agents/two", json!({"key": "2", "more": "m"})).await;
    bao.write_kv2("live", "agents/folder/three", json!({"key": "3"})).await;
    bao.write_kv2("live", "agents/one", json!({"key": "1 again", "new": "n"})).await;
    eventually(PATIENCE, || mount.read("deep/kv/two/key").is_ok_and(|text| text == "2")).expect("it comes");
    eventually(PATIENCE, || names(&mount, "deep/kv") == ["folder", "one", "two"]).expect("all are listed");
    eventually(PATIENCE, || names(&mount, "deep/kv/one") == ["key", "new"]).expect("so are new fields");
    eventually(PATIENCE, || names(&mount, "fields") == ["key", "new"]).expect("also of a dir");
    assert_eq!(mount.read("fields/new").unwrap(), "n");
    assert_eq!(mount.read("deep/kv/one/key").unwrap(), "1 again");
    assert_eq!(mount.read("deep/kv/folder/three/key").unwrap(), "3");
    bao.delete("live/metadata/agents/two").await;
    eventually(PATIENCE, || names(&mount, "deep/kv") == ["folder", "one"]).expect("what is deleted goes");
    eventually(PATIENCE, || errno_of(mount.read("deep/kv/two/key")) == Some(ENOENT)).expect("for all");
    // Vault still lists a secret of which only the newest version was deleted.
    bao.delete("live/data/agents/one").await;
    eventually(PATIENCE, || errno_of(fs::read_dir(mount.path("deep/kv/one"))) == Some(ENOENT)).expect("gone");
    assert_eq!(mount.errno("fields/key"), ENOENT);
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_path_is_walked_without_any_listing_before() {
    let bao = kv2("cold").await;
    bao.write_kv2("cold", "a/b/c", json!({"field": "deep"})).await;
    bao.write_kv2("cold", "a/b/c/d", json!({"field": "deeper"})).await;
    let files = "[tree.kv]\nsecret = \"cold\"\n";
    let first = mount(bao.address(), files);
    assert_eq!(run_in(&first.root(), "cat kv/a/b/c/field"), "deep");
    stop(first);
    let second = mount(bao.address(), files);
    thread::scope(|scope| {
        for number in 0..40 {
            let (name, text) =
                if number % 2 == 0 { ("kv/a/b/c/field", "deep") } else { ("kv/a/b/c/d/field", "deeper") };
            let mount = &second;
            scope.spawn(move || assert_eq!(mount.read(name).unwrap(), text));
        }
    });
    assert_eq!(second.errno("kv/a/b/none/field"), ENOENT);
    assert_eq!(second.errno("kv/a/b/c/none"), ENOENT);
    stop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_beside_a_folder_of_its_name_and_a_field_beside_a_child_of_its_name_stay_reachable() {
    let bao = kv2("same").await;
    bao.write_kv2("same", "same", json!({"own": "of the secret", "x": "the field", "#x": "odd"})).await;
    bao.write_kv2("same", "same/x", json!({"inner": "of the child"})).await;
    bao.write_kv2("same", "same/sub/y", json!({"z": "deep"})).await;
    let mount = mount(bao.address(), "[tree.kv]\nsecret = \"same/\"\n");
    assert_eq!(names(&mount, "kv"), ["same"]);
    assert_eq!(names(&mount, "kv/same"), ["##x", "#x", "own", "sub", "x"]);
    for (name, text) in [
        ("kv/same/own", "of the secret"),
        ("kv/same/##x", "the field"),
        ("kv/same/#x", "odd"),
        ("kv/same/x/inner", "of the child"),
        ("kv/same/sub/y/z", "deep"),
    ] {
        assert_eq!(mount.read(name).unwrap(), text, "{name}");
    }
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_named_data_is_not_taken_for_the_api_s_own() {
    let bao = kv2("whole").await;
    for (path, text) in
        [("x", "top"), ("data/x", "in data"), ("data/data/x", "deep in data"), ("data", "beside")]
    {
        bao.write_kv2("whole", path, json!({"key": text})).await;
    }
    let mount =
        mount(bao.address(), "[tree.kv]\nsecret = \"whole/\"\n[tree.api]\nsecret = \"whole/data/\"\n");
    for tree in ["kv", "api"] {
        assert_eq!(names(&mount, tree), ["data", "x"], "{tree}");
        assert_eq!(names(&mount, &format!("{tree}/data")), ["data", "key", "x"], "{tree}");
        for (name, text) in [
            ("x/key", "top"),
            ("data/x/key", "in data"),
            ("data/data/x/key", "deep in data"),
            ("data/key", "beside"),
        ] {
            assert_eq!(mount.read(&format!("{tree}/{name}")).unwrap(), text, "{tree}/{name}");
        }
    }
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn kv_version_1_is_mirrored_as_well() {
    let bao = bao().await;
    bao.enable_kv1("first").await;
    bao.write("first/agents/one", json!({"key": "1", "ttl": "1h"})).await;
    bao.write("first/agents/sub/two", json!({"key": "2"})).await;
    let mount = mount(bao.address(), "[tree.kv]\nsecret = \"first/agents\"\n");
    assert_eq!(mount.read("kv/sub/two/key").unwrap(), "2");
    assert_eq!(names(&mount, "kv"), ["one", "sub"]);
    assert_eq!(names(&mount, "kv/one"), ["key", "ttl"]);
    assert_eq!(run_in(&mount.root(), "find kv -type f | sort | xargs cat"), "11h2");
    assert_eq!(attribute(&mount.path("kv/one/key"), "version"), None);
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_are_shown_as_they_are() {
    let bao = kv2("odd").await;
    let odd = [
        "two words",
        "100%",
        "a%2Fb",
        "?query",
        "a:b",
        "ünïcödé 🔑",
        "-rf",
        "back\\slash",
        "*",
        "c=d&e",
        "#hash",
        "\"q\" 'q'",
    ];
    for name in odd {
        bao.write_kv2("odd", &format!("{name}/inner {name}"), json!({name: name})).await;
    }
    let mount = mount(bao.address(), "[tree.\"kv of all\"]\nsecret = \"odd/\"\n");
    let mut sorted = odd.to_vec();
    sorted.sort_unstable();
    assert_eq!(names(&mount, "kv of all"), sorted);
    for name in odd {
        assert_eq!(mount.read(&format!("kv of all/{name}/inner {name}/{name}")).unwrap(), name);
    }
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_can_not_be_file_names_are_left_out_and_counted() {
    let bao = kv2("names").await;
    let (long, longest) = ("x".repeat(256), "y".repeat(255));
    bao.write_kv2(
        "names",
        "good",
        json!({"key": "abc", "": "no name", "a/b": "slash", long.as_str(): "long"}),
    )
    .await;
    bao.write_kv2("names", &long, json!({"key": "abc"})).await;
    bao.write_kv2("names", &longest, json!({"key": "abc"})).await;
    let real = mount(bao.address(), "[tree.kv]\nsecret = \"names/\"\n");
    assert_eq!(names(&real, "kv"), ["good", longest.as_str()]);
    assert_eq!(names(&real, "kv/good"), ["key"]);
    assert_eq!(real.read(&format!("kv/{longest}/key")).unwrap(), "abc");
    assert!(skipped(&real).contains("count=1"), "{}", real.log());
    stop(real);

    let vault = Stub::kv2(|path| match path {
        "metadata/?list=true" | "metadata?list=true" => Reply::json(
            200,
            r#"{"data":{"keys":["good","","/","..","../",".","a\u0000b","a\nb","a/b","a//","good","\ud83d\ude00"]}}"#,
        ),
        "data/good" => Reply::kv2(r#"{"key":"abc","..":"up","nul\u0000":"x"}"#),
        _ => Reply::json(404, r#"{"errors":[]}"#),
    })
    .await;
    let stubbed = mount(vault.address(), "[tree.kv]\nsecret = \"kv/\"\n");
    assert_eq!(names(&stubbed, "kv"), ["good", "😀"]);
    assert_eq!(names(&stubbed, "kv/good"), ["key"]);
    assert!(skipped(&stubbed).contains("count=9"), "{}", stubbed.log());
    stop(stubbed);
}

fn skipped(mount: &Mount) -> String {
    let log = mount.log();
    log.lines()
        .find(|line| line.contains("names that can't be file names were left out"))
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_denied_does_not_hurt_its_neighbours() {
    let bao = kv2("rights").await;
    for name in ["yes", "no", "folder/yes", "closed/inner"] {
        bao.write_kv2("rights", name, json!({"key": name})).await;
    }
    let rules = r#"
        path "rights/metadata/" { capabilities = ["list"] }
        path "rights/metadata/folder/" { capabilities = ["list"] }
        path "rights/data/yes" { capabilities = ["read"] }
        path "rights/data/folder/*" { capabilities = ["read"] }"#;
    bao.write_policy("rights", rules).await;
    let token = bao.create_token(json!({"policies": ["rights"], "ttl": "1h"})).await;
    let mount = mount_with(
        bao.address(),
        &token,
        "[tree.kv]\nsecret = \"rights/\"\n[dir.no]\nsecret = \"rights/no\"\n",
    );
    assert_eq!(names(&mount, "kv"), ["closed", "folder", "no", "yes"]);
    assert_eq!(mount.read("kv/yes/key").unwrap(), "yes");
    assert_eq!(mount.read("kv/folder/yes/key").unwrap(), "folder/yes");
    for name in ["kv/no", "kv/closed", "no"] {
        assert_eq!(errno_of(fs::read_dir(mount.path(name))), Some(EACCES), "{name}");
        assert_eq!(mount.errno(&format!("{name}/key")), EACCES, "{name}");
        let path = mount.path(name);
        let last = path.file_name().unwrap().to_str().unwrap();
        let reason = attribute(path.parent().unwrap(), &format!("error.{last}")).unwrap_or_default();
        assert!(reason.contains("the policy must allow"), "{name}: {reason:?}");
    }
    let found = run_in(&mount.root(), "find kv -type f 2>/dev/null | sort || true");
    assert_eq!(found, "kv/folder/yes/key\nkv/yes/key\n");
    stop(mount);
}

/// What is resident of the daemon, in bytes.
fn resident(mount: &Mount) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_names_are_listed_and_far_too_many_are_refused() {
    let keys = |count: u32| {
        let keys: Vec<String> = (0..count).map(|number| format!("\"secret-{number:06}\"")).collect();
        format!(r#"{{"data":{{"keys":[{}]}}}}"#, keys.join(","))
    };
    let (many, too_many) = (keys(100_000), keys(1_200_000));
    let vault = Stub::kv2(move |path| match path {
        "metadata/many?list=true" | "metadata/many/?list=true" => Reply::json(200, &many),
        "metadata/huge?list=true" | "metadata/huge/?list=true" => Reply::json(200, &too_many),
        path if path.starts_with("data/") => Reply::kv2(&format!(r#"{{"name":"{path}"}}"#)),
        _ => Reply::json(404, r#"{"errors":[]}"#),
    })
    .await;
    let mount = mount(
        vault.address(),
        "[mount]\nlist-max-age = \"60s\"\n[tree.many]\nsecret = \"kv/many\"\n[tree.huge]\nsecret = \"kv/huge\"\n",
    );
    assert_eq!(mount.read("many/secret-077777/name").unwrap(), "data/many/secret-077777");
    for _ in 0..2 {
        assert_eq!(run_in(&mount.root(), "ls -f many | sort -u | wc -l").trim(), "100002");
    }
    // It reads each secret, so all of it would take a while.
    let found = run_in(&mount.root(), "timeout 3 find many -type f -size +0 | wc -l");
    assert!(found.trim().parse::<u32>().unwrap() > 100, "{found}");
    assert_eq!(errno_of(fs::read_dir(mount.path("huge"))), Some(EIO));
    let reason = attribute(&mount.root(), "error.huge").unwrap();
    assert!(reason.contains("larger than max-list-size, 16777216 bytes"), "{reason}");
    assert_eq!(mount.read("many/secret-099999/name").unwrap(), "data/many/secret-099999");
    assert!(resident(&mount) < 256 << 20, "{} MiB", resident(&mount) >> 20);
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_find_over_more_than_fits_stays_below_max_memory() {
    const SECRETS: usize = 500;
    const SIZE: usize = 48 << 10;
    let value = "x".repeat(SIZE);
    let keys: Vec<String> = (0..SECRETS).map(|number| format!("\"{number}\"")).collect();
    let keys = format!(r#"{{"data":{{"keys":[{}]}}}}"#, keys.join(","));
    let vault = Stub::kv2(move |path| match path {
        path if path.starts_with("data/") => Reply::kv2(&format!(r#"{{"path":"{path}","value":"{value}"}}"#)),
        _ => Reply::json(200, &keys),
    })
    .await;
    let mount = mount(
        vault.address(),
        "[mount]\nmax-memory = \"2MiB\"\nlist-max-age = \"60s\"\n[tree.kv]\nsecret = \"kv/\"\n",
    );
    mount.read("kv/0/path").unwrap();
    // The kernel believes in the directories of secrets that make room, and looks for their fields.
    let looked_at = ["101", "102"];
    for name in looked_at {
        fs::metadata(mount.path(&format!("kv/{name}"))).unwrap();
    }
    for name in 0..60 {
        mount.read(&format!("kv/{name}/path")).unwrap();
    }
    assert_eq!(mount.errno("kv/101/none"), ENOENT);
    for name in looked_at {
        assert_eq!(mount.read(&format!("kv/{name}/path")).unwrap(), format!("data/{name}"));
    }
    let before = resident(&mount);
    // 24 MiB of secrets pass by.
    let found = run_in(&mount.root(), "find kv -type f -size +1k -exec cat {} + | wc -c");
    assert_eq!(found.trim(), (SECRETS * SIZE).to_string());
    let grown = resident(&mount).saturating_sub(before);
    assert!(grown < 16 << 20, "grown by {} KiB", grown >> 10);
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_forgets_is_found_again() {
    let bao = kv2("forgotten").await;
    let paths: BTreeSet<String> = (0..60).map(|number| format!("{}/{number}", number % 7)).collect();
    for path in &paths {
        bao.write_kv2("forgotten", path, json!({"key": path})).await;
    }
    let mount =
        mount(bao.address(), "[tree.kv]\nsecret = \"forgotten/\"\n[dir.d]\nsecret = \"forgotten/0/0\"\n");
    let mut held = File::open(mount.path("kv/1/1/key")).unwrap();
    for _ in 0..3 {
        for path in &paths {
            assert_eq!(mount.read(&format!("kv/{path}/key")).unwrap(), *path);
        }
        assert_eq!(mount.read("d/key").unwrap(), "0/0");
        fs::write("/proc/sys/vm/drop_caches", "2").expect(FORGET);
    }
    let mut text = String::new();
    held.read_to_string(&mut text).unwrap();
    assert_eq!(text, "1/1", "an open file is not forgotten");
    assert_eq!(run_in(&mount.root(), "find . -type f | wc -l").trim(), "61");
    stop(mount);
}
