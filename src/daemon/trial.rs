//! Which configuration a server serves: the one that is in force, or the one on the disk if the last server has
//! asked for that.
//!
//! Invariants: *tried once*: a configuration that ends its server is not tried by the next one; *nothing by halves*:
//! one that is wrong in anything leaves all as it was. Both hold because a server takes the order before it looks at
//! the disk, and what it has found comes into force only when it serves.

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::plan::MountPlan;
use crate::config::{self, Complaints, Environment, Kept};
use crate::core::engine::Engine;
use crate::core::name::IdentityId;
use crate::core::time::UnixTime;
use crate::daemon::record::{Book, Fixed, Order, Record};
use crate::daemon::stamps::{Stamps, Variables};
use crate::daemon::{DaemonError, check_server_user, layout};
use crate::secret::SecretBytes;
use crate::sys;
use crate::vault::client::Client;

/// What a server serves.
pub(super) struct Chosen {
    pub plan: MountPlan,
    /// Who logs in though there may be a token.
    pub anew: BTreeSet<IdentityId>,
}

/// Chooses. What is tried is noted in the book.
///
/// # Errors
/// [`DaemonError`]: what is in force can't be used either.
pub(super) fn choose(book: &mut Book, variables: Variables) -> Result<Chosen, DaemonError> {
    let at = sys::unix_time();
    let Some(order) = book.take(at) else {
        return Ok(Chosen { plan: book.record.kept.plan()?, anew: BTreeSet::new() });
    };
    let (plan, kept) = match on_disk(&book.record) {
        Ok((plan, kept)) => (plan, Ok(kept)),
        Err(error) => (book.record.kept.plan()?, Err(error)),
    };
    let (now, known) = (Stamps::of(&plan), &book.record.stamps);
    let (anew, stamps) = match order {
        Order::Reload => (now.replaced(known, &plan, variables), now),
        Order::Reread => (BTreeSet::new(), now.after(known)),
    };
    match kept {
        Ok(kept) => book.trial = Some((kept, stamps)),
        Err(error) => {
            book.record.stamps = stamps;
            book.refuse(at, error.to_string());
        }
    }
    Ok(Chosen { plan, anew })
}

/// Reads the configuration as it was read by whoever has mounted, and looks at all that could be wrong with it.
fn on_disk(record: &Record) -> Result<(MountPlan, Kept), DaemonError> {
    let mut environment = Environment::from_process();
    (environment.uid, environment.gid) = record.owner;
    environment.home.clone_from(&record.home);
    let (plan, kept) = config::load_to_keep(&record.config, &environment)?;
    judge(&plan, &record.config, &record.fixed, record.mounted)?;
    if record.owner.0 == sys::effective_ids().0 {
        // Otherwise systemd has said whom this process is.
        check_server_user(&plan)?;
    }
    Ok((plan, kept))
}

/// Whether a plan can be served at a mount that is there.
///
/// # Errors
/// [`DaemonError`].
pub fn judge(plan: &MountPlan, path: &Path, fixed: &Fixed, mounted: UnixTime) -> Result<(), DaemonError> {
    if let Some((key, message)) = fixed.refuse(plan) {
        return Err(Complaints::one(path, key, message).into());
    }
    drop(Client::new(&plan.vault, &plan.identities)?);
    drop(Engine::<SecretBytes>::new(layout(plan, mounted))?);
    Ok(())
}
