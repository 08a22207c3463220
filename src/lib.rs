//! leasefs mounts a small tree of files whose contents are secrets of HashiCorp Vault or OpenBao.
//!
//! The kernel ([`fuse`]) and the network ([`vault`]) are edges. Between them stands [`core`], plain
//! synchronous data: events in, an outcome and effects out. The [`driver`] carries the effects out,
//! [`control`] lets an operator ask a running daemon, and [`cli`] is what they type.

pub mod cli;
pub mod config;
pub mod control;
pub mod core;
pub mod daemon;
pub mod driver;
pub mod fuse;
pub mod keeper;
pub mod link;
pub mod render;
pub mod run;
pub mod sandbox;
pub mod sealed;
pub mod secret;
pub mod sys;
pub mod vault;
