//! Every way to log in, on real mounts with a real OpenBao: the login, renewals, the new login when the token
//! can't be extended, and what is said when it fails. And many identities in one daemon.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, and compares with the wall clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use leasefs::config::plan::VaultPlan;
use leasefs::core::error::Fault;
use leasefs::vault::Vault;
use leasefs::vault::client::Client;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use support::bao::{Bao, binary};
use support::mount::{Mount, eventually};
use support::proxy::{Proxy, Trouble};
use support::review::Review;
use support::scenarios::{run_together, scenarios};
use support::server::{Server, StopSignal};
use support::stub::{Reply, Stub};
use support::world::try_read;

/// How long a token lives, and with all of its renewals: long beside a login on a busy machine.
const TTL: &str = "6s";
const MAX_TTL: &str = "14s";

/// So long that a token is renewed and replaced.
const LONG_ENOUGH: Duration = Duration::from_secs(20);

/// An OpenBao that speaks TLS, with every method at its own name.
struct World {
    bao: Bao,
    /// What `pki/` signs with.
    authority: String,
    runtime: Runtime,
}

impl World {
    fn start() -> World {
        let runtime = Runtime::new().unwrap();
        let (bao, authority) = runtime.block_on(async {
            let bao = Bao::start_tls().await;
            for method in ["approle", "jwt", "kubernetes", "cert", "userpass"] {
                bao.call("POST", &format!("sys/auth/{method}"), Some(json!({"type": method}))).await;
            }
            let rules = r#"path "secret/data/agents/*" { capabilities = ["read"] }"#;
            bao.write_policy("reader", rules).await;
            bao.write_kv2("secret", "agents/weather", json!({"key": "k1"})).await;
            bao.enable("transit", "transit", json!({})).await;
            bao.write("transit/keys/issuer", json!({"type": "ecdsa-p256"})).await;
            bao.enable("pki", "pki", json!({})).await;
            let root = json!({"common_name": "authority of a test", "ttl": "24h"});
            let root = bao.write("pki/root/generate/internal", root).await;
            let role = json!({"allow_any_name": true, "enforce_hostnames": false, "max_ttl": "12h"});
            bao.write("pki/roles/any", role).await;
            (bao, text(&root, "certificate").to_owned())
        });
        World { bao, authority, runtime }
    }

    fn wait<T>(&self, request: impl Future<Output = T>) -> T {
        self.runtime.block_on(request)
    }

    fn write(&self, path: &str, fields: Value) -> Value {
        self.wait(self.bao.write(path, fields))
    }

    /// `[vault]` and this identity.
    fn config(&self, identity: &str) -> String {
        let authority = self.bao.plan().ca_cert.unwrap();
        format!(
            "[vault]\naddress = \"{}\"\nca-cert = \"{}\"\n[identity.default]\n{identity}\n",
            self.bao.address(),
            authority.display()
        )
    }

    /// A mount of one secret, read with this identity.
    fn mount(&self, identity: &str) -> Mount {
        Mount::start(&(self.config(identity) + FILE), &[])
    }

    /// A JWT of the issuer that OpenBao knows the key of.
    fn jwt(&self, claims: Value, lives: Duration) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        self.jwt_between(claims, now.as_secs(), (now + lives).as_secs())
    }

    /// The same, of another time.
    fn jwt_between(&self, mut claims: Value, from: u64, to: u64) -> String {
        claims["iat"] = json!(from);
        claims["nbf"] = json!(from);
        claims["exp"] = json!(to);
        let parts = [json!({"alg": "ES256", "typ": "JWT"}), claims];
        let signed = parts.map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let input = json!({"input": BASE64_STANDARD.encode(&signed), "marshaling_algorithm": "jws"});
        let answer = self.write("transit/sign/issuer", input);
        format!("{signed}.{}", text(&answer, "signature").rsplit(':').next().unwrap())
    }

    /// A certificate for this name, and its key, in files.
    fn certificate(&self, name: &str, stem: &str) -> (PathBuf, PathBuf) {
        let made =
            self.write("pki/issue/any", json!({"common_name": name, "ip_sans": "127.0.0.1", "ttl": "1h"}));
        let file =
            |field: &str, end: &str| self.bao.secret_file(&format!("{stem}.{end}"), text(&made, field));
        (file("certificate", "crt"), file("private_key", "key"))
    }
}

/// What every mount here shows; read anew at nearly every open.
const FILE: &str = "[file.key]\nsecret = \"secret/agents/weather#key\"\nmax-age = \"100ms\"\n";

fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer["data"][field].as_str().unwrap_or_else(|| panic!("no {field} in {answer}"))
}

fn terms() -> Value {
    json!({"token_policies": "reader", "token_ttl": TTL, "token_max_ttl": MAX_TTL})
}

fn with(mut one: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        one[key] = value.clone();
    }
    one
}

/// Requests of the mount to this path that were answered with this status.
fn asked(mount: &Mount, path: &str, status: u16) -> usize {
    let (path, status) = (format!("path=\"{path}\""), format!("status={status}"));
    mount.log().lines().filter(|line| line.contains(&path) && line.contains(&status)).count()
}

/// Reads all the time; nothing may fail while tokens are renewed and replaced.
fn outlives_its_tokens(mount: &Mount, login: &str) {
    let start = Instant::now();
    while start.elapsed() < LONG_ENOUGH {
        assert_eq!(mount.read("key").unwrap_or_else(|error| panic!("{error}\n{}", mount.log())), "k1");
        thread::sleep(Duration::from_millis(50));
    }
    let renewals = asked(mount, "auth/token/renew-self", 200);
    let logins = asked(mount, login, 200);
    assert!(renewals >= 1 && logins >= 2, "{renewals} renewals, {logins} logins:\n{}", mount.log());
}

fn refused(mount: &Mount, told: &str) {
    mount.wait_for_log(told);
    assert_eq!(try_read(mount, "key"), Err(libc::EACCES), "{}", mount.log());
}

#[test]
fn every_way_in() {
    let world = World::start();
    let pem = world.wait(world.bao.call("GET", "transit/keys/issuer", None));
    let pem = pem["data"]["keys"]["1"]["public_key"].clone();
    world.write("auth/jwt/config", json!({"jwt_validation_pubkeys": [pem]}));
    let role = json!({"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["leasefs"]});
    world.write("auth/jwt/role/ci", with(role, terms()));
    for (role, name) in [("host", "agent"), ("other", "somebody-else")] {
        let role_of = json!({"certificate": world.authority, "allowed_common_names": name});
        world.write(&format!("auth/cert/certs/{role}"), with(role_of, terms()));
    }
    run_together(
        &world,
        &scenarios![
            a_jwt_is_read_anew_for_each_login,
            a_jwt_that_is_refused_says_what_to_do,
            a_service_account_is_known_to_its_cluster,
            a_certificate_logs_in_and_is_shown_at_renewals,
            the_role_of_a_certificate_is_sent,
            a_certificate_that_does_not_fit_its_key_fails_its_own_files_alone,
            a_password_logs_in,
            a_wrong_password_is_not_shown_to_vault_again_and_a_better_one_at_once,
            a_wrapped_secret_id_is_unwrapped_once_and_outlives_a_kill,
            a_wrapping_token_that_was_used_or_made_for_something_else_is_refused,
            credentials_that_are_no_good_are_told_apart,
            a_proxy_of_this_host_is_asked_over_its_socket,
            a_proxy_is_used_only_if_it_is_configured,
            a_directory_of_authorities_is_trusted,
        ],
    );
}

fn jwt_identity(file: &Path) -> String {
    format!("method = \"jwt\"\nrole = \"ci\"\njwt-file = \"{}\"", file.display())
}

fn a_jwt_is_read_anew_for_each_login(world: &World) {
    let claims = || json!({"sub": "build", "aud": "leasefs"});
    let file = world.bao.secret_file("good.jwt", &world.jwt(claims(), Duration::from_secs(60)));
    let mount = world.mount(&jwt_identity(&file));
    world.bao.secret_file("good.jwt", &world.jwt(claims(), Duration::from_secs(90)));
    outlives_its_tokens(&mount, "auth/jwt/login");
}

fn a_jwt_that_is_refused_says_what_to_do(world: &World) {
    let stranger = world.jwt(json!({"sub": "build", "aud": "another"}), Duration::from_secs(60));
    let other = world.bao.secret_file("stranger.jwt", &stranger);
    let mount = world.mount(&jwt_identity(&other));
    refused(&mount, "bound_audiences");
    let good = world.jwt(json!({"sub": "build", "aud": "leasefs"}), Duration::from_secs(60));
    world.bao.secret_file("stranger.jwt", &good);
    eventually(Duration::from_secs(5), || try_read(&mount, "key").is_ok()).expect("the better one is taken");
    let claims = json!({"sub": "build", "aud": "leasefs"});
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    // Vault forgives clocks that are apart a little.
    let past = world.jwt_between(claims, now - 4000, now - 3000);
    let file = world.bao.secret_file("over.jwt", &past);
    refused(&world.mount(&jwt_identity(&file)), "The JWT is over");
}

fn a_service_account_is_known_to_its_cluster(world: &World) {
    let account = json!({"namespace": "prod", "serviceaccount": {"name": "agent", "uid": "uid-1"}});
    let claims = json!({"iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:prod:agent",
        "aud": ["vault"], "kubernetes.io": account});
    let token = world.jwt(claims, Duration::from_secs(600));
    let (certificate, key) = world.certificate("cluster", "cluster");
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let cluster = Review::start(&read(&certificate), &read(&key), &token, "prod", "agent");
    let config = json!({"kubernetes_host": cluster.address(), "kubernetes_ca_cert": world.authority,
        "token_reviewer_jwt": token, "disable_local_ca_jwt": true});
    world.write("auth/kubernetes/config", config);
    let role = json!({"bound_service_account_names": ["agent"], "bound_service_account_namespaces": ["prod"],
            "audience": "vault"});
    world.write("auth/kubernetes/role/agent", with(role, terms()));
    // As the kubelet projects it.
    let volume = tempfile::tempdir().unwrap();
    fs::create_dir(volume.path().join("..2026")).unwrap();
    fs::write(volume.path().join("..2026/token"), &token).unwrap();
    symlink("..2026", volume.path().join("..data")).unwrap();
    symlink("..data/token", volume.path().join("token")).unwrap();
    let path = volume.path().join("token");
    let identity = format!("method = \"kubernetes\"\nrole = \"agent\"\njwt-file = \"{}\"", path.display());
    outlives_its_tokens(&world.mount(&identity), "auth/kubernetes/login");
}

fn cert_identity(role: &str, certificate: &Path, key: &Path) -> String {
    let (certificate, key) = (certificate.display(), key.display());
    format!("method = \"cert\"\nrole = \"{role}\"\nclient-cert = \"{certificate}\"\nclient-key = \"{key}\"")
}

fn a_certificate_logs_in_and_is_shown_at_renewals(world: &World) {
    let (certificate, key) = world.certificate("agent", "good");
    let mount = world.mount(&cert_identity("host", &certificate, &key));
    outlives_its_tokens(&mount, "auth/cert/login");
}

fn the_role_of_a_certificate_is_sent(world: &World) {
    let (certificate, key) = world.certificate("agent", "role-sent");
    refused(&world.mount(&cert_identity("other", &certificate, &key)), "login failed");
}

fn a_certificate_that_does_not_fit_its_key_fails_its_own_files_alone(world: &World) {
    let (certificate, _) = world.certificate("agent", "pair");
    let (_, strange_key) = world.certificate("agent", "another-pair");
    let token = world.bao.secret_file("beside.token", world.bao.root_token());
    let beside = format!(
        "{FILE}[identity.beside]\nmethod = \"token\"\ntoken-file = \"{}\"\n[file.beside]\n\
         secret = \"secret/agents/weather#key\"\nidentity = \"beside\"\n",
        token.display()
    );
    let config = world.config(&cert_identity("host", &certificate, &strange_key));
    let mount = Mount::start(&(config + &beside), &[]);
    refused(&mount, "is not that of the certificate in");
    assert_eq!(mount.read("beside").unwrap(), "k1");
}

fn user(world: &World, name: &str) {
    world.write(&format!("auth/userpass/users/{name}"), with(json!({"password": "right"}), terms()));
}

fn a_password_logs_in(world: &World) {
    user(world, "agent");
    let file = world.bao.secret_file("right.password", "right");
    let identity =
        format!("method = \"userpass\"\nusername = \"agent\"\npassword-file = \"{}\"", file.display());
    outlives_its_tokens(&world.mount(&identity), "auth/userpass/login/agent");
}

fn a_wrong_password_is_not_shown_to_vault_again_and_a_better_one_at_once(world: &World) {
    user(world, "typo");
    let file = world.bao.secret_file("wrong.password", "wrong");
    let identity =
        format!("method = \"userpass\"\nusername = \"typo\"\npassword-file = \"{}\"", file.display());
    let mount = world.mount(&identity);
    refused(&mount, "tried again once, and then every 16 minutes");
    thread::sleep(Duration::from_secs(6));
    assert_eq!(asked(&mount, "auth/userpass/login/typo", 400), 1, "{}", mount.log());
    // Somebody asks for it.
    mount.signal(nix::sys::signal::Signal::SIGHUP);
    eventually(Duration::from_secs(5), || asked(&mount, "auth/userpass/login/typo", 400) == 2)
        .expect("once more");
    world.bao.secret_file("wrong.password", "right");
    eventually(Duration::from_secs(5), || try_read(&mount, "key").is_ok()).expect("the right one is taken");
}

fn wrapped_identity(world: &World, name: &str, wrapping: &str) -> String {
    let role = world.wait(world.bao.create_approle(name, terms()));
    let file = world.bao.secret_file(&format!("{name}.wrapped"), wrapping);
    format!(
        "method = \"approle\"\nrole-id = \"{}\"\nsecret-id-file = \"{}\"\nsecret-id-wrapped = true",
        role.role_id,
        file.display()
    )
}

fn a_wrapped_secret_id_is_unwrapped_once_and_outlives_a_kill(world: &World) {
    wrapped_identity(world, "wrapped", "none yet");
    let wrapping = world.wait(world.bao.wrap("auth/approle/role/wrapped/secret-id", json!({})));
    let identity = wrapped_identity(world, "wrapped", &wrapping);
    let mount = world.mount(&identity);
    assert_eq!(mount.read("key").unwrap(), "k1");
    let killed = mount.kill_server();
    mount.wait_for_successor(killed);
    let start = Instant::now();
    outlives_its_tokens(&mount, "auth/approle/login");
    println!("with the secret id of its predecessor for {:?}", start.elapsed());
    assert_eq!(asked(&mount, "sys/wrapping/unwrap", 200), 1, "{}", mount.log());
    // Another mount has nothing that it could go on with.
    refused(&world.mount(&identity), "possible interception");
}

fn a_wrapping_token_that_was_used_or_made_for_something_else_is_refused(world: &World) {
    let wrapping = world.wait(world.bao.wrap("sys/wrapping/wrap", json!({"secret_id": "planted"})));
    let mount = world.mount(&wrapped_identity(world, "planted", &wrapping));
    refused(&mount, "was made by sys/wrapping/wrap, not by auth/approle/role/ROLE/secret-id");
    assert_eq!(asked(&mount, "sys/wrapping/unwrap", 200), 0, "it was not unwrapped");
    let right = world.wait(world.bao.wrap("auth/approle/role/planted/secret-id", json!({})));
    world.bao.secret_file("planted.wrapped", &right);
    eventually(Duration::from_secs(5), || try_read(&mount, "key").is_ok()).expect("the right one is taken");
}

fn credentials_that_are_no_good_are_told_apart(world: &World) {
    let role = world.wait(world.bao.create_approle("told", terms()));
    let at = |name: &str, text: &str| world.bao.secret_file(name, text);
    let directory = world.bao.directory().join("a-directory");
    fs::create_dir(&directory).unwrap();
    let link = world.bao.directory().join("link-away");
    symlink("/etc/hostname", &link).unwrap();
    for (path, told) in [
        (at("empty.secret-id", ""), "is empty"),
        (directory, "is a directory: name a file in it"),
        (world.bao.directory().join("absent"), "does not exist"),
        (link, "leads out of its directory"),
        (at("wrong.secret-id", "no-such-secret-id"), "Vault refused the credentials"),
    ] {
        let identity = format!(
            "method = \"approle\"\nrole-id = \"{}\"\nsecret-id-file = \"{}\"",
            role.role_id,
            path.display()
        );
        let mount = world.mount(&identity);
        refused(&mount, told);
    }
}

fn a_proxy_of_this_host_is_asked_over_its_socket(world: &World) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("bao proxy.sock");
    let authority = world.bao.plan().ca_cert.unwrap();
    let configuration = format!(
        "vault {{\n  address = \"{}\"\n  ca_cert = \"{}\"\n}}\nlistener \"unix\" {{\n  address = \"{}\"\n  \
         tls_disable = true\n}}\napi_proxy {{}}\n",
        world.bao.address(),
        authority.display(),
        socket.display()
    );
    let file = directory.path().join("proxy.hcl");
    fs::write(&file, configuration).unwrap();
    let command = [binary().into_os_string(), "proxy".into(), format!("-config={}", file.display()).into()];
    let proxy = Server::start(&command, directory, StopSignal::Kill, None);
    eventually(Duration::from_secs(20), || socket.exists()).unwrap_or_else(|| panic!("{}", proxy.log()));
    let token = world.bao.secret_file("socket.token", world.bao.root_token());
    let config = format!(
        "[vault]\naddress = \"unix://{}\"\n[identity.default]\nmethod = \"token\"\ntoken-file = \"{}\"\n{FILE}",
        socket.display(),
        token.display()
    );
    let mount = Mount::start(&config, &[("HTTPS_PROXY", "http://127.0.0.1:1")]);
    assert_eq!(mount.read("key").unwrap_or_else(|error| panic!("{error}\n{}", mount.log())), "k1");
}

fn a_proxy_is_used_only_if_it_is_configured(world: &World) {
    world.wait(async {
        let proxy = Stub::start(|_| Reply::json(200, r#"{"initialized":true}"#)).await;
        let elsewhere = VaultPlan {
            addresses: vec!["http://vault.invalid:8200".to_owned()],
            ca_cert: None,
            ..world.bao.plan()
        };
        let through = VaultPlan { proxy: Some(proxy.address().to_owned()), ..elsewhere.clone() };
        Client::new(&through, &[]).unwrap().health().await.unwrap();
        let requests = proxy.requests();
        assert!(requests[0].starts_with("GET http://vault.invalid:8200/v1/sys/health"), "{requests:?}");
        let failure = Client::new(&elsewhere, &[]).unwrap().health().await.unwrap_err();
        assert_eq!(failure.fault, Fault::Unreachable);
    });
}

fn a_directory_of_authorities_is_trusted(world: &World) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("README"), "no certificate").unwrap();
    let plan = VaultPlan { ca_cert: None, ca_path: Some(directory.path().to_owned()), ..world.bao.plan() };
    let none = Client::new(&plan, &[]).err().unwrap().to_string();
    assert!(none.contains("no file in") && none.contains("holds a PEM certificate"), "{none}");
    symlink(world.bao.plan().ca_cert.unwrap(), directory.path().join("0a1b2c3d.0")).unwrap();
    world.wait(Client::new(&plan, &[]).unwrap().health()).unwrap();
}

#[test]
fn what_hangs_for_one_identity_keeps_nobody_else_waiting() {
    let runtime = Runtime::new().unwrap();
    let bao = runtime.block_on(Bao::start());
    let mut config = String::new();
    runtime.block_on(async {
        for tenant in ["loud", "quiet"] {
            let token = bao.secret_file(&format!("{tenant}.token"), bao.root_token());
            write!(
                config,
                "[identity.{tenant}]\nmethod = \"token\"\ntoken-file = \"{}\"\n[tree.{tenant}]\n\
                 secret = \"secret/{tenant}\"\nidentity = \"{tenant}\"\n",
                token.display()
            )
            .unwrap();
            for file in 0..40 {
                bao.write_kv2("secret", &format!("{tenant}/{file}"), json!({"key": "k1"})).await;
            }
        }
    });
    let wire = Proxy::start(bao.address());
    let vault = format!("[vault]\naddress = \"{}\"\nread-timeout = \"1s\"\n", wire.address());
    let mount = Mount::start(&(vault + &config), &[]);
    for tenant in ["loud", "quiet"] {
        assert_eq!(mount.read(&format!("{tenant}/0/key")).unwrap(), "k1");
    }
    wire.trouble_for("secret/data/loud", Trouble::Freeze);
    thread::scope(|scope| {
        for file in 1..40 {
            let mount = &mount;
            scope.spawn(move || assert!(mount.read(&format!("loud/{file}/key")).is_err()));
        }
        thread::sleep(Duration::from_millis(300));
        for file in 1..40 {
            let start = Instant::now();
            let read = mount.read(&format!("quiet/{file}/key"));
            assert_eq!(read.unwrap_or_else(|error| panic!("{error}\n{}", mount.log())), "k1");
            let took = start.elapsed();
            assert!(took < Duration::from_secs(1), "{took:?}");
            thread::sleep(Duration::from_millis(100));
        }
    });
    wire.recover();
}

/// As many identities as a host has tenants.
const TENANTS: usize = 200;

#[test]
fn two_hundred_identities_cost_little() {
    let runtime = Runtime::new().unwrap();
    let bao = runtime.block_on(Bao::start());
    let (mut one, mut many) = (String::new(), String::new());
    runtime.block_on(async {
        bao.call("POST", "sys/auth/approle", Some(json!({"type": "approle"}))).await;
        for tenant in 0..TENANTS {
            let rules = format!("path \"secret/data/tenants/{tenant}/*\" {{ capabilities = [\"read\"] }}");
            bao.write_policy(&format!("tenant-{tenant}"), &rules).await;
            bao.write_kv2("secret", &format!("tenants/{tenant}/key"), json!({"key": format!("k{tenant}")})).await;
            let terms = json!({"token_policies": format!("tenant-{tenant}"), "token_ttl": "1h"});
            let role = bao.create_approle(&format!("tenant-{tenant}"), terms).await;
            write!(
                many,
                "[identity.t{tenant}]\nmethod = \"approle\"\nrole-id = \"{}\"\nsecret-id-file = \"{}\"\n\
                 [file.\"{tenant}/key\"]\nsecret = \"secret/tenants/{tenant}/key#key\"\nidentity = \"t{tenant}\"\n",
                role.role_id,
                role.secret_id_file.display()
            )
            .unwrap();
            if tenant == 0 {
                one.clone_from(&many);
            }
        }
    });
    let vault = format!("[vault]\naddress = \"{}\"\n", bao.address());
    let measure = |config: &str, tenants: usize| {
        let start = Instant::now();
        let mount = Mount::start(&(vault.clone() + config), &[]);
        for tenant in 0..tenants {
            assert_eq!(mount.read(&format!("{tenant}/key")).unwrap(), format!("k{tenant}"));
        }
        let took = start.elapsed();
        let pid = mount.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim().to_owned();
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        println!("{tenants} identities: {took:.1?} until all was read, {rss}, {descriptors} descriptors");
        let rss: u64 = rss.trim_end_matches(" kB").parse().unwrap();
        (rss, descriptors)
    };
    let (little, few) = measure(&one, 1);
    let (much, more) = measure(&many, TENANTS);
    assert!(much < little + 64 * 1024, "{much} kB with {TENANTS} identities, {little} kB with one");
    assert!(more < few + 50, "{more} descriptors with {TENANTS} identities, {few} with one");
}
