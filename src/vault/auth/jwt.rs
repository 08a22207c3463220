//! A JSON Web Token, signed by somebody whom Vault trusts: a CI system, an OIDC provider, or a Kubernetes
//! cluster, which Vault asks about it (TokenReview). Its file is read anew for each login, since it is replaced
//! before it ends.

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
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    jwt: &'a str,
}

pub(super) async fn login(
    client: &Client,
    identity: &Identity,
    auth_path: &VaultPath,
    role: Option<&str>,
    source: &CredentialSource,
) -> Result<Login, Failure> {
    let jwt = credential::fetch(source, "JWT").await?;
    let known = fingerprint([&jwt]);
    let body = json(&Credentials { role, jwt: credential::text(&jwt, "JWT")? })?;
    let path = format!("auth/{auth_path}/login");
    let submission = Submission { path: &path, auth_path, known, lockout: Lockout::Never, body };
    identity.submit(client, submission).await.map_err(|mut failure| {
        if let Some(hint) = hint(&failure.reason) {
            failure.reason.push_str(&format!(". {hint} (it is in {})", credential::place(source)));
        }
        failure
    })
}

/// What to do about a refusal, as far as Vault's words tell (`hashicorp/cap`, `go-jose` and the TokenReview API
/// write them).
fn hint(reason: &str) -> Option<&'static str> {
    let reason = reason.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if says(&["expired", "(exp)"]) {
        Some(
            "The JWT is over: have it replaced before its end, and if it should still be good, compare the \
             clocks of this host and of Vault",
        )
    } else if says(&["not yet valid", "not valid yet", "(nbf)", "in the future", "(iat)", "issued at"]) {
        Some("The JWT is of a time that has not come yet: compare the clocks of its issuer and of Vault")
    } else if says(&["audience", "(aud)"]) {
        Some("The JWT is meant for another audience: ask for one with the role's `bound_audiences`")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_a_jwt_says_what_to_do() {
        for (reason, told) in [
            ("token is expired (exp)", Some("is over")),
            ("validation failed, token not valid yet (nbf)", Some("clocks")),
            ("validation field, token issued in the future (iat)", Some("clocks")),
            ("invalid audience (aud) claim: audience claim does not match", Some("bound_audiences")),
            ("error verifying token signature", None),
        ] {
            assert_eq!(
                hint(reason).map(|hint| told.is_some_and(|told| hint.contains(told))),
                told.map(|_| true)
            );
        }
    }
}
