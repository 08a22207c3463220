//! leasefs beside what it is measured against: tmpfs, a bare FUSE file system with the same flags, and plain
//! HTTP. Each row is measured in one run, rounds interleaved, so that a machine whose speed drifts drifts
//! for both sides. Prints one table; with `--json` the same as JSON.
//!
//! `make bench` builds it with optimisations and runs it. Needs root, /dev/fuse and OpenBao.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark reads the clock, prints its table and may panic"
)]

#[path = "../bare/mod.rs"]
mod bare;
mod cold;
mod figures;
mod places;
mod reads;
mod requests;
mod scale;
#[allow(dead_code, reason = "a benchmark uses a part of what the tests share")]
#[path = "../../tests/support/mod.rs"]
mod support;

use figures::Row;
use places::Places;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == places::SERVE_BARE) {
        return places::serve_bare(arguments[at + 1].as_ref());
    }
    let json = arguments.iter().any(|argument| argument == "--json");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let rows = runtime.block_on(measure());
    if json {
        println!("{}", serde_json::to_string_pretty(&rows).expect("rows are JSON"));
    } else {
        println!("{}", figures::table(&rows));
    }
}

async fn measure() -> Vec<Row> {
    let bao = support::bao::Bao::start().await;
    let places = Places::start(&bao).await;
    let mut rows = Vec::new();
    for (name, size) in places::SIZES {
        rows.extend(reads::one_reader(&places, name, size));
    }
    for readers in [4, 16] {
        rows.extend(reads::many_readers(&places, readers));
    }
    rows.push(requests::awaited(&places));
    rows.extend(cold::against_http(&bao).await);
    rows.extend(reads::while_vault_is_frozen(&bao, &places));
    rows.extend(scale::many_files(&bao).await);
    rows
}
