//! `docs/scale.md`: fixed words around what was computed.

use std::fmt::Write;

use crate::capacity::Capacity;
use crate::figures::{Rates, Run, count, number, span, table};
use crate::support::fleet::AGAIN;
use crate::support::metered::Kind;

/// The hosts that the page reckons with.
const MANY: f64 = 1000.0;

/// The page and what of it is shown on the terminal.
pub struct Page {
    /// All of it.
    pub text: String,
    /// Its tables.
    pub tables: String,
}

/// Writes it.
pub fn of(week: &Run, hosts: &Run, capacity: &Capacity) -> Page {
    let (many, times) = (on_paper(hosts, capacity), MANY / hosts.mounts as f64);
    let tables = format!(
        "{}\n\n{}\n\n{}\n\n{}\n\n{many}\n",
        week.requests(),
        week.events(),
        hosts.requests(),
        hosts.events(),
    );
    let mut text = String::new();
    let mut add = |part: String| {
        writeln!(text, "{part}\n").expect("text can be written");
    };
    add(format!(
        "# Scale

`make scale` simulates many leases over a long time and writes this page. Engine and driver are the real ones;
the clock is simulated, and so is Vault: it takes {} ms for a credential, {} ms for a renewal or a revocation, {} ms
for anything else, and it counts. Each file is used by a program of its own. Every other one keeps it open, the
others open it every 10 to 20 minutes; a program that is refused tries again within {} s.",
        Kind::Mint.takes().as_millis(),
        Kind::Renew.takes().as_millis(),
        Kind::Kv.takes().as_millis(),
        AGAIN.as_secs(),
    ));
    add(format!("## {} leases on one mount for a week\n\n{}", count(week.leases() as u64), set_up(week)));
    add(format!("{}\n\n{}", week.requests(), week.events()));
    add(format!(
        "## {} hosts with {} leases each, for {}\n\n{}",
        hosts.mounts,
        hosts.plan.leases(),
        span(hosts.plan.span),
        set_up(hosts)
    ));
    add(format!("{}\n\n{}", hosts.requests(), hosts.events()));
    add(format!(
        "## {} hosts and one Vault, on paper

The {} hosts above know nothing of each other, so {} of them ask {} times as much. One OpenBao with one PostgreSQL,
on the machine that this was run on ({} cores, shared with the client), with {} requests under way, does the
\"capacity\" of each kind. The share is that of one such server; it is above 100 % where more is wanted than
one server can do, which then takes longer: leasefs waits for it, with a bounded number of requests under way for
each host.",
        count(MANY as u64),
        hosts.mounts,
        count(MANY as u64),
        number(times),
        std::thread::available_parallelism().map_or(1, |cores| cores.get()),
        crate::capacity::AT_ONCE,
    ));
    add(many);
    add(in_words(hosts, capacity, times));
    add(format!(
        "Simulated in {} s and {} s; {} and {} requests.",
        week.took.as_secs(),
        hosts.took.as_secs(),
        count(total(week)),
        count(total(hosts)),
    ));
    Page { text: text.trim_end().to_owned() + "\n", tables }
}

fn set_up(run: &Run) -> String {
    let plan = &run.plan;
    let classes: Vec<String> = plan
        .classes
        .iter()
        .map(|class| {
            let leases = count((class.leases * run.mounts) as u64);
            format!("{leases} of {} (max_ttl {})", span(class.ttl), span(class.max_ttl))
        })
        .collect();
    let (from, until) = run.quiet();
    let text = format!(
        "Leases: {}; besides, {} KV secrets that are held open. `revocation-check` is {}, `max-age` {}. \
         All programs start within {}; {}. The mean is taken from {} to {} after the start.",
        classes.join(", "),
        count((plan.kv * run.mounts) as u64),
        span(plan.revocation_check),
        span(plan.max_age),
        span(plan.start_within),
        run.outage(),
        span(from),
        span(until),
    );
    folded(&text, "")
}

/// What many hosts ask, kind by kind, and what one server can do of that.
fn on_paper(hosts: &Run, capacity: &Capacity) -> String {
    let times = MANY / hosts.mounts as f64;
    let mut table = table(&[
        "requests per second",
        "capacity",
        "mean",
        "share",
        "peak over 10 s after the outage",
        "share",
    ]);
    for (name, kind, capacity) in [
        ("credentials minted", Kind::Mint, capacity.mints),
        ("leases renewed", Kind::Renew, capacity.renewals),
        ("leases looked up", Kind::LookUp, capacity.look_ups),
        ("KV read", Kind::Kv, capacity.kv),
    ] {
        let Rates { mean, back_of_ten, .. } = hosts.rates(&[kind]);
        let share = |rate: f64| format!("{} %", number(100.0 * rate * times / capacity));
        table.add_row([
            name.to_owned(),
            number(capacity),
            number(mean * times),
            share(mean),
            number(back_of_ten * times),
            share(back_of_ten),
        ]);
    }
    table.to_string()
}

fn in_words(hosts: &Run, capacity: &Capacity, times: f64) -> String {
    let rate = |kind| hosts.rates(&[kind]).mean * times;
    let load = rate(Kind::Mint) / capacity.mints
        + rate(Kind::Renew) / capacity.renewals
        + rate(Kind::LookUp) / capacity.look_ups
        + rate(Kind::Kv) / capacity.kv;
    let all = hosts.rates(&Kind::ALL).mean;
    let look_ups = hosts.rates(&[Kind::LookUp]).mean;
    let (down, up, _) = hosts.plan.outage;
    let deaths = &hosts.outcome.books.deaths;
    let short = deaths.iter().filter(|death| death.lease <= up - down).count() as f64 * times;
    let died = deaths.len() as f64 * times;
    [
        format!(
            "- All of it together is {} requests a second and takes {} % of one such server when nothing special happens.",
            number(all * times),
            number(100.0 * load),
        ),
        format!(
            "- {} % of that is the question whether a lease still lives, asked every `revocation-check` for each lease \
             in use: with \"5m\" instead of the default 30 s it is a tenth of that, and a credential revoked in Vault \
             is shown for up to five minutes.",
            number(100.0 * look_ups / all),
        ),
        format!(
            "- The outage ends {} credentials of {}; {} of them have leases no longer than itself, which nothing can \
             save. Their programs want new ones at once, and one database makes {} a second: that takes {} s.",
            count(died as u64),
            count((hosts.leases() as f64 * times) as u64),
            count(short as u64),
            number(capacity.mints),
            number(died / capacity.mints),
        ),
    ]
    .map(|entry| folded(&entry, "  "))
    .join("\n")
}

/// Long lines as short ones, those after the first with `indent` before them.
fn folded(text: &str, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        if lines.last().is_some_and(|line| line.len() + word.len() > 112) {
            lines.push(String::new());
        }
        let line = lines.last_mut().expect("one at least");
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.join(&format!("\n{indent}"))
}

fn total(run: &Run) -> u64 {
    let whole = run.plan.span.as_secs() as usize;
    run.outcome.books.sums(std::time::Duration::ZERO, run.plan.span, whole, &Kind::ALL).iter().sum()
}
