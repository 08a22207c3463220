//! Why fusermount3 did not mount or unmount, in words, and what to do.
//!
//! What it says itself is short, and where the system keeps rights from it, always the same: "mount failed". So
//! what decides is looked at here as well. Nothing is guessed: what can't be found out is told in its own words.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::fuse::mount_point::{MountError, is_absent};
use crate::fuse::mountinfo;
use crate::sys::{self, privilege};

/// Why an ordinary user can't mount or unmount. Each says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It is not there.
    #[error(
        "without root that takes fusermount3, and there is none in PATH ({path}): install the package fuse3; \
         {RUN_NEEDS_NONE}"
    )]
    NotInstalled {
        /// The directories, as the environment has them.
        path: String,
    },
    /// This user may not execute it, as where it is left to a group.
    #[error(
        "this user may not execute {} ({rights}): as root, let everybody (chmod 4755), or add the user to that \
         group and log in again; {RUN_NEEDS_NONE}", program.display()
    )]
    NotExecutable {
        /// Where it is.
        program: PathBuf,
        /// Whose it is.
        rights: Rights,
    },
    /// Programs gain nothing by their set-uid bit.
    #[error(
        "{} gets no rights, since no_new_privs is set for this process: leave out NoNewPrivileges= in the unit, \
         \"no-new-privileges\" or allowPrivilegeEscalation: false of the container, or \"setpriv \
         --no-new-privs\"; {RUN_NEEDS_NONE}", program.display()
    )]
    NoNewPrivileges {
        /// Where it is.
        program: PathBuf,
    },
    /// It is like any other program.
    #[error(
        "{program} is not set-uid root ({rights}): run \"chown root {program} && chmod 4755 {program}\" as root; \
         {RUN_NEEDS_NONE}", program = program.display()
    )]
    NotSetUid {
        /// Where it is.
        program: PathBuf,
        /// Whose it is.
        rights: Rights,
    },
    /// Its file system is mounted `nosuid`.
    #[error(
        "the set-uid bit of {} has no effect, since {mount} is mounted nosuid: as root, run \"mount -o \
         remount,suid {mount}\", or install it elsewhere; {RUN_NEEDS_NONE}",
        program.display(), mount = mount.display()
    )]
    NoSetUidThere {
        /// Where it is.
        program: PathBuf,
        /// What is mounted.
        mount: PathBuf,
    },
    /// Not even root may mount here.
    #[error(
        "nobody may mount here, neither root nor fusermount3: CAP_SYS_ADMIN is taken away from all processes, as \
         in containers: give the container \"--cap-add SYS_ADMIN --device /dev/fuse\", or mount outside; where \
         user namespaces are allowed, \"leasefs run\" needs neither"
    )]
    CapabilityTaken,
    /// The directory is that of somebody else, in one that everybody may write to.
    #[error(
        "{path} belongs to user {owner}, and has the sticky bit: without root, mount on a directory of your own, \
         such as a new one in your home", path = path.display()
    )]
    NotOwned {
        /// The mount point.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// The directory can't be written.
    #[error(
        "this user may not write to {path} ({rights}): without root, mount on a directory of your own, such as a \
         new one in your home", path = path.display()
    )]
    NotWritable {
        /// The mount point.
        path: PathBuf,
        /// Whose it is.
        rights: Rights,
    },
    /// Other users are to reach it, and root has not allowed that.
    #[error(
        "allow_other is not for ordinary users here: as root, add the line \"user_allow_other\" to \
         {CONFIGURATION}, or leave out allow_other (allow-other in [mount]): then this user alone can read the \
         files"
    )]
    OthersNotAllowed,
    /// There may not be another mount of an ordinary user.
    #[error(
        "there are {limit} FUSE mounts or more, as many as ordinary users may have: unmount one, or, as root, \
         write a higher \"mount_max = NUMBER\" into {CONFIGURATION}"
    )]
    TooMany {
        /// How many.
        limit: u64,
    },
    /// It mounts on certain types of file systems alone.
    #[error(
        "fusermount3 does not mount on a file system of type {kind}, which {} is on: choose a directory on \
         another one, such as in your home or in /tmp", path.display()
    )]
    FileSystem {
        /// The mount point.
        path: PathBuf,
        /// The type.
        kind: String,
    },
    /// It writes a name into the options of the mount.
    #[error(
        "user {uid} has no name on this system, and fusermount3 wants one: as root, run \"useradd --uid {uid} \
         NAME\", or add a line to /etc/passwd; {RUN_NEEDS_NONE}"
    )]
    NoName {
        /// Which.
        uid: u32,
    },
    /// Its profile has a list of directories.
    #[error(
        "AppArmor does not let fusermount3 mount on {}: choose a directory that its profile {} names, such as a \
         new one in your home, or, as root, add this one to it; {RUN_NEEDS_NONE}", path.display(), profile.display()
    )]
    AppArmor {
        /// The mount point.
        path: PathBuf,
        /// The file of the profile.
        profile: PathBuf,
    },
    /// What is mounted there was not mounted by this user.
    #[error("user {owner} has mounted it: ask that user, or run \"umount -l\" as root")]
    OfAnother {
        /// Who has.
        owner: u32,
    },
    /// It was killed.
    #[error(
        "{} did not end within {seconds} seconds and was killed: look whether {} is on a file system that does \
         not answer (\"df\" waits for it, too)", program.display(), path.display()
    )]
    TookTooLong {
        /// Where it is.
        program: PathBuf,
        /// The mount point.
        path: PathBuf,
        /// For how long it was waited.
        seconds: u64,
    },
    /// It could not be started.
    #[error("{} can't be run: {why}: install the package fuse3 anew", program.display())]
    NotRun {
        /// Where it is.
        program: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Something else.
    #[error("{} says: {sentence}; {RUN_NEEDS_NONE}", program.display())]
    Said {
        /// Where it is.
        program: PathBuf,
        /// Its words.
        sentence: String,
    },
}

/// The other way to have a tree without root.
const RUN_NEEDS_NONE: &str = "\"leasefs run\" needs no fusermount3 where user namespaces are allowed";

/// What decides what ordinary users may mount (fusermount3(1)).
const CONFIGURATION: &str = "/etc/fuse.conf";

/// The device.
pub(super) const DEVICE: &str = "/dev/fuse";

/// What ordinary users may mount at most if nothing is said (fusermount3(1)).
const USUAL_MOUNT_MAX: u64 = 1000;

/// Where profiles of AppArmor lie (apparmor.d(5)).
const PROFILES: [&str; 3] = [
    "/etc/apparmor.d/fusermount3",
    "/etc/apparmor.d/usr.bin.fusermount3",
    "/etc/apparmor.d/usr.bin.fusermount",
];

/// The longest sentence that is shown, in characters.
const LONGEST: usize = 300;

/// Whose a file is and who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions.
    pub mode: u32,
}

impl Rights {
    /// Those of a file; nothing if it can't be looked at.
    pub(super) fn of(path: &Path) -> Option<Rights> {
        fs::metadata(path).ok().as_ref().map(Rights::from)
    }

    /// Whether everybody may read and write.
    fn for_everybody(self) -> bool {
        self.mode & 0o666 == 0o666
    }
}

impl From<&Metadata> for Rights {
    fn from(found: &Metadata) -> Rights {
        Rights { uid: found.uid(), gid: found.gid(), mode: found.mode() & 0o7777 }
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rights { uid, gid, mode } = self;
        write!(f, "mode {mode:04o}, user {uid}, group {gid}")
    }
}

/// Why the device can't be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceDenial {
    /// Its permissions.
    Mode(Rights),
    /// Its permissions would do: a list of devices, as containers have, or a security module.
    Rules,
}

impl DeviceDenial {
    /// That of the device as it is now.
    pub(super) fn find() -> DeviceDenial {
        let root = sys::effective_ids().0 == 0;
        match Rights::of(Path::new(DEVICE)) {
            Some(rights) if !rights.for_everybody() && !root => DeviceDenial::Mode(rights),
            Some(_) | None => DeviceDenial::Rules,
        }
    }
}

impl fmt::Display for DeviceDenial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceDenial::Mode(rights) => write!(
                f,
                "{DEVICE} is not for this user ({rights}): as root, run \"chmod 666 {DEVICE}\", which is what \
                 distributions have, or run leasefs as root"
            ),
            DeviceDenial::Rules => write!(
                f,
                "{DEVICE} can't be opened though its permissions would do: give the container \"--device \
                 {DEVICE}\", or look for a denial of a security module at the end of \"dmesg\""
            ),
        }
    }
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It failed, with these words.
    Said(String),
    /// It was killed.
    TookTooLong(Duration),
    /// It could not be started, for this reason.
    NotRun(String),
}

/// What the system says about the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    Opens,
    Absent,
    Denied(DeviceDenial),
}

/// What decides whether fusermount3 can mount for this user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    program: PathBuf,
    path: PathBuf,
    uid: u32,
    /// Whose the program is.
    rights: Option<Rights>,
    executable: bool,
    /// The mount that keeps set-uid bits on it from having an effect.
    nosuid: Option<PathBuf>,
    no_new_privileges: bool,
    device: Device,
    /// Whose the mount point is, if nothing is mounted there.
    point: Option<Rights>,
    writable: bool,
    /// The type of the file system that the mount point is on.
    kind: String,
    /// The user who has mounted what is there.
    mounted_by: Option<u32>,
    /// The lines of [`CONFIGURATION`].
    configuration: String,
    /// The file of the program's profile, where AppArmor is on.
    profile: Option<PathBuf>,
}

impl Facts {
    /// As they are now. What is mounted at the path is not touched.
    pub(super) fn of_system(program: &Path, path: &Path) -> Facts {
        let mounts = mountinfo::mounts().unwrap_or_default();
        let mounted = mountinfo::topmost(&mounts, path);
        let at_program = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
        let nosuid = mountinfo::containing(&mounts, &at_program)
            .filter(|mount| mount.options.split(',').any(|option| option == "nosuid"))
            .map(|mount| mount.path.clone());
        let apparmor = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        let confined = apparmor.is_ok_and(|enabled| enabled.trim() == "Y");
        let profile = PROFILES.iter().map(PathBuf::from).find(|file| confined && file.exists());
        Facts {
            program: program.to_owned(),
            path: path.to_owned(),
            uid: sys::effective_ids().0,
            rights: Rights::of(program),
            executable: privilege::may_execute(program),
            nosuid,
            no_new_privileges: privilege::new_privileges_are_forbidden(),
            device: match fs::File::options().read(true).write(true).open(DEVICE) {
                Ok(_) => Device::Opens,
                Err(error) if is_absent(&error) => Device::Absent,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    Device::Denied(DeviceDenial::find())
                }
                Err(_) => Device::Opens,
            },
            point: mounted.is_none().then(|| Rights::of(path)).flatten(),
            writable: mounted.is_some() || privilege::may_write(path),
            kind: mountinfo::containing(&mounts, path).map_or_else(String::new, |mount| mount.kind.clone()),
            mounted_by: mounted.and_then(mountinfo::MountEntry::owner),
            configuration: fs::read_to_string(CONFIGURATION).unwrap_or_default(),
            profile,
        }
    }

    /// Why it did not mount.
    pub(super) fn diagnose(&self, trouble: Trouble, allow_other: bool) -> MountError {
        let sentence = match self.sentence(trouble) {
            Ok(sentence) => sentence,
            Err(refusal) => return refusal.into(),
        };
        let says = |words: &str| sentence.contains(words);
        let path = || self.path.clone();
        match (self.device, self.point) {
            (Device::Absent, _) => MountError::NoFuse,
            (Device::Denied(denial), _) => MountError::DeviceDenied(denial),
            _ if says("could not determine username") => Refusal::NoName { uid: self.uid }.into(),
            _ if says("allow_other") && allow_other && !self.others_allowed() => {
                Refusal::OthersNotAllowed.into()
            }
            _ if says("too many FUSE") => Refusal::TooMany { limit: self.mount_max() }.into(),
            _ if says("mounting over filesystem type") => {
                Refusal::FileSystem { path: path(), kind: self.kind.clone() }.into()
            }
            (_, Some(rights)) if says("not owned by user") => {
                Refusal::NotOwned { path: path(), owner: rights.uid }.into()
            }
            (_, Some(rights)) if !self.writable => Refusal::NotWritable { path: path(), rights }.into(),
            _ => self.without_rights(&sentence).unwrap_or_else(|| self.said(sentence)).into(),
        }
    }

    /// Why it did not unmount.
    pub(super) fn diagnose_unmount(&self, trouble: Trouble) -> Refusal {
        let sentence = match self.sentence(trouble) {
            Ok(sentence) => sentence,
            Err(refusal) => return refusal,
        };
        match self.mounted_by {
            Some(owner) if owner != self.uid => Refusal::OfAnother { owner },
            Some(_) | None => self.without_rights(&sentence).unwrap_or_else(|| self.said(sentence)),
        }
    }

    /// What it said, if it said anything.
    fn sentence(&self, trouble: Trouble) -> Result<String, Refusal> {
        let program = self.program.clone();
        match (trouble, self.rights) {
            (Trouble::Said(said), _) => Ok(one_line(&said, &program)),
            (Trouble::TookTooLong(patience), _) => {
                Err(Refusal::TookTooLong { program, path: self.path.clone(), seconds: patience.as_secs() })
            }
            (Trouble::NotRun(_), Some(rights)) if !self.executable => {
                Err(Refusal::NotExecutable { program, rights })
            }
            (Trouble::NotRun(why), _) => Err(Refusal::NotRun { program, why }),
        }
    }

    fn said(&self, sentence: String) -> Refusal {
        Refusal::Said { program: self.program.clone(), sentence }
    }

    /// What keeps root's rights from the program, if it was refused something for lack of them.
    fn without_rights(&self, sentence: &str) -> Option<Refusal> {
        let words = ["operation not permitted", "permission denied"];
        if !words.iter().any(|words| sentence.to_ascii_lowercase().contains(words)) {
            return None;
        }
        let program = self.program.clone();
        if self.uid != 0 {
            if self.no_new_privileges {
                return Some(Refusal::NoNewPrivileges { program });
            }
            match self.rights {
                Some(rights) if rights.uid != 0 || rights.mode & 0o4000 == 0 => {
                    return Some(Refusal::NotSetUid { program, rights });
                }
                Some(_) | None => {}
            }
            if let Some(mount) = self.nosuid.clone() {
                return Some(Refusal::NoSetUidThere { program, mount });
            }
        }
        let (path, profile) = (self.path.clone(), self.profile.clone()?);
        Some(Refusal::AppArmor { path, profile })
    }

    fn others_allowed(&self) -> bool {
        self.configuration.lines().any(|line| line.trim() == "user_allow_other")
    }

    fn mount_max(&self) -> u64 {
        let said = self.configuration.lines().filter_map(|line| line.trim().strip_prefix("mount_max"));
        said.filter_map(|rest| rest.trim_start().strip_prefix('=')?.trim().parse().ok())
            .next_back()
            .unwrap_or(USUAL_MOUNT_MAX)
    }
}

/// What it said last, without its name, and fit for a terminal.
fn one_line(said: &str, program: &Path) -> String {
    let line = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing").trim();
    let name = program.display().to_string();
    let line = line.strip_prefix(&name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(line);
    let line = line.strip_prefix("fusermount3: ").or(line.strip_prefix("fusermount: ")).unwrap_or(line);
    line.chars().filter(|character| !character.is_control()).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPERM: &str = "fusermount3: mount failed: Operation not permitted\n";

    fn facts() -> Facts {
        Facts {
            program: PathBuf::from("/usr/bin/fusermount3"),
            path: PathBuf::from("/home/jo/secrets"),
            uid: 1000,
            rights: Some(Rights { uid: 0, gid: 0, mode: 0o4755 }),
            executable: true,
            nosuid: None,
            no_new_privileges: false,
            device: Device::Opens,
            point: Some(Rights { uid: 1000, gid: 1000, mode: 0o755 }),
            writable: true,
            kind: "ext4".to_owned(),
            mounted_by: None,
            configuration: "#user_allow_other\nmount_max = 7\n".to_owned(),
            profile: None,
        }
    }

    fn told(facts: &Facts, said: &str) -> String {
        facts.diagnose(Trouble::Said(said.to_owned()), true).to_string()
    }

    #[test]
    fn each_cause_is_told_by_its_name_and_with_what_to_do() {
        let others =
            "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        let rights = Some(Rights { uid: 0, gid: 44, mode: 0o755 });
        let mode = DeviceDenial::Mode(Rights { uid: 0, gid: 44, mode: 0o660 });
        let cases: [(Facts, &str, &str, &str); 14] = [
            (Facts { device: Device::Absent, ..facts() }, EPERM, "no /dev/fuse", "modprobe"),
            (Facts { device: Device::Denied(mode), ..facts() }, EPERM, "0660, user 0, group 44", "chmod 666"),
            (
                Facts { device: Device::Denied(DeviceDenial::Rules), ..facts() },
                EPERM,
                "can't be opened",
                "--device",
            ),
            (facts(), others, "allow_other", "\"user_allow_other\" to /etc/fuse.conf"),
            (
                facts(),
                "fusermount3: too many FUSE filesystems mounted",
                "7 FUSE mounts",
                "mount_max = NUMBER",
            ),
            (facts(), "fusermount3: mounting over filesystem type 0x1 is forbidden", "type ext4", "choose"),
            (facts(), "fusermount3: could not determine username", "user 1000 has no name", "useradd"),
            (facts(), "fusermount3: mountpoint /x not owned by user", "belongs to user 1000", "your home"),
            (Facts { writable: false, ..facts() }, "", "may not write to /home/jo/secrets", "your home"),
            (Facts { no_new_privileges: true, ..facts() }, EPERM, "no_new_privs", "leasefs run"),
            (
                Facts { rights, ..facts() },
                EPERM,
                "not set-uid root (mode 0755",
                "chmod 4755 /usr/bin/fusermount3",
            ),
            (
                Facts { nosuid: Some(PathBuf::from("/usr")), ..facts() },
                EPERM,
                "/usr is mounted nosuid",
                "remount",
            ),
            (
                Facts { profile: Some(PathBuf::from("/etc/apparmor.d/fusermount3")), ..facts() },
                "fusermount3: mount failed: Permission denied",
                "AppArmor",
                "profile /etc/apparmor.d/fusermount3",
            ),
            (
                facts(),
                "/usr/bin/fusermount3: a\x1b[1m riddle\n",
                "fusermount3 says: a[1m riddle;",
                "leasefs run",
            ),
        ];
        for (facts, said, cause, remedy) in cases {
            let told = told(&facts, said);
            assert!(told.contains(cause), "{cause}: {told}");
            assert!(told.contains(remedy), "{remedy}: {told}");
        }
    }

    #[test]
    fn what_is_the_matter_with_the_program_is_told_only_if_it_lacked_rights() {
        let facts = Facts { no_new_privileges: true, ..facts() };
        assert!(
            told(&facts, "fusermount3: bad mount point /x: Input/output error").contains("says: bad mount")
        );
        let root = Facts { uid: 0, ..facts };
        assert!(told(&root, EPERM).contains("says: mount failed"));
    }

    #[test]
    fn one_that_does_not_run_or_end_is_told_apart() {
        let stuck = facts().diagnose(Trouble::TookTooLong(Duration::from_secs(10)), false).to_string();
        assert!(stuck.contains("within 10 seconds") && stuck.contains("/home/jo/secrets"), "{stuck}");
        let not_run = Trouble::NotRun("Permission denied".to_owned());
        let locked = Facts { executable: false, ..facts() }.diagnose(not_run.clone(), false).to_string();
        assert!(locked.contains("may not execute /usr/bin/fusermount3"), "{locked}");
        assert!(facts().diagnose(not_run, false).to_string().contains("can't be run: Permission denied"));
    }

    #[test]
    fn a_mount_of_somebody_else_is_told_as_that() {
        let others = Facts { mounted_by: Some(7), ..facts() };
        let said = |said: &str| Trouble::Said(said.to_owned());
        assert_eq!(others.diagnose_unmount(said("entry not found")), Refusal::OfAnother { owner: 7 });
        let told = facts().diagnose_unmount(said("fusermount3: entry not found\n"));
        assert!(told.to_string().contains("says: entry not found"), "{told}");
    }

    #[test]
    fn the_limit_is_the_last_one_that_is_written() {
        let limit = |text: &str| Facts { configuration: text.to_owned(), ..facts() }.mount_max();
        assert_eq!(limit(""), 1000);
        assert_eq!(limit("#mount_max = 5\n"), 1000);
        assert_eq!(limit("mount_max = 5\nmount_max = 9\n"), 9);
        let allowed = |text: &str| Facts { configuration: text.to_owned(), ..facts() }.others_allowed();
        assert!(allowed("# x\nuser_allow_other\n") && !allowed("#user_allow_other\n"));
    }
}
