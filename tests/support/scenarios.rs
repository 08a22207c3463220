//! Several scenarios at once, on servers that they share: tests of leases mostly wait, and can wait together.
#![allow(unused_macros, unused_imports, reason = "not every test file has scenarios")]
#![allow(clippy::print_stdout, reason = "a test says how long each scenario took")]

use std::env;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

/// How many run at once: enough to wait together, few enough that none is slowed down by the others.
const AT_ONCE: usize = 8;

/// A test of its own but for its servers. Its name is a sentence.
pub type Scenario<W> = (&'static str, fn(&W));

/// Runs all scenarios, in their order but several at once, each in a thread of its name, and fails with the
/// names of those that failed. `LEASEFS_TEST_ONLY` leaves only those whose name has its text in it.
pub fn run_together<W: Sync>(world: &W, scenarios: &[Scenario<W>]) {
    let only = env::var("LEASEFS_TEST_ONLY").unwrap_or_default();
    let (give_back, places) = mpsc::channel();
    for _ in 0..AT_ONCE {
        give_back.send(()).expect("both ends are here");
    }
    let failed: Vec<&str> = thread::scope(|scope| {
        let mut running = Vec::new();
        for (name, scenario) in scenarios.iter().filter(|(name, _)| name.contains(&only)) {
            places.recv().expect("both ends are here");
            let place = Place(give_back.clone());
            let timed = move || {
                let _place = place;
                let start = Instant::now();
                scenario(world);
                println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
            };
            let thread = thread::Builder::new().name((*name).to_owned()).spawn_scoped(scope, timed);
            running.push((*name, thread.expect("a thread can be started")));
        }
        running.into_iter().filter_map(|(name, thread)| thread.join().is_err().then_some(name)).collect()
    });
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

/// Given back when dropped, also by a scenario that fails.
struct Place(mpsc::Sender<()>);

impl Drop for Place {
    fn drop(&mut self) {
        // Nobody takes it any more once all scenarios have begun.
        let _ = self.0.send(());
    }
}

/// Names scenarios after their functions.
#[allow(unused_macros, reason = "not each test file has scenarios")]
macro_rules! scenarios {
    ($($name:ident),+ $(,)?) => { [$((stringify!($name), $name as fn(&_))),+] };
}
#[allow(unused_imports, reason = "not each test file has scenarios")]
pub(crate) use scenarios;
