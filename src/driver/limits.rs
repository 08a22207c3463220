//! How many requests are under way at once: 16 in all, of which two are kept for renewals, at most 8 to
//! KV, and at most two that mint per engine (a database makes accounts no faster in parallel).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::effect::Urgency;

/// What kind of request it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Reads and lists of KV.
    Kv,
    /// Reads that may mint, of the engine mounted there.
    Mint(String),
    /// Everything about leases and tokens.
    Upkeep,
}

/// The places.
pub(super) struct Limits {
    general: Arc<Semaphore>,
    renewals: Arc<Semaphore>,
    kv: Arc<Semaphore>,
    minting: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// A place, given back when dropped.
pub(super) struct Place(#[expect(dead_code, reason = "held for its drop")] Vec<OwnedSemaphorePermit>);

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            general: Arc::new(Semaphore::new(14)),
            renewals: Arc::new(Semaphore::new(2)),
            kv: Arc::new(Semaphore::new(8)),
            minting: Mutex::default(),
        }
    }
}

impl Limits {
    /// Waits for a place.
    pub(super) async fn enter(&self, lane: &Lane, urgency: Urgency) -> Place {
        let own = match lane {
            Lane::Kv => Some(Arc::clone(&self.kv)),
            Lane::Mint(mount) => Some(self.minting_at(mount)),
            Lane::Upkeep => None,
        };
        let mut permits = Vec::with_capacity(2);
        if let Some(own) = own {
            permits.extend(own.acquire_owned().await);
        }
        let general = Arc::clone(&self.general).acquire_owned();
        if urgency == Urgency::Renewal {
            tokio::select! {
                permit = general => permits.extend(permit),
                permit = Arc::clone(&self.renewals).acquire_owned() => permits.extend(permit),
            }
        } else {
            permits.extend(general.await);
        }
        Place(permits)
    }

    fn minting_at(&self, mount: &str) -> Arc<Semaphore> {
        let mut minting = self.minting.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(minting.entry(mount.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(2))))
    }
}
