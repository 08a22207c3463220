//! From the words of a TOML file to a plan that can't be wrong.
//!
//! `file.rs` knows the words and where they stand, `plan.rs` what they mean. Every default and every
//! complaint is in this module.

pub mod plan;
