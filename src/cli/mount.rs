//! `leasefs mount`: its arguments.

use std::path::{Component, Path, PathBuf};

use clap::Args;

use crate::cli::exit::{CommandError, Exit};
use crate::cli::serve::{self, Log};
use crate::daemon::{self, MountPointOrigin, Options, Parent};
use crate::fuse::session::SOURCE;

/// Where the configurations of the short form lie.
const CONFIGS: &str = "/etc/leasefs";

/// Where the mount points of the short form lie.
pub const MOUNT_POINTS: &str = "/run/leasefs";

/// Options of mount(8) and systemd that change nothing here: the tree is read-only and without devices,
/// programs and set-uid bits, whatever they say.
const WITHOUT_EFFECT: [&str; 33] = [
    "defaults",
    "rw",
    "ro",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "async",
    "sync",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "diratime",
    "nodiratime",
    "dirsync",
    "loud",
    "silent",
];

/// Beginnings of options that only others read: systemd's, and words for people.
const FOR_OTHERS: [&str; 4] = ["x-", "X-", "comment=", "user="];

/// Mounts secrets as files and serves them in the foreground.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(after_help = "\
Examples:
  leasefs mount ./agent.toml /mnt/agent
  leasefs mount agent          /etc/leasefs/agent.toml on /run/leasefs/agent
  leasefs mount --shared ./agent.toml /srv/agent/secrets    for containers that bind /srv/agent

SIGTERM, SIGINT and \"leasefs unmount\" revoke every lease, take the mount away and end it.")]
pub struct MountArgs {
    /// The configuration file; or, without a MOUNTPOINT, the NAME in /etc/leasefs/NAME.toml
    #[arg(value_name = "CONFIG")]
    pub config: PathBuf,
    /// An empty directory; default /run/leasefs/NAME, which is made
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: Option<PathBuf>,
    /// Lets containers that have bound the directory above MOUNTPOINT see the mount whenever it comes, also
    /// where mounts are not shared from the start; undone at the end
    #[arg(long)]
    pub shared: bool,
    /// Options, separated by commas: allow_other or noallow_other, shared_parent (as --shared); those of
    /// mount(8) that change nothing here are accepted
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',')]
    pub options: Vec<String>,
}

impl MountArgs {
    /// What the arguments mean.
    ///
    /// # Errors
    /// [`CommandError::Usage`]: an option that is not known, or a configuration without a mount point that
    /// is no plain name.
    pub fn request(&self) -> Result<Options, CommandError> {
        let Chosen { allow_other, parent } = chosen(&self.options, Unknown::Refused)?;
        let parent = if self.shared { Parent::Shared } else { parent };
        let (config, mount_point, origin) = match &self.mount_point {
            Some(mount_point) => (self.config.clone(), mount_point.clone(), MountPointOrigin::Named),
            None => {
                let name = plain_name(&self.config).ok_or_else(|| {
                    CommandError::Usage(format!(
                        "{config} says not where to mount: write \"leasefs mount {config} MOUNTPOINT\"",
                        config = self.config.display()
                    ))
                })?;
                (config_of(name), Path::new(MOUNT_POINTS).join(name), MountPointOrigin::Derived)
            }
        };
        Ok(Options { config, mount_point, origin, allow_other, parent })
    }
}

/// Mounts and serves until it is told to end.
///
/// # Errors
/// [`CommandError`].
pub fn run(args: &MountArgs, level: &str) -> Result<Exit, CommandError> {
    let program = serve::program(Log::StandardError, level)?;
    daemon::run(SOURCE, &args.request()?, &program, || {})?;
    Ok(Exit::Ok)
}

/// What becomes of an option that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// It is a mistake.
    Refused,
    /// It is left out.
    Ignored,
}

/// What mount options say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Whether other users reach the mount, if they say so.
    pub(super) allow_other: Option<bool>,
    /// What containers that bind the parent see.
    pub(super) parent: Parent,
}

/// Reads mount options.
///
/// # Errors
/// [`CommandError::Usage`].
pub(super) fn chosen(options: &[String], unknown: Unknown) -> Result<Chosen, CommandError> {
    let mut chosen = Chosen::default();
    for option in options.iter().map(|option| option.trim()).filter(|option| !option.is_empty()) {
        let is_for_others = FOR_OTHERS.iter().any(|beginning| option.starts_with(beginning));
        match option {
            "allow_other" => chosen.allow_other = Some(true),
            "noallow_other" => chosen.allow_other = Some(false),
            // Not "shared": mount(8) keeps that to itself and does something else with it.
            "shared_parent" => chosen.parent = Parent::Shared,
            _ if is_for_others || WITHOUT_EFFECT.contains(&option) || unknown == Unknown::Ignored => {}
            _ => {
                return Err(CommandError::Usage(format!(
                    "-o {option} is not known: leave it out; allow_other and shared_parent are all that can be \
                     set here"
                )));
            }
        }
    }
    Ok(chosen)
}

/// The configuration that a name alone stands for.
pub(super) fn config_of(name: &str) -> PathBuf {
    Path::new(CONFIGS).join(format!("{name}.toml"))
}

/// A name without directories and without `.toml`.
pub(super) fn plain_name(path: &Path) -> Option<&str> {
    let mut components = path.components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(name)), None) => {
            let name = name.to_str()?;
            let plain = path.as_os_str() == name && !name.ends_with(".toml");
            plain.then_some(name)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(config: &str, mount_point: Option<&str>, options: &[&str]) -> MountArgs {
        MountArgs {
            config: PathBuf::from(config),
            mount_point: mount_point.map(PathBuf::from),
            shared: false,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    #[test]
    fn a_name_alone_stands_for_both_of_its_places() {
        let request = args("agent", None, &[]).request().unwrap();
        assert_eq!(request.config, Path::new("/etc/leasefs/agent.toml"));
        assert_eq!(request.mount_point, Path::new("/run/leasefs/agent"));
        assert_eq!(request.origin, MountPointOrigin::Derived);
    }

    #[test]
    fn with_a_mount_point_the_first_argument_is_a_file_whatever_it_is_called() {
        let request = args("agent", Some("/mnt/a"), &[]).request().unwrap();
        assert_eq!(request.config, Path::new("agent"));
        assert_eq!(request.mount_point, Path::new("/mnt/a"));
        assert_eq!(request.origin, MountPointOrigin::Named);
    }

    #[test]
    fn a_file_alone_is_asked_for_its_mount_point() {
        for config in ["agent.toml", "./agent", "/etc/leasefs/agent.toml", "agent/", "..", ""] {
            let error = args(config, None, &[]).request().unwrap_err();
            assert_eq!(error.exit(), Exit::Usage, "{config:?}");
            assert!(error.to_string().contains("MOUNTPOINT"), "{config:?}: {error}");
        }
    }

    #[test]
    fn options_of_fstab_are_taken_and_unknown_ones_are_refused_by_name() {
        let fstab =
            ["rw", "ro", "nofail", "_netdev", "dev", "suid", "auto", "noauto", "user", "x-systemd.y", ""];
        assert_eq!(args("a", Some("/b"), &fstab).request().unwrap().allow_other, None);
        let told = ["owner", "group", "users", "nouser", "comment=why", "user=jo", "X-mount.mkdir"];
        assert_eq!(args("a", Some("/b"), &told).request().unwrap().allow_other, None);
        let allowed = |options: &[&str]| args("a", Some("/b"), options).request().unwrap().allow_other;
        assert_eq!(allowed(&["ro", "allow_other"]), Some(true));
        assert_eq!(allowed(&["allow_other", "noallow_other"]), Some(false));
        let parent = |options: &[&str]| args("a", Some("/b"), options).request().unwrap().parent;
        assert_eq!(parent(&["ro", "shared_parent"]), Parent::Shared);
        assert_eq!(parent(&["ro"]), Parent::AsItIs);
        let error = args("a", Some("/b"), &["ro", "uid=7"]).request().unwrap_err();
        assert!(error.to_string().contains("uid=7"), "{error}");
        assert_eq!(error.exit(), Exit::Usage);
    }
}
