//! Byte pair encoding, the fast way of chapter 01.
//!
//! The road of a corpus: [`split`] cuts text into words, [`count`] counts the distinct words on all cores,
//! [`train`] glues the commonest pair again and again, [`encode`] turns text into ids and back.
//! None of them knows Python; with the feature `python` the thin bindings in `python.rs` make `nanochat.rustbpe` of them.

pub mod count;
pub mod encode;
#[cfg(feature = "python")]
mod python;
pub mod split;
pub mod train;

/// What went wrong, in one line that a person can read.
pub type Error = String;
