//! Who may read what: a pure verdict, default deny.

use std::fmt;

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
    /// The kernel's number of the request, the same if it is sent again; 0 if unknown.
    pub request: u64,
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
        Caller { uid, gid, groups, thread: 1, request: 0 }
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
