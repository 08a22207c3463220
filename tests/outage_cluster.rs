//! Three nodes of one OpenBao lose their leader, and find another one or none. One mount knows all of them
//! and lives through it all.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, and compares with the wall clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use libc::{EHOSTDOWN, ESTALE, ETIMEDOUT};
use serde_json::json;
use tokio::runtime::Runtime;

use support::bao::Bao;
use support::cluster::Cluster;
use support::mount::{Mount, eventually};
use support::outage::{
    self, BACK, READ_TIMEOUT_AND_A_BIT, content, held, is_back, misses_fail_in_time, status_tells, timed,
    while_reading,
};
use support::postgres::Postgres;
use support::world::try_read;

/// Longer than an election takes on a machine that does other things as well.
const ELECTION: Duration = Duration::from_secs(30);

/// The cluster, and what is asked of it.
struct Lab {
    cluster: Cluster,
    postgres: Postgres,
    /// An identity for `[identity.default]`.
    identity: String,
    runtime: Runtime,
}

impl Lab {
    fn start() -> Lab {
        let runtime = Runtime::new().unwrap();
        let (cluster, postgres) =
            runtime.block_on(async { tokio::join!(Cluster::start(3), Postgres::start()) });
        let identity = runtime.block_on(async {
            let leader = cluster.wait_for_leader().await;
            postgres.connect(leader, "database").await;
            leader.call("POST", "sys/auth/approle", Some(json!({"type": "approle"}))).await;
            let rules = r#"path "database/creds/*" { capabilities = ["read"] }
                           path "secret/*" { capabilities = ["read", "list"] }"#;
            leader.write_policy("reader", rules).await;
            let role = leader.create_approle("reader", json!({"token_policies": "reader"})).await;
            format!(
                "[identity.default]\nmethod = \"approle\"\nrole-id = \"{}\"\nsecret-id-file = \"{}\"\n",
                role.role_id,
                role.secret_id_file.display()
            )
        });
        Lab { cluster, postgres, identity, runtime }
    }

    fn wait<T>(&self, request: impl Future<Output = T>) -> T {
        self.runtime.block_on(request)
    }

    fn leader(&self) -> &Bao {
        self.wait(self.cluster.wait_for_leader())
    }

    /// A KV secret of this name and a database role `NAME`, as the files `NAME-kv` and `NAME`.
    fn files(&self, name: &str) -> String {
        let (life, all) = (Duration::from_secs(60), Duration::from_secs(600));
        self.wait(async {
            let leader = self.cluster.wait_for_leader().await;
            self.postgres.add_role(leader, "database", name, life, all).await;
            leader.write_kv2("secret", name, json!({"key": content(name)})).await;
        });
        format!(
            "[file.\"{name}\"]\nsecret = \"database/creds/{name}#username\"\n\
             [file.\"{name}-kv\"]\nsecret = \"secret/{name}#key\"\nmax-age = \"1s\"\ngrace = \"1h\"\n"
        )
    }

    fn mount(&self, nodes: &[usize], files: &str) -> Mount {
        let addresses: Vec<&str> = nodes.iter().map(|index| self.cluster.nodes()[*index].address()).collect();
        outage::mount_with(&format!("address = {addresses:?}"), &(self.identity.clone() + files))
    }

    fn accounts(&self, role: &str) -> usize {
        let count = format!("select count(*) from pg_roles where rolname like 'v-%-{role}-%'");
        self.postgres.query(&count).parse().unwrap()
    }

    fn leases(&self, role: &str) -> Vec<String> {
        self.wait(self.leader().leases(&format!("database/creds/{role}")))
    }
}

#[test]
fn a_cluster_that_loses_its_leader() {
    let (took, lab) = timed(Lab::start);
    println!("a cluster was there after {took:?}");
    let lab = &lab;
    let roles = ["first", "second", "third", "fourth"];
    let files: String = roles.iter().map(|role| lab.files(role)).collect();
    what_was_just_written_is_read_from_a_standby(lab, &files);
    // The first in the list stands by.
    let mount = &lab.mount(&[1, 0, 2], &files);
    let (user, key) = (mount.read("first").unwrap(), mount.read("first-kv").unwrap());
    let resident = [("first", &*user), ("first-kv", &*key)];
    let handles = resident.map(|(name, _)| File::open(mount.path(name)).unwrap());
    let lease = lab.leases("first");
    assert_eq!(lease.len(), 1);

    // The credential needs nobody's answer. The secret is past its max-age: who opens it may wait for a
    // confirmation while it is not known that none will come.
    let fresh = &resident[..1];
    while_reading(mount, fresh, || another_node_leads(lab, mount, "second"));
    assert_eq!(mount.read("first-kv").unwrap(), key, "{}", mount.log());
    while_reading(mount, fresh, || a_leader_is_gone_for_good(lab, mount, "third"));
    assert_eq!(mount.read("first-kv").unwrap(), key, "{}", mount.log());
    while_reading(mount, fresh, || nobody_leads(lab, mount, "fourth"));
    assert_eq!(mount.read("first-kv").unwrap(), key, "{}", mount.log());

    for (handle, (name, content)) in handles.iter().zip(resident) {
        assert_eq!(held(handle), Ok(content.to_owned()), "{name}\n{}", mount.log());
    }
    assert_eq!(lab.leases("first"), lease, "nothing was lost");
    for role in roles {
        assert_eq!((lab.accounts(role), lab.leases(role).len()), (1, 1), "{role}\n{}", mount.log());
    }
    // Nothing that was said without a leader keeps the lease from being looked after.
    lab.wait(lab.leader().revoke_lease(&lease[0]));
    let ended = eventually(Duration::from_secs(5), || held(&handles[0]) == Err(ESTALE));
    assert!(ended.is_some(), "a lease revoked in Vault is still shown\n{}", mount.log());
}

/// A standby is a moment behind. Who has just logged in through it is known to it all the same.
fn what_was_just_written_is_read_from_a_standby(lab: &Lab, files: &str) {
    for round in 0..4 {
        let key = format!("round {round}");
        let mount = lab.mount(&[1 + round % 2], files);
        lab.wait(lab.leader().write_kv2("secret", "second", json!({"key": key})));
        let user = mount.read("first").unwrap_or_else(|error| panic!("{error}\n{}", mount.log()));
        assert!(user.starts_with("v-"), "{user}");
        // What was written before the credential was made is there with it.
        let read = try_read(&mount, "second-kv");
        assert_eq!(read, Ok(key), "{}", mount.log());
        let (status, log) = mount.stop();
        assert!(status.success(), "{log}");
    }
    lab.wait(lab.leader().write_kv2("secret", "second", json!({"key": content("second")})));
    let gone = eventually(BACK, || lab.accounts("first") == 0);
    assert!(gone.is_some(), "what these mounts obtained is given back");
}

/// Reads a credential and a KV secret that nobody has read before, as soon as that can be. Until then
/// readers are told that Vault is down, in time.
fn is_served_again(mount: &Mount, name: &str) {
    let began = Instant::now();
    for name in [format!("{name}-kv"), name.to_owned()] {
        loop {
            let (took, read) = timed(|| try_read(mount, &name));
            match read {
                Ok(_) => break,
                Err(errno) => {
                    let told = [EHOSTDOWN, ETIMEDOUT].contains(&errno);
                    assert!(told, "{name}: errno {errno}\n{}", mount.log());
                    assert!(took < READ_TIMEOUT_AND_A_BIT, "{name}: {took:?}\n{}", mount.log());
                }
            }
            assert!(began.elapsed() < ELECTION, "{name} can't be read\n{}", mount.log());
            thread::sleep(Duration::from_millis(100));
        }
    }
    println!("{name} was read after {:?}", began.elapsed());
}

fn another_node_leads(lab: &Lab, mount: &Mount, name: &str) {
    lab.wait(lab.cluster.step_down());
    is_served_again(mount, name);
}

fn a_leader_is_gone_for_good(lab: &Lab, mount: &Mount, name: &str) {
    let leader = lab.wait(lab.cluster.leader()).unwrap();
    lab.cluster.nodes()[leader].stop();
    is_served_again(mount, name);
    lab.cluster.nodes()[leader].start_again();
    lab.wait(lab.cluster.wait_until_whole());
}

fn nobody_leads(lab: &Lab, mount: &Mount, name: &str) {
    let leader = lab.wait(lab.cluster.leader()).unwrap();
    let ended: Vec<&Bao> = [leader, (leader + 1) % 3].map(|index| &lab.cluster.nodes()[index]).to_vec();
    for node in &ended {
        node.stop();
    }
    let flaps = mount.log().matches("Vault answers again").count();
    misses_fail_in_time(mount, &[name], &[EHOSTDOWN, ETIMEDOUT]);
    // That of one of the nodes.
    status_tells(mount, name, "Vault");
    // What a standby can tell without a leader may be told; whatever it is, nobody waits for long.
    let (took, _) = timed(|| try_read(mount, &format!("{name}-kv")));
    assert!(took < READ_TIMEOUT_AND_A_BIT, "{took:?}");
    let (took, stale) = timed(|| try_read(mount, "first-kv"));
    assert_eq!(stale, Ok(content("first")), "{}", mount.log());
    assert!(took < READ_TIMEOUT_AND_A_BIT, "{took:?}");
    // Leases are looked up meanwhile.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        misses_fail_in_time(mount, &[name], &[EHOSTDOWN, ETIMEDOUT]);
        thread::sleep(Duration::from_millis(50));
    }
    let flaps = mount.log().matches("Vault answers again").count() - flaps;
    assert!(flaps <= 2, "Vault was said to be back {flaps} times while nobody led\n{}", mount.log());
    for node in &ended {
        node.start_again();
    }
    lab.wait(lab.cluster.wait_until_whole());
    is_back(mount, name);
    assert_eq!(is_back(mount, &format!("{name}-kv")), content(name));
}
