//! The token that the user gave: taken as it is, looked up, never revoked.

use crate::config::plan::CredentialSource;
use crate::core::error::{Failure, Fault};
use crate::vault::auth::credential;
use crate::vault::client::Client;
use crate::vault::{Login, Origin, Token, Vault};

pub(in crate::vault) async fn login(
    client: &Client,
    source: &CredentialSource,
    namespace: Option<String>,
) -> Result<Login, Failure> {
    let secret = credential::fetch(source, "token").await?;
    let token = Token::new(secret, namespace, Origin::Given);
    let info = client.look_up_self(&token).await.map_err(|failure| match failure.fault {
        Fault::TokenLost => {
            Failure { reason: "the token that was given is dead: give a new one".into(), ..failure }
        }
        Fault::Denied => {
            let reason =
                "the token that was given may not look itself up: give it the `default` policy".into();
            Failure { reason, ..failure }
        }
        _ => failure,
    })?;
    Ok(Login { token, info })
}
