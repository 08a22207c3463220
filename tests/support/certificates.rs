//! Authorities and certificates of theirs, made by the PKI engine of an OpenBao.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::bao::Bao;

/// Enables a PKI engine at `mount` with an authority whose certificate is in `FILE.crt` of the directory.
pub async fn make_authority(bao: &Bao, mount: &str, directory: &Path, file: &str) {
    bao.enable(mount, "pki", json!({})).await;
    let root = json!({"common_name": format!("{file} of a test"), "ttl": "24h"});
    let root = bao.write(&format!("{mount}/root/generate/internal"), root).await;
    fs::write(directory.join(format!("{file}.crt")), text(&root, "certificate"))
        .expect("a file can be written");
    let role = json!({"allow_any_name": true, "enforce_hostnames": false, "max_ttl": "12h"});
    bao.write(&format!("{mount}/roles/server"), role).await;
}

/// Has the authority at `mount` sign a certificate, `FILE.crt` with its `FILE.key`; `wanted` as in `pki/issue/ROLE`.
pub async fn make_certificate(bao: &Bao, mount: &str, wanted: Value, directory: &Path, file: &str) {
    let made = bao.write(&format!("{mount}/issue/server"), wanted).await;
    for (kind, field) in [("crt", "certificate"), ("key", "private_key")] {
        fs::write(directory.join(format!("{file}.{kind}")), text(&made, field))
            .expect("a file can be written");
    }
}

/// A listener of OpenBao's configuration with such a certificate.
pub fn listener(address: &str, directory: &Path, file: &str) -> String {
    let path = |kind: &str| directory.join(format!("{file}.{kind}"));
    format!(
        "listener \"tcp\" {{\n  address = \"{address}\"\n  tls_cert_file = \"{}\"\n  tls_key_file = \"{}\"\n}}\n",
        path("crt").display(),
        path("key").display()
    )
}

fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer["data"][field].as_str().unwrap_or_else(|| panic!("no {field} in {answer}"))
}
