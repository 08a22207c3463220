//! The token that the user gave: taken as it is, looked up, never revoked.
//!
//! One that Vault refused is not shown to it again and again; but its place is looked at every second, so
//! that a better one is found soon.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::plan::CredentialSource;
use crate::core::error::{Failure, Fault};
use crate::secret::SecretBytes;
use crate::vault::auth::credential;
use crate::vault::client::Client;
use crate::vault::{Login, Origin, Token, Vault};

/// How soon the token's place is looked at again.
const LOOK: Duration = Duration::from_secs(1);

/// How long Vault's word about a token is taken for good: a node that lags behind may not know it yet.
const BELIEVED: Duration = Duration::from_secs(30);

/// The last token that was given in vain.
#[derive(Default)]
pub(in crate::vault) struct Refused(Mutex<Option<Refusal>>);

struct Refusal {
    fingerprint: u64,
    failure: Failure,
    /// `None`: it can't become better.
    until: Option<Instant>,
}

impl Refused {
    /// Why this token need not be tried, if it was tried already.
    fn reason(&self, token: &SecretBytes) -> Option<Failure> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.as_ref().filter(|last| last.fingerprint == token.fingerprint())?;
        known.until.is_none_or(|until| Instant::now() < until).then(|| known.failure.clone())
    }

    fn remember(&self, fingerprint: u64, failure: Failure, until: Option<Instant>) -> Failure {
        let failure = Failure { retry_after: Some(LOOK), ..failure };
        let refusal = Refusal { fingerprint, failure: failure.clone(), until };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        failure
    }
}

pub(in crate::vault) async fn login(
    client: &Client,
    source: &CredentialSource,
    namespace: Option<String>,
    refused: &Refused,
) -> Result<Login, Failure> {
    let secret = credential::fetch(source, "token").await?;
    if let Some(failure) = refused.reason(&secret) {
        return Err(failure);
    }
    let fingerprint = secret.fingerprint();
    let token = Token::new(secret, namespace, Origin::Given);
    let info = client.look_up_self(&token).await.map_err(|failure| {
        let reason = match failure.fault {
            Fault::TokenLost => "the token that was given is dead: give a new one",
            Fault::Denied => "the token that was given may not look itself up: give it the `default` policy",
            _ => return failure,
        };
        let failure = Failure { reason: reason.to_owned(), ..failure };
        refused.remember(fingerprint, failure, Some(Instant::now() + BELIEVED))
    })?;
    if info.num_uses > 0 {
        let reason = "the token that was given may be used only a few times (num_uses): give one without \
                      that limit";
        return Err(refused.remember(fingerprint, Failure::new(Fault::Denied, reason), None));
    }
    Ok(Login { token, info })
}
