//! Log lines for the system's log, as datagrams to `/dev/log` (syslog(3), RFC 3164): journald and every
//! syslog daemon listen there.
//!
//! Must never block: a log that takes nothing any more loses lines, and nobody waits for it.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Where the system's log is told.
const SOCKET: &str = "/dev/log";

/// The facility of daemons, 3, where it belongs in a priority.
const DAEMON: u8 = 3 << 3;

/// The system's log.
#[derive(Clone, Debug)]
pub(super) struct Syslog {
    socket: Arc<UnixDatagram>,
}

impl Syslog {
    /// Nothing if nobody listens.
    pub(super) fn open() -> Option<Syslog> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        // Tried, and not kept: whoever listens may be restarted.
        UnixDatagram::unbound().and_then(|trial| trial.connect(SOCKET)).ok()?;
        Some(Syslog { socket: Arc::new(socket) })
    }

    fn line(&self, level: Level) -> Line {
        Line { socket: Arc::clone(&self.socket), priority: priority(level) }
    }
}

impl MakeWriter<'_> for Syslog {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        self.line(Level::INFO)
    }

    fn make_writer_for(&self, metadata: &Metadata<'_>) -> Line {
        self.line(*metadata.level())
    }
}

/// Takes one line, which comes in one piece.
#[derive(Debug)]
pub(super) struct Line {
    socket: Arc<UnixDatagram>,
    priority: u8,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut message = format!("<{}>leasefs[{}]: ", self.priority, std::process::id()).into_bytes();
        message.extend_from_slice(line.trim_ascii());
        // Nothing can be done for a log that is not there.
        let _ = self.socket.send_to(&message, Path::new(SOCKET));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Facility and severity in one number.
fn priority(level: Level) -> u8 {
    let severity = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    };
    DAEMON | severity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_grave_it_is() {
        let priorities = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE].map(priority);
        assert_eq!(priorities, [27, 28, 30, 31, 31]);
    }
}
