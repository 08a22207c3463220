//! What the tests share: real servers that end with the test, and a Vault that follows a script.
//!
//! A server that can't be started fails the test that wants it; no test passes by leaving it out.

pub mod bao;
pub mod certificates;
pub mod cluster;
pub mod conversation;
pub mod docker;
pub mod fake_vault;
pub mod fleet;
pub mod guide;
pub mod load;
pub mod memory;
pub mod metered;
pub mod mount;
pub mod outage;
pub mod postgres;
pub mod programs;
pub mod proxy;
pub mod scenarios;
pub mod served;
pub mod server;
pub mod stub;
pub mod systemd;
pub mod tcp;
pub mod terminal;
pub mod timeline;
pub mod vitals;
pub mod weather;
pub mod world;
