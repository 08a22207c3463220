//! What a simulation comes to: rates before, at and after the outage, and what went wrong.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use crate::support::fleet::{Outcome, Plan};
use crate::support::metered::{Books, Kind, Outage};

const HOUR: Duration = Duration::from_secs(3600);

/// How long it may take until the server's return is noticed.
const NOTICED: Duration = Duration::from_secs(20);

/// A simulation that is over.
pub struct Run {
    /// How many mounts there were.
    pub mounts: usize,
    /// What each of them did.
    pub plan: Plan,
    /// What came of all together.
    pub outcome: Outcome,
    /// How long it took to simulate.
    pub took: Duration,
}

/// Requests per second.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// On average, before the outage.
    pub mean: f64,
    /// In the busiest second of the first hour.
    pub start: f64,
    /// In the busiest second of the hour after the outage.
    pub back: f64,
    /// In the busiest ten seconds of that hour.
    pub back_of_ten: f64,
}

/// The kinds that are told apart, by name.
pub const ROWS: [(&str, &[Kind]); 7] = [
    ("credentials minted", &[Kind::Mint]),
    ("leases renewed", &[Kind::Renew]),
    ("leases revoked", &[Kind::Revoke]),
    ("KV read", &[Kind::Kv]),
    ("all but look-ups", &Kind::BUT_LOOK_UPS),
    ("leases looked up", &[Kind::LookUp]),
    ("all", &Kind::ALL),
];

impl Run {
    /// All leases of all mounts.
    pub fn leases(&self) -> usize {
        self.plan.leases() * self.mounts
    }

    /// The requests of some kinds.
    pub fn rates(&self, kinds: &[Kind]) -> Rates {
        let (_, up, _) = self.plan.outage;
        let (from, until) = self.quiet();
        let books = &self.outcome.books;
        Rates {
            mean: books.mean(from, until, kinds),
            start: books.peak(Duration::ZERO, HOUR, 1, kinds),
            back: books.peak(up, up + HOUR, 1, kinds),
            back_of_ten: books.peak(up, up + HOUR, 10, kinds),
        }
    }

    /// When nothing special happens: the second day, or what lies between the first two hours and the outage.
    pub fn quiet(&self) -> (Duration, Duration) {
        let (down, _, _) = self.plan.outage;
        if down > 48 * HOUR { (24 * HOUR, 48 * HOUR) } else { (2 * HOUR, down) }
    }

    /// Requests of each kind.
    pub fn requests(&self) -> Table {
        let mut table = table(&[
            "requests per second",
            "mean",
            "peak at the start",
            "peak after the outage",
            "over 10 s",
            "peak / mean",
            "over 10 s / mean",
        ]);
        for (name, kinds) in ROWS {
            let Rates { mean, start, back, back_of_ten } = self.rates(kinds);
            let ratio = |peak: f64| if mean > 0.0 { number(peak / mean) } else { String::new() };
            table.add_row([
                name.to_owned(),
                number(mean),
                number(start),
                number(back),
                number(back_of_ten),
                ratio(back),
                ratio(back_of_ten),
            ]);
        }
        table
    }

    /// What became of credentials and programs.
    pub fn events(&self) -> Table {
        let Outcome { books, minted, refused } = &self.outcome;
        let (down, up, _) = self.plan.outage;
        let mut table = table(&["", "count"]);
        let mut row = |what: &str, value: String| {
            table.add_row([what.to_owned(), value]);
        };
        row("credentials minted in all", count(*minted));
        row("… to begin with", count(self.leases() as u64));
        row("… because max_ttl was near, while the one before still lived", count(books.rotations));
        row("… because the one before had died", count(books.deaths.len() as u64));
        row(
            "least that was left of one at its rotation",
            books.least_left.map_or_else(|| "–".to_owned(), seconds),
        );
        row("died in use, but for the outage", count(self.deaths_outside()));
        for class in &self.plan.classes {
            let died = books
                .deaths
                .iter()
                .filter(|death| self.belongs_to_outage(death.at) && death.lease == class.ttl)
                .count();
            let of = count((class.leases * self.mounts) as u64);
            let what = format!("died in the outage, of {of} with {} leases", span(class.ttl));
            row(&what, count(died as u64));
        }
        row(
            "renewals later than two thirds of a lease, but for the outage and the hour after",
            count(self.late(books)),
        );
        row("renewals and look-ups of leases that were over", count(books.for_nothing));
        row("requests that were tried in the outage", count(books.lost));
        row("opens refused in the first hour", count(refused.within(Duration::ZERO, HOUR) as u64));
        row("opens refused in quiet times", count(refused.within(HOUR, down) as u64));
        row("opens refused in the outage", count(refused.within(down, up) as u64));
        row("opens refused after it", count(refused.within(up, self.plan.span) as u64));
        let over = refused.over(up, self.plan.span).map_or_else(|| "–".to_owned(), |at| seconds(at - up));
        row("the last program is served again, after the outage", over);
        table
    }

    /// Credentials that died in use though Vault was there.
    pub fn deaths_outside(&self) -> u64 {
        let outside = self.outcome.books.deaths.iter().filter(|death| !self.belongs_to_outage(death.at));
        outside.count() as u64
    }

    /// In words.
    pub fn outage(&self) -> String {
        let (down, up, how) = self.plan.outage;
        let how = match how {
            Outage::Unreachable => "refuses connections",
            Outage::Frozen => "accepts connections and answers nothing",
        };
        format!("after {} Vault {how}, for {}", span(down), span(up - down))
    }

    fn belongs_to_outage(&self, at: Duration) -> bool {
        let (down, up, _) = self.plan.outage;
        (down..up + NOTICED).contains(&at)
    }

    fn late(&self, books: &Books) -> u64 {
        let (down, up, _) = self.plan.outage;
        books.late_renewals.iter().filter(|(at, _)| !(down..up + HOUR).contains(at)).count() as u64
    }
}

/// An empty table with numbers to the right.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A rate or a ratio, as exact as it is worth.
pub fn number(value: f64) -> String {
    match value {
        _ if value >= 100.0 => count(value.round() as u64),
        _ if value >= 10.0 => format!("{value:.0}"),
        _ if value >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Digits in groups of three.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A span for people, in the largest unit that it is a whole number of.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(48 * 3600, 24 * 3600, "days"), (3600, 3600, "h"), (60, 60, "min")];
    let fits = |(least, unit, _): &(u64, u64, &str)| seconds >= *least && seconds.is_multiple_of(*unit);
    let (_, unit, name) = units.into_iter().find(fits).unwrap_or((0, 1, "s"));
    format!("{} {name}", seconds / unit)
}

fn seconds(span: Duration) -> String {
    format!("{:.0} s", span.as_secs_f64())
}
