//! Logging in: one method per file, the files and variables that credentials come from, and what is remembered
//! of those that were given in vain.

mod approle;
mod cert;
mod credential;
mod jwt;
mod refused;
mod token;
mod userpass;
mod wrapped;

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::config::plan::{IdentityPlan, Method, VaultPlan, Wrapping};
use crate::core::error::{Failure, Fault};
use crate::core::name::VaultPath;
use crate::vault::client::Client;
use crate::vault::http::Http;
use crate::vault::{Kept, Login, Origin, Token, answer};

use refused::{Lockout, Refused};

/// Who logs in, how, and what is known of it.
pub(super) struct Identity {
    name: String,
    method: Method,
    namespace: Option<String>,
    refused: Refused,
    kept: wrapped::Vessel,
    connections: Option<Arc<cert::Connections>>,
}

/// Credentials, ready to be sent.
struct Submission<'a> {
    /// Where to.
    path: &'a str,
    /// Where the method is mounted.
    auth_path: &'a VaultPath,
    /// Their fingerprint.
    known: u64,
    /// What it leads to if they are wrong.
    lockout: Lockout,
    body: Zeroizing<Vec<u8>>,
}

impl Identity {
    /// As it is configured.
    pub fn new(plan: &IdentityPlan, vault: &VaultPlan) -> Identity {
        let certificate = plan.method.certificate();
        Identity {
            name: plan.name.clone(),
            method: plan.method.clone(),
            namespace: plan.namespace.clone().or_else(|| vault.namespace.clone()),
            refused: Refused::default(),
            kept: wrapped::Vessel::default(),
            connections: certificate.map(|one| Arc::new(cert::Connections::new(one.clone(), vault))),
        }
    }

    /// Where it logs in and reads from.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Its own connections, if it has some; made if they are not there yet.
    pub fn connections(&self) -> Option<Http> {
        self.connections.as_ref().and_then(|connections| connections.last())
    }

    /// Somebody wants it to try again what was refused.
    pub fn forget_refusals(&self) {
        self.refused.forget();
        self.kept.forget_refusals();
    }

    /// Obtains what it logs in with if that can be had only once; `None`: there is nothing, or it was there.
    pub async fn prepare(&self, client: &Client) -> Result<Option<Kept>, Failure> {
        let Method::AppRole { auth_path, secret_id: Some(source), wrapping: Wrapping::Wrapped, .. } =
            &self.method
        else {
            return Ok(None);
        };
        let fresh = self.kept.fill(client, source, auth_path, self.namespace.clone()).await?;
        Ok(fresh.map(|bytes| Kept { label: self.label(), bytes }))
    }

    /// Takes back what [`Identity::prepare`] has obtained for a predecessor, if that was for this identity.
    pub fn restore(&self, kept: &Kept) -> bool {
        kept.label == self.label() && self.kept.restore(&kept.bytes)
    }

    /// Which login it is, whatever the other identities are.
    fn label(&self) -> String {
        format!("{} by {:?} in {:?}", self.name, self.method, self.namespace)
    }

    /// Logs in.
    pub async fn log_in(&self, client: &Client) -> Result<Login, Failure> {
        match &self.method {
            Method::Token { token } => {
                token::login(client, token, self.namespace.clone(), &self.refused).await
            }
            Method::AppRole { auth_path, role_id, secret_id, wrapping } => {
                let secret_id = secret_id.as_ref().map(|source| (source, *wrapping));
                approle::login(client, self, auth_path, role_id, secret_id).await
            }
            Method::Jwt { auth_path, role, jwt } => {
                jwt::login(client, self, auth_path, role.as_deref(), jwt).await
            }
            Method::Kubernetes { auth_path, role, jwt } => {
                jwt::login(client, self, auth_path, Some(role), jwt).await
            }
            Method::Cert { auth_path, role, .. } => {
                cert::login(client, self, auth_path, role.as_deref()).await
            }
            Method::Userpass { auth_path, username, password } => {
                userpass::login(client, self, auth_path, username, password).await
            }
        }
    }

    /// Sends credentials, unless Vault has refused the same ones a while ago.
    async fn submit(&self, client: &Client, submission: Submission<'_>) -> Result<Login, Failure> {
        let Submission { path, auth_path, known, lockout, body } = submission;
        if let Some(failure) = self.refused.reason(known) {
            return Err(failure);
        }
        let http = self.connections();
        let sent = client.log_in_at(http.as_ref(), path, auth_path, self.namespace(), body).await;
        let answer = sent.map_err(|mut failure| {
            if lockout == Lockout::Threatens && failure.fault == Fault::Denied {
                failure.reason.push_str(
                    "; so that the account is not locked, the same credentials are tried again once, and then \
                     every 16 minutes, or on SIGHUP; other ones at once",
                );
            }
            self.refused.note(known, failure, lockout)
        })?;
        self.refused.forget();
        let doing = format!("login at auth/{auth_path}");
        let (secret, info) = answer::auth(&answer.body, &doing, Origin::Obtained)?;
        let token = Token::new(secret, self.namespace.clone(), Origin::Obtained).over(http);
        Ok(Login { token, info })
    }
}
