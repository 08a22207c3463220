use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use fastrand::Rng;
use proptest::prelude::*;

use super::*;
use crate::sys::secret_memory::{MemoryError, create, create_ordinary, last_store};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// Starts each value that is not empty, so that what is left of it can be found.
const MARKER: &[u8; 16] = b"a-sealed-secret!";

fn entries(sealed: &Sealed) -> Entries {
    sealed.entries().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

fn text(entries: &[(&str, &str)]) -> Entries {
    entries.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn again(memory: &OwnedFd) -> OwnedFd {
    memory.try_clone().unwrap()
}

fn reopened(memory: &OwnedFd) -> Sealed {
    Sealed::open(again(memory)).unwrap()
}

fn refusal(memory: &OwnedFd) -> Option<SealedError> {
    Sealed::open(again(memory)).err()
}

/// All bytes of ordinary memory.
fn bytes(memory: &OwnedFd) -> Vec<u8> {
    let file = File::from(again(memory));
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn overwrite(memory: &OwnedFd, at: usize, bytes: &[u8]) {
    File::from(again(memory)).write_all_at(bytes, at as u64).unwrap();
}

fn markers(bytes: &[u8]) -> usize {
    bytes.windows(MARKER.len()).filter(|window| window == MARKER).count()
}

fn secret(rest: &[u8]) -> Vec<u8> {
    [MARKER, rest].concat()
}

#[test]
fn what_was_committed_is_found_again() {
    let memory = create(LEAST).unwrap();
    let mut sealed = reopened(&memory);
    assert_eq!(sealed.entries().count(), 0);
    sealed.put(b"token", b"hvs.1");
    sealed.put(b"lease", b"");
    sealed.put(b"", b"no key");
    assert_eq!(sealed.entries().count(), 0, "not committed");
    sealed.commit().unwrap();
    sealed.put(b"token", b"hvs.2");
    sealed.remove(b"lease");
    sealed.commit().unwrap();
    sealed.put(b"lost", b"never committed");
    let expected = text(&[("token", "hvs.2"), ("", "no key")]);
    assert_eq!(entries(&sealed), expected);
    drop(sealed);
    assert_eq!(entries(&reopened(&memory)), expected);
}

#[test]
fn a_batch_may_change_its_mind() {
    let memory = create_ordinary(LEAST).unwrap();
    let mut sealed = reopened(&memory);
    for key in ["a", "b", "c", "d"] {
        sealed.put(key.as_bytes(), b"old");
    }
    sealed.commit().unwrap();
    sealed.put(b"a", b"1");
    sealed.put(b"a", b"2");
    sealed.remove(b"b");
    sealed.put(b"b", b"back");
    sealed.put(b"c", b"1");
    sealed.remove(b"c");
    sealed.put(b"new", b"1");
    sealed.remove(b"new");
    sealed.remove(b"d");
    sealed.remove(b"d");
    sealed.remove(b"never there");
    sealed.commit().unwrap();
    let expected = text(&[("a", "2"), ("b", "back")]);
    assert_eq!(entries(&sealed), expected);
    drop(sealed);
    assert_eq!(entries(&reopened(&memory)), expected);
}

#[test]
fn entries_come_in_the_order_of_their_last_put() {
    let memory = create_ordinary(LEAST).unwrap();
    let mut sealed = reopened(&memory);
    for key in ["a", "b", "c", "a"] {
        sealed.put(key.as_bytes(), b"");
        sealed.commit().unwrap();
    }
    let keys: Vec<&[u8]> = sealed.entries().map(|(key, _)| key).collect();
    assert_eq!(keys, [b"b", b"c", b"a"]);
}

#[test]
fn a_commit_without_changes_writes_nothing() {
    let memory = create_ordinary(LEAST).unwrap();
    let mut sealed = reopened(&memory);
    sealed.put(b"a", b"1");
    sealed.commit().unwrap();
    let before = bytes(&memory);
    sealed.commit().unwrap();
    sealed.remove(b"b");
    sealed.commit().unwrap();
    assert!(bytes(&memory) == before);
}

/// What is done to a store, and to a model of it.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, Vec<u8>),
    Remove(u8),
    Commit,
    /// The state is put anew.
    Reset,
    Reopen,
}

fn perform(step: &Step, sealed: &mut Sealed, staged: &mut Entries) {
    match step {
        Step::Put(key, value) => {
            sealed.put(&[*key], value);
            staged.insert(vec![*key], value.clone());
        }
        Step::Remove(key) => {
            sealed.remove(&[*key]);
            staged.remove(&[*key][..]);
        }
        Step::Reset => {
            sealed.reset();
            for (key, value) in staged {
                sealed.put(key, value);
            }
        }
        Step::Commit => sealed.commit().unwrap(),
        Step::Reopen => {}
    }
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..300).prop_map(|rest| secret(&rest)),
        1 => Just(Vec::new()),
    ];
    prop_oneof![
        10 => (0..8_u8, value).prop_map(|(key, value)| Step::Put(key, value)),
        4 => (0..8_u8).prop_map(Step::Remove),
        6 => Just(Step::Commit),
        1 => Just(Step::Reset),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn it_holds_what_a_map_would(steps in prop::collection::vec(step(), 1..200)) {
        let memory = create_ordinary(LEAST).unwrap();
        let mut sealed = reopened(&memory);
        let (mut committed, mut staged) = (Entries::new(), Entries::new());
        for step in steps {
            perform(&step, &mut sealed, &mut staged);
            match step {
                Step::Commit => committed = staged.clone(),
                Step::Reopen => {
                    drop(sealed);
                    sealed = reopened(&memory);
                    staged = committed.clone();
                }
                _ => {}
            }
            prop_assert_eq!(&entries(&sealed), &committed);
            if matches!(step, Step::Commit | Step::Reopen) {
                let live = committed.values().filter(|value| !value.is_empty()).count();
                prop_assert_eq!(markers(&bytes(&memory)), live);
            }
        }
    }
}

/// A history that fills the halves many times, in which batches outgrow a half and shrink again.
fn history(rng: &mut Rng, commits: usize) -> Vec<Vec<Step>> {
    let mut steps = Vec::new();
    for _ in 0..commits {
        let mut batch = Vec::new();
        if rng.u8(..12) == 0 {
            batch.push(Step::Reset);
        }
        for _ in 0..rng.usize(1..10) {
            let key = rng.u8(..6);
            batch.push(match rng.u8(..4) {
                0 => Step::Remove(key),
                _ => Step::Put(key, secret(&vec![key; rng.usize(..500)])),
            });
        }
        batch.push(Step::Commit);
        steps.push(batch);
    }
    steps
}

#[test]
fn killed_after_any_store_it_holds_a_whole_commit_and_no_dead_secret() {
    let history = history(&mut Rng::with_seed(4), 20);
    let mut states = vec![Entries::new()];
    for batch in &history {
        let memory = create_ordinary(LEAST).unwrap();
        let mut staged = states.last().unwrap().clone();
        let mut scratch = reopened(&memory);
        batch.iter().for_each(|step| perform(step, &mut scratch, &mut staged));
        states.push(staged);
    }
    let mut stores = 0;
    loop {
        let memory = create_ordinary(LEAST).unwrap();
        let acknowledged = last_store::killed_after(stores, || {
            // Killed while it formatted: it would not have read what it then did not write.
            let Ok(mut sealed) = Sealed::open(again(&memory)) else { return 0 };
            let mut staged = Entries::new();
            let mut acknowledged = 0;
            for batch in &history {
                batch.iter().for_each(|step| perform(step, &mut sealed, &mut staged));
                if last_store::was_made() {
                    break;
                }
                acknowledged += 1;
            }
            acknowledged
        });
        // The successor is killed too, wherever it is at work.
        let _ = last_store::killed_after(stores % 97, || Sealed::open(again(&memory)));
        let found = entries(&reopened(&memory));
        let is_next = states.get(acknowledged + 1) == Some(&found);
        assert!(found == states[acknowledged] || is_next, "after {stores} stores");
        assert_eq!(markers(&bytes(&memory)), found.len(), "after {stores} stores");
        if acknowledged == history.len() {
            break;
        }
        stores += 1;
    }
    assert!(stores > 5_000, "{stores} stores are no history");
}

#[test]
fn full_leaves_no_state_until_all_is_put_anew() {
    let memory = create_ordinary(LEAST).unwrap();
    let mut sealed = reopened(&memory);
    sealed.put(b"token", &secret(b"1"));
    sealed.commit().unwrap();
    sealed.put(b"big", &secret(&[7; 4096]));
    sealed.put(b"small", &secret(b"2"));
    let full = sealed.commit().unwrap_err();
    assert!(full.needed > full.room && full.room == 4096, "{full:?}");
    assert_eq!(sealed.commit(), Err(full), "still");
    assert_eq!(sealed.entries().count(), 0);
    assert_eq!(markers(&bytes(&memory)), 0);
    assert_eq!(refusal(&memory), Some(SealedError::Unusable));

    sealed.reset();
    sealed.put(b"token", &secret(b"3"));
    assert_eq!(refusal(&memory), Some(SealedError::Unusable), "not yet");
    sealed.commit().unwrap();
    drop(sealed);
    let mut sealed = reopened(&memory);
    assert_eq!(entries(&sealed).into_keys().collect::<Vec<_>>(), [b"token"]);

    sealed.put(b"big", &secret(&[7; 4096]));
    sealed.commit().unwrap_err();
    drop(sealed);
    assert_eq!(Sealed::format(again(&memory)).unwrap().entries().count(), 0);
    assert_eq!(refusal(&memory), None);
}

#[test]
fn killed_while_it_gives_up_it_holds_the_last_commit_or_none() {
    let mut held = 0;
    for stores in 0.. {
        let memory = create_ordinary(LEAST).unwrap();
        let mut sealed = reopened(&memory);
        sealed.put(b"token", &secret(b"1"));
        sealed.commit().unwrap();
        let is_over = last_store::killed_after(stores, || {
            sealed.put(b"big", &secret(&[7; 4096]));
            sealed.commit().unwrap_err();
            drop(sealed);
            !last_store::was_made()
        });
        match Sealed::open(again(&memory)) {
            Ok(sealed) => {
                assert_eq!(held, stores, "once it holds none, it holds none");
                assert_eq!(entries(&sealed).into_keys().collect::<Vec<_>>(), [b"token"]);
                held += 1;
            }
            Err(error) => assert_eq!(error, SealedError::Unusable),
        }
        drop(Sealed::format(again(&memory)).unwrap());
        assert_eq!(markers(&bytes(&memory)), 0);
        if is_over {
            break;
        }
    }
    assert!(held > 0);
}

#[test]
fn it_can_be_handed_to_a_thread() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    is_send::<Sealed>();
    is_send::<Requests>();
    is_sync::<Requests>();
}

#[test]
fn it_is_full_only_if_the_entries_do_not_fit() {
    let memory = create_ordinary(LEAST).unwrap();
    let mut sealed = reopened(&memory);
    // A record of one entry has four words of its own, and its key takes one.
    let whole = vec![1; 4096 - 32 - 8];
    for round in 0..5 {
        sealed.put(b"a", &whole);
        sealed.put(b"a", &whole);
        sealed.commit().unwrap_or_else(|full| panic!("round {round}: {full}"));
    }
    sealed.remove(b"a");
    sealed.put(b"b", &whole);
    sealed.commit().unwrap();
    assert_eq!(sealed.fill(), Fill { entries: 1, used: 4096, room: 4096 });
    sealed.put(b"c", b"");
    let full = sealed.commit().unwrap_err();
    assert_eq!(full, Full { needed: 4096 + 40, room: 4096 });
}

#[test]
fn a_reset_counts_only_once_it_is_committed() {
    let memory = create_ordinary(LEAST).unwrap();
    let mut sealed = reopened(&memory);
    sealed.put(b"a", b"1");
    sealed.put(b"b", b"1");
    sealed.commit().unwrap();
    sealed.put(b"c", b"dropped");
    sealed.reset();
    sealed.put(b"b", b"2");
    assert_eq!(entries(&sealed), text(&[("a", "1"), ("b", "1")]));
    drop(sealed);
    let mut sealed = reopened(&memory);
    assert_eq!(entries(&sealed), text(&[("a", "1"), ("b", "1")]));
    sealed.reset();
    sealed.put(b"b", b"2");
    sealed.commit().unwrap();
    assert_eq!(entries(&sealed), text(&[("b", "2")]));
    sealed.reset();
    sealed.commit().unwrap();
    drop(sealed);
    assert_eq!(reopened(&memory).entries().count(), 0);
}

#[test]
fn replaced_and_removed_secrets_are_in_secret_memory_no_more() {
    let memory = create(LEAST).unwrap();
    let in_memory = || {
        let (_, area) = secret_memory::map(again(&memory), LEAST).unwrap();
        markers(area.bytes(0..area.len()))
    };
    let mut sealed = reopened(&memory);
    for round in 0..100 {
        sealed.put(b"replaced", &secret(&[round; 100]));
        sealed.put(b"removed", &secret(b"soon"));
        sealed.commit().unwrap();
        assert_eq!(in_memory(), 2);
        sealed.remove(b"removed");
        sealed.commit().unwrap();
        assert_eq!(in_memory(), 1);
    }
    sealed.put(b"dropped", &secret(b"never committed"));
    assert_eq!(in_memory(), 2);
    drop(sealed);
    assert_eq!(in_memory(), 1);
    let mut sealed = reopened(&memory);
    sealed.remove(b"replaced");
    sealed.commit().unwrap();
    assert_eq!(in_memory(), 0);
    sealed.put(b"formatted", &secret(b"away"));
    sealed.commit().unwrap();
    drop(sealed);
    drop(Sealed::format(again(&memory)).unwrap());
    assert_eq!(in_memory(), 0);
}

#[test]
fn requests_outlive_the_state() {
    let memory = create(LEAST).unwrap();
    let sealed = reopened(&memory);
    let requests = sealed.requests();
    std::mem::forget(requests.begin(20));
    drop((sealed, requests));
    let requests = Sealed::format(again(&memory)).unwrap().requests();
    requests.take_stock(End::Fault);
    assert_eq!((requests.highest(), requests.crashes(20)), (20, 1));
}

#[test]
fn another_version_is_refused_and_can_be_formatted() {
    for at in [0, secret_memory::SHARED] {
        let memory = create_ordinary(LEAST).unwrap();
        let mut sealed = reopened(&memory);
        sealed.put(b"token", &secret(b""));
        sealed.commit().unwrap();
        drop(sealed);
        overwrite(&memory, at, &layout::mark(7).to_ne_bytes());
        let error = refusal(&memory).unwrap();
        assert_eq!(error, SealedError::Version { found: 7 });
        assert!(error.to_string().contains("format 7"), "{error}");
        assert_eq!(markers(&bytes(&memory)), 1, "left as it was");
        assert_eq!(Sealed::format(again(&memory)).unwrap().entries().count(), 0);
        assert_eq!(markers(&bytes(&memory)), 0);
        assert_eq!(refusal(&memory), None);
    }
}

#[test]
fn what_leasefs_did_not_write_is_refused() {
    let memory = create_ordinary(LEAST).unwrap();
    overwrite(&memory, secret_memory::SHARED, b"ELF");
    assert_eq!(refusal(&memory), Some(SealedError::Foreign));
    let small = create_ordinary(4096).unwrap();
    let least = MemoryError::TooSmall { size: 4096, least: LEAST };
    assert_eq!(refusal(&small), Some(least.into()));
}

#[test]
fn whoever_is_killed_while_formatting_leaves_nothing() {
    for stores in 0..2_000 {
        let memory = create_ordinary(LEAST).unwrap();
        let mut sealed = reopened(&memory);
        sealed.put(b"token", &secret(b""));
        sealed.commit().unwrap();
        drop(sealed);
        let _ = last_store::killed_after(stores, || Sealed::format(again(&memory)));
        let expected = usize::from(stores == 0);
        assert_eq!(reopened(&memory).entries().count(), expected);
        assert_eq!(markers(&bytes(&memory)), expected);
    }
}

#[test]
fn damage_is_an_error_or_harmless() {
    let memory = create_ordinary(LEAST).unwrap();
    let mut sealed = reopened(&memory);
    for key in 0..8_u8 {
        sealed.put(&[key], &secret(&vec![key; usize::from(key) * 9]));
        sealed.put(b"often", &[key; 20]);
        sealed.commit().unwrap();
    }
    sealed.remove(&[3]);
    sealed.commit().unwrap();
    let expected = entries(&sealed);
    drop(sealed);
    let sound = bytes(&memory);
    let mut rng = Rng::with_seed(9);
    let (mut refused, mut harmless) = (0, 0);
    // Each byte that leasefs reads: the header and the half in use. One bit of it, then any other value.
    for at in (secret_memory::SHARED..secret_memory::SHARED + 8192).chain(0..8) {
        for damage in [1 << rng.u8(..8), rng.u8(1..)] {
            overwrite(&memory, 0, &sound);
            overwrite(&memory, at, &[sound[at] ^ damage]);
            match Sealed::open(again(&memory)) {
                Ok(sealed) => {
                    assert_eq!(entries(&sealed), expected, "byte {at} ^ {damage}");
                    harmless += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 500 && harmless > 500, "{refused} refused, {harmless} harmless");
}

#[test]
fn random_contents_are_no_state() {
    let memory = create_ordinary(LEAST).unwrap();
    drop(reopened(&memory));
    let sound = bytes(&memory);
    let mut rng = Rng::with_seed(1);
    for _ in 0..2_000 {
        let mut damaged = sound.clone();
        for _ in 0..rng.usize(1..20) {
            let at = rng.usize(secret_memory::SHARED / 8 + 1..damaged.len() / 8) * 8;
            damaged[at..at + 8].copy_from_slice(&rng.u64(..).to_le_bytes());
        }
        let commit = rng.usize(..=4096 / 8) as u64;
        let header = secret_memory::SHARED;
        if rng.bool() {
            // A commit that is valid, of records that are not.
            let length = usize::try_from(commit).unwrap() * 8;
            overwrite(&memory, 0, &damaged);
            let (_, mut area) = secret_memory::map(again(&memory), LEAST).unwrap();
            Layout::set_commit(&mut area, Commit::Records { half: Half::First, length });
            drop(area);
            overwrite(&memory, header + 128, &4096_u64.to_le_bytes());
        } else {
            overwrite(&memory, 0, &damaged);
        }
        if let Ok(sealed) = Sealed::open(again(&memory)) {
            assert_eq!(sealed.entries().count(), 0);
        }
    }
}

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    let damaged = SealedError::from(Damage::Lengths(64)).to_string();
    assert_eq!(
        damaged,
        "the sealed state is damaged (invalid lengths in the record at 64): begin with an empty state"
    );
    let full = Full { needed: 10, room: 5 }.to_string();
    assert!(full.contains("takes 10 bytes") && full.contains("larger"), "{full}");
}
