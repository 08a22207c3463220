//! Rounds of well, outage, return. While the reads are measured, another program asks all the time for
//! something that is not held.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::figures::{Figures, ratio_by_round};
use crate::outage::{MISSES, Outage};

/// Reads while all is well, in each round.
const BEFORE: usize = 400;

/// Reads during the outage, in each round; they last longer than it takes the breaker to open.
const DURING: usize = 1200;

/// Between two reads, so that a round has time to be an outage.
const PAUSE: Duration = Duration::from_millis(4);

/// How often the other program asks.
const ASKS: Duration = Duration::from_millis(20);

/// How long the return of the server may take to show.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one outage came to.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which.
    pub outage: &'static str,
    /// Open, read and close of what is held, in µs, while all is well.
    pub before: Figures,
    /// The same during the outage, from its first moment on.
    pub during: Figures,
    /// The median of the rounds' own ratios.
    pub during_by_before: f64,
    /// From the server's return to the first read of something that was not held: the median of the
    /// rounds, in ms.
    pub fetched_again_ms: f64,
    /// The longest of them.
    pub slowest_ms: f64,
}

/// Goes through an outage once for each secret that nobody has read.
pub fn measure(outage: &Outage<'_>) -> Row {
    let path = |name: &str| outage.mount.path(name);
    let held = path("held");
    reads(&held, BEFORE);
    let (mut before, mut during, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..MISSES {
        let miss = path(&format!("miss-{round}"));
        before.push(while_asking_for(&held, || reads(&held, BEFORE)));
        outage.begin();
        during.push(while_asking_for(&miss, || reads(&held, DURING)));
        outage.end();
        let returned = Instant::now();
        while fs::read(&miss).is_err() {
            assert!(returned.elapsed() < PATIENCE, "{}: nothing is fetched again", outage.name);
            thread::sleep(Duration::from_millis(2));
        }
        again.push(returned.elapsed());
    }
    let during_by_before = ratio_by_round(&during, &before);
    let slowest = again.iter().max().copied().unwrap_or_default();
    Row {
        outage: outage.name,
        before: Figures::of(before.concat()),
        during: Figures::of(during.concat()),
        during_by_before,
        fetched_again_ms: Figures::of(again).median / 1e3,
        slowest_ms: slowest.as_secs_f64() * 1e3,
    }
}

/// Opens, reads and closes, one after the other.
fn reads(path: &Path, count: usize) -> Vec<Duration> {
    let once = |_| {
        thread::sleep(PAUSE);
        let began = Instant::now();
        assert!(!fs::read(path).expect("what is held can be read").is_empty());
        began.elapsed()
    };
    (0..count).map(once).collect()
}

/// Does `work` while another thread asks for a file again and again, whether it can be had or not.
fn while_asking_for<T>(path: &Path, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // That it can't be had is what an outage is.
                let _ = fs::read(path);
                thread::sleep(ASKS);
            }
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        done
    })
}
