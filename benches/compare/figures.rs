//! Numbers: medians and percentiles of many runs, and the table of all rows.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// What was measured of one side, in one unit.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The median.
    pub median: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// How many runs.
    pub runs: usize,
}

impl Figures {
    /// Of many durations, in microseconds.
    pub fn of(mut runs: Vec<Duration>) -> Figures {
        assert!(!runs.is_empty(), "nothing was measured");
        runs.sort();
        let at = |share: f64| {
            let index = ((runs.len() - 1) as f64 * share).round() as usize;
            runs[index].as_secs_f64() * 1e6
        };
        Figures { median: at(0.5), p99: at(0.99), runs: runs.len() }
    }

    /// A number that was counted or read once.
    pub fn single(value: f64) -> Figures {
        Figures { median: value, p99: value, runs: 1 }
    }
}

/// Our time by theirs: the median of what the single rounds say, since the machine drifts from round to
/// round and hardly within one.
pub fn ratio_by_round(ours: &[Vec<Duration>], theirs: &[Vec<Duration>]) -> f64 {
    let mut ratios: Vec<f64> = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| Figures::of(ours.clone()).median / Figures::of(theirs.clone()).median)
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was done.
    pub what: String,
    /// On or with what.
    pub side: String,
    /// The unit of the figures.
    pub unit: &'static str,
    /// The figures.
    pub figures: Figures,
    /// Our time by that of this side; none where there is nothing to compare.
    pub leasefs_by_this: Option<f64>,
}

/// All rows for people.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["what", "side", "median", "p99", "unit", "runs", "leasefs / this"]);
    for row in rows {
        let number = |value: f64| if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") };
        table.add_row([
            row.what.clone(),
            row.side.clone(),
            number(row.figures.median),
            number(row.figures.p99),
            row.unit.to_owned(),
            row.figures.runs.to_string(),
            row.leasefs_by_this.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
        ]);
    }
    for column in [2, 3, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
