//! The file system as plain data: no I/O, no clock, no locks, no errno. Events go in, an outcome and
//! effects come out; whoever calls does the rest.

pub mod access;
mod bucket;
pub mod compose;
pub mod effect;
pub mod engine;
pub mod error;
pub mod generation;
pub mod handles;
pub mod identity;
pub mod listing;
pub mod locks;
pub mod name;
pub mod pins;
pub mod policy;
pub mod source;
pub mod sources;
pub mod state;
pub mod time;
mod tracked;
pub mod tree;
