//! What the store keeps and for how long.

use crate::{ids::ExperimentId, tokens::Tokens};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
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

/// A number of bytes. Read from an integer or from text such as `500G`, `2.5TB` (powers of 1000) or `64GiB` (of 1024).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = u64)]
pub struct Bytes(pub u64);

/// Why a text is no [`Bytes`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "size {found:?}: expected a whole number of bytes, or one with K, M, G, T (powers of 1000) or KiB, MiB, GiB, TiB (of 1024)"
)]
pub struct BadBytes {
    /// The refused text.
    pub found: String,
}

impl FromStr for Bytes {
    type Err = BadBytes;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadBytes { found: text.to_owned() };
        let split = text.trim().find(|c: char| !(c.is_ascii_digit() || "._".contains(c))).unwrap_or(text.trim().len());
        let (number, unit) = text.trim().split_at(split);
        let unit = unit.trim().to_ascii_uppercase();
        let (unit, base) = match unit.strip_suffix("IB") {
            Some(unit) => (unit, 1024_u64),
            None => (unit.strip_suffix('B').unwrap_or(&unit), 1000),
        };
        let power = ["", "K", "M", "G", "T"].iter().position(|known| *known == unit).ok_or_else(bad)?;
        let scale = base.pow(u32::try_from(power).map_err(|_| bad())?);
        let number = number.replace('_', "");
        let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
        let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 9).ok_or_else(bad)?;
        let whole: u64 = whole.parse().map_err(|_| bad())?;
        let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| bad())? };
        let part = u128::from(fraction) * u128::from(scale) / 10_u128.pow(digits);
        let bytes = u128::from(whole) * u128::from(scale) + part;
        u64::try_from(bytes).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
        let count = self.0 as f64;
        match self.0.checked_ilog2().unwrap_or(0) / 10 {
            0 => write!(f, "{} B", self.0),
            1 => write!(f, "{:.1} KiB", count / 1024.0),
            2 => write!(f, "{:.1} MiB", count / 1024.0_f64.powi(2)),
            3 => write!(f, "{:.1} GiB", count / 1024.0_f64.powi(3)),
            _ => write!(f, "{:.1} TiB", count / 1024.0_f64.powi(4)),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a number of bytes such as 500000000000 or \"500G\"")]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// `GET /api/v1/storage`: what the store holds, and what it will.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StorageView {
    /// Where the store is.
    pub url: String,
    /// Bytes of checkpoints, those that are being removed included.
    pub checkpoint_bytes: u64,
    /// Bytes of shards.
    pub shard_bytes: u64,
    /// Bytes of everything else: tokenizers, routers, scores, and what belongs to nobody yet.
    pub other_bytes: u64,
    /// When that was counted.
    pub counted_at: DateTime<Utc>,
    /// Bytes that the store may hold (`storage_budget` of the server's settings); None where nobody said.
    pub budget_bytes: Option<u64>,
    /// What the experiments that are not over may still add, at most, under their retention.
    pub growth_bytes: u64,
    /// The same by experiment.
    pub experiments: Vec<StorageForecast>,
    /// What the database holds.
    pub database: DatabaseUsage,
    /// The disks of the database and of a store that is a folder.
    pub disks: Vec<DiskUsage>,
}

/// What the database holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseUsage {
    /// Bytes of all.
    pub bytes: u64,
    /// Bytes that it may hold (`database_budget` of the server's settings); None where nobody said.
    pub budget_bytes: Option<u64>,
    /// By family of tables, the largest first.
    pub tables: Vec<TableUsage>,
}

/// Tables that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableUsage {
    /// `metrics`, `logs`, `events`, `experiments`, `jobs`, `history`, `corpora` or `other`.
    pub family: String,
    /// Bytes with indexes. What retention removed is free for new rows, and counted until then.
    pub bytes: u64,
    /// Rows, about.
    pub rows: u64,
}

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskUsage {
    /// `database` or `store`.
    pub name: String,
    /// The folder on it.
    pub folder: String,
    /// Bytes of the file system.
    pub total_bytes: u64,
    /// Of them free.
    pub free_bytes: u64,
    /// Bytes of the folder, the reserve included; None where counting them takes long.
    pub held_bytes: Option<u64>,
    /// Bytes of the reserve that stands there; 0 where none does.
    pub reserve_bytes: u64,
}

impl StorageView {
    /// Bytes of all.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.checkpoint_bytes + self.shard_bytes + self.other_bytes
    }
}

/// Checkpoints of one experiment that is not over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StorageForecast {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// Its name.
    pub experiment: String,
    /// Bytes of its checkpoints now.
    pub bytes: u64,
    /// Bytes of its checkpoints when it is over, at most. None while the size of one is not known.
    pub bytes_forecast: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_sizes_with_units() {
        let sizes = [
            ("12", 12),
            ("500G", 500_000_000_000),
            ("2.5 TB", 2_500_000_000_000),
            ("64GiB", 64 << 30),
            ("1_000k", 1_000_000),
        ];
        for (text, bytes) in sizes {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "G", "-3", "6Q", "1.5.2G", "99999999999T"] {
            assert!(text.parse::<Bytes>().is_err(), "{text:?} was accepted");
        }
        assert_eq!([Bytes(12), Bytes(2048), Bytes(5 << 30)].map(|b| b.to_string()), ["12 B", "2.0 KiB", "5.0 GiB"]);
    }
}
