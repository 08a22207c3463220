//! Landlock: which files can be opened, which ports connected to, which processes reached
//! (Documentation/userspace-api/landlock.rst).
//!
//! Looking at a file (`stat`) and what was opened before are not affected; neither are sockets of the file
//! system, UDP, and DNS over it.

use std::collections::BTreeSet;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use url::{Host, Url};

use crate::config::plan::Protection;
use crate::sandbox::SandboxError;
use crate::sandbox::files::Needs;
use crate::sandbox::protections::{Protections, State};

/// The newest ABI that this was tried with; what came later is not asked for.
const TRIED: ABI = ABI::V6;

/// Where name servers listen.
const DNS: u16 = 53;

/// Each part, since when the kernel has it, and how that is called.
const PARTS: [(Protection, ABI, &str); 3] = [
    (Protection::LandlockFiles, ABI::V1, "Linux 5.13"),
    (Protection::LandlockTcp, ABI::V4, "Linux 6.7"),
    (Protection::LandlockScope, ABI::V6, "Linux 6.12"),
];

/// All that is handed to the kernel.
pub(super) struct Domain(Option<RulesetCreated>);

impl Domain {
    /// Opens all that can be opened later too.
    pub fn prepare(
        off: &BTreeSet<Protection>,
        needs: &Needs,
        ports: &BTreeSet<u16>,
    ) -> Result<Domain, SandboxError> {
        if PARTS.iter().all(|(part, ..)| off.contains(part)) {
            return Ok(Domain(None));
        }
        build(off, needs, ports).map(|ruleset| Domain(Some(ruleset))).map_err(trouble)
    }

    /// Shuts the thread in.
    pub fn enter(
        self,
        off: &BTreeSet<Protection>,
        protections: &mut Protections,
    ) -> Result<(), SandboxError> {
        let status = match self.0 {
            Some(ruleset) => Some(ruleset.restrict_self().map_err(trouble)?),
            None => None,
        };
        for (part, since, version) in PARTS {
            if off.contains(&part) {
                protections.note_off(part);
                continue;
            }
            let in_force = status.as_ref().is_some_and(|status| status.ruleset != RulesetStatus::NotEnforced);
            let state = match status.as_ref().map(|status| status.landlock) {
                Some(LandlockStatus::Available { effective_abi, .. })
                    if in_force && effective_abi >= since =>
                {
                    State::On
                }
                Some(LandlockStatus::NotEnabled) => {
                    missing("Landlock is not enabled: add it to lsm= on the kernel's command line")
                }
                _ => missing(&format!("this kernel does not have it ({version})")),
            };
            protections.note(part.name(), state);
        }
        Ok(())
    }
}

fn missing(reason: &str) -> State {
    State::Missing { reason: reason.to_owned() }
}

fn trouble(error: RulesetError) -> SandboxError {
    SandboxError::Landlock { trouble: error.to_string() }
}

fn build(
    off: &BTreeSet<Protection>,
    needs: &Needs,
    ports: &BTreeSet<u16>,
) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = Ruleset::default();
    if !off.contains(&Protection::LandlockFiles) {
        ruleset = ruleset.handle_access(AccessFs::from_all(TRIED))?;
    }
    if !off.contains(&Protection::LandlockTcp) {
        ruleset = ruleset.handle_access(AccessNet::from_all(TRIED))?;
    }
    if !off.contains(&Protection::LandlockScope) {
        ruleset = ruleset.scope(scopes(std::env::var_os("NOTIFY_SOCKET").as_deref()))?;
    }
    let mut created = ruleset.create()?;
    if !off.contains(&Protection::LandlockFiles) {
        let read = needs.read.iter().map(|path| (path, AccessFs::ReadFile | AccessFs::ReadDir));
        let write = needs.write.iter().map(|path| (path, writing()));
        let remove = needs.remove.iter().map(|path| (path, AccessFs::RemoveDir.into()));
        for (path, access) in read.chain(write).chain(remove) {
            // What is not there needs no rule.
            let Ok(opened) = PathFd::new(path) else { continue };
            let access = if path.is_dir() { access } else { access & AccessFs::from_file(TRIED) };
            created = created.add_rule(PathBeneath::new(opened, access))?;
        }
    }
    if !off.contains(&Protection::LandlockTcp) {
        for port in ports {
            created = created.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
    }
    Ok(created)
}

/// What is done in the directories of sockets and locks.
fn writing() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeSock | RemoveFile})
}

/// Signals go to nobody else. Neither do words to sockets without a file, unless systemd, or whoever stands in
/// for it, listens on one (sd_notify(3)).
fn scopes(notify_socket: Option<&std::ffi::OsStr>) -> BitFlags<Scope> {
    let is_abstract = notify_socket.is_some_and(|name| name.as_encoded_bytes().starts_with(b"@"));
    match is_abstract {
        true => Scope::Signal.into(),
        false => Scope::Signal | Scope::AbstractUnixSocket,
    }
}

/// The ports that the nodes of Vault listen on, and that of name servers if a node has a name. No proxy is ever
/// used.
pub(super) fn ports(addresses: &[String]) -> BTreeSet<u16> {
    let urls: Vec<Url> = addresses.iter().filter_map(|address| Url::parse(address).ok()).collect();
    let names = urls.iter().any(|url| matches!(url.host(), Some(Host::Domain(_))));
    urls.iter().filter_map(Url::port_or_known_default).chain(names.then_some(DNS)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(addresses: &[&str]) -> Vec<u16> {
        ports(&addresses.iter().map(|address| (*address).to_owned()).collect::<Vec<_>>())
            .into_iter()
            .collect()
    }

    #[test]
    fn the_ports_are_those_of_the_addresses_and_of_name_servers_where_there_are_names() {
        assert_eq!(of(&["https://10.0.0.1:8200", "http://[::1]:8300"]), [8200, 8300]);
        assert_eq!(of(&["https://vault.internal"]), [53, 443]);
        assert_eq!(of(&["http://localhost"]), [53, 80]);
    }

    #[test]
    fn a_notify_socket_without_a_file_can_still_be_told() {
        assert!(scopes(None).contains(Scope::AbstractUnixSocket));
        assert!(scopes(Some("/run/systemd/notify".as_ref())).contains(Scope::AbstractUnixSocket));
        assert_eq!(scopes(Some("@/org/freedesktop/systemd1/notify".as_ref())), Scope::Signal);
    }
}
