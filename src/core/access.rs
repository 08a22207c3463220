//! Who may read what: a pure verdict, default deny.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Permission bits of a file or directory, `0o7777` at most.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u16);

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// Who owns a file or directory, and what its mode bits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Owner, as a host uid.
    pub uid: u32,
    /// Group, as a host gid.
    pub gid: u32,
    /// Permission bits.
    pub mode: Mode,
}

/// The groups of a caller beyond the primary one. FUSE does not send them, so they are read only when a
/// verdict depends on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Groups {
    /// Not looked up yet.
    Unread,
    /// The supplementary groups of the calling thread; empty if they could not be read.
    Known(Vec<u32>),
}

/// A process; one that has the number of another that is gone is not the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its number in the pid namespace of the mounter.
    pub number: u32,
    /// When it began, in ticks since boot (proc_pid_stat(5)).
    pub start: u64,
}

/// The process of a caller. FUSE tells its thread alone, so it is looked up only when it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessOf {
    /// Not looked up yet.
    Unread,
    /// This one.
    Known(Process),
    /// It can't be seen.
    Hidden,
}

/// Who opens a file, as far as that decides which generation he gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opener {
    /// The process, if it is known.
    pub process: Option<Process>,
    /// Its thread.
    pub thread: u32,
}

impl Opener {
    /// Nobody in particular: gets what is current.
    pub const NOBODY: Opener = Opener { process: None, thread: 0 };
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Effective uid, as a host uid.
    pub uid: u32,
    /// Effective gid, as a host gid.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Groups,
    /// Thread id in the pid namespace of the mounter; 0 if invisible there.
    pub thread: u32,
    /// The process that the thread is of.
    pub process: ProcessOf,
    /// The kernel's number of the request, the same if it is sent again; 0 if unknown.
    pub request: u64,
}

impl Caller {
    /// Who it is, as far as that decides which generation he gets.
    pub fn opener(&self) -> Opener {
        let process = match self.process {
            ProcessOf::Known(process) => Some(process),
            ProcessOf::Unread | ProcessOf::Hidden => None,
        };
        Opener { process, thread: self.thread }
    }
}

/// May the caller read?
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Allow,
    /// No.
    Deny,
    /// It depends on the supplementary groups: read them and ask again.
    NeedGroups,
}

/// Whether `caller` may read what `rule` governs, as the kernel decides it for mode bits: the first of
/// owner, group and others that matches counts alone; uid 0 may read everything.
pub fn may_read(caller: &Caller, rule: &Rule) -> Verdict {
    const READ: u16 = 0o4;
    let bits = |shift: u16| if (rule.mode.0 >> shift) & READ != 0 { Verdict::Allow } else { Verdict::Deny };
    if caller.uid == 0 {
        return Verdict::Allow;
    }
    if caller.uid == rule.uid {
        return bits(6);
    }
    if caller.gid == rule.gid {
        return bits(3);
    }
    let (group, other) = (bits(3), bits(0));
    match &caller.groups {
        _ if group == other => group,
        Groups::Known(groups) if groups.contains(&rule.gid) => group,
        Groups::Known(_) => other,
        Groups::Unread => Verdict::NeedGroups,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32, gid: u32, groups: Groups) -> Caller {
        Caller { uid, gid, groups, thread: 1, process: ProcessOf::Hidden, request: 0 }
    }

    #[test]
    fn the_first_class_that_matches_counts_alone() {
        let rule = |mode| Rule { uid: 10, gid: 20, mode: Mode(mode) };
        let known = |groups: &[u32]| Groups::Known(groups.to_vec());
        for (who, mode, verdict) in [
            (caller(0, 0, Groups::Unread), 0o000, Verdict::Allow),
            (caller(10, 20, Groups::Unread), 0o400, Verdict::Allow),
            (caller(10, 20, Groups::Unread), 0o044, Verdict::Deny),
            (caller(11, 20, Groups::Unread), 0o440, Verdict::Allow),
            (caller(11, 20, Groups::Unread), 0o404, Verdict::Deny),
            (caller(11, 21, Groups::Unread), 0o400, Verdict::Deny),
            (caller(11, 21, Groups::Unread), 0o444, Verdict::Allow),
            (caller(11, 21, Groups::Unread), 0o440, Verdict::NeedGroups),
            (caller(11, 21, known(&[20])), 0o440, Verdict::Allow),
            (caller(11, 21, known(&[20])), 0o404, Verdict::Deny),
            (caller(11, 21, known(&[22])), 0o440, Verdict::Deny),
            (caller(11, 21, known(&[22])), 0o404, Verdict::Allow),
        ] {
            assert_eq!(may_read(&who, &rule(mode)), verdict, "{who:?} {mode:o}");
        }
    }
}
