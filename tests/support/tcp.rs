//! A wire between leasefs and a server that a test can freeze, cut or slow down.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

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
}

/// The wire: listens on a port of its own and passes everything on to the server.
pub struct Wire {
    address: String,
    shared: Arc<Shared>,
}

struct Shared {
    server: String,
    state: Mutex<State>,
    changed: Condvar,
    streams: Mutex<Vec<TcpStream>>,
}

impl Wire {
    /// A wire to `server`, `http://HOST:PORT`.
    pub fn to(server: &str) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
        let address = format!("http://{}", listener.local_addr().expect("a listener has an address"));
        let shared = Arc::new(Shared {
            server: server.trim_start_matches("http://").to_owned(),
            state: Mutex::new(State::Open),
            changed: Condvar::new(),
            streams: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        // It ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                accepting.connect(stream);
            }
        });
        Wire { address, shared }
    }

    /// `http://HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Changes what becomes of the bytes.
    pub fn set(&self, state: State) {
        *self.shared.state.lock().expect("no thread panicked with it") = state;
        self.shared.changed.notify_all();
        if state == State::Cut {
            for stream in self.shared.streams.lock().expect("no thread panicked with it").drain(..) {
                // The other side may have been faster.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Shared {
    fn connect(self: &Arc<Self>, client: TcpStream) {
        if *self.state.lock().expect("no thread panicked with it") == State::Cut {
            return;
        }
        let Ok(server) = TcpStream::connect(&self.server) else { return };
        let copy = |stream: &TcpStream| stream.try_clone().expect("a socket can be shared");
        let mut streams = self.streams.lock().expect("no thread panicked with it");
        streams.extend([copy(&client), copy(&server)]);
        drop(streams);
        for (from, to, answers) in [(copy(&client), copy(&server), false), (server, client, true)] {
            let shared = Arc::clone(self);
            thread::spawn(move || shared.pass(from, to, answers));
        }
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, answers: bool) {
        let mut chunk = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            let mut state = self.state.lock().expect("no thread panicked with it");
            while *state == State::Frozen {
                state = self.changed.wait(state).expect("no thread panicked with it");
            }
            let state = *state;
            match state {
                State::Cut => break,
                State::Slow(pause) if answers => thread::sleep(pause),
                State::Slow(_) | State::Open | State::Frozen => {}
            }
            if to.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}
