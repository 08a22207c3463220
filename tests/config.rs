//! Every configuration that people are told to copy is one that leasefs accepts.

#![expect(clippy::unwrap_used, reason = "a test that can't read an example has failed")]

use std::path::{Path, PathBuf};

use leasefs::config::plan::{CredentialSource, Format, Method, MountPlan};
use leasefs::config::{Environment, load};

fn examples() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-config");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn example(name: &str) -> MountPlan {
    let path = examples().into_iter().find(|path| path.ends_with(name)).unwrap();
    load(&path, &environment()).unwrap()
}

/// What the comments in the examples ask for, for the user who runs the tests.
fn environment() -> Environment {
    let process = Environment::from_process();
    Environment::fixed(process.uid, process.gid).with_variables([
        ("VAULT_ADDR", "http://127.0.0.1:8200"),
        ("VAULT_TOKEN", "a token"),
        ("CREDENTIALS_DIRECTORY", "/run/credentials/leasefs@agent.service"),
    ])
}

#[test]
fn every_example_is_accepted_without_a_warning() {
    assert!(examples().len() >= 4);
    for path in examples() {
        let plan = load(&path, &environment()).unwrap_or_else(|complaints| panic!("{complaints}"));
        assert_eq!(plan.warnings, Vec::<String>::new(), "{}", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{} begins with what it is for", path.display());
    }
}

#[test]
fn the_files_of_the_database_example_share_one_lease() {
    let plan = example("database.toml");
    assert_eq!(plan.vault.addresses, ["http://127.0.0.1:8200"]);
    assert_eq!(plan.sources.len(), 1);
    assert_eq!(plan.sources[0].request.path.as_str(), "database/creds/agent-read-only");
    let formats: Vec<_> = plan.files.iter().map(|file| file.format.clone()).collect();
    let raw = |field: &str| Format::Raw { field: field.to_owned() };
    assert_eq!(formats, [raw("username"), raw("password"), Format::Json { field: None }]);
}

#[test]
fn the_kv_example_shows_one_secret_as_json_and_as_fields() {
    let plan = example("kv.toml");
    assert_eq!(plan.sources.len(), 1);
    assert!(plan.sources[0].fields);
    assert_eq!(plan.field_dirs[0].source, plan.files[0].spec.sources.first());
    assert_eq!(plan.trees[0].prefix.as_str(), "secret/agents");
}

#[test]
fn the_approle_example_takes_its_credentials_from_files() {
    let plan = example("approle.toml");
    let Method::AppRole { auth_path, role_id, secret_id } = &plan.identities[0].method else {
        panic!("{:?}", plan.identities);
    };
    let file = |name: &str| {
        CredentialSource::File(PathBuf::from("/run/credentials/leasefs@agent.service").join(name))
    };
    assert_eq!(auth_path.as_str(), "approle");
    assert_eq!(role_id, &file("role-id"));
    assert_eq!(secret_id, &Some(file("secret-id")));
    assert!(plan.files.iter().any(|file| file.spec.name.as_str() == "tls/tls.key"));
}
