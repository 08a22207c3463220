//! Several nodes of one real OpenBao, with Raft between them: each unseals itself, survives being ended, and
//! finds the others again.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use super::bao::Bao;
use super::server::{ReservedPort, reserved_port};

/// How long an election, or a node's start, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a node is asked for something that takes a while.
const PAUSE: Duration = Duration::from_millis(100);

/// A key for nothing that is worth a key.
const SEAL_KEY: [u8; 32] = [7; 32];

/// The nodes.
pub struct Cluster {
    nodes: Vec<Bao>,
}

impl Cluster {
    /// Starts so many nodes and waits until all are full members. There is a KV v2 engine at `secret/`, as
    /// in development mode.
    pub async fn start(count: usize) -> Cluster {
        let ports: Vec<_> = (0..count).map(|_| (reserved_port(), reserved_port())).collect();
        let first = ports[0].0.0;
        let nodes = ports.into_iter().enumerate();
        let nodes = nodes.map(|(index, (api, raft))| node(index, first, api, raft)).collect();
        let mut cluster = Cluster { nodes };
        let first = &cluster.nodes[0];
        until("the first node listens", async || first.try_call("GET", "sys/health", None).await.is_some())
            .await;
        let shares = json!({"recovery_shares": 1, "recovery_threshold": 1});
        let init = first.call("PUT", "sys/init", Some(shares)).await;
        let token = init["root_token"].as_str().expect("a root token").to_owned();
        for node in &mut cluster.nodes {
            node.set_root_token(&token);
        }
        cluster.trust_newcomers().await;
        cluster.wait_until_whole().await;
        cluster.wait_for_leader().await.enable_kv2("secret").await;
        cluster.wait_for_kv().await;
        cluster
    }

    /// The one node of a cluster of one.
    pub fn into_only(mut self) -> Bao {
        assert_eq!(self.nodes.len(), 1, "one of several nodes is no cluster");
        self.nodes.remove(0)
    }

    /// All nodes, also those that were ended.
    pub fn nodes(&self) -> &[Bao] {
        &self.nodes
    }

    /// The node that leads, if one does.
    pub async fn leader(&self) -> Option<usize> {
        for (index, node) in self.nodes.iter().enumerate() {
            if node.try_call("GET", "sys/health", None).await.is_some_and(|(status, _)| status == 200) {
                return Some(index);
            }
        }
        None
    }

    /// Waits for a node that leads.
    pub async fn wait_for_leader(&self) -> &Bao {
        until("a node leads", async || self.leader().await.is_some()).await;
        &self.nodes[self.leader().await.expect("it leads still")]
    }

    /// Lets another node lead.
    pub async fn step_down(&self) {
        let before = self.leader().await.expect("a node leads");
        self.nodes[before].call("PUT", "sys/step-down", None).await;
        until("another node leads", async || self.leader().await.is_some_and(|now| now != before)).await;
    }

    /// Waits until each node serves and may vote.
    pub async fn wait_until_whole(&self) {
        let whole = async || self.voters().await == self.nodes.len() && self.all_serve().await;
        if !eventually(whole).await {
            let logs: Vec<String> = self.nodes.iter().map(Bao::log).collect();
            panic!("not all nodes are full members after {PATIENCE:?}:\n{}", logs.join("\n"));
        }
    }

    /// Lets newcomers become full members after a second: by default the leader looks at them for ten.
    async fn trust_newcomers(&self) {
        let quickly = json!({"server_stabilization_time": "1s"});
        let leader = self.wait_for_leader().await;
        leader.call("POST", "sys/storage/raft/autopilot/configuration", Some(quickly)).await;
    }

    /// How many nodes may vote, as the leader says.
    async fn voters(&self) -> usize {
        let Some(leader) = self.leader().await else { return 0 };
        let answer = self.nodes[leader].try_call("GET", "sys/storage/raft/configuration", None).await;
        let Some((200, answer)) = answer else { return 0 };
        let servers = answer["data"]["config"]["servers"].as_array().cloned().unwrap_or_default();
        servers.iter().filter(|server| server["voter"] == json!(true)).count()
    }

    /// Waits until the engine at `secret/` serves on each node: those that stand by take a while to see
    /// that it was upgraded to v2.
    async fn wait_for_kv(&self) {
        for node in &self.nodes {
            let there = async || {
                let answer = node.try_call("GET", "secret/data/leasefs-probe", None).await;
                answer.is_some_and(|(status, _)| status == 404)
            };
            until("the KV engine serves everywhere", there).await;
        }
    }

    async fn all_serve(&self) -> bool {
        for node in &self.nodes {
            // 429: it stands by.
            let health = node.try_call("GET", "sys/health", None).await;
            if !health.is_some_and(|(status, _)| matches!(status, 200 | 429)) {
                return false;
            }
        }
        true
    }
}

/// Starts a node, which is the first or joins it.
fn node(
    index: usize,
    first: SocketAddr,
    (api, api_port): (SocketAddr, ReservedPort),
    (raft, raft_port): (SocketAddr, ReservedPort),
) -> Bao {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("data")).expect("a directory can be made");
    fs::write(at("key"), SEAL_KEY).expect("a file can be written");
    let join = match index {
        0 => String::new(),
        _ => format!("retry_join {{ leader_api_addr = \"http://{first}\" }}"),
    };
    let configuration = format!(
        "storage \"raft\" {{\n  path = \"{}\"\n  node_id = \"node-{index}\"\n  performance_multiplier = 1\n  \
         autopilot_reconcile_interval = \"250ms\"\n  autopilot_update_interval = \"250ms\"\n  {join}\n}}\n\
         listener \"tcp\" {{\n  address = \"{api}\"\n  cluster_address = \"{raft}\"\n  \
         tls_disable = true\n}}\n\
         seal \"static\" {{\n  current_key_id = \"one\"\n  current_key = \"file://{}\"\n}}\n\
         api_addr = \"http://{api}\"\ncluster_addr = \"http://{raft}\"\n",
        at("data").display(),
        at("key").display()
    );
    Bao::configured(directory, &configuration, &format!("http://{api}"), vec![api_port, raft_port])
}

async fn until(what: &str, ready: impl AsyncFnMut() -> bool) {
    assert!(eventually(ready).await, "not within {PATIENCE:?}: {what}");
}

async fn eventually(mut ready: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if ready().await {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
