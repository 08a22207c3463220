//! The log: to standard error, or from the background to the system's log, a line for each thing that an operator must know or act on.
//!
//! Invariant: *own words only*: whatever the level, nothing is printed that another crate says, since the
//! crates that carry requests and answers would say what is in them.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing_subscriber::filter::{EnvFilter, FilterExt, FilterFn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, registry};

use crate::cli::exit::CommandError;
use crate::cli::syslog::Syslog;

/// What is printed if nobody says.
pub(super) const DEFAULT: &str = "info";

/// The same for `run`, whose terminal is the command's.
pub(super) const OF_RUN: &str = "warn";

/// Where the log of a daemon in the background goes.
#[derive(Clone, Debug)]
pub(super) enum Destination {
    /// Standard error leads to the journal, as that of systemd's mount units does.
    Journal,
    /// The system's log.
    Syslog(Syslog),
    /// To whoever started it, while that one is there.
    StandardError,
}

/// Starts the log of a daemon, with the level that `LEASEFS_LOG` names.
///
/// # Errors
/// [`CommandError::Usage`]: it names none.
pub(super) fn start_daemon() -> Result<Destination, CommandError> {
    let level = std::env::var("LEASEFS_LOG").unwrap_or_else(|_| DEFAULT.to_owned());
    let destination = match Syslog::open() {
        _ if is_journal(&io::stderr()) => Destination::Journal,
        Some(syslog) => Destination::Syslog(syslog),
        None => Destination::StandardError,
    };
    match &destination {
        Destination::Journal | Destination::StandardError => start(&level)?,
        Destination::Syslog(syslog) => {
            let layer = tracing_subscriber::fmt::layer().with_writer(syslog.clone()).with_ansi(false);
            install(layer.with_target(false).without_time(), filter(&level)?);
        }
    }
    Ok(destination)
}

/// Starts the log. `filter` is a level, or directives such as `leasefs::driver=debug`.
///
/// # Errors
/// [`CommandError::Usage`]: the filter is none.
pub(super) fn start(filter: &str) -> Result<(), CommandError> {
    let filter = self::filter(filter)?;
    let stderr = io::stderr();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(stderr.is_terminal() && !plain)
        .with_target(false);
    let layer = match is_journal(&stderr) {
        // The journal writes down the time by itself.
        true => layer.without_time().boxed(),
        false => layer.boxed(),
    };
    install(layer, filter);
    Ok(())
}

fn filter(filter: &str) -> Result<EnvFilter, CommandError> {
    EnvFilter::builder().parse(filter).map_err(|_| {
        CommandError::Usage(format!(
            "--log-level {filter} is no level: write error, warn, info, debug or trace, or set LEASEFS_LOG to it"
        ))
    })
}

fn install(layer: impl Layer<Registry> + Send + Sync, filter: EnvFilter) {
    let own = FilterFn::new(|metadata| is_own(metadata.target()));
    // A second start, in a test, keeps the first one's log.
    let _ = registry().with(layer.with_filter(own.and(filter))).try_init();
}

fn is_own(target: &str) -> bool {
    target == "leasefs" || target.starts_with("leasefs::")
}

/// Whether a stream goes to the journal: `$JOURNAL_STREAM` names its device and inode (systemd.exec(5)). A
/// shell that a service started inherits the variable, but not the stream.
fn is_journal(stream: &impl AsFd) -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let found = stream.as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    found.is_ok_and(|found| named == format!("{}:{}", found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leasefs_itself_says_is_logged() {
        for (target, own) in [
            ("leasefs", true),
            ("leasefs::driver::report", true),
            ("leasefs_other", false),
            ("vaultrs", false),
            ("rustify", false),
            ("hyper_util::client", false),
            ("reqwest::connect", false),
            ("rustls::client", false),
        ] {
            assert_eq!(is_own(target), own, "{target}");
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_a_mistake_of_the_user() {
        let error = start("leasefs=loudly").unwrap_err();
        assert_eq!(error.exit(), crate::cli::exit::Exit::Usage);
        assert!(error.to_string().contains("debug"), "{error}");
    }
}
