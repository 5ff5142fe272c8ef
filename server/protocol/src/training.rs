//! The training settings of an experiment file.

use crate::tokens::Tokens;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Number format of the forward and backward pass. Master weights and moments are always fp32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats throughout.
    #[default]
    Fp32,
    /// bfloat16 weights and activations, fp32 reductions and loss.
    Bf16,
}

impl Precision {
    /// The format in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
        }
    }
}

/// Shape of the learning rate over the steps of one branch, after the warm-up; the formulas of `transformers`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Straight line from the peak to `final_fraction` of it.
    Linear,
    /// Half a cosine from the peak to `final_fraction` of it.
    #[default]
    Cosine,
    /// The peak, then a straight line over the last fifth (warmup-stable-decay).
    WarmupStableDecay,
    /// The peak.
    Constant,
}

/// Training settings. Every branch takes the experiment's, with its group's `training` laid over them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingSpec {
    /// Windows per optimiser step.
    pub batch_windows: u32,
    /// Windows per forward and backward pass; the whole batch when absent. Must divide `batch_windows`.
    #[serde(default)]
    pub micro_batch_windows: Option<u32>,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape of the learning rate.
    #[serde(default)]
    pub schedule: ScheduleKind,
    /// Share of the steps over which the rate rises linearly from 0.
    #[serde(default = "default_warmup")]
    pub warmup_fraction: f64,
    /// The rate at the last step over the peak.
    #[serde(default)]
    pub final_fraction: f64,
    /// `AdamW` β1.
    #[serde(default = "default_beta1")]
    pub beta1: f64,
    /// `AdamW` β2.
    #[serde(default = "default_beta2")]
    pub beta2: f64,
    /// `AdamW` ε.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Decoupled weight decay of matrices (norms and embeddings excluded from it are none).
    #[serde(default = "default_decay")]
    pub weight_decay: f64,
    /// Largest global gradient norm.
    #[serde(default = "default_clip")]
    pub clip_norm: f64,
    /// Number format.
    #[serde(default)]
    pub precision: Precision,
    /// Same bits on every run of one machine. CPUs always compute so, at no cost; on GPUs attention then does without
    /// the fused kernels, which takes memory and time at long windows.
    #[serde(default)]
    pub deterministic: bool,
    /// Steps between resumable checkpoints. Where neither this nor one of the next two is given, they are ten minutes
    /// apart. The last step always is one.
    #[serde(default)]
    pub checkpoint_every_steps: Option<u64>,
    /// Tokens between resumable checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every_tokens: Option<Tokens>,
    /// Minutes between resumable checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every_minutes: Option<f64>,
    /// What is done about a loss far above its fellows.
    #[serde(default)]
    pub loss_spikes: SpikeSpec,
    /// Every so many steps the batch is computed twice and compared: a device that errs without saying so is named, and the
    /// branch goes on elsewhere. Off by default; each costs one more pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recheck_every_steps: Option<u64>,
    /// Steps between reported metric points.
    #[serde(default = "default_log_every")]
    pub log_every_steps: u64,
    /// Whether a branch starts with its parent's optimiser moments or fresh ones.
    #[serde(default)]
    pub optimizer: OptimizerStart,
    /// Slots of one worker that a training job takes. CPU slots bring their threads; of accelerators one is used, and more
    /// are refused.
    #[serde(default = "one")]
    pub slots: u16,
    /// Seed of the data order and of initial weights.
    #[serde(default = "default_seed")]
    pub random_seed: u64,
}

fn default_warmup() -> f64 {
    0.02
}
fn default_beta1() -> f64 {
    0.9
}
fn default_beta2() -> f64 {
    0.95
}
fn default_epsilon() -> f64 {
    1e-8
}
fn default_decay() -> f64 {
    0.1
}
fn default_clip() -> f64 {
    1.0
}
fn default_log_every() -> u64 {
    10
}
fn default_seed() -> u64 {
    7
}
fn one() -> u16 {
    1
}

/// What a spike of the loss is, and what is done about it. Every spike is an event of its branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpikeSpec {
    /// What is done.
    pub action: SpikeAction,
    /// Losses that a new one is compared with: 8 to 4096.
    pub window: u32,
    /// Robust deviations above the window's median that make a spike: above 0.
    pub threshold: f64,
    /// For `roll_back`: at least so many steps before the spike, to the next checkpoint.
    pub roll_back_steps: u64,
    /// For `lower_rate`: the learning rate is multiplied by this from then on, above 0 and below 1.
    pub rate_factor: f64,
}

impl Default for SpikeSpec {
    fn default() -> Self {
        Self { action: SpikeAction::Watch, window: 128, threshold: 8.0, roll_back_steps: 1, rate_factor: 0.5 }
    }
}

/// What is done about a spike, before the optimiser sees its gradient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpikeAction {
    /// It is noted.
    #[default]
    Watch,
    /// The step is not taken.
    Skip,
    /// Training goes back to the last checkpoint that is old enough and leaves the batch out; without one the step
    /// is skipped.
    RollBack,
    /// The learning rate is lowered for the rest of the branch.
    LowerRate,
    /// A checkpoint is written and the branch pauses until somebody resumes it.
    Pause,
}

/// Optimiser state at the start of a branch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerStart {
    /// Fresh moments.
    #[default]
    Reset,
    /// The parent's moments, where its checkpoint is resumable.
    Carry,
}

/// Settings of a group that differ from the experiment's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingOverride {
    /// See [`TrainingSpec::learning_rate`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// See [`TrainingSpec::schedule`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleKind>,
    /// See [`TrainingSpec::warmup_fraction`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_fraction: Option<f64>,
    /// See [`TrainingSpec::final_fraction`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_fraction: Option<f64>,
    /// See [`TrainingSpec::optimizer`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<OptimizerStart>,
    /// See [`TrainingSpec::slots`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u16>,
    /// See [`TrainingSpec::checkpoint_every_steps`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every_steps: Option<u64>,
    /// See [`TrainingSpec::loss_spikes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_spikes: Option<SpikeSpec>,
}

/// Minutes between checkpoints where a file says nothing: what a fault costs at most, for saves that take seconds.
const CHECKPOINT_MINUTES: f64 = 10.0;

impl TrainingSpec {
    /// Minutes between checkpoints by the clock, if there are any: those of the file, or ten where it asks for none by
    /// steps or tokens either.
    #[must_use]
    pub fn minutes_between_checkpoints(&self) -> Option<f64> {
        let says = self.checkpoint_every_steps.is_some() || self.checkpoint_every_tokens.is_some();
        self.checkpoint_every_minutes.or((!says).then_some(CHECKPOINT_MINUTES))
    }

    /// The settings with a group's differences laid over them.
    #[must_use]
    pub fn with(&self, over: &TrainingOverride) -> Self {
        Self {
            learning_rate: over.learning_rate.unwrap_or(self.learning_rate),
            schedule: over.schedule.unwrap_or(self.schedule),
            warmup_fraction: over.warmup_fraction.unwrap_or(self.warmup_fraction),
            final_fraction: over.final_fraction.unwrap_or(self.final_fraction),
            optimizer: over.optimizer.unwrap_or(self.optimizer),
            slots: over.slots.unwrap_or(self.slots),
            checkpoint_every_steps: over.checkpoint_every_steps.or(self.checkpoint_every_steps),
            loss_spikes: over.loss_spikes.clone().unwrap_or_else(|| self.loss_spikes.clone()),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn checkpoints_are_ten_minutes_apart_where_a_file_says_nothing_and_only_there() {
        let check = |says: &serde_json::Value, expect| {
            let mut file = json!({ "batch_windows": 1, "learning_rate": 1e-3 });
            file.as_object_mut().unwrap().extend(says.as_object().unwrap().clone());
            let spec: TrainingSpec = serde_json::from_value(file).unwrap();
            assert_eq!(spec.minutes_between_checkpoints(), expect, "{says}");
        };
        check(&json!({}), Some(10.0));
        check(&json!({ "checkpoint_every_minutes": 3 }), Some(3.0));
        check(&json!({ "checkpoint_every_steps": 100 }), None);
        check(&json!({ "checkpoint_every_tokens": "1M" }), None);
        check(&json!({ "checkpoint_every_steps": 100, "checkpoint_every_minutes": 3 }), Some(3.0));
        let silent: TrainingSpec =
            serde_json::from_value(json!({ "batch_windows": 1, "learning_rate": 1e-3 })).unwrap();
        let group = TrainingOverride { checkpoint_every_steps: Some(5), ..TrainingOverride::default() };
        assert_eq!(silent.with(&group).minutes_between_checkpoints(), None, "the group says something");
    }
}
