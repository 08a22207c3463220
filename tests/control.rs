//! The control socket of a mount without a kernel: engine, driver and a scripted Vault behind a real Unix
//! socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use leasefs::control::protocol::{Ask, REQUEST_MAX, RefreshedFile, Refusal, Reply, Response, RevokeReport};
use leasefs::control::{AskError, Client, ControlError, Farewell, Listener};
use leasefs::core::error::Fault;
use leasefs::vault::Origin;
use support::fake_vault::{FakeIdentity, FakeVault, Op, Role, Step};
use support::served::{MOUNT_POINT, Served, control_directory};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const CONFIG: &str = "
[file.user]
secret = \"database/creds/app#username\"
[file.password]
secret = \"database/creds/app#password\"
[file.\"kv/weather\"]
secret = \"secret/weather#key\"
[file.\"kv/absent\"]
secret = \"secret/absent#key\"
";

fn vault(identity: FakeIdentity) -> FakeVault {
    let vault = FakeVault::new(vec![identity]);
    vault.mount("database", "database");
    let hour = Duration::from_secs(3600);
    vault.add_role("database/creds/app", Role { ttl: hour, max_ttl: hour, renewable: true });
    vault.mount_kv("secret", 2);
    vault.write_kv("secret/weather", r#"{"key":"sunny"}"#);
    vault
}

fn start(identity: FakeIdentity) -> Served {
    Served::start(CONFIG, vault(identity))
}

/// A connection that may say what no command would.
async fn raw(served: &Served) -> UnixStream {
    UnixStream::connect(socket(&served.directory)).await.unwrap()
}

/// The only socket there.
fn socket(directory: &TempDir) -> PathBuf {
    let entries = fs::read_dir(directory.path().join("control")).unwrap().map(|entry| entry.unwrap());
    let mut sockets = entries.filter(|entry| entry.file_type().unwrap().is_socket());
    sockets.next().unwrap().path()
}

async fn answers(stream: &mut UnixStream) -> Vec<Reply> {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text.lines().map(|line| serde_json::from_str::<Response>(line).unwrap().reply).collect()
}

fn anyone() -> FakeIdentity {
    FakeIdentity::login(Duration::from_secs(86_400), &[""])
}

#[tokio::test]
async fn status_says_how_everything_stands() {
    let served = start(anyone());
    let handle = served.world.open("password").await.unwrap();
    served.world.cat("kv/weather").await.unwrap();
    served.world.cat("kv/absent").await.unwrap_err();
    let status = served.status().await;
    assert_eq!((status.mount_point.as_str(), status.pid), (MOUNT_POINT, 4711));
    assert_eq!(status.started, "2023-11-14T22:13:20Z");
    assert_eq!(status.vault.down_for_seconds, None);
    assert!(status.losses.contains(&"this kernel lacks mmap".to_owned()));
    assert_eq!(
        (status.protections[0].name.as_str(), status.protections[0].state.as_str()),
        ("seccomp", "on")
    );
    assert!(status.memory > 0);

    let names: Vec<&str> = status.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["kv/absent", "kv/weather", "password", "user"]);
    let [absent, weather, password, user] = status.files.try_into().unwrap();
    assert_eq!(absent.state, "failed");
    assert!(absent.error.is_some());
    assert_eq!((weather.state.as_str(), weather.size, weather.version), ("live", Some(5), Some(1)));
    assert_eq!(weather.lease, None);
    assert_eq!((password.readers, user.readers), (1, 0));
    assert_eq!(password.lease, user.lease, "one source has one lease");
    assert_eq!(password.lease, Some(served.world.vault.live_leases()[0].0.clone()));
    // The end that leasefs goes by lies a little before Vault's.
    let ends = password.expires.unwrap().in_seconds;
    assert!((3500..=3600).contains(&ends), "{ends}");

    let identity = &status.identities[0];
    assert_eq!((identity.name.as_str(), identity.logged_in), ("default", true));
    assert!(identity.expires.is_some());
    served.world.close(handle);
}

#[tokio::test]
async fn a_vault_that_is_down_is_told_with_its_time() {
    let served = start(anyone());
    served.world.cat("kv/weather").await.unwrap();
    served.world.vault.go_down(Fault::Unreachable);
    for _ in 0..4 {
        served.world.cat("user").await.unwrap_err();
    }
    assert!(served.status().await.vault.down_for_seconds.is_some());
}

#[tokio::test]
async fn a_revocation_ends_what_is_live_here_and_in_vault() {
    let served = start(anyone());
    let handle = served.world.open("password").await.unwrap();
    served.world.cat("kv/weather").await.unwrap();
    let lease = served.world.vault.live_leases()[0].0.clone();
    let report = served.revoke(&["user"]).await;
    assert_eq!(report, RevokeReport { ended: 1, revoked: vec![lease], unrevoked: Vec::new() });
    assert!(served.world.vault.live_leases().is_empty());
    served.world.read(handle).unwrap_err();
    assert_eq!(served.world.cat("kv/weather").await.unwrap(), "sunny");
    served.world.cat("password").await.unwrap();
    assert_eq!(served.world.vault.counts().minted, 2, "the next open fetches anew");
    assert_eq!(served.revoke(&[]).await.ended, 2, "without names all is meant");
}

#[tokio::test]
async fn a_lease_that_may_not_be_revoked_is_named_and_its_bytes_are_gone_all_the_same() {
    let identity =
        FakeIdentity { origin: Origin::Given, grants: vec!["database/".to_owned()], ..FakeIdentity::root() };
    let served = start(identity);
    let handle = served.world.open("password").await.unwrap();
    let lease = served.world.vault.live_leases()[0].0.clone();
    let report = served.revoke(&["password"]).await;
    assert_eq!((report.ended, report.revoked.len()), (1, 0));
    assert_eq!(report.unrevoked[0].lease, lease);
    assert_eq!(report.unrevoked[0].path, "database/creds/app");
    assert!(report.unrevoked[0].reason.contains("sys/leases/revoke"), "{report:?}");
    served.world.read(handle).unwrap_err();
    assert_eq!(served.status().await.unrevoked[0].lease, lease);
}

#[tokio::test]
async fn a_refresh_fetches_anew_and_says_of_each_file_why_not() {
    let served = start(anyone());
    assert_eq!(served.world.cat("kv/weather").await.unwrap(), "sunny");
    served.world.vault.write_kv("secret/weather", r#"{"key":"windy"}"#);
    let files = served.refresh(&["kv"]).await;
    let [absent, weather] = files.try_into().unwrap();
    assert_eq!(weather, RefreshedFile { name: "kv/weather".to_owned(), error: None });
    assert_eq!(absent.name, "kv/absent");
    assert!(absent.error.unwrap().contains("secret/"), "the reason names the path");
    assert_eq!(served.world.cat("kv/weather").await.unwrap(), "windy");
    assert_eq!(served.world.vault.counts().minted, 0);

    let both = served.refresh(&["user", "password"]).await;
    assert!(both.iter().all(|file| file.error.is_none()), "{both:?}");
    assert_eq!(served.world.vault.counts().minted, 1, "files of one source share one read");
}

#[tokio::test]
async fn a_refresh_that_takes_long_does_not_hold_up_a_status() {
    let served = start(anyone());
    served.world.cat("kv/weather").await.unwrap();
    served.world.vault.script(Op::Read, None, Some(Step::slow(Duration::from_millis(300))));
    let (refreshed, state) = tokio::join!(served.refresh(&["kv/weather"]), async {
        while served.world.vault.count(Op::Read) < 2 {
            tokio::task::yield_now().await;
        }
        served.status().await.files[1].state.clone()
    });
    assert_eq!(state, "renewing");
    assert_eq!(refreshed[0].error, None);
}

#[tokio::test]
async fn a_name_that_is_not_in_the_mount_is_refused_and_nothing_is_done() {
    let served = start(anyone());
    served.world.cat("password").await.unwrap();
    let names = vec!["password".to_owned(), "passwort".to_owned()];
    let refused = served.ask(Ask::Revoke { names }).await.unwrap_err();
    assert_eq!(refused, AskError::UnknownName { name: "passwort".to_owned() });
    assert_eq!(served.world.vault.live_leases().len(), 1);
}

#[tokio::test]
async fn an_end_is_answered_before_the_daemon_is_told() {
    for (ask, reply, farewell) in [
        (Ask::Unmount, Reply::Stopping { pid: 4711 }, Farewell::Nothing),
        (Ask::HandOver, Reply::HandingOver { pid: 4711 }, Farewell::Everything),
        (Ask::Reload, Reply::Reloading { pid: 4711 }, Farewell::Reload),
    ] {
        let mut served = start(anyone());
        assert_eq!(served.ask(ask).await, Ok(reply));
        let told = tokio::time::timeout(Duration::from_secs(5), served.ends.recv()).await.unwrap();
        assert_eq!(told, Some(farewell));
    }
}

#[tokio::test]
async fn a_configuration_that_was_not_taken_is_remembered_with_the_reason() {
    let served = start(anyone());
    let why = "a.toml:1: is not TOML".to_owned();
    assert_eq!(served.ask(Ask::NotReloaded { why: why.clone() }).await, Ok(Reply::Noted));
    assert_eq!(served.status().await.reload.unwrap().error, Some(why));
}

#[tokio::test]
async fn several_requests_may_come_over_one_connection() {
    let served = start(anyone());
    let mut stream = raw(&served).await;
    stream.write_all(b"{\"v\":1,\"ask\":\"unmount\"}\n{\"v\":9,\"ask\":\"status\"}\nwhat?\n").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(
        answers(&mut stream).await,
        [
            Reply::Stopping { pid: 4711 },
            Reply::Refused(Refusal::OtherVersion { v: 1 }),
            Reply::Refused(Refusal::NotUnderstood)
        ]
    );
}

#[tokio::test]
async fn a_request_without_an_end_is_refused_at_its_limit() {
    let served = start(anyone());
    let mut stream = raw(&served).await;
    let too_long = vec![b'['; REQUEST_MAX];
    stream.write_all(&too_long).await.unwrap();
    assert_eq!(answers(&mut stream).await, [Reply::Refused(Refusal::NotUnderstood)]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_closed_after_ten_seconds() {
    let served = start(anyone());
    let mut stream = raw(&served).await;
    stream.write_all(b"{\"v\":1,").await.unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(answers(&mut stream).await, []);
    assert!((10..=11).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_socket_belongs_to_its_user_alone_and_goes_with_its_listener() {
    let served = start(anyone());
    let path = socket(&served.directory);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let directory = fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777;
    assert_eq!(directory & 0o022, 0, "{directory:o}");
    served.serving.abort();
    assert!(served.serving.await.unwrap_err().is_cancelled());
    assert!(!path.exists());
}

#[tokio::test]
async fn a_mount_has_one_daemon_and_the_second_is_told_which() {
    let served = start(anyone());
    let second = control_directory(&served.directory).listen(Path::new(MOUNT_POINT)).unwrap_err();
    let pid = i32::try_from(std::process::id()).unwrap();
    assert_eq!(
        second,
        ControlError::AlreadyServed { mount_point: PathBuf::from(MOUNT_POINT), pid: Some(pid) }
    );
    assert!(second.to_string().contains(&format!("process {pid}")), "{second}");
    served.status().await;
}

#[test]
fn the_socket_of_a_dead_daemon_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let control = control_directory(&directory);
    let path = {
        let listener = control.listen(Path::new(MOUNT_POINT)).unwrap();
        listener.path().to_owned()
    };
    // As a daemon leaves it that was killed.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener: Listener = control.listen(Path::new(MOUNT_POINT)).unwrap();
    assert_eq!(listener.path(), path);
}

#[test]
fn the_sockets_of_other_dead_daemons_are_swept_and_those_of_live_ones_stay() {
    let directory = tempfile::tempdir().unwrap();
    let control = control_directory(&directory);
    let live = control.listen(Path::new("/mnt/live")).unwrap();
    let dead = live.path().with_file_name("mnt-dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    let listener = control.listen(Path::new(MOUNT_POINT)).unwrap();
    assert!(!dead.exists());
    assert!(live.path().exists() && listener.path().exists());
}

#[test]
fn a_directory_that_others_could_write_to_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let control = control_directory(&directory);
    fs::create_dir(control.path()).unwrap();
    fs::set_permissions(control.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let unsafe_directory = ControlError::UnsafeDirectory { path: control.path().to_owned() };
    assert_eq!(control.listen(Path::new(MOUNT_POINT)).unwrap_err(), unsafe_directory);
    fs::remove_dir(control.path()).unwrap();
    std::os::unix::fs::symlink(directory.path(), control.path()).unwrap();
    assert_eq!(control.listen(Path::new(MOUNT_POINT)).unwrap_err(), unsafe_directory);
}

#[test]
fn without_a_name_the_only_mount_is_meant_and_several_are_listed() {
    let directory = tempfile::tempdir().unwrap();
    let control = [control_directory(&directory)];
    let connect = || Client::connect_in(&control, None).map(|client| client.mount_point().to_owned());
    assert_eq!(connect(), Err(AskError::NoMount));
    let (first, second) = (Path::new("/mnt/a-1"), Path::new("/mnt/b"));
    let one = control[0].listen(first).unwrap();
    assert_eq!(connect(), Ok(first.to_owned()));
    let two = control[0].listen(second).unwrap();
    let mount_points = vec![first.to_owned(), second.to_owned()];
    assert_eq!(connect(), Err(AskError::SeveralMounts { mount_points }));
    drop(one);
    assert_eq!(connect(), Ok(second.to_owned()));
    drop(two);
    let missing = Client::connect_in(&control, Some(second)).unwrap_err();
    assert_eq!(missing, AskError::NotServed { mount_point: second.to_owned() });
}
