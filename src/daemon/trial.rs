//! Which configuration a server serves: the one that is in force, or the one on the disk if the last server has
//! asked for that.
//!
//! Invariants: *tried once*: a configuration that ends its server is not tried by the next one; *nothing by halves*:
//! one that is wrong in anything leaves all as it was. Both hold because a server takes the order before it looks at
//! the disk, and what it has found comes into force only when it serves.

use crate::config::plan::MountPlan;
use crate::config::{self, Complaints, Environment, Kept};
use crate::core::engine::Engine;
use crate::core::time::UnixTime;
use crate::daemon::record::{Book, Fixed, Order, Record};
use crate::daemon::{DaemonError, layout};
use crate::secret::SecretBytes;
use crate::sys;
use crate::vault::client::Client;

/// What a server serves.
pub(super) struct Chosen {
    pub plan: MountPlan,
    /// Whether credential files may have changed.
    pub login: Login,
}

/// Whether identities log in that have a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Login {
    /// No: it goes on as it is.
    AsItIs,
    /// All of them.
    Anew,
}

/// Chooses. What is tried is noted in the book.
///
/// # Errors
/// [`DaemonError`]: what is in force can't be used either.
pub(super) fn choose(book: &mut Book) -> Result<Chosen, DaemonError> {
    let at = sys::unix_time();
    let order = book.take(at);
    let login = if order == Some(Order::Reload) { Login::Anew } else { Login::AsItIs };
    if order.is_some() {
        match on_disk(&book.record) {
            Ok((plan, kept)) => {
                book.trial = Some(kept);
                return Ok(Chosen { plan, login });
            }
            Err(error) => book.refuse(at, error.to_string()),
        }
    }
    Ok(Chosen { plan: book.record.kept.plan()?, login })
}

/// Reads the configuration as it was read by whoever has mounted, and looks at all that could be wrong with it.
fn on_disk(record: &Record) -> Result<(MountPlan, Kept), DaemonError> {
    let mut environment = Environment::from_process();
    (environment.uid, environment.gid) = record.owner;
    environment.home.clone_from(&record.home);
    let (plan, kept) = config::load_to_keep(&record.config, &environment)?;
    judge(&plan, &record.config, &record.fixed, record.mounted)?;
    Ok((plan, kept))
}

/// Whether a plan can be served at a mount that is there.
///
/// # Errors
/// [`DaemonError`].
pub fn judge(
    plan: &MountPlan,
    path: &std::path::Path,
    fixed: &Fixed,
    mounted: UnixTime,
) -> Result<(), DaemonError> {
    if let Some((key, message)) = fixed.refuse(plan) {
        return Err(Complaints::one(path, key, message).into());
    }
    drop(Client::new(&plan.vault, &plan.identities)?);
    drop(Engine::<SecretBytes>::new(layout(plan, mounted))?);
    Ok(())
}
