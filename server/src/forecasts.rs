//! What is left of the experiments that run, and when they end. In memory: after a start it is there again within seconds.

use crate::domain::{
    forecast::{Left, StageEnds, end, lay_out, stage_ends},
    rates::{Devices, Rate, Shape, Speeds},
    timetable::Slots,
};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    ids::ExperimentId,
    view::{ExperimentState, ExperimentSummary, Stage, StageState},
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use uuid::Uuid;

/// What is left, and when it ends.
#[derive(Debug, Clone, Default)]
pub struct Forecasts(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What is left of those that run, with the shape of their model.
    left: HashMap<ExperimentId, (Left, Option<Shape>)>,
    ends: HashMap<ExperimentId, (Instant, StageEnds)>,
    rates: Vec<Rate>,
    /// The last attempt that was counted; None before the first look.
    counted: Option<(DateTime<Utc>, Uuid)>,
}

impl Forecasts {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last attempt that was counted; None before the first look.
    #[must_use]
    pub fn counted(&self) -> Option<(DateTime<Utc>, Uuid)> {
        self.lock().counted
    }

    /// Notes the last attempt that was counted.
    pub fn has_counted(&self, last: (DateTime<Utc>, Uuid)) {
        self.lock().counted = Some(last);
    }

    /// Notes what was ever measured.
    pub fn knows(&self, rates: Vec<Rate>) {
        self.lock().rates = rates;
    }

    /// What was ever measured.
    #[must_use]
    pub fn rates(&self) -> Vec<Rate> {
        self.lock().rates.clone()
    }

    /// Notes what is left of an experiment.
    pub fn note(&self, id: ExperimentId, left: Left, shape: Option<Shape>) {
        self.lock().left.insert(id, (left, shape));
    }

    /// Forgets all experiments but those that run: the others hold no slots.
    pub fn keep(&self, running: &HashSet<ExperimentId>) {
        self.lock().left.retain(|id, _| running.contains(id));
    }

    /// Tells when an experiment ends, and its stage that goes on.
    pub fn tell(&self, summary: &mut ExperimentSummary) {
        if summary.state != ExperimentState::Running {
            return;
        }
        let state = self.lock();
        let Some((since, ends)) = state.ends.get(&summary.id) else { return };
        let passed = since.elapsed().as_secs_f64();
        let left = |end: f64| (end - passed).max(0.0);
        summary.seconds_left = end(ends).map(left);
        for stage in summary.stages.iter_mut().filter(|stage| stage.state == StageState::Running) {
            if let Some(end) = ends.get(&stage.stage) {
                stage.seconds_left = end.map(left);
            }
        }
    }

    /// Looks ahead: all that is left, on these slots.
    pub fn look(&self, slots: Slots, devices: &Devices) {
        let mut state = self.lock();
        let mut ids: Vec<ExperimentId> = state.left.keys().copied().collect();
        ids.sort_unstable();
        let (mut tasks, mut ranges, mut told) = (Vec::new(), Vec::new(), Vec::new());
        for id in ids {
            let (left, shape) = &state.left[&id];
            let (mut speeds, _) = Speeds::of(&state.rates, shape.as_ref(), devices);
            // What trains now says best how fast the rest will.
            speeds.train = now_trains(left).or(speeds.train);
            let first = tasks.len();
            if lay_out(left, &speeds, &mut tasks).is_some() {
                ranges.push(first..tasks.len());
                told.push(id);
            } else {
                tasks.truncate(first);
            }
        }
        let now = Instant::now();
        let mut ends = stage_ends(&tasks, slots, &ranges);
        for (id, ends) in told.iter().zip(&mut ends) {
            // Before its branches are laid out, nobody knows when they end.
            if state.left[id].0.branches.is_empty() {
                ends.insert(Stage::Branches, None);
            }
        }
        state.ends = told.into_iter().zip(ends).map(|(id, ends)| (id, (now, ends))).collect();
    }
}

/// Tokens a second of one slot of what trains now.
fn now_trains(left: &Left) -> Option<f64> {
    let rates: Vec<f64> =
        left.branches.iter().filter_map(|branch| Some(branch.rate? / f64::from(branch.slots.max(1)))).collect();
    #[expect(clippy::cast_precision_loss, reason = "a number of branches")]
    let n = rates.len() as f64;
    (n > 0.0).then(|| rates.iter().sum::<f64>() / n)
}
