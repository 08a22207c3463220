//! The address of a Vault node: scheme, host and port, nothing else; or a socket of this host. And that of a
//! proxy.

use url::{Host, Url};

/// An address that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// `http://HOST[:PORT]`, `https://HOST[:PORT]` or `unix:///PATH`.
    pub text: String,
    /// Whether tokens and secrets would cross a network in the clear.
    pub in_the_clear: bool,
}

/// Reads an address.
///
/// # Errors
/// What to write instead. The address itself is repeated only where no password can be in it.
pub(super) fn parse(text: &str) -> Result<Address, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        let advice = if is_host_and_port(text) {
            format!("\"https://{text}\"")
        } else {
            "\"https://HOST:8200\"".to_owned()
        };
        return Err(format!("has no scheme: write {advice}"));
    };
    if scheme == "unix" {
        return socket(rest);
    }
    if !matches!(scheme, "http" | "https") {
        return Err(format!(
            "has the unknown scheme {scheme:?}: write https:// (or http://) before the host"
        ));
    }
    let (origin, url) = origin(scheme, rest, text)?;
    let local = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    Ok(Address { text: origin, in_the_clear: scheme == "http" && !local })
}

/// Reads the address of a proxy.
///
/// # Errors
/// What to write instead, without the address itself: people write passwords into those.
pub(super) fn parse_proxy(text: &str) -> Result<String, String> {
    let Some(("http", rest)) = text.split_once("://") else {
        return Err("is no HTTP proxy: write \"http://HOST:PORT\"".to_owned());
    };
    let (origin, _) = origin("http", rest, text)
        .map_err(|_| "is more or less than a proxy's host and port: write \"http://HOST:PORT\"".to_owned())?;
    Ok(origin)
}

/// The socket of a `bao proxy` or `vault proxy` of this host.
fn socket(path: &str) -> Result<Address, String> {
    let plain = path.starts_with('/') && path.len() > 1 && !path.chars().any(char::is_control);
    if !plain {
        return Err("names no socket: write \"unix:///PATH\", three slashes and the whole path".to_owned());
    }
    Ok(Address { text: format!("unix://{path}"), in_the_clear: false })
}

/// Scheme, host and port, if there is nothing else.
fn origin(scheme: &str, rest: &str, text: &str) -> Result<(String, Url), String> {
    // A URL library forgives what follows; an operator had better see it.
    if rest.is_empty()
        || rest.starts_with(['/', '\\'])
        || rest.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        return Err(format!("names no host: write \"{scheme}://HOST:8200\""));
    }
    let url = Url::parse(text)
        .map_err(|error| format!("is no address ({error}): write \"{scheme}://HOST:8200\""))?;
    let origin = url.origin().ascii_serialization();
    if rest.split(['/', '?', '#']).next().unwrap_or_default().contains('@') {
        return Err(format!(
            "has a user name in it: write \"{origin}\" alone, and say under [identity] who logs in"
        ));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("has more than a host and a port in it: write \"{origin}\" alone"));
    }
    Ok((origin, url))
}

fn is_host_and_port(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_scheme_host_and_port() {
        for (text, read, in_the_clear) in [
            ("https://vault.internal:8200", "https://vault.internal:8200", false),
            ("https://vault.internal:8200/", "https://vault.internal:8200", false),
            ("https://Vault.Internal", "https://vault.internal", false),
            ("http://127.0.0.1:8200", "http://127.0.0.1:8200", false),
            ("http://127.8.0.1:8200", "http://127.8.0.1:8200", false),
            ("http://[::1]:8200", "http://[::1]:8200", false),
            ("http://localhost:8200", "http://localhost:8200", false),
            ("http://10.0.0.1:8200", "http://10.0.0.1:8200", true),
            ("http://localhost.example:8200", "http://localhost.example:8200", true),
            ("http://[2001:db8::1]:8200", "http://[2001:db8::1]:8200", true),
            ("unix:///run/bao proxy.sock", "unix:///run/bao proxy.sock", false),
        ] {
            assert_eq!(parse(text), Ok(Address { text: read.to_owned(), in_the_clear }), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_told_what_to_write() {
        for (text, fragment) in [
            ("vault.internal:8200", "write \"https://vault.internal:8200\""),
            ("127.0.0.1:8200", "write \"https://127.0.0.1:8200\""),
            ("me:marker@vault.internal", "write \"https://HOST:8200\""),
            ("ftp://vault.internal", "unknown scheme \"ftp\""),
            ("unix://run/vault.sock", "write \"unix:///PATH\""),
            ("unix:///", "names no socket"),
            ("HTTPS://vault.internal", "write https://"),
            ("https://", "names no host"),
            ("https:///vault.internal", "names no host"),
            ("https://va ult", "names no host"),
            ("https://vault.internal:99999", "invalid port number"),
            (
                "https://me:marker@vault.internal:8200",
                "write \"https://vault.internal:8200\" alone, and say under",
            ),
            ("https://@vault.internal:8200", "has a user name"),
            ("https://vault.internal:8200/v1", "write \"https://vault.internal:8200\" alone"),
            ("https://vault.internal:8200?x=1", "write \"https://vault.internal:8200\" alone"),
            ("https://vault.internal:8200/#x", "write \"https://vault.internal:8200\" alone"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(fragment), "{text}: {error}");
            assert!(!error.contains("marker"), "{error}");
        }
    }

    #[test]
    fn a_proxy_is_a_host_and_a_port_and_its_address_is_never_repeated() {
        assert_eq!(parse_proxy("http://proxy.internal:3128/").as_deref(), Ok("http://proxy.internal:3128"));
        for text in ["proxy:3128", "https://proxy:3128", "socks5://p:1", "http://me:marker@p:1", "http://p/x"]
        {
            let error = parse_proxy(text).unwrap_err();
            assert!(error.contains("write \"http://HOST:PORT\""), "{text}: {error}");
            assert!(!error.contains("marker"), "{error}");
        }
    }
}
