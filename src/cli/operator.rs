//! Whoever runs a command, as someone who can log in: with what the variables and the file of the `vault`
//! command say.
//!
//! Invariant: a token that was logged in for is revoked, also when the command is interrupted.

use std::path::Path;

use crate::cli::exit::CommandError;
use crate::config::plan::{CredentialSource, IdentityPlan, Method, MountPlan};
use crate::config::{self, COMMAND_LINE, Complaints, Environment};
use crate::core::error::{Failure, Fault};
use crate::core::name::IdentityId;
use crate::sys;
use crate::vault::{Origin, Token, Vault};

/// Who runs a command.
pub(super) struct Operator(IdentityPlan);

impl Operator {
    /// Who it is, if the environment says so.
    pub(super) fn of(environment: &Environment) -> Option<Operator> {
        let identity = plan(environment).ok()?.identities.into_iter().next()?;
        let is_there = match &identity.method {
            Method::Token { token: CredentialSource::File(file) } => file.exists(),
            _ => true,
        };
        is_there.then_some(Operator(identity))
    }

    /// An identity with which requests go to a namespace.
    pub(super) fn identity(self, namespace: Option<String>) -> IdentityPlan {
        IdentityPlan { namespace, ..self.0 }
    }
}

/// What the environment alone says of Vault and of who logs in.
///
/// # Errors
/// What is wrong with a variable.
pub(super) fn plan(environment: &Environment) -> Result<MountPlan, Complaints> {
    config::parse("", Path::new(COMMAND_LINE), environment)
}

/// Logs in with the only identity of a client, does something, and ends the token if it was logged in for.
///
/// # Errors
/// [`CommandError::Vault`], [`CommandError::Interrupted`], or that nothing can be started.
pub(super) fn with_login<T>(
    vault: &impl Vault,
    work: impl AsyncFnOnce(&Token) -> Result<T, Failure>,
) -> Result<T, CommandError> {
    // A token is in memory from here on.
    sys::forbid_core_dumps().map_err(CommandError::Runtime)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(CommandError::Runtime)?.block_on(async {
        let login = vault.login(IdentityId(0)).await.map_err(CommandError::Vault)?;
        let result = tokio::select! {
            result = work(&login.token) => result.map_err(CommandError::Vault),
            _ = tokio::signal::ctrl_c() => Err(CommandError::Interrupted),
        };
        if login.token.origin() == Origin::Obtained
            && !login.info.batch
            && let Err(failure) = vault.revoke_self(&login.token).await
            && failure.fault != Fault::TokenLost
        {
            let reason = failure.reason;
            tracing::warn!(reason, "the token of this command could not be revoked");
        }
        result
    })
}
