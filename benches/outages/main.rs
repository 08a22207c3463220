//! What programs notice of an outage of Vault: how long a read of what is held takes before and during it,
//! and how soon after the server's return something is fetched again. Prints one table; with `--json` the
//! same as JSON.
//!
//! `make outages` builds it with optimisations and runs it. Needs root, /dev/fuse, OpenBao and PostgreSQL.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark reads the clock, prints its table and may panic"
)]

#[allow(dead_code, reason = "the comparison has more to show")]
#[path = "../compare/figures.rs"]
mod figures;
mod outage;
mod rounds;
#[allow(dead_code, reason = "a benchmark uses a part of what the tests share")]
#[path = "../../tests/support/mod.rs"]
mod support;

use comfy_table::{CellAlignment, Table, presets};
use rounds::Row;
use support::world::World;

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let world = World::start();
    let rows: Vec<Row> = outage::all(&world).iter().map(rounds::measure).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&rows).expect("rows are JSON"));
    } else {
        println!("{}", table(&rows));
    }
}

/// All rows for people.
fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "outage",
        "p50 before, µs",
        "p99",
        "p50 during, µs",
        "p99",
        "during / before",
        "reads",
        "fetched again after, ms",
        "slowest",
    ]);
    for row in rows {
        let number = |value: f64| if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") };
        table.add_row([
            row.outage.to_owned(),
            number(row.before.median),
            number(row.before.p99),
            number(row.during.median),
            number(row.during.p99),
            format!("{:.2}", row.during_by_before),
            row.during.runs.to_string(),
            number(row.fetched_again_ms),
            number(row.slowest_ms),
        ]);
    }
    for column in 1..=8 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
