//! The file system as plain data: no I/O, no clock, no locks, no errno. Events go in, an outcome and
//! effects come out; whoever calls does the rest.

pub mod access;
pub mod effect;
pub mod error;
pub mod name;
pub mod source;
pub mod time;
pub mod tree;
