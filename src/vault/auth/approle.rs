//! AppRole: a role id, and mostly a secret id, which may have to be unwrapped first (`wrapped.rs`).

use serde::Serialize;

use crate::config::plan::{CredentialSource, Wrapping};
use crate::core::error::Failure;
use crate::core::name::VaultPath;
use crate::vault::Login;
use crate::vault::auth::refused::{Lockout, fingerprint};
use crate::vault::auth::{Identity, Submission, credential};
use crate::vault::client::{Client, json};

#[derive(Serialize)]
struct Credentials<'a> {
    role_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_id: Option<&'a str>,
}

pub(super) async fn login(
    client: &Client,
    identity: &Identity,
    auth_path: &VaultPath,
    role_id: &CredentialSource,
    secret_id: Option<(&CredentialSource, Wrapping)>,
) -> Result<Login, Failure> {
    let role_id = credential::fetch(role_id, "role id").await?;
    let secret_id = match secret_id {
        None => None,
        Some((source, Wrapping::Plain)) => Some(credential::fetch(source, "secret id").await?.into()),
        Some((_, Wrapping::Wrapped)) => Some(identity.kept.secret_id()?),
    };
    let known = fingerprint([&role_id].into_iter().chain(secret_id.as_deref()));
    let body = json(&Credentials {
        role_id: credential::text(&role_id, "role id")?,
        secret_id: secret_id.as_deref().map(|secret| credential::text(secret, "secret id")).transpose()?,
    })?;
    let path = format!("auth/{auth_path}/login");
    let submission = Submission { path: &path, auth_path, known, lockout: Lockout::Threatens, body };
    let login = identity.submit(client, submission).await;
    login.map_err(|failure| identity.kept.explain(failure))
}
