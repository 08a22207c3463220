//! The command's end of the control socket. It blocks: a command has nothing else to do.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::control::ControlDirectory;
use crate::control::protocol::{
    ANSWER_MAX, Ask, Refusal, Reply, Request, Response, StatusReport, VERSION, line,
};

/// How long an answer may take: a refresh waits for Vault, a revocation as well.
const PATIENCE: Duration = Duration::from_secs(90);

/// Why a daemon could not be asked, or did not do it. Each says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AskError {
    /// Nothing listens for that mount.
    #[error("no leasefs serves {}: see \"findmnt -t fuse.leasefs\" for what is mounted", mount_point.display())]
    NotServed {
        /// The mount point.
        mount_point: PathBuf,
    },
    /// Nothing listens at all.
    #[error("no leasefs is running for this user: start one with \"leasefs mount\", or ask as root")]
    NoMount,
    /// More than one listens, and none was named.
    #[error("several mounts are served, so name one of them: {}", shown(mount_points))]
    SeveralMounts {
        /// Their mount points.
        mount_points: Vec<PathBuf>,
    },
    /// The socket belongs to another user.
    #[error("the leasefs on {} belongs to another user: ask as that user or as root", mount_point.display())]
    NotAllowed {
        /// The mount point.
        mount_point: PathBuf,
    },
    /// The mount would end with its daemon.
    #[error("this mount has no keeper that would start the next server: unmount, then mount again")]
    NoSuccessor,
    /// The daemon gave no answer in time.
    #[error("leasefs did not answer in time: look at its log, or try again")]
    TimedOut,
    /// The daemon closed the connection.
    #[error("leasefs closed the connection before it had answered: look at its log")]
    Closed,
    /// The connection broke.
    #[error("the connection to leasefs broke: {trouble}: try again")]
    Broken {
        /// What the system said.
        trouble: String,
    },
    /// Its answer is none that this command knows.
    #[error("the running leasefs speaks another version of the protocol: restart it, or use its own command")]
    OtherVersion,
    /// The mount doesn't show such a file.
    #[error("{name} is not in the mount: \"leasefs status\" lists what is")]
    UnknownName {
        /// Which.
        name: String,
    },
}

/// A connection to the daemon of a mount.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    mount_point: PathBuf,
}

impl Client {
    /// Connects to the daemon of a mount; `mount_point` is absolute and without symlinks. Without one: to
    /// the only daemon there is.
    ///
    /// # Errors
    /// [`AskError::NotServed`], [`AskError::NoMount`], [`AskError::SeveralMounts`],
    /// [`AskError::NotAllowed`], [`AskError::Broken`].
    pub fn connect(mount_point: Option<&Path>) -> Result<Client, AskError> {
        Client::connect_in(&ControlDirectory::usual(), mount_point)
    }

    /// As [`Client::connect`], with the sockets in these directories.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_in(
        directories: &[ControlDirectory],
        mount_point: Option<&Path>,
    ) -> Result<Client, AskError> {
        match mount_point {
            Some(mount_point) => {
                for directory in directories {
                    let Ok(socket) = directory.socket(mount_point) else { continue };
                    if let Some(client) = Client::open(&socket, mount_point)? {
                        return Ok(client);
                    }
                }
                Err(AskError::NotServed { mount_point: mount_point.to_owned() })
            }
            None => Client::only(directories),
        }
    }

    /// The only daemon that answers.
    fn only(directories: &[ControlDirectory]) -> Result<Client, AskError> {
        let mut clients = Vec::new();
        let mut denied = None;
        for (socket, mount_point) in directories.iter().flat_map(ControlDirectory::sockets) {
            let known = mount_point.as_deref().unwrap_or(&socket);
            match Client::open(&socket, known) {
                Ok(Some(mut client)) => {
                    if mount_point.is_none()
                        && let Ok(status) = client.status()
                    {
                        client.mount_point = PathBuf::from(status.mount_point);
                    }
                    clients.push(client);
                }
                Ok(None) => {}
                Err(error) => denied = Some(error),
            }
        }
        match (clients.pop(), denied) {
            (Some(client), _) if clients.is_empty() => Ok(client),
            (Some(client), _) => {
                clients.push(client);
                let mut mount_points: Vec<PathBuf> =
                    clients.into_iter().map(|client| client.mount_point).collect();
                mount_points.sort();
                Err(AskError::SeveralMounts { mount_points })
            }
            (None, Some(error)) => Err(error),
            (None, None) => Err(AskError::NoMount),
        }
    }

    /// Opens a socket; `None` if nobody listens at it.
    fn open(socket: &Path, mount_point: &Path) -> Result<Option<Client>, AskError> {
        let stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(error) => {
                return match error.kind() {
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => Ok(None),
                    ErrorKind::PermissionDenied => {
                        Err(AskError::NotAllowed { mount_point: mount_point.to_owned() })
                    }
                    _ => Err(AskError::Broken { trouble: error.to_string() }),
                };
            }
        };
        let bounded =
            stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        bounded.map_err(|error| AskError::Broken { trouble: error.to_string() })?;
        Ok(Some(Client { stream: BufReader::new(stream), mount_point: mount_point.to_owned() }))
    }

    /// Waits no longer than that for each answer from now on.
    ///
    /// # Errors
    /// [`AskError::Broken`].
    pub fn be_patient(&mut self, patience: Duration) -> Result<(), AskError> {
        let bounded = self.stream.get_ref().set_read_timeout(Some(patience));
        bounded.map_err(|error| AskError::Broken { trouble: error.to_string() })
    }

    /// The mount that it is connected to.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// How everything stands.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn status(&mut self) -> Result<StatusReport, AskError> {
        match self.ask(Ask::Status)? {
            Reply::Status(report) => Ok(*report),
            _ => Err(AskError::OtherVersion),
        }
    }

    /// Asks, and waits for the answer, which is none of [`Reply::Refused`].
    ///
    /// # Errors
    /// All of [`AskError`] but those of [`Client::connect`].
    pub fn ask(&mut self, ask: Ask) -> Result<Reply, AskError> {
        let request = line(&Request { v: VERSION, ask });
        let broken = |error: std::io::Error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => AskError::TimedOut,
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => AskError::Closed,
            _ => AskError::Broken { trouble: error.to_string() },
        };
        // One that was refused for its user finds the connection closed, with the reason still to be read.
        let sent = self.stream.get_mut().write_all(&request).map_err(broken);
        let mut answer = Vec::new();
        let read = (&mut self.stream).take(ANSWER_MAX as u64).read_until(b'\n', &mut answer);
        if answer.is_empty() {
            sent?;
        }
        read.map_err(broken)?;
        if !answer.ends_with(b"\n") {
            return Err(AskError::Closed);
        }
        let response: Response = serde_json::from_slice(&answer).map_err(|_| AskError::OtherVersion)?;
        match response.reply {
            Reply::Refused(Refusal::NotAllowed { .. }) => {
                Err(AskError::NotAllowed { mount_point: self.mount_point.clone() })
            }
            Reply::Refused(Refusal::UnknownName { name }) => Err(AskError::UnknownName { name }),
            Reply::Refused(Refusal::NoSuccessor) => Err(AskError::NoSuccessor),
            Reply::Refused(Refusal::NotUnderstood | Refusal::OtherVersion { .. }) => {
                Err(AskError::OtherVersion)
            }
            reply => Ok(reply),
        }
    }
}

fn shown(mount_points: &[PathBuf]) -> String {
    let shown: Vec<String> = mount_points.iter().map(|path| path.display().to_string()).collect();
    shown.join(", ")
}
