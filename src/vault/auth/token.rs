//! The token that the user gave: taken as it is, looked up, never revoked.

use crate::config::plan::CredentialSource;
use crate::core::error::{Failure, Fault};
use crate::vault::auth::credential;
use crate::vault::auth::refused::{Lockout, Refused, fingerprint};
use crate::vault::client::Client;
use crate::vault::{Login, Origin, Token, Vault};

pub(super) async fn login(
    client: &Client,
    source: &CredentialSource,
    namespace: Option<String>,
    refused: &Refused,
) -> Result<Login, Failure> {
    let secret = credential::fetch(source, "token").await?;
    let known = fingerprint([&secret]);
    if let Some(failure) = refused.reason(known) {
        return Err(failure);
    }
    let token = Token::new(secret, namespace, Origin::Given);
    let info = client.look_up_self(&token).await.map_err(|failure| {
        let reason = match failure.fault {
            Fault::TokenLost => "the token that was given is dead: give a new one",
            Fault::Denied => "the token that was given may not look itself up: give it the `default` policy",
            _ => return failure,
        };
        refused.note(known, Failure { reason: reason.to_owned(), ..failure }, Lockout::Never)
    })?;
    if info.num_uses > 0 {
        let reason = "the token that was given may be used only a few times (num_uses): give one without \
                      that limit";
        return Err(refused.for_good(known, Failure::new(Fault::Denied, reason)));
    }
    Ok(Login { token, info })
}
