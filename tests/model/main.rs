//! Random histories of the engine, in a small world with a clock that jumps, a Vault that fails, a kernel
//! that remembers and a driver that loses things.
//!
//! The invariants, each a function in `checks` (or an assertion in `world` where the thing happens):
//! - `no_byte_after_the_end`: what is read is alive, whether or not anybody ticked; no body is of another
//!   file;
//! - `a_handle_keeps_its_generation`: a snapshot from open on, until it ends; then an error for ever, and
//!   never without a reason;
//! - `the_page_cache_gets_the_current_generation`;
//! - one read of a source in flight (`World::take`);
//! - `at_most_two_generations`;
//! - `no_effect`: a caller who may not read causes nothing;
//! - `looking_never_mints`: GETATTR and OPENDIR read nothing that may mint; LOOKUP, READ and READDIR can't
//!   wait, by their types;
//! - each ticket is answered once, at latest when it is given up or at the stop (`World::answered`,
//!   `nothing_waits`);
//! - `each_thing_has_one_wake`: every live lease has exactly one pending; `wakes_are_in_time`,
//!   `wiped_after_tick`, and ticks come to rest (`World::tick`);
//! - `the_bucket_holds`;
//! - `all_is_settled`: at the stop, no lease is left behind; late answers are revoked;
//! - `memory_is_what_is_held`, `nothing_leaks`;
//! - no OPEN is answered with a size of which the kernel believes another (`World::opened`),
//!   `no_size_is_made_up`;
//! - no request uses a token that was given back (`World::take`);
//! - *changes are enough*: the cells that were written make up the whole state, after each call
//!   (`World::seal`); a successor that reads them goes on with the same handles, names and bytes, asks nothing
//!   of Vault by itself, and all of the above holds for it too (`World::hand_over`, a step of the histories);
//!   a handle whose OPEN comes again is closed (`World::resend`);
//! - `use_without_pause`: under fair weather a source in use never fails and mints once per `max_ttl`.
//!
//! `LEASEFS_MODEL_CASES` sets how many histories are tried (20,000 are more than a million operations), and
//! `LEASEFS_MODEL_SHRINK` how many tries it takes at most to make one that fails small; it is then run once
//! more with a trace. `mutants/` breaks the invariants one by one, and `mutants/run` expects a failure of
//! each.

#![expect(clippy::print_stderr, reason = "a failed history is shown with a trace")]
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test that can't go on fails")]

mod checks;
mod composed;
mod composer;
mod driver;
mod handover;
mod histories;
mod layout;
mod pinned;
mod reconfigured;
mod regressions;
mod scenarios;
mod successors;
mod vault;
mod world;
