//! Ten thousand leases for a simulated week, and a hundred hosts through an outage: what they ask of Vault,
//! what programs notice. Engine and driver are the real ones, time and Vault are not.
//!
//! `make scale` builds it with optimisations and runs it for some minutes. It prints its tables and writes
//! `docs/scale.md`. The capacity of one OpenBao, which the page compares with, is measured with a real one.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark reads the clock, prints its table and may panic"
)]

mod capacity;
mod figures;
mod page;
#[allow(dead_code, reason = "a benchmark uses a part of what the tests share")]
#[path = "../../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use figures::Run;
use support::fleet::{Outcome, Plan};
use support::metered::Outage;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Mounts in the second simulation.
const HOSTS: usize = 100;

fn main() {
    let week = simulate("one mount for a week", 1, week());
    let hosts = simulate("many hosts for a few hours", HOSTS, hosts());
    println!("measuring what one OpenBao can do …");
    let capacity = capacity::measure();
    let page = page::of(&week, &hosts, &capacity);
    println!("\n{}", page.tables);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scale.md");
    std::fs::write(&path, page.text).expect("the page can be written");
    println!("written: {}", path.display());
}

/// 10,000 files on one mount. What comes at a steady pace (look-ups, reads of KV) is made rarer than by
/// default: it would take hours to simulate and show nothing more than the other simulation does.
fn week() -> Plan {
    Plan {
        span: 7 * DAY,
        outage: (3 * DAY + 12 * HOUR, 3 * DAY + 13 * HOUR, Outage::Unreachable),
        revocation_check: HOUR,
        max_age: HOUR / 6,
        ..Plan::mixed(10_000)
    }
}

/// 100 leases and 12 KV secrets on each of many mounts that have nothing in common but Vault; everything by
/// default.
fn hosts() -> Plan {
    Plan { span: 8 * HOUR, outage: (5 * HOUR, 6 * HOUR, Outage::Frozen), ..Plan::mixed(112) }
}

fn simulate(what: &'static str, mounts: usize, plan: Plan) -> Run {
    println!("simulating {what} …");
    let began = Instant::now();
    let mut outcome = Outcome::default();
    for mount in 0..mounts {
        fastrand::seed(mount as u64);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        outcome.add(runtime.block_on(plan.run()));
    }
    Run { mounts, plan, outcome, took: began.elapsed() }
}
