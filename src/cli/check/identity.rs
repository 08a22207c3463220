//! Logging in for a check, and what a token can't do that leasefs would need of it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::check::report::{IdentityCheck, policy_line};
use crate::cli::check::rights::Rights;
use crate::cli::output::span;
use crate::config::plan::{IdentityPlan, Method, MountPlan};
use crate::core::error::{Failure, Fault};
use crate::core::name::IdentityId;
use crate::vault::engine::{ApiCall, Capability};
use crate::vault::{Login, Origin, Token, TokenInfo, Vault};

/// What Vault says about paths; `None`: it won't say.
pub(super) type Capabilities = BTreeMap<String, Vec<String>>;

/// Whether a token has a capability: Vault's word for it, or that of the root policy
/// (`sys/capabilities-self`).
pub(super) fn allows(capabilities: &Capabilities, call: &ApiCall) -> Option<bool> {
    let words = capabilities.get(&call.path)?;
    Some(words.iter().any(|word| word == "root" || word == call.capability.as_str()))
}

/// What the files of an identity bring that has to be given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Leases {
    /// Some may come with a lease.
    pub some: bool,
    /// Some of these are to be given back as soon as nobody uses them.
    pub given_back: bool,
}

/// The identities of a plan, logged in or not.
pub(super) struct Sessions {
    sessions: Vec<Session>,
    /// A name that no secret has.
    stranger: String,
}

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
            check: IdentityCheck::new(&identity.name, method(&identity.method)),
        };
        let stranger = format!("leasefs-probe-{:016x}", fastrand::u64(..));
        Sessions { sessions: plan.identities.iter().enumerate().map(session).collect(), stranger }
    }

    /// Logs in with each identity.
    pub(super) async fn log_in(&mut self, vault: &impl Vault) {
        for session in &mut self.sessions {
            match vault.login(session.id).await {
                Ok(Login { token, info }) => {
                    // A login says less than a look-up, which a token without the `default` policy may not do.
                    let info = match token.origin() {
                        Origin::Obtained => vault.look_up_self(&token).await.unwrap_or(info),
                        Origin::Given => info,
                    };
                    session.check.logged_in(&info);
                    session.check.warnings.extend(warnings(&info));
                    session.login = Some((token, info));
                }
                Err(failure) => session.check.fail(failure),
            }
        }
    }

    /// The token of an identity, if it could log in.
    pub(super) fn token(&self, id: IdentityId) -> Option<Token> {
        self.sessions.get(id.0 as usize)?.login.as_ref().map(|(token, _)| token.clone())
    }

    /// What Vault says of that token.
    pub(super) fn info(&self, id: IdentityId) -> Option<&TokenInfo> {
        self.sessions.get(id.0 as usize)?.login.as_ref().map(|(_, info)| info)
    }

    /// The name of an identity.
    pub(super) fn name(&self, id: IdentityId) -> String {
        self.sessions.get(id.0 as usize).map(|session| session.check.name.clone()).unwrap_or_default()
    }

    /// What Vault lets an identity do, of what its files need and of `more`; asks also for what leasefs does on
    /// its own behalf, and for what nobody needs.
    pub(super) async fn capabilities(
        &mut self,
        vault: &impl Vault,
        id: IdentityId,
        rights: &Rights,
        more: Vec<String>,
        leases: Leases,
    ) -> Option<Capabilities> {
        let session = self.sessions.get_mut(id.0 as usize)?;
        let (token, info) = session.login.as_ref()?;
        let upkeep = upkeep(token.origin(), info, leases);
        let mut paths = rights.paths(&self.stranger);
        paths.extend(more);
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
        // Root may do everything, which was said.
        if !is_root(info) {
            session.check.warnings.extend(rights.remarks(&found, &self.stranger));
        }
        Some(found)
    }

    /// Ends the tokens that were logged in for; tokens that the user gave are left alone.
    pub(super) async fn log_out(&mut self, vault: &impl Vault) {
        for session in &mut self.sessions {
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
        self.sessions.into_iter().map(|session| session.check).collect()
    }
}

fn method(method: &Method) -> &'static str {
    match method {
        Method::Token { .. } => "token",
        Method::AppRole { .. } => "approle",
    }
}

/// What to know of a token, whatever it is to read.
fn warnings(info: &TokenInfo) -> Vec<String> {
    let mut warnings = Vec::new();
    if is_root(info) {
        warnings.push("its policy is root: give leasefs a token that may read these paths alone".to_owned());
    }
    if info.batch {
        warnings.push(
            "its token is a batch token: it can't be renewed or revoked, and its leases end with it"
                .to_owned(),
        );
    }
    let lives = info.period.or(info.ttl);
    if let Some(lives) = lives.filter(|lives| *lives > LONG && (info.renewable || info.ours)) {
        let role = if info.ours { "the role's token_ttl" } else { "a ttl, or a period," };
        warnings.push(format!(
            "its token lives for {}, and so long does a stolen one, or one that was left behind: {role} of 1h is \
             enough, as leasefs renews it",
            span(lives.as_secs())
        ));
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

fn is_root(info: &TokenInfo) -> bool {
    info.policies.iter().any(|policy| policy == "root")
}

/// Something that leasefs does on its own behalf, and what happens where it may not.
struct Upkeep {
    call: ApiCall,
    consequence: &'static str,
}

/// Nobody needs a token for longer that can be renewed, or had again.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// Below this a token's end is near enough to be told, though it can be renewed.
const NEVER_RENEWED: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

fn upkeep(origin: Origin, info: &TokenInfo, leases: Leases) -> Vec<Upkeep> {
    let mut upkeep = Vec::new();
    let mut update = |path: &str, consequence| {
        let call = ApiCall { path: path.to_owned(), capability: Capability::Update };
        upkeep.push(Upkeep { call, consequence });
    };
    if leases.some {
        let lives_on = match origin {
            Origin::Given => {
                Some("leases can't be revoked when the mount ends, and the token was given, so they live on")
            }
            Origin::Obtained if info.batch => Some(
                "leases can't be revoked when the mount ends, and a batch token neither, so they live on",
            ),
            Origin::Obtained if leases.given_back => {
                Some("leases that nobody uses can't be given back, though `on-idle` wants that")
            }
            Origin::Obtained => None,
        };
        if let Some(consequence) = lives_on {
            update("sys/leases/revoke", consequence);
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
        self.period_seconds = info.period.map(|period| period.as_secs());
        let kind = match (is_root(info), info.batch, info.period) {
            (true, _, _) => "root",
            (false, true, _) => "batch",
            (false, false, Some(_)) => "periodic",
            (false, false, None) => "service",
        };
        self.kind = Some(kind.to_owned());
        self.policies.clone_from(&info.policies);
    }

    fn fail(&mut self, failure: Failure) {
        self.note_fault(&failure);
        self.error = Some(failure.reason);
    }
}
