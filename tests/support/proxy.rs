//! Between leasefs and a server: counts the requests, and on demand lets the wire misbehave.
//!
//! It speaks plain HTTP and lets each connection carry one request, so that nothing passes uncounted. It
//! lives in threads of its own: a test may block.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What the wire does to requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Each request arrives that much later.
    Delay(Duration),
    /// Nothing moves in either direction until it ends; then all of it goes on.
    Freeze,
    /// The connection breaks after the request was sent and before the server has seen it.
    Cut,
    /// The server does what it is asked, and the connection breaks before its answer.
    LoseAnswers,
    /// Nobody listens: a connection is refused. Those that there are break.
    Refuse,
}

/// A running proxy; ends when dropped.
pub struct Proxy {
    address: SocketAddr,
    wire: Arc<Wire>,
    listening: Option<JoinHandle<()>>,
}

/// How long a change may take to be in force.
const PATIENCE: Duration = Duration::from_secs(10);

impl Proxy {
    /// A proxy before the server at `http://HOST:PORT`.
    pub fn start(server: &str) -> Proxy {
        let server = server.strip_prefix("http://").expect("the proxy speaks plain HTTP");
        let server = server.parse().expect("a server is named by address and port");
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let wire = Arc::new(Wire { server, state: Mutex::default(), changed: Condvar::new() });
        let listening = {
            let wire = Arc::clone(&wire);
            thread::spawn(move || wire.listen(listener, address))
        };
        Proxy { address, wire, listening: Some(listening) }
    }

    /// `http://HOST:PORT`.
    pub fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far, such as `GET /v1/sys/health`, in order of arrival; also those that went
    /// no further.
    pub fn requests(&self) -> Vec<String> {
        self.wire.state().requests.clone()
    }

    /// How many requests so far have `fragment` in them; with an empty one: all.
    pub fn count(&self, fragment: &str) -> usize {
        self.wire.state().requests.iter().filter(|request| request.contains(fragment)).count()
    }

    /// From now on all requests are in trouble.
    pub fn trouble(&self, trouble: Trouble) {
        self.trouble_for("", trouble);
    }

    /// From now on the requests with `fragment` in them are in trouble, and no others. Nobody can be
    /// refused before he has said what he wants: that is always for all.
    pub fn trouble_for(&self, fragment: &str, trouble: Trouble) {
        self.set(Some((fragment.to_owned(), trouble)));
    }

    /// Ends all trouble.
    pub fn recover(&self) {
        self.set(None);
    }

    fn set(&self, trouble: Option<(String, Trouble)>) {
        let refuse = matches!(trouble, Some((_, Trouble::Refuse)));
        {
            let mut state = self.wire.state();
            state.trouble = trouble;
            if refuse {
                state.break_connections();
            }
        }
        self.wire.changed.notify_all();
        if refuse {
            self.wake_listener();
        }
        let state = self.wire.state();
        let wait = self.wire.changed.wait_timeout_while(state, PATIENCE, |state| state.closed != refuse);
        let (_state, waited) = wait.unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "the proxy can't listen on {} again", self.address);
    }

    fn wake_listener(&self) {
        // Not there any more is as good.
        drop(TcpStream::connect(self.address));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.wire.state();
            state.over = true;
            state.break_connections();
        }
        self.wire.changed.notify_all();
        self.wake_listener();
        if let Some(listening) = self.listening.take() {
            // Its panic was printed already.
            drop(listening.join());
        }
    }
}

struct Wire {
    server: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What, and for requests with what in them.
    trouble: Option<(String, Trouble)>,
    requests: Vec<String>,
    /// Both ends of what is being carried.
    connections: HashMap<u64, Vec<TcpStream>>,
    last_id: u64,
    /// Nobody listens.
    closed: bool,
    over: bool,
}

impl State {
    fn trouble_of(&self, request: &str) -> Option<Trouble> {
        let (fragment, trouble) = self.trouble.as_ref()?;
        request.contains(fragment.as_str()).then_some(*trouble)
    }

    fn break_connections(&mut self) {
        for end in self.connections.drain().flat_map(|(_, ends)| ends) {
            // It may have ended by itself.
            drop(end.shutdown(Shutdown::Both));
        }
    }
}

impl Wire {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(self: Arc<Wire>, mut listener: TcpListener, address: SocketAddr) {
        loop {
            let Ok((client, _)) = listener.accept() else { continue };
            let mut state = self.state();
            if state.over {
                return;
            }
            if matches!(state.trouble, Some((_, Trouble::Refuse))) {
                drop((client, listener));
                state.closed = true;
                self.changed.notify_all();
                let refuses =
                    |state: &mut State| !state.over && matches!(state.trouble, Some((_, Trouble::Refuse)));
                let state = self.changed.wait_while(state, refuses);
                let mut state = state.unwrap_or_else(PoisonError::into_inner);
                if state.over {
                    return;
                }
                listener = listen_again(address);
                state.closed = false;
                self.changed.notify_all();
                continue;
            }
            state.last_id += 1;
            let id = state.last_id;
            state.connections.insert(id, client.try_clone().into_iter().collect());
            drop(state);
            let wire = Arc::clone(&self);
            thread::spawn(move || {
                // A broken connection is what the client sees; nobody else needs to know.
                drop(wire.carry(id, client));
                wire.state().connections.remove(&id);
            });
        }
    }

    fn carry(&self, id: u64, mut client: TcpStream) -> io::Result<()> {
        let request = Request::read(&mut client)?;
        self.state().requests.push(request.line.clone());
        let trouble = match self.pass(&request.line) {
            Some(Trouble::Cut | Trouble::Refuse) => return client.shutdown(Shutdown::Both),
            Some(Trouble::Delay(delay)) => {
                thread::sleep(delay);
                None
            }
            trouble => trouble,
        };
        let mut server = TcpStream::connect(self.server)?;
        if let Some(ends) = self.state().connections.get_mut(&id) {
            ends.extend(server.try_clone());
        }
        server.write_all(&request.bytes)?;
        let mut chunk = vec![0; 1 << 16];
        loop {
            let count = server.read(&mut chunk)?;
            self.pass(&request.line);
            if count == 0 || trouble == Some(Trouble::LoseAnswers) {
                return client.shutdown(Shutdown::Both);
            }
            client.write_all(&chunk[..count])?;
        }
    }

    /// Waits while this request is frozen; returns what else is to become of it.
    fn pass(&self, request: &str) -> Option<Trouble> {
        let frozen = |state: &mut State| !state.over && state.trouble_of(request) == Some(Trouble::Freeze);
        let state = self.changed.wait_while(self.state(), frozen);
        state.unwrap_or_else(PoisonError::into_inner).trouble_of(request)
    }
}

/// The port is free but for connections that are about to end.
fn listen_again(address: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

struct Request {
    /// Method and path with query.
    line: String,
    /// All of it, asking the server to close the connection after its answer.
    bytes: Vec<u8>,
}

impl Request {
    fn read(client: &mut TcpStream) -> io::Result<Request> {
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        let (head, end) = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
                if bytes.len() >= end + 4 + body_length(&head) {
                    break (head, end);
                }
            }
            match client.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => bytes.extend_from_slice(&chunk[..count]),
            }
        };
        let line = head.lines().next().unwrap_or_default();
        let line = line.strip_suffix(" HTTP/1.1").unwrap_or(line).to_owned();
        let kept = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
        let head = kept.chain(["Connection: close"]).collect::<Vec<_>>().join("\r\n");
        let bytes = [head.as_bytes(), &bytes[end..]].concat();
        Ok(Request { line, bytes })
    }
}

fn body_length(head: &str) -> usize {
    let announced = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
    });
    announced.unwrap_or(0)
}
