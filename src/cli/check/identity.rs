//! Logging in for a check, and what a token can't do that leasefs would need of it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::check::report::{IdentityCheck, policy_line};
use crate::cli::output::span;
use crate::config::plan::{IdentityPlan, MountPlan};
use crate::core::error::{Failure, Fault};
use crate::core::name::IdentityId;
use crate::vault::engine::{ApiCall, Capability};
use crate::vault::{Origin, Token, TokenInfo, Vault};

/// What Vault says about paths; `None`: it won't say.
pub(super) type Capabilities = BTreeMap<String, Vec<String>>;

/// Whether a token has a capability: Vault's word for it, or that of the root policy
/// (`sys/capabilities-self`).
pub(super) fn allows(capabilities: &Capabilities, call: &ApiCall) -> Option<bool> {
    let words = capabilities.get(&call.path)?;
    Some(words.iter().any(|word| word == "root" || word == call.capability.as_str()))
}

/// The identities of a plan, logged in or not.
pub(super) struct Sessions(Vec<Session>);

struct Session {
    id: IdentityId,
    login: Option<(Token, TokenInfo)>,
    check: IdentityCheck,
}

impl Sessions {
    /// Nobody is logged in yet.
    pub(super) fn new(plan: &MountPlan) -> Sessions {
        let session = |(index, identity): (usize, &IdentityPlan)| Session {
            id: IdentityId(index as u32),
            login: None,
            check: IdentityCheck::new(&identity.name, identity.method.name()),
        };
        Sessions(plan.identities.iter().enumerate().map(session).collect())
    }

    /// Logs in with each identity.
    pub(super) async fn log_in(&mut self, vault: &impl Vault) {
        for session in &mut self.0 {
            match vault.login(session.id).await {
                Ok(login) => {
                    session.check.logged_in(&login.info);
                    session.check.warnings.extend(warnings(&login.info));
                    session.login = Some((login.token, login.info));
                }
                Err(failure) => session.check.fail(failure),
            }
        }
    }

    /// The token of an identity, if it could log in.
    pub(super) fn token(&self, id: IdentityId) -> Option<Token> {
        self.0.get(id.0 as usize)?.login.as_ref().map(|(token, _)| token.clone())
    }

    /// The name of an identity.
    pub(super) fn name(&self, id: IdentityId) -> String {
        self.0.get(id.0 as usize).map(|session| session.check.name.clone()).unwrap_or_default()
    }

    /// What Vault lets an identity do; asks also for what leasefs does on its own behalf. `minting` says
    /// whether any of its paths may bring a lease.
    pub(super) async fn capabilities(
        &mut self,
        vault: &impl Vault,
        id: IdentityId,
        mut paths: Vec<String>,
        minting: bool,
    ) -> Option<Capabilities> {
        let session = self.0.get_mut(id.0 as usize)?;
        let (token, info) = session.login.as_ref()?;
        let upkeep = upkeep(token.origin(), info, minting);
        paths.extend(upkeep.iter().map(|one| one.call.path.clone()));
        paths.sort();
        paths.dedup();
        let mut found = Capabilities::new();
        for some in paths.chunks(100) {
            match vault.capabilities(token, some).await {
                Ok(capabilities) => found.extend(capabilities),
                Err(failure) => {
                    session.check.note_fault(&failure);
                    let reason = failure.reason;
                    session.check.warnings.push(format!("Vault won't say what the token may do: {reason}"));
                    return None;
                }
            }
        }
        let denied = upkeep.into_iter().filter(|one| allows(&found, &one.call) == Some(false));
        session.check.warnings.extend(denied.map(|one| {
            let line = policy_line(&one.call);
            format!("{}: allow it with {line}", one.consequence)
        }));
        Some(found)
    }

    /// Ends the tokens that were logged in for; tokens that the user gave are left alone.
    pub(super) async fn log_out(&mut self, vault: &impl Vault) {
        for session in &mut self.0 {
            let Some((token, info)) = session.login.take() else { continue };
            if token.origin() == Origin::Given || info.batch {
                continue;
            }
            if let Err(failure) = vault.revoke_self(&token).await
                && failure.fault != Fault::TokenLost
            {
                let reason = failure.reason;
                session
                    .check
                    .warnings
                    .push(format!("the token of this check could not be revoked: {reason}"));
            }
        }
    }

    /// What was found out.
    pub(super) fn into_checks(self) -> Vec<IdentityCheck> {
        self.0.into_iter().map(|session| session.check).collect()
    }
}

/// What to know of a token, whatever it is to read.
fn warnings(info: &TokenInfo) -> Vec<String> {
    let mut warnings = Vec::new();
    if info.policies.iter().any(|policy| policy == "root") {
        warnings.push("its policy is root: give leasefs a token that may read these paths alone".to_owned());
    }
    if info.batch {
        warnings.push(
            "its token is a batch token: it can't be renewed or revoked, and its leases end with it"
                .to_owned(),
        );
    }
    if let Some(ttl) = info.ttl
        && !info.ours
        && !info.renewable
    {
        let ttl = span(ttl.as_secs());
        warnings.push(format!(
            "its token ends in {ttl} and can't be renewed: give a renewable one, or let leasefs log in"
        ));
    }
    warnings
}

/// Something that leasefs does on its own behalf, and what happens where it may not.
struct Upkeep {
    call: ApiCall,
    consequence: &'static str,
}

/// Below this a token's end is near enough to be told, though it can be renewed.
const NEVER_RENEWED: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

fn upkeep(origin: Origin, info: &TokenInfo, minting: bool) -> Vec<Upkeep> {
    let mut upkeep = Vec::new();
    let mut update = |path: &str, consequence| {
        let call = ApiCall { path: path.to_owned(), capability: Capability::Update };
        upkeep.push(Upkeep { call, consequence });
    };
    if minting {
        if origin == Origin::Given {
            update(
                "sys/leases/revoke",
                "leases can't be revoked when the mount ends, and the token was given, so they live on",
            );
        }
        update("sys/leases/renew", "leases can't be renewed, so each is replaced before it ends");
        update("sys/leases/lookup", "a lease that is revoked in Vault is shown until its end");
    }
    if info.renewable && info.ttl.is_some_and(|ttl| ttl < NEVER_RENEWED) {
        update("auth/token/renew-self", "the token can't be renewed");
    }
    if origin == Origin::Obtained && !info.batch {
        update("auth/token/revoke-self", "the token can't be revoked when the mount ends");
    }
    upkeep
}

impl IdentityCheck {
    fn logged_in(&mut self, info: &TokenInfo) {
        self.logged_in = true;
        self.ttl_seconds = info.ttl.map(|ttl| ttl.as_secs());
        self.renewable = info.renewable;
        self.kind = Some(if info.batch { "batch" } else { "service" }.to_owned());
        self.policies.clone_from(&info.policies);
    }

    fn fail(&mut self, failure: Failure) {
        self.note_fault(&failure);
        self.error = Some(failure.reason);
    }
}
