//! S3-compatible object stores: whole files in and out, each compared with what was sent or announced.
//!
//! Knows keys, bytes and hashes. Never knows what the bytes mean, and never decides what is kept.

mod bucket;
mod url;

pub use bucket::{Bucket, Object, is_away, is_missing};
pub use url::{S3Settings, StoreUrl};
