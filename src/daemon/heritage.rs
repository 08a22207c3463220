//! What a server begins with: the state that its predecessor has sealed, or nothing.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::core::compose::Compose;
use crate::core::engine::{Engine, Layout, LayoutError};
use crate::core::state::{RestoreError, Restored};
use crate::core::time::{Chance, Moment};
use crate::driver::Inheritance;
use crate::driver::seal::{Left, Seal};
use crate::sealed::{Requests, Sealed, SealedError};
use crate::secret::SecretBytes;
use crate::sys;
use crate::sys::secret_memory::MemoryError;

/// For how long it is waited until the memory of a process that has just died is free.
const FREED: Duration = Duration::from_secs(2);

/// How often it is tried meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// An engine, and what belongs to it.
pub(super) struct Heritage {
    pub engine: Engine<SecretBytes>,
    /// Keeps the state for a successor.
    pub seal: Option<Seal>,
    /// Keeps what a successor must know of the kernel's requests.
    pub requests: Option<Arc<Requests>>,
    /// What the predecessor has left to be done.
    pub inheritance: Inheritance,
}

/// What makes the files of several secrets.
type Composer = Arc<dyn Compose<SecretBytes>>;

/// Memory that may be there for the state.
pub(super) enum Memory {
    /// For all of it.
    State(OwnedFd),
    /// For what a successor must know of the kernel's requests.
    Requests(OwnedFd),
    /// None.
    Nothing,
}

/// The memory, mapped; nothing of it was read.
pub(super) struct Mapped {
    state: Result<Sealed, SealedError>,
    requests: Option<Arc<Requests>>,
}

impl Memory {
    /// Maps it: that takes the right to lock so much memory.
    pub(super) fn map(self) -> Mapped {
        let (state, requests) = match self {
            Memory::State(state) => (open(state), None),
            Memory::Requests(page) => (Err(lack().into()), Requests::open(page).ok()),
            Memory::Nothing => (Err(lack().into()), None),
        };
        Mapped { state, requests }
    }
}

/// Why whoever has mounted had no memory for the state: this process has the same limits.
fn lack() -> MemoryError {
    match sys::memory_lock_limit() {
        Some(limit) if limit / 2 < Sealed::LEAST => {
            MemoryError::LockLimit { size: 2 * Sealed::LEAST, limit: limit as u64 }
        }
        Some(_) | None => MemoryError::NotSupported,
    }
}

impl Heritage {
    /// Nothing, and nobody comes after.
    pub(super) fn none(layout: Layout, composer: Composer) -> Result<Heritage, LayoutError> {
        let (seal, requests, inheritance) = (None, None, Inheritance::default());
        Ok(Heritage { engine: anew(layout, composer)?, seal, requests, inheritance })
    }

    /// What is in the memory. What can't be used is told, and forgotten: the server begins anew. `losses` gets
    /// what this system lacks.
    pub(super) fn take(
        mapped: Mapped,
        layout: Layout,
        composer: Composer,
        losses: &mut Vec<String>,
    ) -> Result<Heritage, LayoutError> {
        let Mapped { state, requests } = mapped;
        let store = match state {
            Ok(store) => store,
            Err(error) => {
                tracing::warn!(reason = %error, "no state can be kept: a restart logs in anew");
                losses.push(format!("no state can be kept, a restart logs in anew: {error}"));
                let heritage = Heritage::none(layout, composer)?;
                return Ok(Heritage { requests, ..heritage });
            }
        };
        let requests = Some(store.requests());
        let (left, tokens, restored) = match Left::read(&store) {
            Ok(left) if left.is_empty() => (Vec::new(), HashMap::new(), Ok(None)),
            Ok(Left { cells, mut tokens }) => {
                let numbers = tokens.keys().copied().collect();
                let moment = Moment { now: sys::boot_time(), chance: Chance(fastrand::u64(..)) };
                match Engine::restore(layout.clone(), Arc::clone(&composer), moment, cells) {
                    Ok(Restored { engine, effects, tokens: renamed, forsaken }) => {
                        let forsaken: Vec<_> = forsaken
                            .into_iter()
                            .filter_map(|one| Some((tokens.get(&one.with)?.clone(), one)))
                            .map(|(token, one)| (one, token))
                            .collect();
                        let known: HashMap<_, _> = renamed
                            .into_iter()
                            .filter_map(|(then, now)| Some((now, tokens.remove(&then)?)))
                            .collect();
                        let inheritance = Inheritance { tokens: known.clone(), effects, forsaken };
                        (numbers, known, Ok(Some((engine, inheritance))))
                    }
                    Err(RestoreError::Layout(error)) => return Err(error),
                    Err(error) => (numbers, HashMap::new(), Err(error.to_string())),
                }
            }
            Err(error) => (Vec::new(), HashMap::new(), Err(error.to_string())),
        };
        let (engine, inheritance, store) = match restored {
            Ok(Some((engine, inheritance))) => (engine, inheritance, store),
            Ok(None) => (anew(layout, composer)?, Inheritance::default(), store),
            Err(reason) => {
                forgotten(&reason);
                let mut store = store;
                store.reset();
                let seal = Some(Seal::new(store, [], HashMap::new()));
                let (engine, inheritance) = (anew(layout, composer)?, Inheritance::default());
                return Ok(Heritage { engine, seal, requests, inheritance });
            }
        };
        // Of what is forsaken, too: it is given back now.
        Ok(Heritage { engine, seal: Some(Seal::new(store, left, tokens)), requests, inheritance })
    }
}

/// An engine that knows nothing of what there was before. Its handles have other numbers than those of all servers
/// before it: it begins where none of them can have come to, since nobody opens a file each nanosecond.
fn anew(layout: Layout, composer: Composer) -> Result<Engine<SecretBytes>, LayoutError> {
    let mut engine = Engine::new(layout, composer)?;
    engine.number_handles_from(sys::boot_time().0);
    Ok(engine)
}

fn forgotten(reason: &str) {
    tracing::warn!(
        reason,
        "what the last server has left can't be used: logging in anew; its leases end with their tokens"
    );
}

/// Opens the state, or begins anew.
fn open(memory: OwnedFd) -> Result<Sealed, SealedError> {
    let system = |_| SealedError::Memory(MemoryError::NotMemory);
    let deadline = sys::boot_time() + FREED;
    loop {
        // A second descriptor, since the first one goes with a failure. It is never closed: that would let others
        // map the memory (fcntl(2), on record locks).
        let again = std::mem::ManuallyDrop::new(memory.try_clone().map_err(system)?);
        match Sealed::open(again.try_clone().map_err(system)?) {
            Err(SealedError::Memory(MemoryError::InUse)) if sys::boot_time() < deadline => {
                std::thread::sleep(LOOK);
            }
            Err(SealedError::Memory(error)) => return Err(error.into()),
            Err(error) => {
                forgotten(&error.to_string());
                return Sealed::format(again.try_clone().map_err(system)?);
            }
            Ok(store) => {
                std::mem::forget(memory);
                return Ok(store);
            }
        }
    }
}
