//! What an experiment asks of the fleet: resources, a deadline, a budget.

use super::{Faults, Known};
use senmon_protocol::{problem::Fault, resources::BudgetSpec, spec::ExperimentSpec};

/// What it asks of the fleet.
pub(super) fn fleet(spec: &ExperimentSpec, known: &Known, faults: &mut Faults) {
    if let Some(memory) = spec.resources.memory_gib {
        let good = memory > 0.0 && memory <= 65_536.0;
        faults.check(good, "resources.memory_gib", memory, "more than 0, at most 65536");
    }
    for key in spec.resources.labels.keys() {
        faults.check(!key.trim().is_empty(), "resources.labels", format!("{key:?}"), "a label's name");
    }
    budget(&spec.budget, "budget", &mut faults.0);
    if let (Some(deadline), Some(now)) = (spec.deadline, known.now) {
        faults.check(deadline > now, "deadline", deadline.to_rfc3339(), "a time to come");
    }
}

/// Faults of a budget.
pub fn budget(budget: &BudgetSpec, path: &str, faults: &mut Vec<Fault>) {
    for (key, hours) in [("slot_hours", budget.slot_hours), ("wall_hours", budget.wall_hours)] {
        if let Some(hours) = hours.filter(|hours| !(hours.is_finite() && *hours > 0.0)) {
            let message = format!("found {hours}, expected a number of hours above 0");
            faults.push(Fault { path: format!("{path}.{key}"), message });
        }
    }
}
