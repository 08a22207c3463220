//! Hundreds of files with leases of mixed lengths for a simulated day with an outage in it: engine and driver under
//! paused time. `make scale` runs the same with ten thousand for a week.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::time::Duration;

use support::fleet::{Outcome, Plan};
use support::metered::{Kind, Outage};

const S: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// How long it takes until the server's return is noticed: it is asked for its health every two seconds.
const NOTICED: Duration = Duration::from_secs(5);

/// 200 leases and 22 KV secrets; the outage is longer than the shortest leases and shorter than all others.
/// Checks that cost nothing but time are left out: look-ups and reads of KV are few.
fn day() -> Plan {
    let mut plan = Plan {
        outage: (12 * HOUR, 12 * HOUR + 20 * MINUTE, Outage::Unreachable),
        revocation_check: HOUR,
        max_age: 10 * MINUTE,
        start_within: 5 * MINUTE,
        ..Plan::mixed(222)
    };
    // Programs see some rotations, also with the file open.
    plan.classes[0].max_ttl = 5 * HOUR;
    plan
}

async fn live(plan: &Plan) -> Outcome {
    fastrand::seed(1);
    plan.run().await
}

#[tokio::test(start_paused = true)]
async fn in_a_day_with_an_outage_only_leases_shorter_than_it_end_in_use() {
    let plan = day();
    let Outcome { books, minted, refused } = live(&plan).await;
    let (down, up, _) = plan.outage;
    let leases = plan.leases() as u64;

    // Nothing in use ends but what Vault did not renew in time.
    let shorter: usize =
        plan.classes.iter().filter(|class| class.ttl < up - down).map(|class| class.leases).sum();
    assert!(
        books.deaths.iter().all(|death| (down..up + NOTICED).contains(&death.at)),
        "credentials ended in use without an outage: {:?}",
        books.deaths
    );
    assert_eq!(books.deaths.len(), shorter, "in the outage those end that are shorter, and no others");

    // No renewal is missed, and none is asked for that can't help.
    let late: Vec<_> = books.late_renewals.iter().filter(|(at, _)| !(down..up + HOUR).contains(at)).collect();
    assert!(late.is_empty(), "(when, share of the lease): {late:?}");
    assert_eq!(books.for_nothing, 0);

    // One credential at first, one for each that reached its max_ttl, one for each that died.
    assert_eq!(minted, leases + books.rotations + books.deaths.len() as u64);
    assert!(books.least_left.unwrap() > MINUTE, "{:?}", books.least_left);

    // Programs are refused in the outage alone.
    assert_eq!(refused.within(Duration::ZERO, down), 0);
    assert!(refused.within(down, up) > 0);
    assert_eq!(refused.within(up + NOTICED, plan.span), 0);

    // Renewals that had to wait do not come in one moment: in the busiest ten seconds there are at most
    // 25 times as many as on average.
    let quiet = books.mean(HOUR, down, &[Kind::Renew]);
    let peak = books.peak(up, up + HOUR, 10, &[Kind::Renew]);
    assert!(peak <= 25.0 * quiet, "{peak:.1} a second, {quiet:.2} on average");
    // Nor do programs that are served again cost more than one request each.
    let mints = books.sums(up, up + HOUR, 3600, &[Kind::Mint])[0];
    assert_eq!(mints, books.deaths.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_vault_does_no_more_harm_than_one_that_refuses() {
    let mut plan = day();
    plan.span = 6 * HOUR;
    plan.outage = (3 * HOUR, 3 * HOUR + 20 * MINUTE, Outage::Frozen);
    let Outcome { books, minted, .. } = live(&plan).await;
    let (down, up, _) = plan.outage;
    let window = down..up + 20 * S;
    assert!(books.deaths.iter().all(|death| window.contains(&death.at)), "{:?}", books.deaths);
    assert_eq!(minted, plan.leases() as u64 + books.rotations + books.deaths.len() as u64);
    assert!(books.lost < 10_000, "a server that does not answer is left in peace: {}", books.lost);
}
