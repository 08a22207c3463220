//! `leasefs policy`: what it prints is accepted by a real OpenBao, is enough for all that a configuration
//! declares on a real mount, and has no rule too many.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, and compares with the wall clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::bao::binary;
use support::mount::{Mount, eventually, leasefs};
use support::world::World;

/// How long leases and tokens of these tests live, in seconds: each is renewed at least once in a run.
const LEASE: u64 = 12;
const TOKEN: u64 = 15;

/// How long after its first read a login must still be the same.
const LATER: Duration = Duration::from_secs(19);

const IDENTITIES: [&str; 2] = ["machine", "given"];

/// How many runs wait at once.
const AT_ONCE: usize = 13;

/// Something of every kind, with a role of its own for each run.
fn files(run: &str) -> String {
    let database = |identity: &str, letter: char| {
        format!(
            "[file.\"{identity}/held\"]\nidentity = \"{identity}\"\nsecret = \"database/creds/{letter}l{run}#username\"\n\
             [file.\"{identity}/other\"]\nidentity = \"{identity}\"\nsecret = \"database/creds/{letter}o{run}#username\"\n"
        )
    };
    let kinds = r#"
[file."v2"]
secret = "secret/agents/weather#key"
[file."pinned"]
secret = "secret/agents/versioned#key"
version = 1
[file."v1"]
secret = "old/thing#value"
[dir."fields"]
secret = "team/kv/service"
[tree."kv2"]
secret = "secret/tree/"
[tree."kv1"]
secret = "old/tree/"
[file."within"]
secret = "secret/tree/top#field"
[file."static"]
secret = "database/static-creds/app#username"
[dir."tls"]
secret = "pki/issue/agent"
params = { common_name = "agent.internal" }
names = { certificate = "tls.crt", private_key = "tls.key" }
"#;
    let kinds = kinds.replace("secret = ", "identity = \"machine\"\nsecret = ");
    kinds + &database("machine", 'm') + &database("given", 'g')
}

/// What can be read of it besides logins, and what it holds if that is known.
const READABLE: [(&str, Option<&str>); 11] = [
    ("v2", Some("sunny")),
    ("pinned", Some("first")),
    ("v1", Some("v1")),
    ("fields/user", Some("svc")),
    ("kv2/top/field", Some("t")),
    ("kv2/deep/down/field", Some("d")),
    ("kv1/top/field", Some("t1")),
    ("within", Some("t")),
    ("static", Some("app")),
    ("tls/tls.crt", None),
    ("tls/tls.key", None),
];

fn world() -> World {
    let world = World::start();
    world.wait(async {
        let bao = &world.bao;
        bao.enable_kv1("old").await;
        bao.enable_kv2("team/kv").await;
        bao.enable("pki", "pki", json!({})).await;
        bao.call("POST", "pki/root/generate/internal", Some(json!({"common_name": "test"}))).await;
        let role = json!({"allow_any_name": true, "generate_lease": true, "ttl": "1h", "max_ttl": "2h"});
        bao.write("pki/roles/agent", role).await;
        bao.write_kv2("secret", "agents/weather", json!({"key": "sunny"})).await;
        bao.write_kv2("secret", "agents/versioned", json!({"key": "first"})).await;
        bao.write_kv2("secret", "agents/versioned", json!({"key": "second"})).await;
        bao.write_kv2("secret", "agents/undeclared", json!({"key": "x"})).await;
        bao.write_kv2("secret", "tree/top", json!({"field": "t"})).await;
        bao.write_kv2("secret", "tree/deep/down", json!({"field": "d"})).await;
        bao.write_kv2("team/kv", "service", json!({"user": "svc"})).await;
        bao.write("old/thing", json!({"value": "v1"})).await;
        bao.write("old/tree/top", json!({"field": "t1"})).await;
        world.postgres.add_static_role(bao, "database", "app", Duration::from_secs(3600)).await;
    });
    world
}

/// A run: a configuration, and the rules of each of its identities.
struct Run {
    name: String,
    config: String,
    rules: [Vec<String>; 2],
}

impl Run {
    /// With all the rules that `leasefs policy` prints.
    fn prepare(world: &World, name: &str) -> Run {
        for letter in ['m', 'g'] {
            world.role(&format!("{letter}l{name}"), LEASE, 600);
            world.role(&format!("{letter}o{name}"), 300, 600);
        }
        let options = json!({
            "token_policies": format!("machine-{name}"),
            "token_no_default_policy": true,
            "token_ttl": TOKEN,
            "token_max_ttl": 3600,
        });
        let role = world.wait(world.bao.create_approle(&format!("machine-{name}"), options));
        let config = format!(
            "[vault]\naddress = \"{}\"\n[mount]\nrevocation-check = \"1s\"\n\
             [identity.machine]\nmethod = \"approle\"\nrole-id = \"{}\"\nsecret-id-file = \"{}\"\n\
             [identity.given]\nmethod = \"token\"\ntoken-file = \"{}\"\n{}",
            world.bao.address(),
            role.role_id,
            role.secret_id_file.display(),
            world.bao.directory().join(format!("given-{name}.token")).display(),
            files(name),
        );
        let rules = IDENTITIES.map(|identity| {
            let output = policy(world, &config, &["--identity", identity]);
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(
                output.status.success() && !text.contains("NOTE"),
                "{text}{output_err}",
                output_err = String::from_utf8_lossy(&output.stderr)
            );
            stanzas(&text)
        });
        Run { name: name.to_owned(), config, rules }
    }

    /// Mounts with these rules and tries everything; what failed first.
    fn outcome(&self, world: &World) -> Result<(), String> {
        for (identity, rules) in IDENTITIES.iter().zip(&self.rules) {
            write_policy(world, &format!("{identity}-{}", self.name), &rules.concat());
        }
        let given = json!({
            "policies": [format!("given-{}", self.name)],
            "no_default_policy": true,
            "ttl": format!("{TOKEN}s"),
            "renewable": true,
        });
        let token = world.wait(world.bao.create_token(given));
        world.bao.secret_file(&format!("given-{}.token", self.name), &token);
        let mount = Mount::start(&self.config, &[]);
        let mut failed = Vec::from_iter(self.try_all(world, &mount).err());
        let (_, log) = mount.stop();
        let roles = ["ml", "mo", "gl", "go"].map(|role| format!("{role}{}", self.name));
        let left: Vec<String> = roles.iter().flat_map(|role| world.leases(role)).collect();
        if !left.is_empty() {
            failed.push(format!("left after unmount: {left:?}"));
        }
        if log.contains("could not be revoked") {
            failed.push(format!("something is left after unmount: {log}"));
        }
        let tokens = world.accessors(&format!("machine-{}", self.name)).len();
        if tokens > 0 {
            failed.push(format!("{tokens} tokens are left after unmount"));
        }
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }

    fn try_all(&self, world: &World, mount: &Mount) -> Result<(), String> {
        let read = |name: &str| mount.read(name).map_err(|error| format!("{name}: {error}"));
        let start = Instant::now();
        let first: Vec<String> =
            IDENTITIES.iter().map(|who| read(&format!("{who}/held"))).collect::<Result<_, _>>()?;
        let _held: Vec<File> =
            IDENTITIES.iter().map(|who| File::open(mount.path(&format!("{who}/held"))).unwrap()).collect();
        for (name, content) in READABLE {
            let found = read(name)?;
            if content.is_some_and(|content| content != found) {
                return Err(format!("{name} holds {found:?}"));
            }
        }
        for name in ["kv2", "kv2/deep", "kv1"] {
            let entries = fs::read_dir(mount.path(name)).map_err(|error| format!("{name}: {error}"))?;
            if entries.count() == 0 {
                return Err(format!("{name} is empty"));
            }
        }
        for (who, letter) in IDENTITIES.iter().zip(['m', 'g']) {
            self.give_back(world, mount, &format!("{who}/other"), &format!("{letter}o{}", self.name))?;
        }
        let checked = self.check();
        thread::sleep(LATER.saturating_sub(start.elapsed()));
        for (who, first) in IDENTITIES.iter().zip(first) {
            let name = format!("{who}/held");
            let now = read(&name)?;
            if now != first {
                return Err(format!("{name}: {first} has become {now}"));
            }
        }
        checked
    }

    /// A lease that is revoked in Vault is noticed, and the next one is given back when that is wanted.
    fn give_back(&self, world: &World, mount: &Mount, name: &str, role: &str) -> Result<(), String> {
        let open = || File::open(mount.path(name)).map_err(|error| format!("{name}: {error}"));
        let handle = open()?;
        let reads = |handle: &File| handle.read_at(&mut [0; 8], 0).is_ok();
        if !reads(&handle) {
            return Err(format!("{name} can't be read"));
        }
        world.wait(world.bao.revoke_lease(&world.lease(role)));
        if eventually(Duration::from_secs(8), || !reads(&handle)).is_none() {
            return Err(format!("{name} is shown though it was revoked"));
        }
        let _next = open()?;
        let root = mount.root();
        let (status, said) = mount.command(&["revoke", root.to_str().unwrap(), name]);
        if eventually(Duration::from_secs(4), || world.leases(role).is_empty()).is_none() {
            return Err(format!("{name} can't be given back: {status} {said}"));
        }
        Ok(())
    }

    /// `leasefs check` finds nothing to remark on.
    fn check(&self) -> Result<(), String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.toml");
        fs::write(&file, &self.config).unwrap();
        let output = leasefs().arg("check").arg(file).output().unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        let is_well = output.status.code() == Some(0) && !out.contains("warning");
        if is_well { Ok(()) } else { Err(format!("check: {out}{}", String::from_utf8_lossy(&output.stderr))) }
    }
}

/// What `leasefs policy` prints for a configuration, asking as root.
fn policy(world: &World, config: &str, arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.toml");
    fs::write(&file, config).unwrap();
    let mut command = leasefs();
    command.arg("policy").arg(file).args(arguments).env("VAULT_TOKEN", world.bao.root_token());
    command.output().unwrap()
}

/// The rules of a policy, each with its braces.
fn stanzas(text: &str) -> Vec<String> {
    let mut stanzas = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.find(|line| line.starts_with("path ")) {
        let rest = lines.by_ref().take_while(|line| *line != "}").map(|line| format!("{line}\n"));
        stanzas.push(format!("{line}\n{}}}\n", rest.collect::<String>()));
    }
    stanzas
}

/// As an operator would, by the command of the server.
fn write_policy(world: &World, name: &str, text: &str) {
    let mut command = Command::new(binary());
    command.args(["policy", "write", name, "-"]);
    command.env("BAO_ADDR", world.bao.address()).env("BAO_TOKEN", world.bao.root_token());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
}

/// What a token with these policies may do.
fn capabilities(world: &World, policies: &[&str], paths: &[&str]) -> Vec<String> {
    let options = json!({"policies": policies, "no_default_policy": true, "ttl": "1h"});
    let token = world.wait(world.bao.create_token(options));
    let body = json!({"token": token, "paths": paths});
    let answer = world.wait(world.bao.call("POST", "sys/capabilities", Some(body)));
    let words = |path: &&str| {
        let words = answer["data"][path].as_array().cloned().unwrap_or_default();
        words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("+")
    };
    paths.iter().map(words).collect()
}

#[test]
fn the_least_policy_is_enough_and_each_of_its_rules_is_needed() {
    let world = world();
    let all = Run::prepare(&world, "all");
    let places: Vec<(usize, usize)> =
        (0..2).flat_map(|who| (0..all.rules[who].len()).map(move |rule| (who, rule))).collect();
    println!("{} rules:\n{}", places.len(), all.rules.concat().concat());
    assert_eq!(all.rules[0].len(), 17, "{:#?}", all.rules[0]);
    assert_eq!(all.rules[1].len(), 8, "{:#?}", all.rules[1]);
    let queue = Mutex::new(places.into_iter().enumerate());
    let superfluous = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let complete = scope.spawn(|| all.outcome(&world));
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((at, (who, rule))) = queue.lock().unwrap().next() else { return };
                    let mut run = Run::prepare(&world, &at.to_string());
                    let removed = format!("{}: {}", IDENTITIES[who], run.rules[who].remove(rule));
                    match run.outcome(&world) {
                        Ok(()) => superfluous.lock().unwrap().push(removed),
                        Err(failed) => println!("without {removed}{failed}\n"),
                    }
                }
            });
        }
        assert_eq!(complete.join().unwrap(), Ok(()));
    });
    let superfluous = superfluous.into_inner().unwrap();
    assert!(superfluous.is_empty(), "nothing failed without {superfluous:#?}");

    let undeclared = [
        "secret/data/agents/undeclared",
        "secret/metadata/agents/weather",
        "secret/metadata/agents/",
        "secret/data/tree",
        "old/other",
        "team/kv/data/other",
        "database/creds/other",
        "database/roles/mlall",
        "database/static-creds/other",
        "pki/issue/other",
        "pki/roles/agent",
        "sys/policies/acl/machine-all",
        "auth/token/create",
        "sys/leases/revoke-prefix/database",
    ];
    let found = capabilities(&world, &["machine-all", "given-all"], &undeclared);
    assert_eq!(found, vec!["deny"; undeclared.len()]);
}

#[test]
fn what_is_denied_is_denied_to_a_token_that_may_do_everything_else() {
    let world = World::start();
    let config = format!(
        "[vault]\naddress = \"{}\"\n[file.weather]\nsecret = \"secret/agents/weather#key\"\n",
        world.bao.address()
    );
    let output = policy(&world, &config, &["--deny", "secret/tenants/", "--deny", "secret/agents/traffic"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    write_policy(&world, "least", &text);
    world.wait(world.bao.write_policy("wide", r#"path "secret/*" { capabilities = ["read", "delete"] }"#));
    let paths = [
        "secret/data/agents/weather",
        "secret/data/agents/other",
        "secret/data/agents/traffic",
        "secret/metadata/agents/traffic",
        "secret/destroy/agents/traffic",
        "secret/data/tenants/a/b",
        "secret/metadata/tenants/a",
    ];
    let found = capabilities(&world, &["least", "wide"], &paths);
    assert_eq!(found, ["read", "delete+read", "deny", "deny", "deny", "deny", "deny"]);

    let clash = policy(&world, &config, &["--deny", "secret/data/agents/weather"]);
    assert_eq!(clash.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&clash.stderr).contains("what weather needs"));
}

#[test]
fn names_that_would_end_a_string_are_accepted_by_a_server() {
    let world = World::start();
    let odd = r#"a "b" \c ü {d} %e"#;
    world.wait(world.bao.write_kv2("secret", odd, json!({"key": "x"})));
    let config = format!(
        "[vault]\naddress = \"{}\"\n[file.\"odd # name\"]\nsecret = 'secret/{odd}'\n",
        world.bao.address()
    );
    let output = policy(&world, &config, &[]);
    write_policy(&world, "odd", &String::from_utf8(output.stdout).unwrap());
    let path = format!("secret/data/{odd}");
    assert_eq!(capabilities(&world, &["odd"], &[&path, "secret/data/a"]), ["read", "deny"]);
    // What HCL takes for the begin of an interpolation; a configuration can't name it, a policy can.
    let tree = format!("[vault]\naddress = \"{}\"\n[tree.all]\nsecret = \"secret/\"\n", world.bao.address());
    let output = policy(&world, &tree, &["--deny", "secret/a${b"]);
    write_policy(&world, "dollar", &String::from_utf8(output.stdout).unwrap());
    assert_eq!(capabilities(&world, &["dollar"], &["secret/data/a${b", "secret/data/a"]), ["deny", "read"]);
}

#[test]
fn without_vault_both_forms_are_printed_if_that_is_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.toml");
    let config =
        "[vault]\naddress = \"http://127.0.0.1:1\"\n[file.weather]\nsecret = \"secret/agents/weather\"\n";
    fs::write(&file, config).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = leasefs();
        command.arg("policy").arg(&file).args(arguments).env("VAULT_TOKEN", "x").output().unwrap()
    };
    let offline = run(&["--offline"]);
    let text = String::from_utf8(offline.stdout).unwrap();
    assert!(offline.status.success(), "{text}");
    for told in
        ["path \"secret/agents/weather\"", "path \"secret/data/agents/weather\"", "# NOTE: nobody said"]
    {
        assert!(text.contains(told), "{told} in\n{text}");
    }
    let asked = run(&[]);
    assert_eq!(asked.status.code(), Some(69));
    let said = String::from_utf8(asked.stderr).unwrap();
    assert!(said.contains("--offline") && said.contains("`engine`") && asked.stdout.is_empty(), "{said}");

    fs::write(&file, config.to_owned() + "engine = \"kv1\"\n").unwrap();
    let declared = run(&[]);
    assert!(declared.status.success(), "nobody need be asked");
    assert!(!String::from_utf8(declared.stdout).unwrap().contains("NOTE"));

    let unknown = run(&["--identity", "nobody"]);
    assert_eq!(unknown.status.code(), Some(64));
    assert!(String::from_utf8(unknown.stderr).unwrap().contains("the configuration has default"));
}
