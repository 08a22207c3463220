//! A user name and a password.

use serde::Serialize;

use crate::config::plan::CredentialSource;
use crate::core::error::Failure;
use crate::core::name::VaultPath;
use crate::vault::Login;
use crate::vault::auth::refused::{Lockout, fingerprint};
use crate::vault::auth::{Identity, Submission, credential};
use crate::vault::client::{Client, json};

#[derive(Serialize)]
struct Credentials<'a> {
    password: &'a str,
}

pub(super) async fn login(
    client: &Client,
    identity: &Identity,
    auth_path: &VaultPath,
    username: &str,
    password: &CredentialSource,
) -> Result<Login, Failure> {
    let password = credential::fetch(password, "password").await?;
    let known = fingerprint([&password]);
    let body = json(&Credentials { password: credential::text(&password, "password")? })?;
    let path = format!("auth/{auth_path}/login/{username}");
    let submission = Submission { path: &path, auth_path, known, lockout: Lockout::Threatens, body };
    identity.submit(client, submission).await
}
