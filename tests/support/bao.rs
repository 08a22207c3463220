//! A real OpenBao, on a port of its own, gone with the test: in development mode, where it keeps everything
//! in memory, or as a configuration says.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use leasefs::config::plan::{CredentialSource, IdentityPlan, Method, VaultPlan, Wrapping};
use leasefs::core::name::VaultPath;
use leasefs::vault::client::Client;
use serde_json::{Value, json};

use super::server::{ReservedPort, Server, StopSignal, reserved_port, wait_until};

/// The only token that a server in development mode starts with.
pub const ROOT_TOKEN: &str = "dev-only-root-token";

/// A running OpenBao. In development mode it has a KV v2 engine at `secret/`.
pub struct Bao {
    server: Server,
    address: String,
    ca_cert: Option<PathBuf>,
    root_token: String,
    /// Its own, also while it is stopped.
    _ports: Vec<ReservedPort>,
}

/// What an AppRole logs in with.
#[derive(Clone, Debug)]
pub struct AppRole {
    /// Its role id.
    pub role_id: String,
    /// A file that holds a secret id.
    pub secret_id_file: PathBuf,
}

impl Bao {
    /// Starts a server and waits until it serves.
    pub async fn start() -> Bao {
        Bao::launch(None, None).await
    }

    /// Starts a server in development mode that has more listeners: this text is its configuration.
    pub async fn start_with_listeners(configuration: &str) -> Bao {
        Bao::launch(None, Some(configuration)).await
    }

    /// Starts a server that speaks TLS, with a certificate of a CA of its own for 127.0.0.1 and localhost.
    pub async fn start_tls() -> Bao {
        Bao::launch(Some("tls"), None).await
    }

    /// Starts a server by a configuration whose files are below `directory`, which goes with it. It may
    /// want to be initialised first; nobody waits for it here.
    pub(super) fn configured(
        directory: tempfile::TempDir,
        configuration: &str,
        address: &str,
        ports: Vec<ReservedPort>,
    ) -> Bao {
        let file = directory.path().join("server.hcl");
        std::fs::write(&file, configuration).expect("a file can be written");
        let command: [OsString; 3] =
            [binary().into(), "server".into(), format!("-config={}", file.display()).into()];
        let server = Server::start(&command, directory, StopSignal::Kill, None);
        Bao { server, address: address.to_owned(), ca_cert: None, root_token: String::new(), _ports: ports }
    }

    /// The root token of a server that is not in development mode.
    pub(super) fn set_root_token(&mut self, token: &str) {
        self.root_token = token.to_owned();
    }

    async fn launch(certificates: Option<&str>, configuration: Option<&str>) -> Bao {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let (address, port) = reserved_port();
        let mut command: Vec<OsString> = vec![binary().into(), "server".into(), "-dev-no-store-token".into()];
        command.push(format!("-dev-listen-address={address}").into());
        command.push(format!("-dev-root-token-id={ROOT_TOKEN}").into());
        if let Some(configuration) = configuration {
            let file = directory.path().join("server.hcl");
            std::fs::write(&file, configuration).expect("a file can be written");
            command.push(format!("-config={}", file.display()).into());
        }
        let mut ca_cert = None;
        match certificates.map(|name| directory.path().join(name)) {
            None => command.push("-dev".into()),
            Some(certificates) => {
                std::fs::create_dir(&certificates).expect("a directory can be made");
                command.push("-dev-tls".into());
                command.push(format!("-dev-tls-cert-dir={}", certificates.display()).into());
                ca_cert = Some(certificates.join("vault-ca.pem"));
            }
        }
        let scheme = if ca_cert.is_some() { "https" } else { "http" };
        let server = Server::start(&command, directory, StopSignal::Kill, None);
        let address = format!("{scheme}://{address}");
        let bao = Bao { server, address, ca_cert, root_token: ROOT_TOKEN.to_owned(), _ports: vec![port] };
        bao.wait_for_kv().await;
        bao
    }

    /// Waits until the engine at `secret/` serves, which is upgraded to v2 after the server has begun to.
    pub async fn wait_for_kv(&self) {
        wait_until("bao", &self.server, async || {
            self.try_call("GET", "secret/config", None).await.is_some_and(|(status, _)| status == 200)
        })
        .await;
    }

    /// Ends it, as a crash would; [`Bao::start_again`] brings it back at the same address. What is in
    /// memory alone is lost, in development mode everything.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Starts it again and does not wait until it serves.
    pub fn start_again(&self) {
        self.server.start_again();
    }

    /// Seals it.
    pub async fn seal(&self) {
        self.call("POST", "sys/seal", None).await;
    }

    /// Unseals a server in development mode, with the key that it has printed.
    pub async fn unseal(&self) {
        let log = self.log();
        let key = log.lines().find_map(|line| line.strip_prefix("Unseal Key: ")).expect("a key is printed");
        self.call("POST", "sys/unseal", Some(json!({"key": key.trim()}))).await;
        self.wait_for_kv().await;
    }

    /// `http://HOST:PORT`, or `https://` of one that speaks TLS.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A token that may do everything.
    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// A directory that goes with the server.
    pub fn directory(&self) -> &Path {
        self.server.directory()
    }

    /// Sends it a signal; SIGSTOP freezes it until SIGCONT.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        self.server.signal(signal);
    }

    /// What the server has printed.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// How leasefs reaches it.
    pub fn plan(&self) -> VaultPlan {
        VaultPlan {
            addresses: vec![self.address.clone()],
            namespace: None,
            ca_cert: self.ca_cert.clone(),
            ca_path: None,
            client_certificate: None,
            proxy: None,
            tls_server_name: None,
            read_timeout: Duration::from_secs(5),
            issue_timeout: Duration::from_secs(30),
            max_secret_size: 1 << 20,
            max_list_size: 8 << 20,
        }
    }

    /// A client of leasefs for these identities.
    pub fn client(&self, identities: &[IdentityPlan]) -> Client {
        Client::new(&self.plan(), identities).expect("the plan is good")
    }

    /// An identity with a token, which is put in a file first.
    pub fn token_identity(&self, name: &str, token: &str) -> IdentityPlan {
        let file = self.secret_file(&format!("{name}.token"), token);
        let method = Method::Token { token: CredentialSource::File(file) };
        IdentityPlan { name: name.to_owned(), method, namespace: None }
    }

    /// An identity with an AppRole.
    pub fn approle_identity(&self, name: &str, role: &AppRole) -> IdentityPlan {
        let method = Method::AppRole {
            auth_path: VaultPath::new("approle").expect("a path"),
            role_id: CredentialSource::Literal(role.role_id.clone()),
            secret_id: Some(CredentialSource::File(role.secret_id_file.clone())),
            wrapping: Wrapping::Plain,
        };
        IdentityPlan { name: name.to_owned(), method, namespace: None }
    }

    /// Enables a secrets engine; `options` is the whole body but for its type.
    pub async fn enable(&self, path: &str, kind: &str, mut options: Value) {
        options["type"] = json!(kind);
        self.call("POST", &format!("sys/mounts/{path}"), Some(options)).await;
        if kind == "kv" {
            // A fresh KV engine refuses requests until its upgrade is through.
            wait_until("the KV engine", &self.server, async || {
                let answer = self.try_call("GET", &format!("{path}/leasefs-probe"), None).await;
                answer.is_some_and(|(status, _)| status == 404)
            })
            .await;
        }
    }

    /// Enables KV version 1.
    pub async fn enable_kv1(&self, path: &str) {
        self.enable(path, "kv", json!({"options": {"version": "1"}})).await;
    }

    /// Enables KV version 2.
    pub async fn enable_kv2(&self, path: &str) {
        self.enable(path, "kv", json!({"options": {"version": "2"}})).await;
    }

    /// Writes `fields` as they are: KV v1, and any other engine.
    pub async fn write(&self, path: &str, fields: Value) -> Value {
        self.call("POST", path, Some(fields)).await
    }

    /// Writes a version of a KV v2 secret.
    pub async fn write_kv2(&self, mount: &str, name: &str, fields: Value) {
        self.call("POST", &format!("{mount}/data/{name}"), Some(json!({"data": fields}))).await;
    }

    /// Deletes whatever `path` is.
    pub async fn delete(&self, path: &str) {
        self.call("DELETE", path, None).await;
    }

    /// Writes a policy in HCL.
    pub async fn write_policy(&self, name: &str, rules: &str) {
        self.call("PUT", &format!("sys/policies/acl/{name}"), Some(json!({"policy": rules}))).await;
    }

    /// Makes a token; `options` as in `auth/token/create`.
    pub async fn create_token(&self, options: Value) -> String {
        let answer = self.call("POST", "auth/token/create", Some(options)).await;
        answer["auth"]["client_token"].as_str().expect("a token").to_owned()
    }

    /// Makes an AppRole (enable `approle` first); `options` as in `auth/approle/role/NAME`.
    pub async fn create_approle(&self, name: &str, options: Value) -> AppRole {
        let role = format!("auth/approle/role/{name}");
        self.call("POST", &role, Some(options)).await;
        let role_id = self.call("GET", &format!("{role}/role-id"), None).await;
        let secret_id = self.call("POST", &format!("{role}/secret-id"), Some(json!({}))).await;
        let secret_id = secret_id["data"]["secret_id"].as_str().expect("a secret id");
        AppRole {
            role_id: role_id["data"]["role_id"].as_str().expect("a role id").to_owned(),
            secret_id_file: self.secret_file(&format!("{name}.secret-id"), secret_id),
        }
    }

    /// A response-wrapping token that holds the answer to this request.
    pub async fn wrap(&self, path: &str, body: Value) -> String {
        let url = format!("{}/v1/{path}", self.address);
        let client = self.http_client().expect("the certificates are there");
        let request = client.post(url).header("X-Vault-Token", &self.root_token);
        let response = request.header("X-Vault-Wrap-TTL", "120s").json(&body).send().await;
        let bytes = response.expect("OpenBao answers").bytes().await.expect("a whole answer");
        let answer: Value = serde_json::from_slice(&bytes).expect("an answer in JSON");
        answer["wrap_info"]["token"].as_str().unwrap_or_else(|| panic!("{path}: {answer}")).to_owned()
    }

    /// The ids of the leases below `prefix`, such as `database/creds/agent-read-only`.
    pub async fn leases(&self, prefix: &str) -> Vec<String> {
        let path = format!("sys/leases/lookup/{prefix}");
        let (status, answer) = self.try_call("LIST", &path, None).await.expect("an answer");
        assert!(status == 200 || status == 404, "{path}: {status} {answer}");
        let keys = answer["data"]["keys"].as_array().cloned().unwrap_or_default();
        keys.iter().filter_map(Value::as_str).map(|key| format!("{prefix}/{key}")).collect()
    }

    /// Revokes a lease, as an operator would.
    pub async fn revoke_lease(&self, lease: &str) {
        self.call("POST", "sys/leases/revoke", Some(json!({"lease_id": lease, "sync": true}))).await;
    }

    /// Revokes a token and all that came from it, as an operator would.
    pub async fn revoke_token(&self, token: &str) {
        self.call("POST", "auth/token/revoke", Some(json!({"token": token}))).await;
    }

    /// A request with the root token that must succeed; the answer is null where there is none.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.try_call(method, path, body).await.expect("OpenBao answers");
        assert!(status < 300, "{method} {path}: {status} {answer}");
        answer
    }

    /// A request with the root token; nothing if OpenBao isn't there.
    pub async fn try_call(&self, method: &str, path: &str, body: Option<Value>) -> Option<(u16, Value)> {
        let mut url = url::Url::parse(&self.address).expect("a URL");
        url.path_segments_mut().expect("a base").push("v1").extend(path.split('/'));
        let method = method.parse().expect("a method");
        let mut request = self.http_client()?.request(method, url).header("X-Vault-Token", &self.root_token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let text = response.bytes().await.ok()?;
        Some((status, serde_json::from_slice(&text).unwrap_or(Value::Null)))
    }

    /// A client that trusts this server alone; nothing while its certificates aren't there yet.
    fn http_client(&self) -> Option<reqwest::Client> {
        drop(rustls::crypto::ring::default_provider().install_default());
        let trusted = match &self.ca_cert {
            Some(path) => reqwest::Certificate::from_pem_bundle(&std::fs::read(path).ok()?).ok()?,
            None => Vec::new(),
        };
        reqwest::Client::builder().no_proxy().tls_certs_only(trusted).build().ok()
    }

    /// A file that only its owner may touch, gone with the server.
    pub fn secret_file(&self, name: &str, text: &str) -> PathBuf {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        // Tests that share a server and write the same file must never read each other's half of it.
        static WRITTEN: AtomicU32 = AtomicU32::new(0);
        let path = self.directory().join(name);
        let draft = path.with_extension(format!("draft-{}", WRITTEN.fetch_add(1, Ordering::Relaxed)));
        let mut options = std::fs::OpenOptions::new();
        let file = options.create_new(true).write(true).mode(0o600).open(&draft);
        writeln!(file.expect("a file can be made"), "{text}").expect("a file can be written");
        std::fs::rename(&draft, &path).expect("a file can be renamed");
        path
    }
}

/// `$LEASEFS_TEST_BAO`, what `make deps` installs, or the `bao` on `$PATH`.
pub fn binary() -> PathBuf {
    if let Some(given) = env::var_os("LEASEFS_TEST_BAO") {
        return PathBuf::from(given);
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/bao");
    if installed.exists() {
        return installed;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|directory| directory.join("bao")).find(|bao| bao.exists());
    found.expect("this test needs OpenBao: run `make deps`, or set LEASEFS_TEST_BAO to a bao binary")
}
