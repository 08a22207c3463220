//! An HTTP server that answers what it is told to, and remembers what it was asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What becomes of one request.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status line, headers and body, as they go over the wire.
    pub bytes: Vec<u8>,
    /// How long the stub thinks first.
    pub delay: Duration,
}

impl Reply {
    /// A whole answer.
    pub fn new(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut head = format!("HTTP/1.1 {status} Stub\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let bytes = [head.as_bytes(), b"Connection: close\r\n\r\n", body].concat();
        Reply { bytes, delay: Duration::ZERO }
    }

    /// A whole answer in JSON.
    pub fn json(status: u16, body: &str) -> Reply {
        Reply::new(status, &[("Content-Type", "application/json")], body.as_bytes())
    }

    /// A version of a KV v2 secret with the fields of this JSON object.
    pub fn kv2(fields: &str) -> Reply {
        let metadata =
            r#"{"created_time":"2026-01-02T03:04:05Z","deletion_time":"","destroyed":false,"version":1}"#;
        Reply::json(200, &format!(r#"{{"data":{{"data":{fields},"metadata":{metadata}}}}}"#))
    }

    /// The same, but only after a while.
    pub fn after(self, delay: Duration) -> Reply {
        Reply { delay, ..self }
    }
}

/// A running stub; ends when dropped.
pub struct Stub {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Stub {
    /// Answers each request by what `reply` makes of its first line, such as `GET /v1/sys/health HTTP/1.1`.
    pub async fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
        let address = format!("http://{}", listener.local_addr().expect("a listener has an address"));
        let (requests, reply) = (Arc::new(Mutex::new(Vec::new())), Arc::new(reply));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&reply), Arc::clone(&seen)));
            }
        });
        Stub { address, requests, task }
    }

    /// Answers as a Vault that has one KV v2 engine, at `kv/`, and takes any token. `kv` answers what is
    /// asked of the engine: `data/PATH` for a secret, `metadata/PATH?list=true` for a list.
    pub async fn kv2(kv: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Stub {
        Stub::start(move |line| {
            let path = line.split(' ').nth(1).unwrap_or_default().trim_start_matches("/v1/");
            match path.strip_prefix("kv/") {
                Some(inner) => kv(inner),
                None if path.starts_with("sys/internal/ui/mounts/") => {
                    Reply::json(200, r#"{"data":{"path":"kv/","type":"kv","options":{"version":"2"}}}"#)
                }
                None => Reply::json(200, r#"{"data":{"ttl":0,"expire_time":null,"policies":["root"]}}"#),
            }
        })
        .await
    }

    /// `http://HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Every request so far: its head, and its body if it came with it.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no test panicked with it").clone()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<F: Fn(&str) -> Reply>(mut stream: TcpStream, reply: Arc<F>, seen: Arc<Mutex<Vec<String>>>) {
    let mut request = Vec::new();
    while !is_whole(&request) {
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(count) => request.extend_from_slice(&chunk[..count]),
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let answer = reply(text.lines().next().unwrap_or_default());
    seen.lock().expect("no test panicked with it").push(text);
    tokio::time::sleep(answer.delay).await;
    // Whoever doesn't want the rest of a large answer closes; that is what some tests are about.
    drop(stream.write_all(&answer.bytes).await);
    drop(stream.shutdown().await);
}

/// Whether head and announced body are there.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let announced = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    body.len() >= announced.unwrap_or(0)
}
