//! Where the time of a training step goes.

use std::{collections::BTreeMap, time::Instant};

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Matrix products of projections, gated units and logits.
    Products,
    /// Attention: its products, its softmax, and turning heads into rows.
    Attention,
    /// Norms, residual additions, activations, embedding.
    Elementwise,
    /// Cross-entropy.
    Loss,
    /// Gradient norm and `AdamW`.
    Optimizer,
}

impl Part {
    /// Its name in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Products => "products",
            Self::Attention => "attention",
            Self::Elementwise => "elementwise",
            Self::Loss => "loss",
            Self::Optimizer => "optimizer",
        }
    }
}

/// Seconds by part since the start.
#[derive(Debug)]
pub struct Clock {
    last: Instant,
    seconds: BTreeMap<Part, f64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { last: Instant::now(), seconds: BTreeMap::new() }
    }
}

impl Clock {
    /// What follows is timed from here.
    pub fn begin(&mut self) {
        self.last = Instant::now();
    }

    /// What was done since the last call belongs to `part`.
    pub fn mark(&mut self, part: Part) {
        let now = Instant::now();
        *self.seconds.entry(part).or_default() += (now - self.last).as_secs_f64();
        self.last = now;
    }

    /// Seconds of each part.
    #[must_use]
    pub fn seconds(&self) -> &BTreeMap<Part, f64> {
        &self.seconds
    }
}
