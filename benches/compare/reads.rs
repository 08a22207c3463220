//! Reads of what is resident: open, read to the end, close.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::figures::{Figures, Row, ratio_by_round};
use crate::places::Places;
use crate::support::bao::Bao;

/// Rounds, each of which measures every side once over.
const ROUNDS: usize = 60;

/// Uses in one side's turn of a round.
const USES: usize = 100;

/// One reader, each side in turn.
pub fn one_reader(places: &Places, name: &str, size: usize) -> Vec<Row> {
    side_by_side(places, &format!("open, read {size} B, close; 1 reader"), |root| {
        uses(&root.join(name), USES)
    })
}

/// Several readers at once of the smallest file.
pub fn many_readers(places: &Places, readers: usize) -> Vec<Row> {
    side_by_side(places, &format!("open, read 64 B, close; {readers} readers"), |root| {
        let path = root.join("64-B");
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..readers).map(|_| scope.spawn(|| uses(&path, USES / 4))).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("a reader")).collect()
        })
    })
}

/// Resident reads while Vault answers nothing, beside the same before.
pub fn while_vault_is_frozen(bao: &Bao, places: &Places) -> Vec<Row> {
    let path = places.leasefs().path("64-B");
    let (mut well, mut frozen) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        well.push(uses(&path, USES));
        bao.signal(Signal::SIGSTOP);
        frozen.push(uses(&path, USES));
        bao.signal(Signal::SIGCONT);
    }
    let what = "open, read 64 B, close; Vault frozen against well";
    let row = |side: &str, rounds: &[Vec<Duration>], leasefs_by_this| Row {
        what: what.to_owned(),
        side: side.to_owned(),
        unit: "µs",
        figures: Figures::of(rounds.concat()),
        leasefs_by_this,
    };
    vec![row("frozen", &frozen, None), row("well", &well, Some(ratio_by_round(&frozen, &well)))]
}

fn side_by_side(places: &Places, what: &str, turn: impl Fn(&Path) -> Vec<Duration>) -> Vec<Row> {
    let sides = places.all();
    let mut rounds: Vec<Vec<Vec<Duration>>> = vec![Vec::new(); sides.len()];
    for (_, root) in &sides {
        turn(root);
    }
    for round in 0..ROUNDS {
        // Every side comes first as often as the others.
        for step in 0..sides.len() {
            let side = (round + step) % sides.len();
            rounds[side].push(turn(&sides[side].1));
        }
    }
    let rows = sides.iter().zip(&rounds).enumerate();
    rows.map(|(index, ((side, _), theirs))| Row {
        what: what.to_owned(),
        side: (*side).to_owned(),
        unit: "µs",
        figures: Figures::of(theirs.concat()),
        leasefs_by_this: (index > 0).then(|| ratio_by_round(&rounds[0], theirs)),
    })
    .collect()
}

fn uses(path: &Path, count: usize) -> Vec<Duration> {
    let mut buffer = vec![0; 128 << 10];
    (0..count)
        .map(|_| {
            let began = Instant::now();
            let mut file = File::open(path).expect("the file opens");
            while file.read(&mut buffer).expect("the file can be read") > 0 {}
            drop(file);
            began.elapsed()
        })
        .collect()
}
