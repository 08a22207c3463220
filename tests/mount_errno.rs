//! What a program is told when it can't have a secret: each row of the errno table on a real mount, with
//! the reason that an operator finds. `EROFS` is in `mount_contract.rs`, and the `ESTALE` of generations that end is
//! with the leases.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use libc::{EACCES, EHOSTDOWN, EIO, EISDIR, ENOENT, ENOTDIR, ETIMEDOUT};
use serde_json::json;
use support::bao::Bao;
use support::mount::{Mount, eventually};
use support::postgres::Postgres;
use support::programs::{attribute, run_in};
use support::proxy::{Proxy, Trouble};
use support::stub::{Reply, Stub};
use tokio::sync::OnceCell;

const PATIENCE: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

/// One OpenBao for all tests; each test keeps to paths of its own.
async fn bao() -> &'static Bao {
    static BAO: OnceCell<Bao> = OnceCell::const_new();
    BAO.get_or_init(Bao::start).await
}

/// Mounts `files` of what is at `address`, with this token.
fn mount_with(address: &str, token: &str, files: &str) -> Mount {
    let config = format!("[vault]\naddress = \"{address}\"\nread-timeout = \"1s\"\n{files}");
    Mount::start(&config, &[("VAULT_TOKEN", token)])
}

fn mount(address: &str, files: &str) -> Mount {
    mount_with(address, "dev-only-root-token", files)
}

fn stop(mount: Mount) {
    let (status, log) = mount.stop();
    assert!(status.success(), "{log}");
}

/// Asserts that a file can't be read, with which errno, and that its directory tells a reason with `reason`
/// in it.
fn assert_fails(mount: &Mount, name: &str, errno: i32, reason: &str) {
    assert_eq!(mount.errno(name), errno, "{name}\n{}", mount.log());
    let told = reason_of(mount, name);
    assert!(told.contains(reason), "{name}: {told:?} does not say {reason:?}\n{}", mount.log());
}

/// Why a name can't be read: what its directory says. A file that can't be resolved has no attributes of
/// its own; one that can says the same.
fn reason_of(mount: &Mount, name: &str) -> String {
    let path = mount.path(name);
    let last = path.file_name().unwrap().to_str().unwrap();
    attribute(path.parent().unwrap(), &format!("error.{last}")).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_enoent() {
    let bao = bao().await;
    let postgres = Postgres::start().await;
    postgres.connect(bao, "database").await;
    postgres.add_role(bao, "database", "known", HOUR, HOUR).await;
    bao.write_kv2("secret", "enoent/there", json!({"key": "abc"})).await;
    for _ in 0..2 {
        bao.write_kv2("secret", "enoent/deleted", json!({"key": "abc"})).await;
        bao.write_kv2("secret", "enoent/destroyed", json!({"key": "abc"})).await;
    }
    bao.delete("secret/data/enoent/deleted").await;
    bao.call("PUT", "secret/destroy/enoent/destroyed", Some(json!({"versions": [1]}))).await;
    bao.enable_kv1("enoent1").await;
    let mount = mount(
        bao.address(),
        "[file.secret]\nsecret = \"secret/enoent/none#key\"\n\
         [file.field]\nsecret = \"secret/enoent/there#other\"\n\
         [file.there]\nsecret = \"secret/enoent/there#key\"\n\
         [file.deleted]\nsecret = \"secret/enoent/deleted#key\"\n\
         [file.older]\nsecret = \"secret/enoent/deleted#key\"\nversion = 1\n\
         [file.destroyed]\nsecret = \"secret/enoent/destroyed#key\"\nversion = 1\n\
         [file.version]\nsecret = \"secret/enoent/there#key\"\nversion = 7\n\
         [file.folder]\nsecret = \"secret/enoent#key\"\n\
         [file.kv1]\nsecret = \"enoent1/none#key\"\n\
         [file.role]\nsecret = \"database/creds/unknown#username\"\n\
         [file.minted]\nsecret = \"database/creds/known#nonsense\"\n\
         [file.engine]\nsecret = \"not-mounted/x#key\"\n\
         [dir.fields]\nsecret = \"secret/enoent/none\"\n",
    );
    for name in ["nothing", "there.swp", ".git", "fields/key"] {
        assert_eq!(mount.errno(name), ENOENT, "{name}");
    }
    assert_eq!(mount.errno("there/x"), ENOTDIR);
    assert_eq!(mount.errno(""), EISDIR);
    assert_eq!(fs::read_dir(mount.path("fields")).unwrap_err().raw_os_error(), Some(ENOENT));
    assert_fails(&mount, "secret", ENOENT, "secret/data/enoent/none: it does not exist in Vault");
    assert_fails(&mount, "field", ENOENT, "the secret has no field \"other\"");
    mount.wait_for_log("the secret has no field");
    assert_fails(&mount, "deleted", ENOENT, "secret/data/enoent/deleted: version 2 was deleted at 2");
    assert_fails(&mount, "destroyed", ENOENT, "version 1 was destroyed");
    assert_fails(&mount, "version", ENOENT, "secret/data/enoent/there");
    assert_fails(&mount, "folder", ENOENT, "secret/data/enoent");
    assert_fails(&mount, "kv1", ENOENT, "enoent1/none");
    assert_fails(&mount, "role", ENOENT, "no such role");
    assert_fails(&mount, "minted", ENOENT, "the secret has no field \"nonsense\"");
    // Of what is not mounted Vault does not say whether it exists.
    assert_fails(&mount, "engine", EACCES, "not-mounted/x");
    // The neighbours are as well as ever, and what is written again is there again.
    assert_eq!(mount.read("there").unwrap(), "abc");
    assert_eq!(mount.read("older").unwrap(), "abc");
    bao.write_kv2("secret", "enoent/none", json!({"key": "new"})).await;
    assert_eq!(mount.read("secret").unwrap(), "new");
    assert_eq!(reason_of(&mount, "secret"), "");
    assert_eq!(
        attribute(&mount.path("role"), "error"),
        Some(reason_of(&mount, "role")),
        "a file that has a mode"
    );
    assert_eq!(mount.read("fields/key").unwrap(), "new");
    // A stat says what an open would say.
    for name in ["field", "deleted", "version"] {
        assert_eq!(fs::metadata(mount.path(name)).unwrap_err().raw_os_error(), Some(ENOENT), "{name}");
    }
    assert_eq!(fs::metadata(mount.path("role")).unwrap().len(), 0, "only an open asks for a credential");
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_a_file_is_told_eacces_and_causes_no_request() {
    let bao = bao().await;
    bao.write_kv2("secret", "callers", json!({"key": "abc"})).await;
    let proxy = Proxy::start(bao.address());
    let mut files = String::from("[defaults]\ndir-mode = \"0555\"\nowner = 1000\ngroup = 2000\n");
    for mode in ["0400", "0440", "0404", "0040"] {
        files += &format!("[file.m{mode}]\nsecret = \"secret/callers-{mode}#key\"\nmode = \"{mode}\"\n");
        bao.write_kv2("secret", &format!("callers-{mode}"), json!({"key": "abc"})).await;
    }
    let mount = mount(&proxy.address(), &files);
    let (owner, group) = ("--reuid 1000 --regid 1", "--reuid 65534 --regid 2000");
    let (supplementary, nobody) =
        ("--reuid 65534 --regid 65534 --groups 7,2000,9", "--reuid 65534 --regid 65534");
    let read = |who: &str, mode: &str| {
        let groups = if who.contains("--groups") { "" } else { "--clear-groups" };
        let attempt = format!("setpriv {who} {groups} cat m{mode} 2>&1 || true");
        run_in(&mount.root(), &attempt)
    };
    let allowed = "abc";
    for (who, mode) in [
        (group, "0400"),
        (supplementary, "0400"),
        (nobody, "0400"),
        (nobody, "0440"),
        (group, "0404"),
        (supplementary, "0404"),
        (owner, "0040"),
        (nobody, "0040"),
    ] {
        let told = read(who, mode);
        assert!(told.contains("Permission denied"), "{who} {mode}: {told}");
    }
    assert_eq!(proxy.count("/callers"), 0, "{:?}", proxy.requests());
    // Not even by looking at it: who may not read a file learns the size that is known, so none.
    let looked = run_in(&mount.root(), &format!("setpriv {nobody} --clear-groups stat -c %s m0400"));
    assert_eq!(looked.trim(), "0");
    assert_eq!(proxy.count("/callers"), 0, "{:?}", proxy.requests());
    for (who, mode) in [
        (owner, "0400"),
        (owner, "0440"),
        (group, "0440"),
        (supplementary, "0440"),
        (nobody, "0404"),
        (group, "0040"),
        (supplementary, "0040"),
    ] {
        assert_eq!(read(who, mode), allowed, "{who} {mode}");
    }
    let looked = run_in(&mount.root(), &format!("setpriv {nobody} --clear-groups stat -c %s m0400"));
    assert_eq!(looked.trim(), "3", "the size of what somebody else has read is no secret");
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_vault_denies_the_identity_is_eacces() {
    let bao = bao().await;
    bao.write_kv2("secret", "denied/yes", json!({"key": "abc"})).await;
    bao.write_kv2("secret", "denied/no", json!({"key": "abc"})).await;
    bao.write_policy("half", "path \"secret/data/denied/yes\" { capabilities = [\"read\"] }").await;
    let token = bao.create_token(json!({"policies": ["half"], "ttl": "1h"})).await;
    let files = "[file.yes]\nsecret = \"secret/denied/yes#key\"\n\
                 [file.no]\nsecret = \"secret/denied/no#key\"\n\
                 [file.db]\nsecret = \"no-rights-there/creds/x\"\n";
    let mount = mount_with(bao.address(), &token, files);
    assert_fails(&mount, "no", EACCES, "secret/data/denied/no");
    assert_fails(&mount, "no", EACCES, "the policy must allow `read`");
    assert_fails(&mount, "db", EACCES, "no-rights-there/creds/x");
    assert_eq!(mount.read("yes").unwrap(), "abc", "its neighbours are not hurt");
    stop(mount);
    for (token, reason) in [("s.nonsense", "login"), ("", "VAULT_TOKEN")] {
        let mount = mount_with(bao.address(), token, files);
        assert_eq!(mount.errno("yes"), EACCES, "{token:?}\n{}", mount.log());
        assert!(mount.log().contains(reason), "{token:?}\n{}", mount.log());
        stop(mount);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_within_read_timeout_is_etimedout() {
    let bao = bao().await;
    for name in ["first", "second"] {
        bao.write_kv2("secret", &format!("slow/{name}"), json!({"key": "abc"})).await;
    }
    let proxy = Proxy::start(bao.address());
    let mount = mount(
        &proxy.address(),
        "[file.first]\nsecret = \"secret/slow/first#key\"\n[file.second]\nsecret = \"secret/slow/second#key\"\n\
         [file.posted]\nsecret = \"secret/slow/x#key\"\nengine = \"other\"\n",
    );
    assert_eq!(mount.read("first").unwrap(), "abc");
    proxy.trouble(Trouble::Freeze);
    for name in ["second", "posted"] {
        let start = Instant::now();
        assert_fails(&mount, name, ETIMEDOUT, "did not answer within");
        let waited = start.elapsed();
        assert!(waited > Duration::from_millis(900), "{name}: given up after {waited:?}");
        assert!(waited < Duration::from_secs(3), "{name}: {waited:?}");
    }
    proxy.recover();
    eventually(PATIENCE, || mount.read("second").is_ok()).expect("Vault answers again");
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_is_not_there_or_sealed_is_ehostdown_at_once() {
    let bao = Bao::start().await;
    for name in ["cached", "other"] {
        bao.write_kv2("secret", &format!("down/{name}"), json!({"key": "abc"})).await;
    }
    let proxy = Proxy::start(bao.address());
    let files = "[file.cached]\nsecret = \"secret/down/cached#key\"\n\
                 [file.other]\nsecret = \"secret/down/other#key\"\n\
                 [file.minted]\nsecret = \"secret/down/other#key\"\nversion = 1\n\
                 [file.posted]\nsecret = \"database/creds/x#username\"\nengine = \"other\"\n";
    let mount = mount(&proxy.address(), files);
    assert_eq!(mount.read("cached").unwrap(), "abc");
    let refuses_at_once = |what: &str| {
        for _ in 0..4 {
            let start = Instant::now();
            assert_eq!(mount.errno("other"), EHOSTDOWN, "{what}");
            assert!(start.elapsed() < Duration::from_secs(1), "{what}: {:?}", start.elapsed());
        }
        // The breaker is open: nobody is asked any more but for the server's health.
        let asked = proxy.requests().iter().filter(|one| !one.contains("sys/health")).count();
        for name in ["other", "minted", "posted"] {
            let start = Instant::now();
            assert_fails(&mount, name, EHOSTDOWN, "circuit breaker");
            assert!(start.elapsed() < Duration::from_secs(1), "{what} {name}: {:?}", start.elapsed());
        }
        let asked_now = proxy.requests().iter().filter(|one| !one.contains("sys/health")).count();
        assert_eq!(asked_now, asked, "{what}: {:?}", proxy.requests());
        assert_eq!(mount.read("cached").unwrap(), "abc", "{what}: what is cached is read on");
    };
    proxy.trouble(Trouble::Refuse);
    refuses_at_once("refused");
    assert!(mount.log().contains("Connection refused"), "{}", mount.log());
    proxy.recover();
    eventually(PATIENCE, || mount.read("other").is_ok()).expect("Vault is back");
    stop(mount);

    let mount = self::mount(&proxy.address(), files);
    assert_eq!(mount.read("cached").unwrap(), "abc");
    bao.call("POST", "sys/seal", None).await;
    assert_eq!(mount.errno("other"), EHOSTDOWN);
    assert_fails(&mount, "posted", EHOSTDOWN, "Vault is sealed");
    for _ in 0..3 {
        assert_eq!(mount.errno("other"), EHOSTDOWN, "sealed");
    }
    eventually(PATIENCE, || {
        assert_eq!(mount.errno("posted"), EHOSTDOWN, "sealed");
        reason_of(&mount, "posted").contains("circuit breaker")
    })
    .expect("the breaker opens");
    assert_eq!(mount.read("cached").unwrap(), "abc");
    stop(mount);

    // A server that was never there: the mount comes up and says it.
    proxy.trouble(Trouble::Refuse);
    let mount = self::mount(&proxy.address(), files);
    assert_eq!(mount.errno("cached"), EHOSTDOWN);
    assert!(mount.log().contains("Connection refused"), "{}", mount.log());
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_can_not_be_used_is_eio_with_its_reason() {
    let html =
        || Reply::new(200, &[("Content-Type", "text/html")], b"<html><body>Welcome to nginx</body></html>");
    let vault = Stub::kv2(move |path| match path.trim_start_matches("data/") {
        "html" => html(),
        "empty" => Reply::json(200, ""),
        "truncated" => Reply::json(200, r#"{"data":{"data":{"key":"ab"#),
        "null" => Reply::json(200, r#"{"data":null}"#),
        "list" => Reply::json(200, r#"{"data":[1,2]}"#),
        "form" => Reply::json(200, r#"{"data":{"data":{"key":"abc"}}}"#),
        "huge" => Reply::kv2(&format!(r#"{{"key":"{}"}}"#, "x".repeat(30 << 20))),
        "surrogate" => Reply::kv2(r#"{"key":"\ud83d"}"#),
        "failing" => Reply::json(500, r#"{"errors":["the disk is full"]}"#),
        "gateway" => Reply::new(502, &[], b"<html>Bad Gateway</html>"),
        "teapot" => Reply::new(418, &[], b"short and stout"),
        "redirect" => Reply::new(302, &[("Location", "https://elsewhere.example:8200/v1/x")], b""),
        "quota" => Reply::new(429, &[("Retry-After", "100")], br#"{"errors":["rate limit quota exceeded"]}"#),
        _ => Reply::kv2(r#"{"key":"abc"}"#),
    })
    .await;
    let rows = [
        ("html", "it is not JSON: is `address` a Vault server?"),
        ("empty", "it is empty"),
        ("truncated", "its JSON breaks off"),
        ("null", "its data is null"),
        ("list", "its data is no object"),
        ("form", "another form than expected"),
        ("huge", "larger than max-secret-size, 1048576 bytes"),
        ("surrogate", "the field \"key\" holds an escape that is no character"),
        ("failing", "the disk is full"),
        ("gateway", "Vault failed (status 502)"),
        ("teapot", "the answer is not Vault's: is `address` right?"),
        ("redirect", "redirected to https://elsewhere.example:8200"),
        ("quota", "rate limit"),
    ];
    let names = rows.iter().map(|(name, _)| *name).chain(["good"]);
    let files: String = names.map(|name| format!("[file.{name}]\nsecret = \"kv/{name}#key\"\n")).collect();
    let mount = mount(vault.address(), &files);
    for (name, reason) in rows {
        assert_fails(&mount, name, EIO, reason);
    }
    assert_eq!(mount.read("good").unwrap(), "abc");
    let asked =
        vault.requests().iter().filter(|request| request.starts_with("GET /v1/kv/data/failing ")).count();
    assert!((3..=6).contains(&asked), "a server error is tried again, three times at most: {asked}");
    assert!(!mount.log().contains("nginx") && !mount.log().contains("stout"), "no answer is quoted");
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_no_text_is_shown_as_json_and_base64_as_it_is() {
    let bao = bao().await;
    let fields = json!({
        "number": 1.5, "big": 9_007_199_254_740_991_u64, "yes": true, "nothing": null, "list": [1, "two", {}],
        "nested": {"user": {"name": "ü"}}, "binary": "AAECAwT/", "empty": "", "text": "line\nline \"q\" \\",
    });
    bao.write_kv2("secret", "odd", fields).await;
    let mount = mount(
        bao.address(),
        "[dir.odd]\nsecret = \"secret/odd\"\n[file.\"odd.json\"]\nsecret = \"secret/odd\"\n",
    );
    for (name, want) in [
        ("number", "1.5"),
        ("big", "9007199254740991"),
        ("yes", "true"),
        ("nothing", "null"),
        ("list", r#"[1,"two",{}]"#),
        ("nested", r#"{"user":{"name":"ü"}}"#),
        ("binary", "AAECAwT/"),
        ("empty", ""),
        ("text", "line\nline \"q\" \\"),
    ] {
        assert_eq!(mount.read(&format!("odd/{name}")).unwrap(), want, "{name}");
    }
    let whole: serde_json::Value = serde_json::from_str(&mount.read("odd.json").unwrap()).unwrap();
    assert_eq!(whole["nested"]["user"]["name"], "ü");
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_under_max_memory_is_eio() {
    let big = "x".repeat(600 << 10);
    let vault = Stub::kv2(move |_| Reply::kv2(&format!(r#"{{"key":"{big}"}}"#))).await;
    let mut files = String::from("[mount]\nmax-memory = \"1MiB\"\n");
    for name in ["one", "two"] {
        files += &format!("[file.{name}]\nsecret = \"kv/{name}#key\"\n");
    }
    let mount = mount(vault.address(), &files);
    let held = fs::File::open(mount.path("one")).unwrap();
    assert_fails(&mount, "two", EIO, "max-memory");
    drop(held);
    eventually(PATIENCE, || mount.read("two").is_ok()).expect("what nobody has open makes room");
    assert_eq!(
        attribute(&mount.path("one"), "state").as_deref(),
        Some("live"),
        "and comes back when it is wanted"
    );
    stop(mount);
}

#[test]
fn a_mount_point_that_will_not_do_is_named_with_what_to_do() {
    let lab = tempfile::tempdir().unwrap();
    let path = |name: &str| lab.path().join(name);
    fs::write(
        path("config.toml"),
        "[vault]\naddress = \"http://127.0.0.1:1\"\n[file.x]\nsecret = \"a/b#c\"\n",
    )
    .unwrap();
    fs::write(path("file"), "").unwrap();
    fs::create_dir_all(path("full/something")).unwrap();
    let refused = |point: &std::path::Path| {
        let mut command = support::mount::leasefs();
        command.arg("mount").arg(path("config.toml")).arg(point).env("VAULT_TOKEN", "x");
        message_of(&mut command)
    };
    for (name, message) in [("missing", "mkdir -p"), ("file", "not a directory"), ("full", "not empty")] {
        let told = refused(&path(name));
        assert!(told.contains(message) && told.contains(name), "{name}: {told}");
    }
    let mount = mount("http://127.0.0.1:1", "[file.x]\nsecret = \"a/b#c\"\n");
    let told = refused(&mount.root());
    assert!(told.contains("leasefs serves") && told.contains("already"), "{told}");
    assert!(mount.is_mounted(), "the first one is not disturbed");
    assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 1);
    stop(mount);
    let told = refused(std::path::Path::new("/proc"));
    assert!(told.contains("/proc"), "{told}");
}

/// What a command prints that must fail.
fn message_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.code().is_some_and(|code| code != 0), "{:?}: {text}", output.status);
    text
}
