//! Files in the formats that programs want, on a real mount, read by the programs that know each format best.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "a test may panic")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libc::{EIO, ENOENT};
use serde_json::{Value, json};
use support::bao::Bao;
use support::mount::Mount;
use support::postgres::Postgres;
use support::stub::{Reply, Stub};
use support::world::{attribute, reason};

/// Debian's own, which finds Debian's modules.
const PYTHON: &str = "/usr/bin/python3";

/// What a program prints; it must succeed.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} can't be run: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn example(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-config").join(name)).unwrap()
}

fn mount(address: &str, config: &str) -> Mount {
    Mount::start(config, &[("VAULT_ADDR", address), ("VAULT_TOKEN", "dev-only-root-token")])
}

fn stop(mount: Mount) {
    let (status, log) = mount.stop();
    assert!(status.success(), "{log}");
}

/// Texts that are hard to write down.
fn nasty() -> BTreeMap<String, String> {
    [
        ("plain", "value"),
        ("quotes", "it's \"quoted\" `here` $HOME $(id) \\n \\"),
        ("lines", "\n one\r\n\ttwo\n\n"),
        ("blank", "  "),
        ("empty", ""),
        ("letters", "ü€😀\u{85}\u{2028}\u{feff}\u{7f}"),
        ("yes", "no"),
        ("number", "0x1F"),
        ("yaml", "a: b # c"),
        ("properties", " =:#! \\u0041 lead"),
        ("dash", "- [x] {y} *z &a !b %c @d"),
        ("tilde", "~"),
        ("dollar", "${plain}"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

const JAVA: &str = r#"public class Show {
    static String hex(String text) {
        StringBuilder hex = new StringBuilder();
        for (char unit : text.toCharArray()) hex.append(String.format("%04x", (int) unit));
        return hex.toString();
    }
    public static void main(String[] arguments) throws Exception {
        var properties = new java.util.Properties();
        try (var file = new java.io.FileInputStream(arguments[0])) { properties.load(file); }
        for (String name : properties.stringPropertyNames())
            System.out.println(hex(name) + "=" + hex(properties.getProperty(name)));
    }
}"#;

/// The properties in a file, as Java reads them.
fn properties(file: &Path) -> BTreeMap<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("Show.java");
    fs::write(&program, JAVA).unwrap();
    let text = |hex: &str| {
        let units = hex.as_bytes().chunks(4);
        let units = units.map(|unit| u16::from_str_radix(std::str::from_utf8(unit).unwrap(), 16).unwrap());
        String::from_utf16(&units.collect::<Vec<_>>()).unwrap()
    };
    let printed = output(Command::new("java").arg(program).arg(file));
    let lines = printed.lines().map(|line| line.split_once('=').unwrap());
    lines.map(|(key, value)| (text(key), text(value))).collect()
}

/// A YAML file as Python reads it.
fn yaml(file: &Path) -> Value {
    let program = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1], 'rb')), sys.stdout)";
    serde_json::from_str(&output(Command::new(PYTHON).args(["-c", program]).arg(file))).unwrap()
}

/// The variables of a file as a shell reads them.
fn variables(shell: &str, file: &Path, names: &[&String]) -> BTreeMap<String, String> {
    let script = ". \"$1\"; shift; for n; do eval \"printf '%s\\\\0' \\\"\\$$n\\\"\"; done";
    let printed = output(Command::new(shell).args(["-euc", script, shell]).arg(file).args(names));
    names.iter().map(|name| (*name).clone()).zip(printed.split('\0').map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_read_back_by_the_programs_that_know_it() {
    let bao = Bao::start().await;
    let nasty = nasty();
    bao.write_kv2("secret", "nasty", json!(nasty)).await;
    let nested =
        json!({"list": [1, "two", {"k": nasty, "e": []}, [[], [3]]], "none": null, "on": true, "o": {}});
    bao.write_kv2("secret", "nested", json!({"deep": nested, "/slash": "s", "bytes": "AP/+\nAQ=="})).await;
    let config = "\
        [file.env]\nsecret = 'secret/nasty'\nformat = 'env'\n\
        [file.yaml]\nsecret = 'secret/nasty'\nformat = 'yaml'\n\
        [file.properties]\nsecret = 'secret/nasty'\nformat = 'properties'\n\
        [file.'deep.yaml']\nsecret = 'secret/nested#deep'\nformat = 'yaml'\n\
        [file.two]\nsecret = 'secret/nested#/deep/list/1'\ntrailing-newline = 'add'\n\
        [file.slash]\nsecret = 'secret/nested#/~1slash'\n\
        [file.json]\nsecret = 'secret/nested#/deep/list/2/e'\nformat = 'json'\ntrailing-newline = 'strip'\n\
        [file.bytes]\nsecret = 'secret/nested#bytes'\ndecode = 'base64'\n\
        [file.stripped]\nsecret = 'secret/nasty#lines'\ntrailing-newline = 'strip'\n\
        [dir.names]\nsecret = 'secret/nested'\nnames = { '/deep/on' = 'on', '/~1slash' = 'slash' }\n";
    let mount = mount(bao.address(), config);
    let names: Vec<&String> = nasty.keys().collect();
    for shell in ["sh", "bash"] {
        assert_eq!(variables(shell, &mount.path("env"), &names), nasty, "{shell}");
    }
    assert_eq!(yaml(&mount.path("yaml")), json!(nasty));
    assert_eq!(yaml(&mount.path("deep.yaml")), nested);
    assert_eq!(properties(&mount.path("properties")), nasty);
    for (name, content) in [
        ("two", &b"two\n"[..]),
        ("slash", b"s"),
        ("json", b"[]"),
        ("bytes", &[0, 0xff, 0xfe, 1]),
        ("stripped", b"\n one\r\n\ttwo"),
        ("names/on", b"true"),
        ("names/slash", b"s"),
    ] {
        assert_eq!(fs::read(mount.path(name)).unwrap(), content, "{name}");
        assert_eq!(fs::metadata(mount.path(name)).unwrap().len(), content.len() as u64, "{name}");
    }
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_a_certificate_its_chain_and_its_key_for_openssl() {
    let bao = Bao::start().await;
    for (path, kind) in [("root", "pki"), ("pki", "pki")] {
        bao.enable(path, kind, json!({})).await;
    }
    bao.write("root/root/generate/internal", json!({"common_name": "root"})).await;
    let request = bao.write("pki/intermediate/generate/internal", json!({"common_name": "near"})).await;
    let signed =
        bao.write("root/root/sign-intermediate", json!({"csr": request["data"]["csr"], "ttl": "1h"})).await;
    let certificate = signed["data"]["certificate"].as_str().unwrap();
    bao.write("pki/intermediate/set-signed", json!({"certificate": certificate})).await;
    bao.write(
        "pki/roles/agent",
        json!({"allow_any_name": true, "enforce_hostnames": false, "max_ttl": "30m"}),
    )
    .await;
    let file = |name: &str, more: &str| {
        let params = "params = { common_name = 'agent.internal' }";
        format!("[file.'{name}']\nsecret = 'pki/issue/agent'\nformat = 'pem-bundle'\n{params}\n{more}\n")
    };
    let config = [
        file("all.pem", ""),
        file("full.pem", "bundle = ['certificate', 'chain']"),
        file("key.pem", "bundle = 'key'"),
        file("key-first.pem", "bundle = ['key', 'certificate', 'chain']"),
    ];
    let mount = mount(bao.address(), &config.concat());
    let read = |name: &str| mount.read(name).unwrap();
    let (full, key) = (read("full.pem"), read("key.pem"));
    assert_eq!(read("all.pem"), format!("{full}{key}"));
    assert_eq!(read("key-first.pem"), format!("{key}{full}"));
    assert!(full.matches("-----BEGIN CERTIFICATE-----\n").count() >= 2, "{full}");
    assert!(!full.contains("\n\n") && full.ends_with("-----END CERTIFICATE-----\n"), "{full}");
    let openssl = |arguments: &[&str], name: &str| {
        output(Command::new("openssl").args(arguments).arg(mount.path(name)))
    };
    for name in ["all.pem", "key-first.pem"] {
        let of_certificate = openssl(&["x509", "-noout", "-pubkey", "-in"], name);
        assert_eq!(of_certificate, openssl(&["pkey", "-pubout", "-in"], name), "{name}");
    }
    assert!(openssl(&["x509", "-noout", "-subject", "-in"], "full.pem").contains("agent.internal"));
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cant_be_rendered_is_an_errno_with_a_reason_that_names_no_value() {
    let bao = Bao::start().await;
    bao.write_kv2("secret", "odd", json!({"api-key": "hunter2", "text": "hunter2", "n": "hunter2\u{0}"}))
        .await;
    let config = "\
        [file.env]\nsecret = 'secret/odd'\nformat = 'env'\n\
        [file.base64]\nsecret = 'secret/odd#api-key'\ndecode = 'base64'\n\
        [file.pem]\nsecret = 'secret/odd'\nbundle = 'certificate'\n\
        [file.pointer]\nsecret = 'secret/odd#/text/0'\n\
        [file.name]\nsecret = 'secret/odd'\ntemplate = 'x{{ txt }}'\n\
        [file.item]\nsecret = 'secret/odd'\ntemplate = \"a\\n{{ data['txt'] }}\"\n\
        [file.quote]\nsecret = 'secret/odd'\ntemplate = '{{ n | quote }}'\n\
        [file.good]\nsecret = 'secret/odd'\ntemplate = \"{{ text | upper }}{{ data['api-key'] }}\\n\"\n\
        [file.long]\nsecret = 'secret/odd'\n\
        template = '{% for a in [text] * 900 %}{{ [a] * 999 }}{% endfor %}'\n";
    let mount = mount(bao.address(), config);
    for (name, errno, said) in [
        ("env", EIO, "\"api-key\" can't be the name of a shell variable"),
        ("base64", EIO, "\"api-key\" is no base64"),
        ("pem", ENOENT, "no field \"certificate\""),
        ("pointer", ENOENT, "no field \"/text/0\""),
        ("name", EIO, "the template uses \"txt\", which the secret does not have"),
        ("item", EIO, "the template, line 2, uses an item or a field that the secret does not have"),
        ("quote", EIO, "the template, line 1, quotes a text with a NUL in it"),
        ("long", EIO, "makes more than 1048576 bytes"),
    ] {
        assert_eq!(mount.errno(name), errno, "{name}\n{}", mount.log());
        let reason = reason(&mount, name);
        assert!(reason.contains(said), "{name}: {reason}");
        assert!(!reason.contains("hunter2"), "{reason}");
    }
    assert_eq!(mount.read("good").unwrap(), "HUNTER2hunter2\n");
    assert_eq!(attribute(&mount, "good", "source"), "secret/odd");
    let (status, explained) = mount.command(&["explain", mount.root().to_str().unwrap(), "good"]);
    assert!(status.success() && explained.contains("a template with its fields"), "{explained}");
    let log = mount.log();
    assert!(!log.contains("hunter2"), "{log}");
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_finds_names_in_templates_that_a_secret_does_not_have() {
    let bao = Bao::start().await;
    bao.write_kv2("secret", "app", json!({"username": "u", "password": "hunter2"})).await;
    let directory = tempfile::tempdir().unwrap();
    let (config, template) = (directory.path().join("agent.toml"), directory.path().join("app.ini"));
    fs::write(&template, "user={{ username }}\n{% if false %}{{ pasword }}{% endif %}\n").unwrap();
    let text = format!("[file.ini]\nsecret = 'secret/app'\ntemplate-file = '{}'\n", template.display());
    fs::write(&config, text).unwrap();
    let check = || {
        let mut command = support::mount::leasefs();
        command.arg("check").arg(&config).env("VAULT_ADDR", bao.address());
        let output = command.env("VAULT_TOKEN", bao.root_token()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, said) = check();
    assert_eq!(code, Some(1), "{said}");
    let told = "ini: the template uses \"pasword\", which the secret does not have: it has \"password\", \"username\"";
    assert!(said.contains(told), "{said}");
    fs::write(&template, "user={{ username }}\npassword={{ password }").unwrap();
    let (code, said) = check();
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains(&format!("line 2 of {} is wrong: ", template.display())), "{said}");
    fs::write(&template, "user={{ username }}\n").unwrap();
    assert_eq!(check().0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_logs_in_with_the_password_file_of_the_example() {
    let (bao, postgres) = tokio::join!(Bao::start(), Postgres::start());
    postgres.connect(&bao, "database").await;
    let (ttl, max_ttl) = (Duration::from_secs(60), Duration::from_secs(180));
    postgres.add_role(&bao, "database", "agent-read-only", ttl, max_ttl).await;
    let port = postgres.port().to_string();
    // The server of the test in the place of the example's.
    let config = example("pgpass.toml")
        .replace("db.example.internal:5432:app", &format!("127.0.0.1:{port}:postgres"))
        .replace(
            "host=db.example.internal\nport=5432\ndbname=app",
            &format!("host=127.0.0.1\nport={port}\ndbname=postgres"),
        );
    assert!(!config.contains("5432"), "{config}");
    let mount = mount(bao.address(), &config);
    let asked = output(
        Command::new("psql")
            .args(["-wAtc", "select current_user", "service=app"])
            .env("PGSERVICEFILE", mount.path("pg/service"))
            .env("PGPASSFILE", mount.path("pg/pass")),
    );
    let user = mount.read("pg/service").unwrap();
    assert_eq!(user.lines().last().unwrap(), format!("user={}", asked.trim()));
    assert!(asked.starts_with("v-"), "{asked}");
    assert_eq!(bao.leases("database/creds/agent-read-only").await.len(), 1);
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn java_and_python_read_the_application_of_the_example() {
    let bao = Bao::start().await;
    let values = json!({"spring.datasource.username": "app", "spring.datasource.password": "p: \"ü\\ #'"});
    bao.write_kv2("secret", "agents/app", values.clone()).await;
    let mount = mount(bao.address(), &example("application-properties.toml"));
    assert_eq!(json!(properties(&mount.path("app/application.properties"))), values);
    let login = json!({"username": "app", "password": "p: \"ü\\ #'"});
    assert_eq!(yaml(&mount.path("app/application-db.yaml")), json!({"spring": {"datasource": login}}));
    stop(mount);
}

/// A server that answers every read with these data, as an engine that mints would.
async fn minting(data: Value) -> Stub {
    Stub::start(move |line| {
        if let Some((_, path)) = line.split_once("/v1/sys/internal/ui/mounts/") {
            let engine = path.split('/').next().unwrap_or_default();
            let mount = json!({"data": {"path": format!("{engine}/"), "type": engine}});
            return Reply::json(200, &mount.to_string());
        }
        let answer = match line.contains("/v1/auth/") || line.contains("/v1/sys/") {
            true => json!({"data": {"ttl": 0, "expire_time": null, "policies": ["root"]}}),
            false => json!({"lease_id": "x/creds/agent/1", "lease_duration": 3600, "renewable": true, "data": data}),
        };
        Reply::json(200, &answer.to_string())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_credentials_are_the_files_that_sdks_read() {
    let user = json!({"access_key": "AKIAEXAMPLE", "secret_key": "s/K+=", "security_token": null});
    let role = json!({"access_key": "ASIAEXAMPLE", "secret_key": "s/K+=", "security_token": "tok/en=="});
    for (data, token) in [(user, ""), (role, "aws_session_token = tok/en==\n")] {
        let id = data["access_key"].as_str().unwrap().to_owned();
        let stub = minting(data).await;
        let mount = mount(stub.address(), &example("aws.toml"));
        let file = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = s/K+=\n{token}");
        assert_eq!(mount.read("aws/credentials").unwrap(), file);
        let program = "import configparser, sys; c = configparser.RawConfigParser(); c.read(sys.argv[1]); \
                       print(c['default']['aws_secret_access_key'])";
        let read = output(Command::new(PYTHON).args(["-c", program]).arg(mount.path("aws/credentials")));
        assert_eq!(read, "s/K+=\n");
        stop(mount);
    }
    let key = "{\n  \"type\": \"service_account\",\n  \"private_key\": \"-----BEGIN…\\n\"\n}\n";
    let encoded = output(Command::new("bash").args(["-c", "printf %s \"$1\" | base64", "-", key]));
    let stub =
        minting(json!({"private_key_data": encoded.trim(), "key_algorithm": "KEY_ALG_RSA_2048"})).await;
    let mount = mount(stub.address(), &example("gcp.toml"));
    assert_eq!(mount.read("gcp/key.json").unwrap(), key);
    stop(mount);
}
