//! A secret id that comes in a response-wrapping token, which gives it out once.
//!
//! Invariants: *looked at first*: a token that was made for anything but a secret id is not unwrapped;
//! *unwrapped once*: the secret id is kept for later logins, and handed out for a successor of this process,
//! before it is used; a token that was put in the place of an unwrapped one is unwrapped, too.
//! (Vault's concepts, "response wrapping", on what a failure means.)

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::config::plan::CredentialSource;
use crate::core::error::{Failure, Fault};
use crate::core::name::VaultPath;
use crate::secret::SecretBytes;
use crate::vault::auth::credential;
use crate::vault::auth::refused::{LOOK, Refused, fingerprint};
use crate::vault::client::{Client, json};
use crate::vault::{Origin, Token, answer};

/// Where an unwrapped secret id is kept.
#[derive(Default)]
pub(super) struct Vessel {
    held: Mutex<Option<Held>>,
    /// Wrapping tokens that gave nothing.
    refused: Refused,
}

struct Held {
    secret_id: Arc<SecretBytes>,
    /// The wrapping token that it came in.
    came_in: u64,
}

impl Vessel {
    /// The secret id.
    pub fn secret_id(&self) -> Result<Arc<SecretBytes>, Failure> {
        let held = self.held();
        let secret_id = held.as_ref().map(|held| Arc::clone(&held.secret_id));
        secret_id.ok_or_else(|| {
            let reason =
                "the secret id is wrapped, and only a mount unwraps it: to look at it would use it up";
            Failure::new(Fault::Denied, reason)
        })
    }

    /// Unwraps what is in its place, unless that was done before. Returns what is new, for [`Vessel::restore`].
    pub async fn fill(
        &self,
        client: &Client,
        source: &CredentialSource,
        auth_path: &VaultPath,
        namespace: Option<String>,
    ) -> Result<Option<Arc<SecretBytes>>, Failure> {
        let is_full = self.held().is_some();
        let outcome = match credential::fetch(source, "wrapping token").await {
            Ok(token) if self.came_in(&token) => return Ok(None),
            Ok(token) => {
                let known = fingerprint([&token]);
                let place = credential::place(source);
                match self.refused.reason(known) {
                    Some(failure) => Err(failure),
                    None => {
                        let exchange = Exchange { client, place: &place, auth_path };
                        exchange.run(token, namespace).await.map_err(|failure| match failure.fault {
                            Fault::Denied => {
                                let failure = self.refused.for_good(known, failure);
                                tracing::warn!(reason = failure.reason, "a secret id could not be unwrapped");
                                failure
                            }
                            _ => failure,
                        })
                    }
                }
            }
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok((token, secret_id)) => {
                let token = token.secret();
                let packed = pack(token, &secret_id);
                *self.held() = Some(Held { secret_id: Arc::new(secret_id), came_in: fingerprint([token]) });
                Ok(Some(Arc::new(packed)))
            }
            // The token may be gone once it was used, and a bad one in its place takes nothing away.
            Err(_) if is_full => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Takes back what [`Vessel::fill`] has returned.
    pub fn restore(&self, packed: &SecretBytes) -> bool {
        let Some((token, secret_id)) = unpack(packed) else { return false };
        *self.held() = Some(Held { secret_id: Arc::new(secret_id), came_in: fingerprint([&token]) });
        true
    }

    /// A login with the secret id that is kept has failed: what can be done about it.
    pub fn explain(&self, mut failure: Failure) -> Failure {
        if failure.fault == Fault::Denied && self.held().is_some() {
            failure.reason.push_str("; if the secret id is over, put a new wrapping token in its place");
        }
        failure
    }

    /// A token that gave nothing is worth another try.
    pub fn forget_refusals(&self) {
        self.refused.forget();
    }

    fn came_in(&self, token: &SecretBytes) -> bool {
        self.held().as_ref().is_some_and(|held| held.came_in == fingerprint([token]))
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One wrapping token for one secret id.
struct Exchange<'a> {
    client: &'a Client,
    place: &'a str,
    auth_path: &'a VaultPath,
}

impl Exchange<'_> {
    async fn run(
        &self,
        token: SecretBytes,
        namespace: Option<String>,
    ) -> Result<(Token, SecretBytes), Failure> {
        #[derive(Serialize)]
        struct Question<'a> {
            token: &'a str,
        }
        let question = json(&Question { token: credential::text(&token, "wrapping token")? })?;
        let facts = self.client.look_up_wrapping(namespace.as_deref(), question).await;
        let facts = facts.map_err(|failure| self.taken(failure))?;
        let made_at = answer::creation_path(&facts.body, "sys/wrapping/lookup")?;
        let within = namespace.as_deref().map(|namespace| format!("{}/", namespace.trim_matches('/')));
        let relative = within.and_then(|within| made_at.strip_prefix(&within)).unwrap_or(&made_at);
        if !is_secret_id_of(self.auth_path, relative) {
            return Err(self.misled(&made_at));
        }
        let wrapper = Token::new(token, namespace, Origin::Given);
        let unwrapped = self.client.unwrap(&wrapper).await.map_err(|failure| self.taken(failure))?;
        let secret_id = answer::secret_id(&unwrapped.body, "sys/wrapping/unwrap")?;
        Ok((wrapper, secret_id))
    }

    /// What it means that a wrapping token is not known to Vault.
    fn taken(&self, failure: Failure) -> Failure {
        if failure.fault != Fault::Denied {
            return failure;
        }
        let place = self.place;
        let reason = format!(
            "the wrapping token in {place} was used already, or its time is over: if nobody you know has used \
             it, somebody else has the secret id (possible interception): have that secret id revoked, and put \
             a new wrapping token there"
        );
        Failure { reason, retry_after: Some(LOOK), ..failure }
    }

    /// What it means that it was made for something else.
    fn misled(&self, made_at: &str) -> Failure {
        let (place, auth_path) = (self.place, self.auth_path);
        let made_at: String = made_at.chars().filter(|char| !char.is_control()).take(200).collect();
        let reason = format!(
            "the wrapping token in {place} was made by {made_at}, not by auth/{auth_path}/role/ROLE/secret-id: \
             somebody may have put it there (possible interception), so it was not unwrapped; put one there that \
             was made by the latter, or correct auth-path"
        );
        Failure { retry_after: Some(LOOK), ..Failure::new(Fault::Denied, reason) }
    }
}

/// Whether this is where an AppRole mount gives out secret ids (its API: `secret-id`, `custom-secret-id`).
fn is_secret_id_of(auth_path: &VaultPath, made_at: &str) -> bool {
    let of_role = made_at.strip_prefix(&format!("auth/{auth_path}/role/"));
    let parts = of_role.and_then(|rest| rest.split_once('/'));
    parts.is_some_and(|(role, what)| !role.is_empty() && matches!(what, "secret-id" | "custom-secret-id"))
}

/// The length of the wrapping token, that, and the secret id.
fn pack(token: &SecretBytes, secret_id: &SecretBytes) -> SecretBytes {
    let length = u32::try_from(token.len()).unwrap_or_default().to_le_bytes();
    SecretBytes::new([&length[..], token.expose(), secret_id.expose()].concat())
}

fn unpack(packed: &SecretBytes) -> Option<(SecretBytes, SecretBytes)> {
    let (length, rest) = packed.expose().split_first_chunk::<4>()?;
    let (token, secret_id) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    Some((SecretBytes::new(token.to_vec()), SecretBytes::new(secret_id.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_ids_of_its_own_mount_are_unwrapped() {
        let approle = VaultPath::new("ci/approle").unwrap();
        for (path, good) in [
            ("auth/ci/approle/role/agent/secret-id", true),
            ("auth/ci/approle/role/agent/custom-secret-id", true),
            ("auth/approle/role/agent/secret-id", false),
            ("auth/ci/approle/role//secret-id", false),
            ("auth/ci/approle/role/agent/secret-id/lookup", false),
            ("auth/ci/approle/role/agent/role-id", false),
            ("auth/token/create", false),
            ("sys/wrapping/wrap", false),
        ] {
            assert_eq!(is_secret_id_of(&approle, path), good, "{path}");
        }
    }

    #[test]
    fn a_successor_has_the_secret_id_and_knows_which_token_it_came_in() {
        let secret = |text: &str| SecretBytes::new(text.as_bytes().to_vec());
        let vessel = Vessel::default();
        assert!(vessel.secret_id().is_err());
        assert!(vessel.restore(&pack(&secret("wrapping"), &secret("id"))));
        assert_eq!(vessel.secret_id().unwrap().expose(), b"id");
        assert!(vessel.came_in(&secret("wrapping")) && !vessel.came_in(&secret("another")));
        assert!(!vessel.restore(&secret("\u{ff}")));
    }
}
