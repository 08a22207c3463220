//! What Vault replaces by itself, and what nobody uses: static roles and `on-idle`, on a real mount with a real
//! OpenBao and a real PostgreSQL.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, and compares with the wall clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use support::mount::{Mount, eventually};
use support::scenarios::{run_together, scenarios};
use support::world::{World, attribute};

#[test]
fn what_ends_without_a_renewal() {
    let world = World::start();
    run_together(
        &world,
        &scenarios![
            a_static_role_shows_the_new_password_soon_and_the_old_one_never_again,
            a_static_role_that_is_rotated_by_hand_is_noticed_within_revocation_check,
            a_lease_that_nobody_uses_is_given_back_where_that_is_wanted,
        ],
    );
}

fn mount(world: &World, mount_table: &str, files: &str) -> Mount {
    let config = format!("[vault]\naddress = \"{}\"\n[mount]\n{mount_table}\n{files}", world.bao.address());
    Mount::start(&config, &[("VAULT_TOKEN", world.bao.root_token())])
}

fn static_role(world: &World, role: &str, period: u64) -> String {
    world.wait(world.postgres.add_static_role(&world.bao, "database", role, Duration::from_secs(period)));
    format!("[file.\"{role}\"]\nsecret = \"database/static-creds/{role}#password\"\n")
}

fn a_static_role_shows_the_new_password_soon_and_the_old_one_never_again(world: &World) {
    let mount = mount(world, "", &static_role(world, "fixed", 7));
    let size = fs::metadata(mount.path("fixed")).unwrap().len();
    assert!(size > 10, "looking at it mints nothing, so its size is known: {size}");
    let mut dead = BTreeSet::new();
    let mut shown = BTreeSet::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(16) {
        let password = mount.read("fixed").unwrap_or_else(|error| panic!("{error}\n{}", mount.log()));
        assert_eq!(password.len() as u64, size);
        assert!(!dead.contains(&password), "a password that was dead is shown again");
        let mtime = fs::metadata(mount.path("fixed")).unwrap().mtime();
        if world.postgres.admits("fixed", &password) {
            if shown.insert(password) {
                assert!(mtime > 1_700_000_000, "the time of the last rotation: {mtime}");
            }
        } else {
            // It was replaced between the read and the question: never twice for one password.
            dead.insert(password);
            let next = mount.read("fixed").unwrap();
            assert!(world.postgres.admits("fixed", &next), "the new one within a second");
            shown.insert(next);
        }
        thread::sleep(Duration::from_millis(30));
    }
    assert!(shown.len() >= 2, "it was replaced meanwhile: {}", mount.log());
    assert!(dead.len() < shown.len());
}

fn a_static_role_that_is_rotated_by_hand_is_noticed_within_revocation_check(world: &World) {
    let mount = mount(world, "revocation-check = \"1s\"", &static_role(world, "hand", 3600));
    let file = File::open(mount.path("hand")).unwrap();
    let before = mount.read("hand").unwrap();
    thread::sleep(Duration::from_millis(2500));
    let mut bytes = [0; 8];
    assert!(file.read_at(&mut bytes, 0).is_ok(), "unchanged, so the handle lives on");
    world.wait(world.bao.call("POST", "database/rotate-role/hand", Some(json!({}))));
    assert!(!world.postgres.admits("hand", &before));
    let ended =
        || file.read_at(&mut [0; 8], 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESTALE));
    eventually(Duration::from_secs(4), ended).expect("the handle on the dead password ends");
    let after = mount.read("hand").unwrap();
    assert_ne!(after, before);
    assert!(world.postgres.admits("hand", &after));
}

fn a_lease_that_nobody_uses_is_given_back_where_that_is_wanted(world: &World) {
    world.role("idle", 60, 180);
    let files = "[file.user]\nsecret = \"database/creds/idle#username\"\non-idle = \"revoke\"\n\
                 idle-timeout = \"2s\"\n";
    let mount = mount(world, "", files);
    let file = File::open(mount.path("user")).unwrap();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(world.accounts("idle"), 1, "it is open");
    drop(file);
    world.wait_until_nothing_is_left_of("idle", Duration::from_secs(4));
    assert_eq!(attribute(&mount, "user", "state"), "idle");
    mount.read("user").unwrap();
    assert_eq!(world.accounts("idle"), 1);
    world.wait_until_nothing_is_left_of("idle", Duration::from_secs(6));
    mount.wait_for_log("nobody has used it for idle-timeout");
}
