//! User, capabilities, and what a program that is started could gain.

use std::collections::BTreeSet;
use std::io;

use caps::CapSet;

use crate::config::plan::Protection;
use crate::sandbox::protections::{Protections, State};
use crate::sandbox::{Identity, SandboxError, system};
use crate::sys::{self, privilege};

/// Gives up all rights of root, in the order in which each step is still allowed.
pub(super) fn give_up(
    off: &BTreeSet<Protection>,
    identity: Option<&Identity>,
    protections: &mut Protections,
) -> Result<(), SandboxError> {
    if off.contains(&Protection::NoNewPrivs) {
        protections.note_off(Protection::NoNewPrivs);
    } else {
        privilege::forbid_new_privileges().map_err(system("no-new-privs can't be set"))?;
        protections.note(Protection::NoNewPrivs.name(), State::On);
    }
    let keeps = off.contains(&Protection::Capabilities);
    if !keeps {
        // Wants a capability itself, so it goes first.
        empty_bounding_set();
        caps::securebits::set_keepcaps(false).map_err(capabilities)?;
    }
    protections.note("user", user(identity)?);
    if keeps {
        protections.note_off(Protection::Capabilities);
    } else {
        drop_capabilities().map_err(capabilities)?;
        protections.note(Protection::Capabilities.name(), State::On);
    }
    // A change of user has undone it.
    sys::forbid_core_dumps().map_err(system("core dumps can't be forbidden"))?;
    protections.note("no-core-dumps", State::On);
    Ok(())
}

/// Whoever has no capability to begin with may not do this. Then, and with the other sets empty, no-new-privs
/// sees to it that the set is of no use.
fn empty_bounding_set() {
    for capability in caps::runtime::thread_all_supported() {
        let _ = caps::drop(None, CapSet::Bounding, capability);
    }
}

fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    if caps::runtime::ambient_set_supported().is_ok() {
        caps::clear(None, CapSet::Ambient)?;
    }
    caps::clear(None, CapSet::Effective)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::clear(None, CapSet::Permitted)
}

/// Becomes the user that was asked for.
fn user(identity: Option<&Identity>) -> Result<State, SandboxError> {
    let is_root = privilege::is_root().map_err(system("the user can't be told"))?;
    let Some(Identity { uid, gid, groups }) = identity else {
        return Ok(match is_root {
            true => State::Off { reason: "it runs as root: no other user was asked for".to_owned() },
            false => State::On,
        });
    };
    if !is_root {
        return match sys::effective_ids() == (*uid, *gid) {
            true => Ok(State::On),
            false => Err(SandboxError::NotRoot { uid: *uid }),
        };
    }
    privilege::become_user(*uid, *gid, groups).map_err(system("it can't become the user it was to be"))?;
    Ok(match uid {
        0 => State::Off { reason: "it was asked to go on as root".to_owned() },
        _ => State::On,
    })
}

fn capabilities(error: caps::errors::CapsError) -> SandboxError {
    system("capabilities can't be dropped")(io::Error::other(error.to_string()))
}
