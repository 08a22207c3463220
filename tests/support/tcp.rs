//! A wire between leasefs and a server that a test can freeze, cut, slow down or garble, and that counts
//! connections.
//!
//! It carries bytes and knows nothing of what they mean, so TLS and a database's protocol pass as well as
//! HTTP. It lives in threads of its own: a test may block.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;

use super::server::{ReservedPort, reserved_port};

/// What becomes of bytes on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They pass.
    Open,
    /// They wait, in both directions, on old and new connections.
    Frozen,
    /// Connections break off, and new ones as soon as they are made.
    Cut,
    /// Answers come that much later.
    Slow(Duration),
    /// Answers come byte by byte, with that much time before each.
    Trickle(Duration),
    /// Half of an answer's body comes, then the connection is reset.
    Reset,
    /// Whoever asks is answered in a language that he does not speak; the server hears nothing.
    Garbage,
    /// Nobody listens: connections are refused, and those that there are break off.
    Refused,
}

/// What a server that speaks something else says.
const GARBAGE: &[u8] = b"\x15\x03\x03\x00\x02\x02\x50 SSH-2.0-OpenSSH_9.2\r\n\0\xff\xfe";

/// How long a change may take to be in force.
const PATIENCE: Duration = Duration::from_secs(10);

/// The wire: listens on a port of its own and passes everything on to the server. Ends when dropped.
pub struct Wire {
    address: String,
    shared: Arc<Shared>,
}

struct Shared {
    here: SocketAddr,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Bound and never listening: nobody else gets the port while it is refused.
    _port: ReservedPort,
}

struct Inner {
    state: State,
    server: String,
    connections: Vec<Weak<Connection>>,
    made: usize,
    most_at_once: usize,
    /// Nobody listens.
    closed: bool,
    over: bool,
}

/// Both ends of what is being carried; closed when nobody carries it any more.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// The client is to see no orderly end.
    reset: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Requests,
    Answers,
}

impl Wire {
    /// A wire to `server`: `http://HOST:PORT`, `https://HOST:PORT`, or without a scheme.
    pub fn to(server: &str) -> Wire {
        let (scheme, server) = match server.split_once("://") {
            Some((scheme, server)) => (format!("{scheme}://"), server),
            None => (String::new(), server),
        };
        let (here, port) = reserved_port();
        let shared = Arc::new(Shared {
            here,
            inner: Mutex::new(Inner {
                state: State::Open,
                server: server.to_owned(),
                connections: Vec::new(),
                made: 0,
                most_at_once: 0,
                closed: false,
                over: false,
            }),
            changed: Condvar::new(),
            _port: port,
        });
        let listener = TcpListener::bind(here).expect("the port is ours");
        let listening = Arc::clone(&shared);
        thread::spawn(move || listening.listen(listener));
        Wire { address: format!("{scheme}{here}"), shared }
    }

    /// Where it listens, with the scheme of the server's address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.shared.here.port()
    }

    /// Changes what becomes of the bytes; in force when it returns.
    pub fn set(&self, state: State) {
        let mut inner = self.shared.lock();
        inner.state = state;
        if matches!(state, State::Cut | State::Refused) {
            inner.break_connections();
        }
        drop(inner);
        self.shared.changed.notify_all();
        if state == State::Refused {
            self.shared.wake_listener();
        }
        let inner = self.shared.lock();
        let wrong = |inner: &mut Inner| inner.closed != (state == State::Refused);
        let wait = self.shared.changed.wait_timeout_while(inner, PATIENCE, wrong);
        let (_inner, waited) = wait.unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "the wire at {} is not yet {state:?}", self.address);
    }

    /// From now on new connections go to another server.
    pub fn lead_to(&self, server: &str) {
        let server = server.split_once("://").map_or(server, |(_, server)| server);
        self.shared.lock().server = server.to_owned();
    }

    /// How many connections were made so far; a refused one is none.
    pub fn connections(&self) -> usize {
        self.shared.lock().made
    }

    /// The most connections that there were at once.
    pub fn most_at_once(&self) -> usize {
        self.shared.lock().most_at_once
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.over = true;
        inner.break_connections();
        drop(inner);
        self.shared.changed.notify_all();
        self.shared.wake_listener();
    }
}

impl Inner {
    fn break_connections(&mut self) {
        for connection in self.connections.drain(..).filter_map(|one| one.upgrade()) {
            connection.end();
        }
    }
}

impl Connection {
    fn end(&self) {
        // The other side may have been faster.
        let _ = self.server.shutdown(Shutdown::Both);
        if !self.reset.load(Ordering::Relaxed) {
            let _ = self.client.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_listener(&self) {
        // Not there any more is as good.
        drop(TcpStream::connect(self.here));
    }

    fn listen(self: Arc<Shared>, mut listener: TcpListener) {
        loop {
            let Ok((client, _)) = listener.accept() else { continue };
            let mut inner = self.lock();
            if inner.state == State::Refused {
                drop((client, listener));
                inner.closed = true;
                self.changed.notify_all();
                let refuses = |inner: &mut Inner| !inner.over && inner.state == State::Refused;
                inner = self.changed.wait_while(inner, refuses).unwrap_or_else(PoisonError::into_inner);
                listener = TcpListener::bind(self.here).expect("the port is ours");
                inner.closed = false;
                self.changed.notify_all();
            } else if !inner.over {
                inner.made += 1;
                let (cut, server) = (inner.state == State::Cut, inner.server.clone());
                drop(inner);
                if !cut {
                    self.connect(client, &server);
                }
                continue;
            }
            if inner.over {
                return;
            }
        }
    }

    fn connect(self: &Arc<Shared>, client: TcpStream, server: &str) {
        let Ok(server) = TcpStream::connect(server) else { return };
        let connection = Arc::new(Connection { client, server, reset: AtomicBool::new(false) });
        let mut inner = self.lock();
        inner.connections.retain(|one| one.strong_count() > 0);
        inner.connections.push(Arc::downgrade(&connection));
        inner.most_at_once = inner.most_at_once.max(inner.connections.len());
        drop(inner);
        for direction in [Direction::Requests, Direction::Answers] {
            let (shared, connection) = (Arc::clone(self), Arc::clone(&connection));
            thread::spawn(move || shared.pass(&connection, direction));
        }
    }

    /// Carries the bytes of one direction until an end of the connection has ended.
    fn pass(&self, connection: &Connection, direction: Direction) {
        let (mut from, mut to) = match direction {
            Direction::Requests => (&connection.client, &connection.server),
            Direction::Answers => (&connection.server, &connection.client),
        };
        let mut chunk = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            let bytes = &chunk[..count];
            let state = self.state_after_frost();
            let passed = match (state, direction) {
                (State::Cut | State::Refused, _) => break,
                (State::Garbage, _) => {
                    // A client that has gone meanwhile misses nothing.
                    let _ = (&connection.client).write_all(GARBAGE);
                    break;
                }
                (State::Reset, Direction::Answers) => {
                    return reset_in(connection, bytes);
                }
                (State::Trickle(pause), Direction::Answers) => self.trickle(to, bytes, pause),
                (State::Slow(pause), Direction::Answers) => {
                    thread::sleep(pause);
                    to.write_all(bytes)
                }
                (_, Direction::Requests) | (State::Open | State::Frozen, _) => to.write_all(bytes),
            };
            if passed.is_err() {
                break;
            }
        }
        connection.end();
    }

    /// What is to become of bytes, once they may move.
    fn state_after_frost(&self) -> State {
        let frozen = |inner: &mut Inner| !inner.over && inner.state == State::Frozen;
        let inner = self.changed.wait_while(self.lock(), frozen).unwrap_or_else(PoisonError::into_inner);
        if inner.over { State::Cut } else { inner.state }
    }

    /// Passes byte by byte for as long as it is to be so, the rest at once.
    fn trickle(&self, mut to: &TcpStream, bytes: &[u8], pause: Duration) -> std::io::Result<()> {
        for (at, byte) in bytes.iter().enumerate() {
            let slow = |inner: &mut Inner| !inner.over && matches!(inner.state, State::Trickle(_));
            let wait = self.changed.wait_timeout_while(self.lock(), pause, slow);
            let (_inner, waited) = wait.unwrap_or_else(PoisonError::into_inner);
            if !waited.timed_out() {
                return to.write_all(&bytes[at..]);
            }
            to.write_all(&[*byte])?;
        }
        Ok(())
    }
}

/// Passes an answer up to the middle of its body; then its connection is reset. Without a body (or where
/// none can be seen), up to the middle.
fn reset_in(connection: &Connection, bytes: &[u8]) {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
    let half = head + (bytes.len() - head) / 2;
    let abrupt = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&connection.client, Linger, &abrupt).expect("a socket can be told to end abruptly");
    // A client that has gone meanwhile can't be reset.
    let _ = (&connection.client).write_all(&bytes[..half]);
    connection.reset.store(true, Ordering::Relaxed);
    let _ = connection.server.shutdown(Shutdown::Both);
    // Wakes whoever reads from the client and sends it nothing: closing is what resets it.
    let _ = connection.client.shutdown(Shutdown::Read);
}
