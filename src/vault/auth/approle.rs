//! AppRole: a role id, and mostly a secret id.

use serde::Serialize;

use crate::config::plan::CredentialSource;
use crate::core::error::{Failure, Fault};
use crate::core::name::VaultPath;
use crate::secret::SecretBytes;
use crate::vault::auth::credential;
use crate::vault::client::{Client, json};
use crate::vault::{Login, Origin, Token, answer};

#[derive(Serialize)]
struct Credentials<'a> {
    role_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_id: Option<&'a str>,
}

pub(in crate::vault) async fn login(
    client: &Client,
    auth_path: &VaultPath,
    role_id: &CredentialSource,
    secret_id: Option<&CredentialSource>,
    namespace: Option<String>,
) -> Result<Login, Failure> {
    let role_id = credential::fetch(role_id, "role id").await?;
    let secret_id = match secret_id {
        Some(source) => Some(credential::fetch(source, "secret id").await?),
        None => None,
    };
    let body = json(&Credentials {
        role_id: text(&role_id, "role id")?,
        secret_id: secret_id.as_ref().map(|secret| text(secret, "secret id")).transpose()?,
    })?;
    let answer = client.log_in_at(auth_path, namespace.as_deref(), body).await?;
    let (secret, info) = answer::auth(&answer.body, &format!("login at auth/{auth_path}"), Origin::Obtained)?;
    Ok(Login { token: Token::new(secret, namespace, Origin::Obtained), info })
}

fn text<'a>(bytes: &'a SecretBytes, what: &str) -> Result<&'a str, Failure> {
    std::str::from_utf8(bytes.expose())
        .map_err(|_| Failure::new(Fault::Denied, format!("the {what} is not UTF-8 text")))
}
