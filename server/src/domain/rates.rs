//! How fast work of each kind goes here: what attempts measured, kept by what was done and on which device, and what
//! follows from it for work to come.

use senmon_protocol::{
    job::{JobKind, JobResult, JobSpec},
    model::ModelSpec,
    said,
    said::Said,
    tokens::Tokens,
    training::Precision,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What two models must share to be equally fast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// The model, `vocab_size` filled in.
    pub model: ModelSpec,
    /// Tokens of one window.
    pub sequence_length: u32,
    /// Number format.
    pub precision: Precision,
}

impl Shape {
    /// Its name among rates: equal shapes, equal keys.
    #[must_use]
    pub fn key(&self) -> String {
        // Maps of unknown keys are none of it: the order of its fields is the type's.
        let text = serde_json::to_string(self).unwrap_or_default();
        senmon_corpus::hex(&Sha256::digest(text.as_bytes())[..16])
    }

    fn vocab(&self) -> u64 {
        u64::from(self.model.vocab_size.unwrap_or(0))
    }

    /// Parameters of the model.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.model.parameters(self.vocab())
    }

    /// Floating-point operations to train on one token.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn flops(&self) -> f64 {
        self.model.train_flops_per_token(self.vocab(), u64::from(self.sequence_length)) as f64
    }
}

/// What was measured of one kind of work, on one shape of model and one kind of device.
#[derive(Debug, Clone, PartialEq)]
pub struct Rate {
    /// The work.
    pub kind: JobKind,
    /// [`Shape::key`]; empty for work without a model.
    pub shape: String,
    /// Name of the device.
    pub device: String,
    /// Slots of one job.
    pub slots: u16,
    /// Parameters of the model, 0 without one.
    pub parameters: u64,
    /// FLOPs to train on one token, 0 without a model.
    pub flops: f64,
    /// Number format, in a word; empty without a model.
    pub precision: String,
    /// Units done: tokens trained or scored, bytes of text, tokens of all members for an ensemble.
    pub units: f64,
    /// Seconds that they took.
    pub seconds: f64,
    /// Jobs that were counted.
    pub jobs: f64,
    /// Seconds of these jobs beside the work: loading, saving, handing over.
    pub overhead_seconds: f64,
}

/// An attempt that ended, as far as something can be learnt from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The work.
    pub kind: JobKind,
    /// The model that it was done with, where it is known.
    pub shape: Option<Shape>,
    /// Name of the device; None where the worker has no such slot any more.
    pub device: Option<String>,
    /// Slots of the job.
    pub slots: usize,
    /// Tokens that it trained.
    pub tokens: u64,
    /// Seconds of training.
    pub training_s: f64,
    /// Seconds in all.
    pub seconds: f64,
    /// What was asked for and what was found, of a job that it completed and that trains nothing.
    pub done: Option<(JobSpec, Option<JobResult>)>,
}

impl Measured {
    /// What it says of the speed of such work. None where it says nothing: nothing was done, or nobody knows with which
    /// model or on what.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn rate(self) -> Option<Rate> {
        let (units, seconds) = match (self.kind, &self.done) {
            (JobKind::Train, _) => (self.tokens, self.training_s),
            (_, Some((spec, result))) => (units(spec, result.as_ref()), self.seconds),
            (_, None) => return None,
        };
        let has_model = matches!(self.kind, JobKind::Train | JobKind::Evaluate);
        if units == 0 || seconds <= 0.0 || has_model && self.shape.is_none() {
            return None;
        }
        let shape = self.shape.as_ref().filter(|_| has_model);
        Some(Rate {
            kind: self.kind,
            shape: shape.map(Shape::key).unwrap_or_default(),
            device: self.device?,
            slots: u16::try_from(self.slots).unwrap_or(1).max(1),
            parameters: shape.map_or(0, Shape::parameters),
            flops: shape.map_or(0.0, Shape::flops),
            precision: shape.map(|shape| shape.precision.word().to_owned()).unwrap_or_default(),
            units: units as f64,
            seconds,
            jobs: 1.0,
            overhead_seconds: (self.seconds - seconds).max(0.0),
        })
    }
}

/// What a completed job without training did: bytes of text, or tokens.
fn units(spec: &JobSpec, result: Option<&JobResult>) -> u64 {
    match (spec, result) {
        (JobSpec::Shard(job), _) => job.file.counts.text_bytes,
        (JobSpec::Decontaminate(job), _) => job.file.counts.text_bytes,
        (JobSpec::Evaluate(_), Some(JobResult::Evaluate(found))) => found.tokens(),
        (JobSpec::Ensemble(job), Some(JobResult::Ensemble(found))) => {
            // The reported half is told, and as much calibrates.
            let reported =
                found.lines.first().map_or(0, |line| line.domains.iter().map(|domain| domain.tokens).sum::<u64>());
            reported.saturating_mul(2 * job.members.len() as u64)
        }
        _ => 0,
    }
}

/// Seconds of measuring after which what is older fades: a device that was slow last month says little of today.
pub const MEMORY_S: f64 = 6.0 * 3600.0;

impl Rate {
    /// Units a second of one slot.
    #[must_use]
    pub fn per_slot(&self) -> f64 {
        self.units / self.seconds.max(1e-9) / f64::from(self.slots.max(1))
    }

    /// With a newer measurement of the same.
    #[must_use]
    pub fn and(&self, newer: &Self) -> Self {
        let kept = (MEMORY_S / self.seconds.max(1e-9)).min(1.0);
        let sum = |old: f64, new: f64| old * kept + new;
        Self {
            units: sum(self.units, newer.units),
            seconds: sum(self.seconds, newer.seconds),
            jobs: sum(self.jobs, newer.jobs),
            overhead_seconds: sum(self.overhead_seconds, newer.overhead_seconds),
            ..newer.clone()
        }
    }
}

/// The rates of the same added up, each once.
#[must_use]
pub fn together(rates: Vec<Rate>) -> Vec<Rate> {
    let mut sums: BTreeMap<(JobKind, String, String, u16), Rate> = BTreeMap::new();
    for rate in rates {
        let key = (rate.kind, rate.shape.clone(), rate.device.clone(), rate.slots);
        let sum = sums.get(&key).map_or_else(|| rate.clone(), |sum| sum.and(&rate));
        sums.insert(key, sum);
    }
    sums.into_values().collect()
}

/// What a rate of training stands on.
#[derive(Debug, Clone, PartialEq)]
pub enum Basis {
    /// Measured on this very shape.
    Measured {
        /// Where; several devices are named together.
        device: String,
        /// Tokens that were measured.
        tokens: u64,
    },
    /// Measured on the model that is nearest in size, and scaled by arithmetic.
    Scaled {
        /// Where.
        device: String,
        /// Parameters of that model.
        parameters: u64,
    },
}

impl Basis {
    /// In words.
    #[must_use]
    pub fn said(&self) -> Said {
        match self {
            Self::Measured { device, tokens } => {
                said!("plan_rate_measured", tokens = Tokens(*tokens).to_string(), device = device)
            }
            Self::Scaled { device, parameters } => {
                said!("plan_rate_scaled", parameters = Tokens(*parameters).to_string(), device = device)
            }
        }
    }
}

/// A device of the fleet, by name, and its slots.
pub type Devices = [(String, u32)];

/// How fast each kind of work goes on one slot. None for what was never measured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Speeds {
    /// Tokens trained a second.
    pub train: Option<f64>,
    /// Seconds of each training beside it.
    pub train_overhead: f64,
    /// Tokens scored a second.
    pub evaluate: Option<f64>,
    /// Bytes of text tokenised a second.
    pub shard: Option<f64>,
    /// Bytes of text compared with held-out documents a second.
    pub decontaminate: Option<f64>,
    /// Tokens of all members mixed a second.
    pub ensemble: Option<f64>,
}

/// A pass forward is a third of a step of training.
const FORWARD_SHARE: f64 = 3.0;

impl Speeds {
    /// What was measured of a shape on these devices, and what the rate of training stands on.
    #[must_use]
    pub fn of(rates: &[Rate], shape: Option<&Shape>, devices: &Devices) -> (Self, Option<Basis>) {
        let plain = |kind: JobKind| of_fleet(rates, devices, |rate| rate.kind == kind).map(|found| found.per_slot);
        let train = shape.and_then(|shape| training(rates, shape, devices));
        let key = shape.map(Shape::key).unwrap_or_default();
        let trained = |rate: &&Rate| rate.kind == JobKind::Train && rate.shape == key;
        let (jobs, overhead) = rates
            .iter()
            .filter(trained)
            .fold((0.0, 0.0), |(jobs, seconds), rate| (jobs + rate.jobs, seconds + rate.overhead_seconds));
        let evaluate = of_fleet(rates, devices, |rate| rate.kind == JobKind::Evaluate && rate.shape == key);
        let speeds = Self {
            train: train.as_ref().map(|(rate, _)| *rate),
            train_overhead: if jobs > 0.0 { overhead / jobs } else { 0.0 },
            evaluate: evaluate.map(|found| found.per_slot),
            shard: plain(JobKind::Shard),
            decontaminate: plain(JobKind::Decontaminate),
            ensemble: plain(JobKind::Ensemble),
        };
        (speeds, train.map(|(_, basis)| basis))
    }

    /// Tokens scored a second; from training where it was never measured.
    #[must_use]
    pub fn scoring(&self) -> Option<f64> {
        self.evaluate.or_else(|| self.train.map(|train| train * FORWARD_SHARE))
    }
}

/// Tokens a second of one slot that trains a model of this shape, and what that stands on.
fn training(rates: &[Rate], shape: &Shape, devices: &Devices) -> Option<(f64, Basis)> {
    let key = shape.key();
    if let Some(found) = of_fleet(rates, devices, |rate| rate.kind == JobKind::Train && rate.shape == key) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of tokens")]
        let tokens = found.units as u64;
        return Some((found.per_slot, Basis::Measured { device: found.device, tokens }));
    }
    let precision = shape.precision.word();
    let alike = |rate: &&Rate| rate.kind == JobKind::Train && rate.flops > 0.0 && rate.precision == precision;
    let own = |rate: &&Rate| devices.iter().any(|(device, _)| *device == rate.device);
    let any_own = rates.iter().any(|rate| alike(&rate) && own(&rate));
    let distance = |rate: &Rate| (rate.flops / shape.flops().max(1.0)).ln().abs();
    let nearest = rates.iter().filter(alike).filter(|rate| !any_own || own(rate));
    let nearest = nearest.min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
    let basis = Basis::Scaled { device: nearest.device.clone(), parameters: nearest.parameters };
    Some((nearest.per_slot() * nearest.flops / shape.flops().max(1.0), basis))
}

struct OfFleet {
    per_slot: f64,
    units: f64,
    device: String,
}

/// The mean over the slots of a fleet whose devices were measured; where none of them was, the device that was measured
/// most.
fn of_fleet(rates: &[Rate], devices: &Devices, is_wanted: impl Fn(&Rate) -> bool) -> Option<OfFleet> {
    let wanted: Vec<&Rate> = rates.iter().filter(|rate| is_wanted(rate) && rate.units > 0.0).collect();
    let of = |device: &str| {
        // Of jobs of several widths, those that were measured most.
        let own = wanted.iter().filter(|rate| rate.device == device);
        own.max_by(|a, b| a.seconds.total_cmp(&b.seconds)).copied()
    };
    let mut measured: Vec<(&Rate, f64)> =
        devices.iter().filter_map(|(device, slots)| Some((of(device)?, f64::from(*slots)))).collect();
    if measured.is_empty() {
        measured =
            wanted.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds)).map(|rate| (*rate, 1.0)).into_iter().collect();
    }
    let slots: f64 = measured.iter().map(|(_, slots)| slots).sum();
    let names: Vec<&str> = measured.iter().map(|(rate, _)| rate.device.as_str()).collect();
    (slots > 0.0).then(|| OfFleet {
        per_slot: measured.iter().map(|(rate, slots)| rate.per_slot() * slots).sum::<f64>() / slots,
        units: measured.iter().map(|(rate, _)| rate.units).sum(),
        device: names.join(" and "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(layers: u32) -> Shape {
        let model = serde_json::from_value(serde_json::json!({
            "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": layers,
            "num_attention_heads": 4, "max_position_embeddings": 256
        }));
        Shape { model: model.unwrap(), sequence_length: 256, precision: Precision::default() }
    }

    fn rate(kind: JobKind, shape: &Shape, device: &str, units: f64, seconds: f64) -> Rate {
        Rate {
            kind,
            shape: shape.key(),
            device: device.into(),
            slots: 1,
            parameters: shape.parameters(),
            flops: shape.flops(),
            precision: shape.precision.word().into(),
            units,
            seconds,
            jobs: 2.0,
            overhead_seconds: 6.0,
        }
    }

    #[test]
    fn this_very_model_on_the_devices_of_the_fleet_counts_first() {
        let (small, large) = (shape(2), shape(8));
        let rates = [
            rate(JobKind::Train, &small, "H100", 8000.0, 2.0),
            rate(JobKind::Train, &large, "H100", 1000.0, 1.0),
            rate(JobKind::Train, &small, "Xeon", 100.0, 1.0),
            rate(JobKind::Evaluate, &small, "H100", 9000.0, 1.0),
        ];
        let of = |shape: &Shape, devices: &Devices| Speeds::of(&rates, Some(shape), devices);
        let (speeds, basis) = of(&small, &[("H100".into(), 3), ("Xeon".into(), 1)]);
        assert_eq!((speeds.train, speeds.train_overhead, speeds.evaluate), (Some(3025.0), 3.0, Some(9000.0)));
        assert_eq!(basis.unwrap().said().text(), "measured on this very model in 8.1 K tokens, on H100 and Xeon");
        assert_eq!(of(&small, &[("B200".into(), 3)]).0.train, Some(4000.0), "the device that was measured most");
        assert_eq!(of(&large, &[]).0.scoring(), Some(3000.0), "a pass forward is a third of a step");
    }

    #[test]
    fn another_model_is_scaled_by_arithmetic_and_says_so() {
        let (small, large) = (shape(2), shape(8));
        let rates =
            [rate(JobKind::Train, &small, "H100", 4000.0, 1.0), rate(JobKind::Train, &shape(1), "Xeon", 1.0, 1.0)];
        let (speeds, basis) = Speeds::of(&rates, Some(&large), &[]);
        let found = speeds.train.unwrap() * large.flops();
        assert!((found / (4000.0 * small.flops()) - 1.0).abs() < 1e-9);
        assert!(basis.unwrap().said().text().starts_with("scaled by arithmetic from a model of"), "says so");
        let (on_xeon, _) = Speeds::of(&rates, Some(&large), &[("Xeon".into(), 2)]);
        assert!(on_xeon.train.unwrap() < 1.0, "the fleet's own device, however far the model");
        assert_eq!(Speeds::of(&[], Some(&large), &[]), (Speeds::default(), None));
    }

    #[test]
    fn what_is_old_fades() {
        let shape = shape(2);
        let (old, new) = (
            rate(JobKind::Train, &shape, "H100", 1e9, 1e6),
            rate(JobKind::Train, &shape, "H100", 2000.0 * MEMORY_S, MEMORY_S),
        );
        let both = old.and(&new);
        assert!((both.per_slot() - 1500.0).abs() < 1.0, "{}", both.per_slot());
        assert!((both.and(&new).per_slot() - 1750.0).abs() < 1.0);
        let few = rate(JobKind::Train, &shape, "H100", 10.0, 1.0).and(&rate(JobKind::Train, &shape, "H100", 30.0, 1.0));
        assert!((few.per_slot() - 20.0).abs() < 1e-9, "what is young counts whole");
    }

    #[test]
    fn an_attempt_says_something_only_where_something_was_done_and_is_known() {
        let trained = Measured {
            kind: JobKind::Train,
            shape: Some(shape(2)),
            device: Some("H100".into()),
            slots: 2,
            tokens: 600,
            training_s: 3.0,
            seconds: 5.0,
            done: None,
        };
        let rate = trained.clone().rate().unwrap();
        assert_eq!((rate.per_slot(), rate.overhead_seconds, rate.shape), (100.0, 2.0, shape(2).key()));
        for nothing in [
            Measured { tokens: 0, ..trained.clone() },
            Measured { training_s: 0.0, ..trained.clone() },
            Measured { shape: None, ..trained.clone() },
            Measured { device: None, ..trained.clone() },
            Measured { kind: JobKind::Evaluate, ..trained.clone() },
            Measured { kind: JobKind::Shard, ..trained },
        ] {
            assert_eq!(nothing.clone().rate(), None, "{nothing:?}");
        }
    }
}
