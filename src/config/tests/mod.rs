//! Whole configurations: what they mean, what is said about each mistake, and what no text may cause.

mod damage;
mod included;
mod meaning;
mod mistakes;
mod rendering;

use std::path::Path;

use super::plan::MountPlan;
use super::{Complaints, Environment, parse};

/// Mentioned in no complaint, warning or plan.
const MARKER: &str = "hvs.marker";

fn bare() -> Environment {
    Environment::fixed(1000, 1001).with_account("agent", 700)
}

fn environment() -> Environment {
    bare().with_variables([
        ("VAULT_ADDR", "https://vault.internal:8200"),
        ("VAULT_TOKEN", MARKER),
        ("DIR", "/run/creds"),
        ("TEAM", "a"),
    ])
}

fn environment_of(uid: u32) -> Environment {
    let mut environment = environment();
    environment.uid = uid;
    environment
}

fn read_in(text: &str, environment: &Environment) -> Result<MountPlan, Complaints> {
    parse(text, Path::new("agent.toml"), environment)
}

fn read(text: &str) -> Result<MountPlan, Complaints> {
    read_in(text, &environment())
}

fn complaints(text: &str, environment: &Environment) -> Vec<String> {
    let complaints = read_in(text, environment).expect_err(text);
    complaints.to_string().lines().map(str::to_owned).collect()
}
