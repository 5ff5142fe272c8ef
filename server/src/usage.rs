//! How much the store holds, counted now and then: listing a large one takes a while.

use crate::storage::{Object, Storage};
use anyhow::Result;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// Bytes by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of checkpoints.
    pub checkpoints: u64,
    /// Of shards.
    pub shards: u64,
    /// Of everything else.
    pub other: u64,
}

impl Usage {
    fn of(objects: &[Object]) -> Self {
        let mut usage = Self::default();
        for object in objects {
            let kind = match object.key.as_str().split('/').next() {
                Some("checkpoints") => &mut usage.checkpoints,
                Some("shards") => &mut usage.shards,
                _ => &mut usage.other,
            };
            *kind += object.bytes;
        }
        usage
    }

    /// Bytes of all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.checkpoints + self.shards + self.other
    }
}

/// The last count; one at a time is made.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<Mutex<Option<(Instant, Usage)>>>);

impl Counter {
    /// The last count when it is no older than `age_max`, or a new one; and its age.
    ///
    /// # Errors
    /// When the store cannot be read now.
    pub async fn count(&self, storage: &Storage, age_max: Duration) -> Result<(Usage, Duration)> {
        let mut last = self.0.lock().await;
        if let Some((at, usage)) = *last
            && at.elapsed() <= age_max
        {
            return Ok((usage, at.elapsed()));
        }
        let usage = Usage::of(&storage.list(None).await?);
        *last = Some((Instant::now(), usage));
        Ok((usage, Duration::ZERO))
    }
}
