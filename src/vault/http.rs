//! One request and its whole answer.
//!
//! Invariants: no redirect is followed (a redirect would carry the token to another origin), no proxy is
//! used but one that the configuration names, no connection is kept for later (its buffer would keep the last secret), nothing waits for ever,
//! no answer grows past its limit. A request that may mint is repeated only if it can't have been carried
//! out: nothing was sent, or the node said that it serves nobody or lags behind. A call's time is one for
//! all its attempts. vaultrs carries the client and the address; reqwest's own errors end here.

mod node;
mod reach;
mod standing;

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use vaultrs::client::VaultClient;
use zeroize::Zeroizing;

use crate::config::plan::VaultPlan;
use crate::core::error::{Failure, Fault};
use crate::sys;
use crate::vault::Token;
use crate::vault::client::ClientError;
use crate::vault::refusal;
use crate::vault::skew::Skew;

use standing::Standings;

/// Where a node is asked for its health.
const HEALTH: &str = "sys/health";
/// How long a question for a node's health may take.
const PROBE: Duration = Duration::from_secs(3);
/// How far the clocks must be apart to be told, in seconds.
const SKEW_TOLD: u64 = 60;
/// The longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: u64 = 3600;
/// The largest answer to a request that isn't for a secret or a list, in bytes.
const PLAIN_LIMIT: u64 = 1 << 20;

/// GET or POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
        }
    }
}

/// Which limit an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Secret,
    List,
    Plain,
}

/// Whether a request that may have been carried out can be sent to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// Twice is as good as once.
    Elsewhere,
    /// It may mint.
    Never,
}

/// One request.
#[derive(Clone)]
pub(super) struct Call<'a> {
    pub method: Method,
    /// Path without `/v1/`; percent-encoded here, segment by segment.
    pub path: &'a str,
    pub query: &'a [(&'a str, &'a str)],
    pub token: Option<&'a Token>,
    pub namespace: Option<&'a str>,
    /// JSON text.
    pub body: Option<Zeroizing<Vec<u8>>>,
    pub limit: Limit,
    /// For all attempts together, the answer's last byte included.
    pub timeout: Duration,
    pub again: Again,
}

impl<'a> Call<'a> {
    /// A GET with a token.
    pub fn get(token: &'a Token, path: &'a str, timeout: Duration) -> Call<'a> {
        Call {
            method: Method::Get,
            path,
            query: &[],
            token: Some(token),
            namespace: token.namespace(),
            body: None,
            limit: Limit::Plain,
            timeout,
            again: Again::Elsewhere,
        }
    }

    /// A POST of somebody who has no token. It may make something.
    pub fn without_token(
        path: &'a str,
        namespace: Option<&'a str>,
        body: Zeroizing<Vec<u8>>,
        timeout: Duration,
    ) -> Call<'a> {
        Call {
            method: Method::Post,
            path,
            query: &[],
            token: None,
            namespace,
            body: Some(body),
            limit: Limit::Plain,
            timeout,
            again: Again::Never,
        }
    }

    /// A question for a node's health, open to everybody.
    fn health() -> Call<'static> {
        Call {
            method: Method::Get,
            path: HEALTH,
            query: &[("standbyok", "true"), ("perfstandbyok", "true")],
            token: None,
            namespace: None,
            body: None,
            limit: Limit::Plain,
            timeout: PROBE,
            again: Again::Elsewhere,
        }
    }

    /// A POST with a token.
    pub fn post(token: &'a Token, path: &'a str, body: Zeroizing<Vec<u8>>, timeout: Duration) -> Call<'a> {
        Call { method: Method::Post, body: Some(body), ..Call::get(token, path, timeout) }
    }
}

/// An answer, whatever its status.
pub(super) struct Answer {
    pub status: u16,
    pub retry_after: Option<Duration>,
    /// Where a redirect points to: scheme, host and port only.
    pub redirect: Option<String>,
    /// How far the clocks are apart, by its date.
    pub skew: Skew,
    /// Wiped when dropped.
    pub body: Zeroizing<Vec<u8>>,
}

/// An attempt that brought no answer.
enum Missed {
    /// Nothing was sent: another node may be tried.
    NotSent(Failure),
    /// The request may have been carried out.
    Cut(Failure),
    /// An answer came and is not worth having.
    Unusable(Failure),
}

/// All nodes of one Vault. Cheap to clone: all clones are one.
#[derive(Clone)]
pub(super) struct Http(Arc<Shared>);

struct Shared {
    nodes: Vec<node::Node>,
    standings: Mutex<Standings>,
    /// The newest `X-Vault-Index`, which keeps standby nodes from answering with older data. Opaque.
    index: Mutex<Option<HeaderValue>>,
    max_secret_size: u64,
    max_list_size: u64,
    skew_told: AtomicBool,
}

impl Http {
    pub fn new(plan: &VaultPlan) -> Result<Http, ClientError> {
        if plan.addresses.is_empty() {
            return Err(ClientError::NoAddress);
        }
        let nodes = plan.addresses.iter().map(|address| node::Node::new(address, plan));
        Ok(Http(Arc::new(Shared {
            nodes: nodes.collect::<Result<_, _>>()?,
            standings: Mutex::new(Standings::new(plan.addresses.len())),
            index: Mutex::new(None),
            max_secret_size: plan.max_secret_size,
            max_list_size: plan.max_list_size,
            skew_told: AtomicBool::new(false),
        })))
    }

    /// One attempt at one node, its answer's last byte included.
    async fn attempt(&self, at: usize, call: &Call<'_>, time: Duration) -> Result<Answer, Missed> {
        let node = &self.0.nodes[at];
        let carrier: &VaultClient = &node.carrier;
        let echoed = match call.path {
            // A node that lags behind is well all the same.
            HEALTH => None,
            _ => self.0.index.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        let headers = headers(node, call, echoed.as_ref()).map_err(Missed::NotSent)?;
        let url = node.url(call.path, call.query).map_err(Missed::NotSent)?;
        let request = match call.method {
            Method::Get => carrier.http.http.get(url),
            Method::Post => carrier.http.http.post(url),
        };
        let request = match &call.body {
            Some(body) => request.body(body.to_vec()),
            None => request,
        };
        let sent = request.headers(headers).timeout(time).send().await;
        let mut response = sent.map_err(|error| node.missed(&error, time))?;
        let status = response.status().as_u16();
        tracing::debug!(
            node = node.address,
            method = call.method.as_str(),
            path = call.path,
            status,
            "asked Vault"
        );
        if let Some(index) = response.headers().get("x-vault-index") {
            self.keep_index(echoed.as_ref(), index);
        }
        let date = response.headers().get(reqwest::header::DATE).and_then(|date| date.to_str().ok());
        let skew = Skew::of(date, sys::unix_time());
        self.tell_of_skew(skew);
        let retry_after = retry_after(response.headers());
        let redirect = redirect_origin(response.headers());
        let (limit, key) = match call.limit {
            Limit::Secret => (self.0.max_secret_size, "max-secret-size"),
            Limit::List => (self.0.max_list_size, "max-list-size"),
            Limit::Plain => (PLAIN_LIMIT, "what such an answer may be"),
        };
        let too_large = || {
            let reason = format!("the answer for {} is larger than {key}, {limit} bytes", call.path);
            Missed::Unusable(Failure::new(Fault::Unusable, reason))
        };
        let announced = response.content_length().unwrap_or(0);
        if announced > limit {
            return Err(too_large());
        }
        let announced = usize::try_from(announced).map_err(|_| too_large())?;
        let mut body = Zeroizing::new(Vec::with_capacity(announced));
        while let Some(chunk) = response.chunk().await.map_err(|error| node.missed(&error, time))? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            append(&mut body, &chunk);
        }
        Ok(Answer { status, retry_after, redirect, skew, body })
    }

    /// Tells once that the clocks are apart. Leases are measured, not dated, so nothing ends too early or too
    /// late; but others, such as who checks a JWT, compare dates.
    fn tell_of_skew(&self, skew: Skew) {
        if skew.apart() >= SKEW_TOLD && !self.0.skew_told.swap(true, Ordering::Relaxed) {
            let seconds = skew.apart();
            tracing::warn!(seconds, "the clocks of this host and of Vault are apart: set them by NTP");
        }
    }

    /// Takes over an index that is newer than the one that was echoed. If another answer was faster the
    /// index stays as it is: so it never goes back, although only the server can compare two of them.
    fn keep_index(&self, echoed: Option<&HeaderValue>, fresh: &HeaderValue) {
        let mut index = self.0.index.lock().unwrap_or_else(PoisonError::into_inner);
        if index.as_ref() == echoed {
            // A clone would share, and so keep, the buffer that the whole answer was read into.
            *index = HeaderValue::from_bytes(fresh.as_bytes()).ok();
        }
    }
}

impl Missed {
    fn into_failure(self) -> Failure {
        match self {
            Missed::NotSent(failure) | Missed::Cut(failure) | Missed::Unusable(failure) => failure,
        }
    }
}

impl Answer {
    /// 412 of Vault; 429 without a text of OpenBao (with one it is a quota).
    fn says_node_lags(&self) -> bool {
        match self.status {
            412 => true,
            429 => refusal::texts(&self.body).is_some_and(|texts| texts.is_empty()),
            _ => false,
        }
    }

    /// Sealed, not initialised, or a standby that forwards nothing; no request was carried out. Not so if a
    /// proxy says it: that may have lost the answer only.
    fn says_node_is_out(&self) -> bool {
        matches!(self.status, 472 | 473 | 501 | 503) && refusal::texts(&self.body).is_some()
    }

    /// A standby answers 307 and names the leader when it can't forward a request to it; while there is no
    /// leader, that is the one which was the last (Vault's concepts of high availability, "client
    /// redirection").
    pub(super) fn says_node_stands_by(&self) -> bool {
        self.status == 307 && self.redirect.is_some()
    }
}

fn headers(node: &node::Node, call: &Call<'_>, index: Option<&HeaderValue>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert("x-vault-request", HeaderValue::from_static("true"));
    if let Some(token) = call.token {
        let mut value = HeaderValue::from_bytes(token.secret().expose())
            .map_err(|_| Failure::new(Fault::Denied, "the token has characters that no token has"))?;
        value.set_sensitive(true);
        headers.insert("x-vault-token", value);
    }
    if let Some(namespace) = call.namespace {
        let value = HeaderValue::from_str(namespace).map_err(|_| {
            Failure::new(Fault::Refused, "the namespace has characters that no namespace has")
        })?;
        headers.insert("x-vault-namespace", value);
    }
    if let Some(index) = index {
        headers.insert("x-vault-index", index.clone());
    }
    if let Some(host) = &node.host {
        headers.insert(reqwest::header::HOST, host.clone());
    }
    if call.body.is_some() {
        headers.insert(reqwest::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Ok(headers)
}

/// Only whole seconds: Vault sends no dates.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse::<u64>().ok()?;
    Some(Duration::from_secs(seconds.min(RETRY_AFTER_MAX)))
}

fn redirect_origin(headers: &HeaderMap) -> Option<String> {
    let target = url::Url::parse(headers.get(reqwest::header::LOCATION)?.to_str().ok()?).ok()?;
    target.host_str()?;
    Some(target.origin().ascii_serialization())
}

/// Adds to a body. When it must move to grow, what it leaves behind is wiped.
fn append(body: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) {
    let needed = body.len() + chunk.len();
    if needed > body.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(2 * body.capacity())));
        larger.extend_from_slice(body);
        *body = larger;
    }
    body.extend_from_slice(chunk);
}

/// What kept a connection from being made, in words of the system or of the TLS library. Nothing has been
/// received from Vault by then, so no secret can be in it.
fn connection_trouble(error: &reqwest::Error) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    let mut trouble = String::from("no connection");
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return format!("TLS was refused ({tls})");
        }
        // `source` of an I/O error skips the very error that it wraps.
        let io = error.downcast_ref::<io::Error>();
        if let Some(io) = io {
            trouble = io.to_string();
        }
        let wrapped = io.and_then(io::Error::get_ref).map(|wrapped| wrapped as &(dyn Error + 'static));
        cause = wrapped.or_else(|| error.source());
    }
    trouble
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_grows_without_losing_bytes() {
        let mut body = Zeroizing::new(Vec::new());
        for chunk in [&b"ab"[..], b"", b"cdefgh", b"i"] {
            append(&mut body, chunk);
        }
        assert_eq!(body.as_slice(), b"abcdefghi");
    }

    #[test]
    fn retry_after_is_whole_seconds_and_bounded() {
        for (text, expected) in [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("999999", Some(3600)),
            ("Wed, 21 Oct 2026", None),
            ("-1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            assert_eq!(retry_after(&headers), expected.map(Duration::from_secs), "{text}");
        }
    }
}
