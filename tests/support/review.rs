//! The API server of a Kubernetes cluster, as far as Vault asks it: who is the token in this TokenReview? Over
//! HTTPS, with a certificate of a CA that the test made.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};
use serde_json::{Value, json};

/// A running one. It ends with the test's process.
pub struct Review {
    address: SocketAddr,
}

impl Review {
    /// Starts it; it knows `token` as this service account of this namespace, and no other one.
    pub fn start(certificate: &str, key: &str, token: &str, namespace: &str, account: &str) -> Review {
        drop(rustls::crypto::ring::default_provider().install_default());
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
        let config = Arc::new(config.expect("they belong together"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let user = format!("system:serviceaccount:{namespace}:{account}");
        let token = token.to_owned();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, token, user) = (Arc::clone(&config), token.clone(), user.clone());
                // A connection that breaks is Vault's business.
                thread::spawn(move || drop(serve(stream, config, &token, &user)));
            }
        });
        Review { address }
    }

    /// `https://127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("https://{}", self.address)
    }
}

fn serve(mut tcp: TcpStream, config: Arc<ServerConfig>, token: &str, user: &str) -> std::io::Result<()> {
    let mut connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = Stream::new(&mut connection, &mut tcp);
    let mut request = Vec::new();
    let body = loop {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk)?;
        request.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&request);
        let asked =
            text.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str::<Value>(body).ok());
        match asked {
            Some(asked) => break asked,
            None if count == 0 => return Ok(()),
            None => {}
        }
    };
    let status = match body["spec"]["token"].as_str() {
        Some(shown) if shown == token => {
            let audiences = &body["spec"]["audiences"];
            json!({"authenticated": true, "audiences": audiences, "user": {"username": user, "uid": "uid-1", "groups": []}})
        }
        _ => json!({"authenticated": false, "error": "invalid bearer token"}),
    };
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status});
    let review = review.to_string();
    let head = format!(
        "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        review.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(review.as_bytes())?;
    connection.send_close_notify();
    connection.complete_io(&mut tcp).map(drop)
}
