//! `format = "pem-bundle"`: certificate, chain and key in one file, as PKI engines answer them.
//!
//! Exactly one newline between two of them and at the end, whatever stood around them.

use std::borrow::Cow;

use crate::render::RenderError;
use crate::render::format::PemPart;
use crate::render::json::{Json, Node, Object};

/// What every PEM text begins with (RFC 7468, section 2).
const BEGINS: &str = "-----BEGIN ";

/// The parts of an object, in their order.
///
/// # Errors
/// [`RenderError::NotAnObject`]; [`RenderError::NoSuchField`] without a certificate or a key that is wanted;
/// [`RenderError::NotPem`].
pub(super) fn bundle(json: Json<'_>, parts: &[PemPart]) -> Result<Vec<u8>, RenderError> {
    let object = json.object()?;
    let mut bundle = Vec::new();
    for part in parts {
        match part {
            PemPart::Certificate => add("certificate", required(&object, "certificate")?, &mut bundle)?,
            PemPart::Key => add("private_key", required(&object, "private_key")?, &mut bundle)?,
            PemPart::Chain => chain(&object, &mut bundle)?,
        }
    }
    Ok(bundle)
}

/// The authorities: those of `ca_chain`, else the one of `issuing_ca`. A certificate that its own key has signed
/// has none.
fn chain(object: &Object<'_>, bundle: &mut Vec<u8>) -> Result<(), RenderError> {
    let is_empty = |json: &Json<'_>| matches!(&json.compact()[..], b"null" | b"[]" | b"\"\"");
    let found = ["ca_chain", "issuing_ca"]
        .into_iter()
        .find_map(|name| object.get(name).filter(|json| !is_empty(json)).map(|json| (name, json)));
    let Some((name, json)) = found else { return Ok(()) };
    match json.node(name)? {
        Node::List(authorities) => authorities.into_iter().try_for_each(|one| add(name, one, bundle)),
        _ => add(name, json, bundle),
    }
}

fn required<'a>(object: &Object<'a>, name: &str) -> Result<Json<'a>, RenderError> {
    object.get(name).ok_or_else(|| RenderError::NoSuchField { field: name.to_owned() })
}

fn add(name: &str, json: Json<'_>, bundle: &mut Vec<u8>) -> Result<(), RenderError> {
    let text = match json.node(name)? {
        Node::Text(text) => text,
        _ => Cow::Borrowed(""),
    };
    let text = text.trim();
    if !text.starts_with(BEGINS) {
        return Err(RenderError::NotPem { field: name.to_owned() });
    }
    bundle.extend_from_slice(text.as_bytes());
    bundle.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use PemPart::{Certificate, Chain, Key};

    fn shown(text: &str, parts: &[PemPart]) -> Result<String, RenderError> {
        bundle(Json::parse(text.as_bytes())?, parts).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    fn pem(name: &str) -> String {
        format!("-----BEGIN {name}-----\nMII\n-----END {name}-----")
    }

    #[test]
    fn parts_come_in_the_order_asked_for_with_one_newline_between() {
        let text = serde_json::json!({
            "certificate": format!("{}\n\n", pem("CERTIFICATE")),
            "issuing_ca": pem("OTHER"),
            "ca_chain": [pem("NEAR"), format!("\r\n{}", pem("ROOT"))],
            "private_key": pem("PRIVATE KEY"),
        })
        .to_string();
        let joined = |names: &[&str]| names.iter().map(|name| pem(name) + "\n").collect::<String>();
        for (parts, names) in [
            (&[Certificate, Chain, Key][..], &["CERTIFICATE", "NEAR", "ROOT", "PRIVATE KEY"][..]),
            (&[Key, Certificate, Chain], &["PRIVATE KEY", "CERTIFICATE", "NEAR", "ROOT"]),
            (&[Certificate, Chain], &["CERTIFICATE", "NEAR", "ROOT"]),
            (&[Chain], &["NEAR", "ROOT"]),
        ] {
            assert_eq!(shown(&text, parts).unwrap(), joined(names), "{parts:?}");
        }
    }

    #[test]
    fn the_chain_is_the_issuer_if_there_is_no_other_and_may_be_missing() {
        let with = |chain: &str| shown(&format!(r#"{{"issuing_ca":"{BEGINS}A"{chain}}}"#), &[Chain]).unwrap();
        for chain in ["", r#","ca_chain":[]"#, r#","ca_chain":null"#, r#","ca_chain":"""#] {
            assert_eq!(with(chain), "-----BEGIN A\n", "{chain}");
        }
        assert_eq!(with(&format!(r#","ca_chain":"{BEGINS}B""#)), "-----BEGIN B\n");
        assert_eq!(shown("{}", &[Chain]).unwrap(), "");
    }

    #[test]
    fn what_is_missing_or_no_pem_is_named() {
        let missing = |field: &str| Err(RenderError::NoSuchField { field: field.to_owned() });
        assert_eq!(shown("{}", &[Certificate]), missing("certificate"));
        assert_eq!(shown("{}", &[Key]), missing("private_key"));
        for value in ["\"MIIhunter2\"", "\"\"", "1", "null", "[]"] {
            let error = shown(&format!(r#"{{"private_key":{value}}}"#), &[Key]).unwrap_err();
            assert_eq!(error, RenderError::NotPem { field: "private_key".to_owned() });
        }
        let in_chain = shown(r#"{"ca_chain":["x"]}"#, &[Chain]);
        assert_eq!(in_chain, Err(RenderError::NotPem { field: "ca_chain".to_owned() }));
    }
}
