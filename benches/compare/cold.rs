//! The first read of a KV secret, beside the same read by plain HTTP with the same connection policy: a
//! new connection for each request.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::figures::{Figures, Row, ratio_by_round};
use crate::support::bao::Bao;
use crate::support::mount::Mount;

const SECRETS: usize = 400;

/// Reads each of many secrets once, by turns as a file and by HTTP.
pub async fn against_http(bao: &Bao) -> Vec<Row> {
    let mut config = format!("[vault]\naddress = \"{}\"\n", bao.address());
    for index in 0..SECRETS {
        bao.write_kv2("secret", &format!("cold/{index}"), json!({"value": "x".repeat(64)})).await;
        config += &format!("[file.\"{index}\"]\nsecret = \"secret/cold/{index}#value\"\n");
    }
    let mount = Mount::start(&config, &[("VAULT_TOKEN", bao.root_token()), ("LEASEFS_LOG", "info")]);
    let client = reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .tls_certs_only(Vec::new())
        .build()
        .expect("a client");
    let (mut files, mut http) = (Vec::new(), Vec::new());
    for index in 0..SECRETS {
        let path = mount.path(&index.to_string());
        let url = format!("{}/v1/secret/data/cold/{index}", bao.address());
        let file = async || {
            let began = Instant::now();
            // The daemon is a process of its own, so waiting here keeps nobody from answering.
            assert_eq!(fs::read(&path).expect("the file can be read").len(), 64);
            began.elapsed()
        };
        let request = async || {
            let began = Instant::now();
            let response =
                client.get(&url).header("X-Vault-Token", bao.root_token()).send().await.expect("an answer");
            let body: serde_json::Value = response.json().await.expect("JSON");
            assert_eq!(body["data"]["data"]["value"].as_str().map(str::len), Some(64));
            began.elapsed()
        };
        if index % 2 == 0 {
            files.push(file().await);
            http.push(request().await);
        } else {
            http.push(request().await);
            files.push(file().await);
        }
    }
    // Ten in a row are a round.
    let rounds = |runs: &[Duration]| runs.chunks(10).map(<[Duration]>::to_vec).collect::<Vec<_>>();
    let ratio = ratio_by_round(&rounds(&files), &rounds(&http));
    let row = |side: &str, runs: Vec<Duration>, leasefs_by_this| Row {
        what: "first read of a KV secret of 64 B".to_owned(),
        side: side.to_owned(),
        unit: "µs",
        figures: Figures::of(runs),
        leasefs_by_this,
    };
    vec![row("leasefs", files, None), row("plain HTTP", http, Some(ratio))]
}
