//! A TLS client certificate. Vault takes it from the connection: so the identity has connections of its own, and
//! a token that was obtained over them is renewed and used over the same, which Vault insists on (its cert auth
//! API, `disable_binding`).
//!
//! Invariant: a certificate that can't be used keeps nobody else from logging in: it is loaded at the login.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use zeroize::Zeroizing;

use crate::config::plan::{ClientCertificate, VaultPlan};
use crate::core::error::{Failure, Fault};
use crate::core::name::VaultPath;
use crate::secret::SecretBytes;
use crate::sys::safe_file;
use crate::vault::Login;
use crate::vault::auth::refused::{LOOK, Lockout, fingerprint};
use crate::vault::auth::{Identity, Submission};
use crate::vault::client::{Client, json};
use crate::vault::http::Http;

/// No certificate, with all those above it, is longer, in bytes.
const SIZE_MAX: u64 = 256 * 1024;

#[derive(Serialize)]
struct Credentials<'a> {
    /// The API calls a role that.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

/// The connections of an identity that has a certificate.
pub(in crate::vault) struct Connections {
    certificate: ClientCertificate,
    vault: VaultPlan,
    made: Mutex<Option<Made>>,
}

/// Connections, and of which certificate and key.
#[derive(Clone)]
struct Made {
    http: Http,
    of: u64,
}

impl Connections {
    /// None are made yet.
    pub fn new(certificate: ClientCertificate, vault: &VaultPlan) -> Connections {
        Connections { certificate, vault: vault.clone(), made: Mutex::default() }
    }

    /// Those that present the certificate as it is in its files now.
    pub async fn now(self: &std::sync::Arc<Self>) -> Result<(Http, u64), Failure> {
        let connections = std::sync::Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || connections.make()).await;
        made.unwrap_or_else(|_| Err("the client certificate could not be loaded".to_owned()))
            .map_err(|reason| Failure { retry_after: Some(LOOK), ..Failure::new(Fault::Denied, reason) })
    }

    /// Those that were made last, else new ones.
    pub fn last(&self) -> Option<Http> {
        let made = self.made().clone();
        made.map(|made| made.http).or_else(|| self.make().ok().map(|(http, _)| http))
    }

    fn make(&self) -> Result<(Http, u64), String> {
        let ClientCertificate { certificate, key } = &self.certificate;
        let [certificate, key] = [read(certificate)?, read(key)?];
        let of = fingerprint([&certificate, &key]);
        if let Some(made) = self.made().clone().filter(|made| made.of == of) {
            return Ok((made.http, of));
        }
        let vault = VaultPlan { client_certificate: Some(self.certificate.clone()), ..self.vault.clone() };
        let http = Http::new(&vault).map_err(|error| error.to_string())?;
        *self.made() = Some(Made { http: http.clone(), of });
        Ok((http, of))
    }

    fn made(&self) -> MutexGuard<'_, Option<Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> Result<SecretBytes, String> {
    let mut bytes: Zeroizing<Vec<u8>> = safe_file::read(path, SIZE_MAX)
        .map_err(|distrust| format!("the client certificate's file {distrust}"))?;
    Ok(SecretBytes::new(std::mem::take(&mut *bytes)))
}

pub(super) async fn login(
    client: &Client,
    identity: &Identity,
    auth_path: &VaultPath,
    role: Option<&str>,
) -> Result<Login, Failure> {
    let known = match &identity.connections {
        Some(connections) => connections.now().await?.1,
        None => 0,
    };
    let body = json(&Credentials { name: role })?;
    let path = format!("auth/{auth_path}/login");
    let submission = Submission { path: &path, auth_path, known, lockout: Lockout::Never, body };
    identity.submit(client, submission).await
}
