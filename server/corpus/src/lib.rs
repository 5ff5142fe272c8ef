//! Text to vectors to domains to tokens to windows.
//!
//! Pure and synchronous: never a network, a database, a clock or a global random generator; equal inputs give
//! equal bits. Reading order: [`roots`], [`snapshot`], [`read`], [`scan`], [`sample`], [`terms`], [`features`], [`start`],
//! [`auction`],
//! [`kmeans`], [`router`], [`quality`], [`describe`], [`discover`], [`tokenizer`], [`seed`], [`megatron`], [`grams`],
//! [`held_out`], [`shard`], [`wanted`], [`shard_set`], [`windows`], [`compare`], [`bootstrap`].

#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss))]

pub mod auction;
pub mod bootstrap;
pub mod compare;
pub mod describe;
pub mod discover;
mod duplicates;
pub mod features;
pub mod grams;
pub mod held_out;
pub mod kmeans;
pub mod manifest;
pub mod megatron;
mod permutation;
pub mod quality;
pub mod read;
pub mod roots;
pub mod router;
pub mod sample;
pub mod scan;
pub mod seed;
pub mod sentencepiece;
pub mod shard;
pub mod shard_set;
pub mod similarity;
pub mod snapshot;
pub mod start;
pub mod terms;
pub mod tokenizer;
pub mod wanted;
pub mod windows;

use sha2::{Digest, Sha256};
use std::{io::Read, path::Path};

/// SHA-256 of a file, lower-case hex.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256_file(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
