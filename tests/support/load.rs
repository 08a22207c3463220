//! Threads that use a mount as hard as they can while something is done to it, and check every answer.
//!
//! Each call is watched: one that takes longer than [`HUNG`] is reported by name while it still hangs, since a
//! call that waits for FUSE can't be ended from here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A call that takes longer hangs.
const HUNG: Duration = Duration::from_secs(20);

/// How many failures are kept as text.
const TOLD: usize = 20;

/// One kind of use; fails with what was wrong.
type Use = Box<dyn FnMut() -> Result<(), String> + Send>;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Calls that were made.
    pub calls: u64,
    /// How many of each use.
    pub of_each: BTreeMap<String, u64>,
    /// Of these, how many failed, or gave something wrong.
    pub failed: u64,
    /// The first of those.
    pub failures: Vec<String>,
    /// The longest that a call took, and which one.
    pub worst: (Duration, String),
}

/// Running threads.
pub struct Load {
    over: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    threads: Vec<(String, Arc<Mutex<Instant>>, JoinHandle<()>)>,
}

impl Load {
    /// Nothing runs yet.
    pub fn new() -> Load {
        Load { over: Arc::default(), tally: Arc::default(), threads: Vec::new() }
    }

    /// Starts a thread that does this again and again.
    pub fn start(&mut self, name: &str, use_it: impl FnMut() -> Result<(), String> + Send + 'static) {
        self.start_at(name, Duration::ZERO, use_it);
    }

    /// The same, with a pause after each time.
    pub fn start_at(
        &mut self,
        name: &str,
        pause: Duration,
        use_it: impl FnMut() -> Result<(), String> + Send + 'static,
    ) {
        let (over, tally) = (Arc::clone(&self.over), Arc::clone(&self.tally));
        let began = Arc::new(Mutex::new(Instant::now()));
        let (beat, mut use_it, what): (_, Use, _) = (Arc::clone(&began), Box::new(use_it), name.to_owned());
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let start = Instant::now();
                *beat.lock().unwrap_or_else(PoisonError::into_inner) = start;
                let result = use_it();
                let took = start.elapsed();
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                tally.calls += 1;
                *tally.of_each.entry(what.clone()).or_default() += 1;
                if took > tally.worst.0 {
                    tally.worst = (took, what.clone());
                }
                if let Err(failure) = result {
                    tally.failed += 1;
                    if tally.failures.len() < TOLD {
                        tally.failures.push(format!("{what}: {failure} (after {took:?})"));
                    }
                }
                drop(tally);
                thread::sleep(pause);
            }
        });
        self.threads.push((name.to_owned(), began, thread));
    }

    /// So far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The uses that hang now.
    pub fn hung(&self) -> Vec<String> {
        let hangs = |began: &Mutex<Instant>| began.lock().map_or(true, |began| began.elapsed() > HUNG);
        let threads = self.threads.iter().filter(|(_, began, thread)| !thread.is_finished() && hangs(began));
        threads.map(|(name, ..)| name.clone()).collect()
    }

    /// Ends it. Threads that hang are left alone, and are named.
    pub fn end(self) -> Result<Tally, String> {
        self.over.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + HUNG;
        while self.threads.iter().any(|(.., thread)| !thread.is_finished()) {
            if Instant::now() >= deadline {
                let hung = self.threads.iter().filter(|(.., thread)| !thread.is_finished());
                return Err(hung.map(|(name, ..)| name.as_str()).collect::<Vec<_>>().join(", "));
            }
            thread::sleep(Duration::from_millis(5));
        }
        for (name, _, thread) in self.threads {
            thread.join().unwrap_or_else(|_| panic!("the thread of {name} has panicked"));
        }
        Ok(self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Opens, reads and closes a file that must hold this.
pub fn reads(path: &Path, expected: &str) -> Result<(), String> {
    match fs::read(path) {
        Ok(bytes) => same(&bytes, expected, path),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Reads an open file that must hold this.
pub fn holds(file: &File, expected: &str, name: &str) -> Result<(), String> {
    let mut bytes = vec![0; expected.len() + 64];
    let count = file.read_at(&mut bytes, 0).map_err(|error| format!("{name}, open: {error}"))?;
    same(&bytes[..count], expected, Path::new(name))
}

/// Lists a directory that must have exactly these names; `expected` is sorted.
pub fn lists(path: &Path, expected: &[String]) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let entries: Result<Vec<_>, io::Error> = fs::read_dir(path).map_err(failed)?.collect();
    let entries = entries.map_err(failed)?.into_iter().map(|entry| entry.file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    match names == expected {
        true => Ok(()),
        false => Err(format!("{} lists {names:?} instead of {expected:?}", path.display())),
    }
}

/// Asks for the size of a file.
pub fn measures(path: &Path, expected: u64) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(found) if found.len() == expected => Ok(()),
        Ok(found) => Err(format!("{} has {} bytes instead of {expected}", path.display(), found.len())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn same(bytes: &[u8], expected: &str, path: &Path) -> Result<(), String> {
    match bytes == expected.as_bytes() {
        true => Ok(()),
        false => {
            let found = String::from_utf8_lossy(bytes);
            Err(format!("WRONG BYTES in {}: {found:?} instead of {expected:?}", path.display()))
        }
    }
}

/// The number and the holder of a place in the tree, without having it open: opened by way of
/// `/proc/self/fd` it is opened by its number alone, and nobody looks its name up.
pub struct Placed {
    /// Keeps it.
    _place: File,
    /// Opens it.
    pub path: PathBuf,
}

impl Placed {
    /// Of a path.
    pub fn at(path: &Path) -> Placed {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = fs::OpenOptions::new();
        let place = options.read(true).custom_flags(libc::O_PATH).open(path);
        let place = place.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let path = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
        Placed { _place: place, path }
    }
}
