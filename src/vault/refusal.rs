//! A bad answer as a [`Failure`]: the status says what kind it is, Vault's own texts say why.
//!
//! Only the texts in `errors` and `warnings` are quoted, bounded and without control characters; nothing
//! else of an answer ever gets into a reason.

use serde::Deserialize;

use crate::core::error::{Failure, Fault};
use crate::vault::engine::Capability;
use crate::vault::http::Answer;

/// The longest quotation, in characters.
const QUOTE_MAX: usize = 300;

/// Lease errors after which no retry helps, exactly as Vault writes them (`sys/leases`, `auth/token`).
const TERMINAL: [(&str, Fault); 5] = [
    ("lease not found", Fault::LeaseGone),
    ("lease expired", Fault::LeaseGone),
    ("invalid lease", Fault::LeaseGone),
    ("lease is not renewable", Fault::NotRenewable),
    ("batch tokens cannot be renewed", Fault::NotRenewable),
];

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Option<Vec<String>>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// The texts of `errors`, or else of `warnings`; `None`: this is not an answer of Vault.
pub(super) fn texts(body: &[u8]) -> Option<Vec<String>> {
    let parsed: ErrorBody = serde_json::from_slice(body).ok()?;
    let errors = parsed.errors.unwrap_or_default();
    Some(if errors.is_empty() { parsed.warnings.unwrap_or_default() } else { errors })
}

/// A read or a list that failed.
pub(super) fn of_read(answer: &Answer, path: &str, capability: Capability) -> Failure {
    let refusal = Refusal::new(answer, format!("{} of {path}", capability.as_str()));
    match refusal.status {
        400 if refusal.names_unknown_role() => refusal.failure(Fault::NotFound, "no such role"),
        403 => {
            let hint = format!("Vault denied it: the policy must allow `{}`", capability.as_str());
            refusal.failure(Fault::Denied, &hint)
        }
        405 if capability == Capability::Read => refusal
            .failure(Fault::Refused, "this path wants a write request: give it `params`, even if empty"),
        _ => refusal.general(),
    }
}

/// A renewal, look-up or revocation that failed, of a lease or of a token. Whatever isn't known to be
/// final may be the engine's own trouble (its database is down) and passes.
pub(super) fn of_lease(answer: &Answer, doing: &str) -> Failure {
    let refusal = Refusal::new(answer, doing.to_owned());
    match refusal.status {
        400 | 404 => match refusal.terminal() {
            Some(fault) => refusal.failure(fault, "it can't go on"),
            None if refusal.texts.is_none() => refusal.general(),
            None => refusal.failure(Fault::ServerError, "Vault could not do it now"),
        },
        403 => refusal.failure(Fault::Denied, "Vault denied it"),
        _ => refusal.general(),
    }
}

/// A login that failed.
pub(super) fn of_login(answer: &Answer, auth_path: &str) -> Failure {
    let refusal = Refusal::new(answer, format!("login at auth/{auth_path}"));
    match refusal.status {
        400 | 401 => refusal.failure(Fault::Denied, "Vault refused the credentials"),
        403..=405 if refusal.texts.is_some() => {
            refusal.failure(Fault::Denied, "Vault refused it: is the auth method enabled there?")
        }
        _ => refusal.general(),
    }
}

/// A look-up or use of a wrapping token that failed: 400 says that it is none (any more).
pub(super) fn of_wrapping(answer: &Answer, doing: &str) -> Failure {
    let refusal = Refusal::new(answer, doing.to_owned());
    match refusal.status {
        400 | 403 if refusal.texts.is_some() => {
            refusal.failure(Fault::Denied, "Vault does not know the token")
        }
        _ => refusal.general(),
    }
}

/// A renewal of a token that failed. Other than a lease's, it has no engine that may be in trouble: whatever its
/// auth method says against it, it will say again, so a new login must come.
pub(super) fn of_token_renewal(answer: &Answer, doing: &str) -> Failure {
    let refusal = Refusal::new(answer, doing.to_owned());
    match refusal.status {
        400 | 404 if refusal.texts.is_some() => refusal.failure(Fault::NotRenewable, "the token can't go on"),
        403 => refusal.failure(Fault::Denied, "Vault denied it"),
        _ => refusal.general(),
    }
}

/// Any other request that failed.
pub(super) fn of_request(answer: &Answer, doing: &str) -> Failure {
    Refusal::new(answer, doing.to_owned()).general()
}

/// Whether a node serves requests and has nobody to send this one on to: nothing was carried out.
pub(super) fn says_no_leader(answer: &Answer) -> bool {
    answer.says_node_stands_by()
        || answer.status == 500 && Refusal::new(answer, String::new()).says_no_leader()
}

struct Refusal<'a> {
    status: u16,
    doing: String,
    texts: Option<Vec<String>>,
    answer: &'a Answer,
}

impl Refusal<'_> {
    fn new(answer: &Answer, doing: String) -> Refusal<'_> {
        Refusal { status: answer.status, doing, texts: texts(&answer.body), answer }
    }

    fn general(&self) -> Failure {
        if let (300..=399, Some(origin)) = (self.status, &self.answer.redirect) {
            if self.answer.says_node_stands_by() {
                let hint = format!(
                    "Vault has no leader: this node stands by and points to {}, which does not lead, \
                     or is not in `address`",
                    bounded(origin)
                );
                return self.failure(Fault::NoLeader, &hint);
            }
            let hint =
                format!("redirected to {}, which is not followed: put that in `address`", bounded(origin));
            return self.failure(Fault::Refused, &hint);
        }
        if self.texts.is_none() && !matches!(self.status, 501..=504) {
            return self.foreign();
        }
        match self.status {
            403 => self.failure(Fault::Denied, "Vault denied it"),
            404 => self.failure(Fault::NotFound, "it does not exist in Vault"),
            429 => self.failure(Fault::RateLimited, "Vault's rate limit is reached"),
            472 | 473 | 501 | 503 => {
                self.failure(Fault::Sealed, "Vault is sealed, not initialised or without a leader")
            }
            500 if self.says_no_leader() => self.failure(Fault::NoLeader, "Vault has no leader"),
            408 | 500..=599 => self.failure(Fault::ServerError, "Vault failed"),
            _ => self.failure(Fault::Refused, "Vault refused it"),
        }
    }

    /// Not in Vault's form: a proxy, or another server altogether.
    fn foreign(&self) -> Failure {
        match self.status {
            403 => self.failure(Fault::Denied, "denied, but not by Vault: does a proxy stand before it?"),
            429 => self.failure(Fault::RateLimited, "a rate limit before Vault is reached"),
            500..=599 => {
                self.failure(Fault::ServerError, "the answer is not Vault's: does a proxy stand before it?")
            }
            _ => self.failure(Fault::Unusable, "the answer is not Vault's: is `address` right?"),
        }
    }

    fn failure(&self, fault: Fault, hint: &str) -> Failure {
        let mut reason = format!("{}: {hint} (status {}", self.doing, self.status);
        let quote = quote(self.texts.as_deref().unwrap_or_default());
        if !quote.is_empty() {
            reason.push_str(": ");
            reason.push_str(&quote);
        }
        reason.push(')');
        Failure { fault, reason, retry_after: self.answer.retry_after }
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        let texts = self.texts.iter().flatten();
        texts.flat_map(|text| text.lines()).map(|line| line.trim().trim_start_matches("* "))
    }

    fn terminal(&self) -> Option<Fault> {
        let known = |line: &str| TERMINAL.iter().find(|(text, _)| *text == line).map(|(_, fault)| *fault);
        self.lines().find_map(known)
    }

    /// Engines word it differently; what a database says of its own roles comes with "failed to".
    fn names_unknown_role(&self) -> bool {
        self.lines().map(str::to_lowercase).any(|line| {
            let missing = line.contains("not found") || line.contains("does not exist");
            line.contains("unknown role") || line.contains("role") && missing && !line.contains("failed to")
        })
    }

    fn says_no_leader(&self) -> bool {
        self.lines()
            .any(|line| line.contains("active cluster node not found") || line.contains("no active node"))
    }
}

/// Several texts on one line.
fn quote(texts: &[String]) -> String {
    let lines = texts.iter().flat_map(|text| text.lines()).map(|line| line.trim().trim_start_matches("* "));
    // Go's multi-error puts a count before the list; it says nothing.
    let told = lines.filter(|line| !line.is_empty() && !line.ends_with("occurred:"));
    bounded(&told.collect::<Vec<_>>().join("; "))
}

/// At most [`QUOTE_MAX`] characters, none of them a control character.
pub(super) fn bounded(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(QUOTE_MAX).map(clean).collect();
    if text.chars().nth(QUOTE_MAX).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zeroize::Zeroizing;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            retry_after: Some(Duration::from_secs(3)),
            redirect: None,
            skew: crate::vault::skew::Skew::default(),
            body: Zeroizing::new(body.as_bytes().to_vec()),
        }
    }

    #[test]
    fn each_status_of_a_read_is_one_situation() {
        for (status, body, fault) in [
            (400, r#"{"errors":["unknown role: agent"]}"#, Fault::NotFound),
            (400, r#"{"errors":["Role 'agent' not found"]}"#, Fault::NotFound),
            (400, r#"{"errors":["common name a not allowed by this role"]}"#, Fault::Refused),
            (400, r#"{"errors":["failed to run: role \"app\" does not exist"]}"#, Fault::Refused),
            (403, r#"{"errors":["permission denied"]}"#, Fault::Denied),
            (404, r#"{"errors":[]}"#, Fault::NotFound),
            (404, "<html>not here</html>", Fault::Unusable),
            (405, r#"{"errors":["1 error occurred:\n\t* unsupported operation\n\n"]}"#, Fault::Refused),
            (429, r#"{"errors":["request path \"x\": rate limit quota exceeded"]}"#, Fault::RateLimited),
            (472, r#"{"errors":[]}"#, Fault::Sealed),
            (473, r#"{"errors":[]}"#, Fault::Sealed),
            (500, r#"{"errors":["internal error"]}"#, Fault::ServerError),
            (
                500,
                r#"{"errors":["local node not active but active cluster node not found"]}"#,
                Fault::NoLeader,
            ),
            (501, r#"{"errors":["not initialized"]}"#, Fault::Sealed),
            (502, "<html>bad gateway</html>", Fault::ServerError),
            (503, r#"{"errors":["Vault is sealed"]}"#, Fault::Sealed),
            (503, "<html>no server is available</html>", Fault::Sealed),
        ] {
            let failure = of_read(&answer(status, body), "a/b", Capability::Read);
            assert_eq!(failure.fault, fault, "{status} {body}");
            assert_eq!(failure.retry_after, Some(Duration::from_secs(3)));
        }
    }

    #[test]
    fn a_lease_ends_at_vaults_own_words_alone() {
        for (status, text, fault) in [
            (400, "lease not found", Fault::LeaseGone),
            (400, "1 error occurred:\\n\\t* lease expired\\n\\n", Fault::LeaseGone),
            (400, "invalid lease", Fault::LeaseGone),
            (400, "lease is not renewable", Fault::NotRenewable),
            (400, "failed to renew entry: lease not found in the pool", Fault::ServerError),
            (400, "failed to connect to `host=127.0.0.1`: connection refused", Fault::ServerError),
            (403, "permission denied", Fault::Denied),
        ] {
            let body = format!(r#"{{"errors":["{text}"]}}"#);
            assert_eq!(of_lease(&answer(status, &body), "renewal").fault, fault, "{text}");
        }
        let page = answer(404, "<html></html>");
        assert_eq!(of_lease(&page, "renewal").fault, Fault::Unusable);
    }

    #[test]
    fn quotations_are_one_bounded_line() {
        let body =
            format!(r#"{{"errors":["1 error occurred:\n\t* bad\u001b[31m\n\n","{}"]}}"#, "x".repeat(999));
        let reason = of_request(&answer(400, &body), "asking").reason;
        assert!(reason.contains("bad [31m; xxx"), "{reason}");
        assert!(reason.chars().count() < QUOTE_MAX + 60, "{reason}");
        assert!(!reason.chars().any(char::is_control));
    }

    #[test]
    fn a_redirect_is_named_and_not_followed() {
        // With 307 a node that stands by names the leader that it can't forward to.
        for (status, fault) in [(301, Fault::Refused), (308, Fault::Refused), (307, Fault::NoLeader)] {
            let mut redirected = answer(status, "");
            redirected.redirect = Some("https://other:8200".to_owned());
            let failure = of_read(&redirected, "a/b", Capability::Read);
            assert_eq!(failure.fault, fault);
            assert!(failure.reason.contains("https://other:8200"));
        }
    }
}
