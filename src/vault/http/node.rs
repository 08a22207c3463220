//! One address of Vault, and the HTTP client that is made for it once.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::HeaderValue;
use url::{Host, Url};
use vaultrs::client::{VaultClient, VaultClientSettings};
use zeroize::Zeroizing;

use super::{Missed, connection_trouble};
use crate::config::plan::{ClientCertificate, VaultPlan};
use crate::core::error::{Failure, Fault};
use crate::sys::safe_file;
use crate::vault::client::ClientError;

/// No file of certificates or of a key is longer, in bytes.
const PEM_MAX: u64 = 1 << 20;

/// Bounds of the time in which a node must take a connection, so that the next one gets its turn.
const CONNECT_TIMEOUT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(3));

pub(super) struct Node {
    pub carrier: VaultClient,
    /// As in the configuration, for messages.
    pub address: String,
    /// What `Host` says when the URL carries another name for TLS.
    pub host: Option<HeaderValue>,
    base: Url,
}

impl Node {
    pub fn new(address: &str, plan: &VaultPlan) -> Result<Node, ClientError> {
        let bad_address = || ClientError::BadAddress { address: address.to_owned() };
        let socket = address.strip_prefix("unix://").map(Path::new);
        if socket.is_some_and(|path| !path.is_absolute()) {
            return Err(bad_address());
        }
        // What is asked over a socket wants some host all the same.
        let url = if socket.is_some() { "http://localhost" } else { address };
        let mut base = Url::parse(url).map_err(|_| bad_address())?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(bad_address());
        }
        let share = plan.read_timeout / u32::try_from(plan.addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            // The environment has no say: whoever can set it must not see tokens pass.
            .no_proxy()
            .pool_max_idle_per_host(0)
            .connect_timeout(share.clamp(CONNECT_TIMEOUT.0, CONNECT_TIMEOUT.1))
            .timeout(plan.issue_timeout.max(plan.read_timeout));
        if let Some(path) = socket {
            builder = builder.unix_socket(path);
        } else if let Some(proxy) = &plan.proxy {
            let bad_proxy = |_| ClientError::BadProxy { address: proxy.clone() };
            builder = builder.proxy(reqwest::Proxy::all(proxy.as_str()).map_err(bad_proxy)?);
        }
        let mut host = None;
        if base.scheme() == "https" {
            choose_ring();
            builder = with_certificates(builder.tls_backend_rustls(), plan)?;
            if let Some(name) = &plan.tls_server_name {
                host = Some(HeaderValue::from_str(&authority(&base)).map_err(|_| bad_address())?);
                builder = builder.dns_resolver(Renamed::new(&base).ok_or_else(bad_address)?);
                let bad_name = || ClientError::BadServerName { name: name.clone() };
                if !matches!(Host::parse(name), Ok(Host::Domain(_))) {
                    return Err(bad_name());
                }
                base.set_host(Some(name)).map_err(|_| bad_name())?;
            }
        } else {
            // Without this, reqwest would load the system's certificates for a connection without TLS.
            choose_ring();
            builder = builder.tls_backend_rustls().tls_certs_only(Vec::new());
        }
        let client = builder.build().map_err(|error| match &plan.client_certificate {
            Some(ClientCertificate { certificate, key }) if is_mismatch(&error) => {
                ClientError::MismatchedKey { certificate: certificate.clone(), key: key.clone() }
            }
            Some(_) | None => ClientError::Tls,
        })?;
        Ok(Node { carrier: carrier(&base, client)?, address: address.to_owned(), host, base })
    }

    /// `/v1/PATH?QUERY`. Each segment is encoded on its own, so none can become a query or another path.
    pub fn url(&self, path: &str, query: &[(&str, &str)]) -> Result<Url, Failure> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| Failure::new(Fault::Refused, "the address can't carry a path"))?
            .pop_if_empty()
            .push("v1")
            .extend(path.split('/'));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    /// Translates reqwest's error; nothing of it is kept but its kind.
    pub fn missed(&self, error: &reqwest::Error, timeout: Duration) -> Missed {
        let address = &self.address;
        if error.is_connect() {
            let trouble = if error.is_timeout() { "no answer".to_owned() } else { connection_trouble(error) };
            let reason = format!("Vault at {address} can't be reached: {trouble}");
            return Missed::NotSent(Failure::new(Fault::Unreachable, reason));
        }
        if error.is_timeout() {
            let waited = humantime::format_duration(timeout);
            let reason = format!("Vault at {address} did not answer within {waited}");
            return Missed::Cut(Failure::new(Fault::TimedOut, reason));
        }
        let reason = format!("the connection to Vault at {address} broke before the whole answer was there");
        Missed::Cut(Failure::new(Fault::Unreachable, reason))
    }
}

/// vaultrs' client, with our own HTTP client inside. Its own is made for a plain address, since making one
/// for TLS would load every certificate of the system, only to be thrown away.
fn carrier(base: &Url, client: reqwest::Client) -> Result<VaultClient, ClientError> {
    let plain = Url::parse("http://localhost").map_err(|_| ClientError::Tls)?;
    let settings = VaultClientSettings {
        address: plain,
        ca_certs: Vec::new(),
        identity: None,
        timeout: None,
        token: String::new(),
        verify: true,
        version: 1,
        wrapping: false,
        namespace: None,
        proxy: None,
    };
    let mut carrier = VaultClient::new(settings).map_err(|_| ClientError::Tls)?;
    carrier.settings.address = base.clone();
    carrier.http.base = base.to_string();
    carrier.http.http = client;
    Ok(carrier)
}

fn with_certificates(
    mut builder: reqwest::ClientBuilder,
    plan: &VaultPlan,
) -> Result<reqwest::ClientBuilder, ClientError> {
    let mut authorities = Vec::new();
    if let Some(path) = &plan.ca_cert {
        let found = authorities_in(&pem(path)?);
        if found.is_empty() {
            return Err(ClientError::NoCertificate { path: path.clone() });
        }
        authorities.extend(found);
    }
    if let Some(path) = &plan.ca_path {
        let found = authorities_below(path)?;
        if found.is_empty() {
            return Err(ClientError::NoCertificates { path: path.clone() });
        }
        authorities.extend(found);
    }
    if !authorities.is_empty() {
        builder = builder.tls_certs_only(authorities);
    }
    if let Some(ClientCertificate { certificate, key }) = &plan.client_certificate {
        let mut both = safe_file::read(certificate, PEM_MAX)?;
        super::append(&mut both, b"\n");
        super::append(&mut both, &safe_file::read(key, PEM_MAX)?);
        let identity = reqwest::Identity::from_pem(&both).map_err(|_| ClientError::BadClientCertificate {
            certificate: certificate.clone(),
            key: key.clone(),
        })?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

/// Certificates, if these bytes are some.
fn authorities_in(pem: &[u8]) -> Vec<reqwest::Certificate> {
    reqwest::Certificate::from_pem_bundle(pem).unwrap_or_default()
}

/// The certificates in all files of a directory, as `ca-path` of the `vault` command has it; what is none is left
/// out. Links are followed: OpenSSL makes one for each (openssl-rehash(1)).
fn authorities_below(directory: &Path) -> Result<Vec<reqwest::Certificate>, ClientError> {
    let unreadable = |error: std::io::Error| ClientError::Unreadable {
        path: directory.to_owned(),
        trouble: error.kind().to_string(),
    };
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        // Two links to one file are one authority.
        let path = entry.map_err(unreadable)?.path().canonicalize();
        files.extend(path.into_iter().filter(|path| path.is_file()));
    }
    let is_short = |path: &&PathBuf| fs::metadata(path).is_ok_and(|facts| facts.len() <= PEM_MAX);
    Ok(files
        .iter()
        .filter(is_short)
        .filter_map(|path| pem(path).ok())
        .flat_map(|pem| authorities_in(&pem))
        .collect())
}

/// Whether the TLS library says that a key is not that of its certificate.
fn is_mismatch(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InconsistentKeys(_)) = error.downcast_ref::<rustls::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn pem(path: &Path) -> Result<Zeroizing<Vec<u8>>, ClientError> {
    fs::read(path)
        .map(Zeroizing::new)
        .map_err(|error| ClientError::Unreadable { path: path.to_owned(), trouble: error.kind().to_string() })
}

/// Makes ring the process's TLS provider. Another one, installed before, stays.
fn choose_ring() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Resolves whatever name TLS wants to the address that the configuration gives.
struct Renamed {
    host: String,
    port: u16,
}

impl Renamed {
    fn new(url: &Url) -> Option<Renamed> {
        let host = match url.host()? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        };
        Some(Renamed { host, port: url.port_or_known_default()? })
    }
}

impl Resolve for Renamed {
    fn resolve(&self, _: Name) -> Resolving {
        let (host, port) = (self.host.clone(), self.port);
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((host.as_str(), port)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(address: &str) -> Result<Node, ClientError> {
        let plan = VaultPlan {
            addresses: vec![address.to_owned()],
            namespace: None,
            ca_cert: None,
            ca_path: None,
            client_certificate: None,
            proxy: None,
            tls_server_name: None,
            read_timeout: Duration::from_secs(5),
            issue_timeout: Duration::from_secs(30),
            max_secret_size: 1024,
            max_list_size: 1024,
        };
        Node::new(address, &plan)
    }

    #[test]
    fn no_name_of_a_secret_can_leave_its_path() {
        let node = node("http://127.0.0.1:8200").unwrap_or_else(|error| panic!("{error}"));
        for (path, encoded) in [
            ("secret/data/a b", "/v1/secret/data/a%20b"),
            ("secret/data/a?version=1", "/v1/secret/data/a%3Fversion=1"),
            ("secret/data/100%", "/v1/secret/data/100%25"),
            ("secret/data/%2e%2e/x", "/v1/secret/data/%252e%252e/x"),
            ("secret/data/a#b", "/v1/secret/data/a%23b"),
            ("secret/data/a\\b", "/v1/secret/data/a%5Cb"),
        ] {
            let url = node.url(path, &[]).unwrap();
            assert_eq!((url.path(), url.query()), (encoded, None), "{path}");
        }
        let url = node.url("secret/data/a", &[("version", "3")]).unwrap();
        assert_eq!(url.as_str(), "http://127.0.0.1:8200/v1/secret/data/a?version=3");
    }

    #[test]
    fn an_address_that_is_no_url_is_refused() {
        for address in ["ftp://vault", "vault:8200", "", "unix://run/bao.sock"] {
            assert!(matches!(node(address), Err(ClientError::BadAddress { .. })), "{address}");
        }
    }
}
