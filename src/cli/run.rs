//! `leasefs run`: its arguments, what they mean together, and what is said while the command runs.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::time::Duration;

use clap::Args;

use crate::cli::exit::{CommandError, Exit};
use crate::cli::output::clean;
use crate::cli::say;
use crate::cli::wait::Progress;
use crate::config::plan::MountPlan;
use crate::config::{self, COMMAND_LINE, Environment, ExtraFile};
use crate::control::LockStore;
use crate::daemon::{self, CommandMount, DaemonError};
use crate::fuse::mount_point::MountError;
use crate::link::ServerEnd;
use crate::run::environment::{self, Credentials, PathVariable};
use crate::run::namespace::{self, Namespace};
use crate::run::place::Place;
use crate::run::scene::{Bind, Scene};
use crate::run::supervisor::{Ending, Leftovers, Loss, StartError, Supervisor};
use crate::run::words::{Missing, Word};
use crate::sys;

/// Runs a command that has a tree of its own.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  leasefs run --config ./agent.toml -- ./agent            the tree is in $LEASEFS_DIR
  leasefs run --file db=database/creds/reports -- sh -c 'cat \"$LEASEFS_DIR/db\"'
  leasefs run --file key=secret/tls#key --env TLS_KEY=key -- ./server
  leasefs run --file pgpass=secret/db#pgpass --bind pgpass=/home/me/.pgpass -- psql

Nobody but the command and what it starts sees the tree. When the last of them has ended, every
lease is revoked, and \"leasefs run\" ends with the command's exit code.")]
pub struct RunArgs {
    /// The configuration file; without one, --file alone says what is shown
    #[arg(long, value_name = "CONFIG")]
    pub config: Option<PathBuf>,
    /// A file to show besides, fetched before the command starts
    #[arg(long = "file", value_name = "NAME=SECRET[#FIELD]", value_parser = pair)]
    pub files: Vec<(String, String)>,
    /// An empty directory to show the tree in; default a fresh one
    #[arg(long, value_name = "DIR")]
    pub at: Option<PathBuf>,
    /// Shows a file of the tree over a file that exists
    #[arg(long = "bind", value_name = "NAME=PATH", value_parser = pair)]
    pub binds: Vec<(String, String)>,
    /// Sets a variable to the path of a file of the tree
    #[arg(long = "env", value_name = "VAR=NAME", value_parser = pair)]
    pub variables: Vec<(String, String)>,
    /// How long to wait for what is required before the command starts
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Ends what the command leaves running, instead of waiting for it
    #[arg(long)]
    pub kill_children: bool,
    /// Leaves $VAULT_TOKEN and the like, and ~/.vault-token, to the command
    #[arg(long)]
    pub keep_vault_env: bool,
    /// What to run, with its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `LEFT=RIGHT`, neither of them empty.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => {
            Ok((left.to_owned(), right.to_owned()))
        }
        Some(_) => Err("something is missing beside the \"=\"".to_owned()),
        None => Err("there is no \"=\" in it".to_owned()),
    }
}

/// What the arguments mean.
#[derive(Debug)]
struct Request {
    plan: MountPlan,
    config: PathBuf,
    binds: Vec<Bind>,
    variables: Vec<PathVariable>,
    hidden: Vec<PathBuf>,
    credentials: Credentials,
    leftovers: Leftovers,
}

impl RunArgs {
    fn request(&self, environment: &Environment) -> Result<Request, CommandError> {
        if self.config.is_none() && self.files.is_empty() {
            return Err(usage("there is nothing to show: write --config CONFIG or --file NAME=SECRET"));
        }
        no_doubles("--file", self.files.iter().map(|(name, _)| name))?;
        no_doubles("--env", self.variables.iter().map(|(variable, _)| variable))?;
        let files: Vec<ExtraFile> = self.files.iter().cloned().map(extra_file).collect();
        let plan = config::load_with(self.config.as_deref(), &files, environment)?;
        let variables: Vec<PathVariable> =
            self.variables.iter().cloned().map(|(variable, name)| PathVariable { variable, name }).collect();
        for PathVariable { variable, name } in &variables {
            known(&plan, name, &format!("--env {variable}={name}"))?;
        }
        let mut binds = Vec::with_capacity(self.binds.len());
        for (name, path) in &self.binds {
            let argument = format!("--bind {name}={path}");
            known(&plan, name, &argument)?;
            let at = Path::new(path).canonicalize().map_err(|error| {
                usage(format!("{argument}: {path}: {error}: only over what exists can a file be shown"))
            })?;
            binds.push(Bind { name: name.clone(), at });
        }
        no_doubles("--bind", binds.iter().map(|bind| bind.at.display().to_string()))?;
        let credentials = match self.keep_vault_env {
            true => Credentials::Kept,
            false => Credentials::Withheld,
        };
        let token = environment.home.as_ref().map(|home| home.join(".vault-token"));
        let hidden = match credentials {
            Credentials::Withheld => token.into_iter().filter(|token| token.is_file()).collect(),
            Credentials::Kept => Vec::new(),
        };
        let config = self.config.clone().unwrap_or_else(|| COMMAND_LINE.into());
        let config = config.canonicalize().unwrap_or(config);
        let leftovers = if self.kill_children { Leftovers::Killed } else { Leftovers::Awaited };
        Ok(Request { plan, config, binds, variables, hidden, credentials, leftovers })
    }

    fn place(&self) -> Result<Place, CommandError> {
        match &self.at {
            // Whether it will do, is found out when it is mounted on.
            Some(path) => Ok(Place::Given(std::path::absolute(path).map_err(CommandError::NoPlace)?)),
            None => Place::fresh().map_err(CommandError::NoPlace),
        }
    }
}

fn extra_file((name, secret): (String, String)) -> ExtraFile {
    ExtraFile { name, secret }
}

fn usage(message: impl Into<String>) -> CommandError {
    CommandError::Usage(message.into())
}

fn no_doubles<T: AsRef<str>>(flag: &str, names: impl Iterator<Item = T>) -> Result<(), CommandError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name.as_ref().to_owned()) {
            return Err(usage(format!("{flag} names {} twice: keep one of the two", name.as_ref())));
        }
    }
    Ok(())
}

fn known(plan: &MountPlan, name: &str, argument: &str) -> Result<(), CommandError> {
    if plan.may_show(name) {
        return Ok(());
    }
    let names = plan.names().join(", ");
    Err(usage(format!("{argument}: there is no {name} in the tree: it has {names}")))
}

/// Runs the command, and ends with its exit code.
///
/// # Errors
/// [`CommandError`]: it was not started.
pub fn run(args: &RunArgs) -> Result<ExitCode, CommandError> {
    // The owner of a file can't be told any more in a namespace of users.
    let request = args.request(&Environment::from_process())?;
    for warning in &request.plan.warnings {
        tracing::warn!("{warning}");
    }
    let place = args.place()?;
    if namespace::enter()? == Namespace::Users {
        let (uid, gid) = sys::effective_ids();
        if let Some(name) = request.plan.belongs_to_others(uid, gid) {
            let name = if name.is_empty() { "the tree itself".to_owned() } else { format!("{name:?}") };
            return Err(CommandError::ForeignOwner { name });
        }
    }
    let mut supervisor = Supervisor::start(|link| serve(&request, &place, link))?;
    let ended = supervise(&mut supervisor, args, &request, &place);
    if let Some(trouble) = supervisor.finish() {
        // An end before the start has been told already, and is the more important news.
        if ended.is_ok() {
            say(trouble);
        }
    }
    match ended {
        Ok(Ending { loss: Some(Loss::Died), .. }) => Ok(Exit::Internal.into()),
        Ok(Ending { loss: Some(Loss::Unmounted), .. }) => Ok(Exit::Unavailable.into()),
        Ok(Ending { code, loss: None }) => Ok(ExitCode::from(code)),
        Err(CommandError::Start(StartError::Interrupted { signal })) => {
            Ok(ExitCode::from(u8::try_from(128 + signal.0).unwrap_or(u8::MAX)))
        }
        Err(error) => Err(error),
    }
}

/// In the server's process: serves until the supervisor is done.
fn serve(request: &Request, place: &Place, link: ServerEnd<Word>) -> u8 {
    let Ok(mut last_words) = link.again() else { return Exit::System as u8 };
    let mount = CommandMount {
        plan: request.plan.clone(),
        config: request.config.clone(),
        mount_point: place.path().to_owned(),
        locks: match place {
            Place::Given(path) => LockStore::usual(path),
            Place::Fresh(path) => LockStore::for_once(path),
        },
    };
    let (exit, word) = match daemon::serve_command(mount, link) {
        Ok(()) => (Exit::Ok, Word::Ended),
        Err(error) => {
            let message = match &error {
                DaemonError::Mount(MountError::NotPermitted) => {
                    "this kernel, or a security module, does not let FUSE be mounted in a user namespace: run \
                     as root"
                        .to_owned()
                }
                error => error.to_string(),
            };
            let exit = CommandError::from(error).exit();
            (exit, Word::Failed { code: exit as u8, message })
        }
    };
    // The supervisor does the same, unless it was killed.
    place.remove();
    last_words.say(&word);
    exit as u8
}

/// In the supervisor's process: starts the command once everything is there, and waits for its end.
fn supervise(
    supervisor: &mut Supervisor,
    args: &RunArgs,
    request: &Request,
    place: &Place,
) -> Result<Ending, CommandError> {
    let began = sys::boot_time();
    let mut progress = Progress::start(began);
    supervisor.await_ready(args.timeout, |missing| progress.show(sys::boot_time(), &in_short(missing)))?;
    drop(progress);
    let tree = place.path();
    let _scene = Scene::set(tree, &request.binds, &request.hidden)?;
    let command = start(supervisor, args, request, tree)?;
    let ending = supervisor.watch(&command, request.leftovers, |loss| say(of_loss(loss)))?;
    Ok(ending)
}

fn start(
    supervisor: &mut Supervisor,
    args: &RunArgs,
    request: &Request,
    tree: &Path,
) -> Result<Child, CommandError> {
    let (program, arguments) =
        args.command.split_first().ok_or_else(|| usage("there is no command: write -- COMMAND"))?;
    let mut command = std::process::Command::new(program);
    command.args(arguments);
    for (variable, value) in environment::changes(tree, &request.variables, request.credentials) {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
    supervisor
        .spawn(&mut command)
        .map_err(|error| CommandError::NotExecuted { command: program.clone(), error })
}

/// One line for a terminal.
fn in_short(missing: &[Missing]) -> String {
    let Some(first) = missing.first() else { return "the tree".to_owned() };
    let why = first.why.as_deref().unwrap_or("not fetched yet");
    let more = match missing.len() {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    clean(&format!("{}: {why}{more}", first.name))
}

fn of_loss(loss: Loss) -> &'static str {
    match loss {
        Loss::Died => {
            "the process that serves the tree has died, so the command is ended: what it had obtained lives \
             on in Vault until its ttl is over"
        }
        Loss::Unmounted => "the tree was taken away, so the command is ended",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(line: &[&str]) -> Result<RunArgs, String> {
        let words = ["leasefs", "run"].iter().chain(line);
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Run(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    fn environment() -> Environment {
        Environment::fixed(1000, 1000).with_variables([("VAULT_TOKEN", "hvs.marker")])
    }

    fn request(line: &[&str]) -> Result<Request, String> {
        args(line)?.request(&environment()).map_err(|error| {
            assert!([Exit::Usage, Exit::Config].contains(&error.exit()), "{error}");
            error.to_string()
        })
    }

    #[test]
    fn everything_after_two_dashes_is_the_command() {
        let args = args(&["--file", "db=a/b", "--", "psql", "--file", "x", "--"]).unwrap();
        assert_eq!(args.command, ["psql", "--file", "x", "--"]);
        assert_eq!(args.files, [("db".to_owned(), "a/b".to_owned())]);
    }

    #[test]
    fn names_below_directories_of_vault_and_directories_above_files_can_be_named() {
        let line = ["--file", "db/password=a/b#c", "--env", "P=db/password", "--env", "D=db", "--", "x"];
        let request = request(&line).unwrap();
        assert_eq!(request.variables.len(), 2);
        assert_eq!(request.credentials, Credentials::Withheld);
        assert_eq!(request.leftovers, Leftovers::Awaited);
    }

    #[test]
    fn each_mistake_is_named() {
        for (line, told) in [
            (&["--file", "a=b/c"][..], "COMMAND"),
            (&["--", "x"], "--config CONFIG or --file"),
            (&["--file", "ab", "--", "x"], "there is no \"=\""),
            (&["--file", "=b", "--", "x"], "something is missing"),
            (&["--file", "a=b/c", "--file", "a=b/d", "--", "x"], "--file names a twice"),
            (&["--file", "a=b/c", "--env", "V=a", "--env", "V=a", "--", "x"], "--env names V twice"),
            (
                &["--file", "a=b/c", "--file", "d=b/c", "--env", "V=b", "--", "x"],
                "--env V=b: there is no b in the tree: it has a, d",
            ),
            (&["--file", "a=b/c", "--bind", "z=/etc/passwd", "--", "x"], "it has a"),
            (&["--file", "a=b/c", "--bind", "a=/no/such/file", "--", "x"], "/no/such/file: No such file"),
            (
                &["--file", "a=b/c", "--bind", "a=/dev/null", "--bind", "a=/dev/../dev/null", "--", "x"],
                "--bind names /dev/null twice",
            ),
            (&["--file", "../a=b/c", "--", "x"], "--file ../a=b/c"),
            (&["--config", "/no/such.toml", "--", "x"], "/no/such.toml: does not exist"),
        ] {
            let error = request(line).unwrap_err();
            assert!(error.contains(told), "{line:?}: {error}");
        }
    }
}
