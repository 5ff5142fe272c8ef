//! What the store keeps and for how long.

use crate::tokens::Tokens;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `retention` of an experiment file: which checkpoints of a branch stay. Beyond this policy, whatever something still
/// refers to stays, and so do each branch's newest checkpoint and the last one that was read back whole.
///
/// The default keeps two: the newest, and the one before it in case the newest turns out damaged. A month of training
/// would otherwise fill any store, and a full store stops what it was meant to protect. `keep_every_tokens: 1` keeps
/// all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionSpec {
    /// So many of the newest, at least 1.
    pub keep_latest: u32,
    /// The first one of every so many tokens of the branch, for good; none where absent.
    pub keep_every_tokens: Option<Tokens>,
    /// The last one of a branch that finished.
    pub keep_final: bool,
    /// So many with the lowest training loss.
    pub keep_best: u32,
}

impl Default for RetentionSpec {
    fn default() -> Self {
        Self { keep_latest: 2, keep_every_tokens: None, keep_final: true, keep_best: 0 }
    }
}
