//! Slots whose device failed: what a process learnt, for the one that it becomes. Pure.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The variable in which it is carried.
pub const VARIABLE: &str = "SENMON_SLOT_FAULTS";
/// Faults after which a slot is given no more work, until a person starts the worker again.
const TIMES_MAX: u32 = 2;

/// Faults by slot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotFaults(BTreeMap<u16, SlotFault>);

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SlotFault {
    times: u32,
    said: String,
}

impl SlotFaults {
    /// What the process before carried on; nothing where a person started this one.
    #[must_use]
    pub fn carried(text: Option<&str>) -> Self {
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// To be carried on; empty where there is nothing to tell.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The device of these slots failed, with the driver's words.
    pub fn failed(&mut self, slots: &[u16], said: &str) {
        for slot in slots {
            let fault = self.0.entry(*slot).or_default();
            fault.times = fault.times.saturating_add(1);
            said.clone_into(&mut fault.said);
        }
    }

    /// Slots that failed once: to be tested before they work again.
    #[must_use]
    pub fn doubtful(&self) -> Vec<u16> {
        self.0.iter().filter(|(_, fault)| fault.times < TIMES_MAX).map(|(slot, _)| *slot).collect()
    }

    /// Why a slot is set aside, if it is.
    #[must_use]
    pub fn set_aside(&self, slot: u16) -> Option<&str> {
        self.0.get(&slot).filter(|fault| fault.times >= TIMES_MAX).map(|fault| fault.said.as_str())
    }

    /// All slots that are set aside.
    #[must_use]
    pub fn all_set_aside(&self) -> BTreeSet<u16> {
        self.0.keys().copied().filter(|slot| self.set_aside(*slot).is_some()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_tested_after_its_first_fault_and_set_aside_after_its_second() {
        let mut faults = SlotFaults::default();
        faults.failed(&[1], "CUDA error: a");
        assert_eq!((faults.doubtful(), faults.all_set_aside()), (vec![1], BTreeSet::new()));
        let mut next = SlotFaults::carried(Some(&faults.text()));
        assert_eq!(next, faults);
        next.failed(&[1, 2], "CUDA error: b");
        assert_eq!((next.doubtful(), next.all_set_aside()), (vec![2], BTreeSet::from([1])));
        assert_eq!((next.set_aside(1), next.set_aside(2), next.set_aside(7)), (Some("CUDA error: b"), None, None));
    }

    #[test]
    fn a_start_by_a_person_knows_of_no_fault() {
        for text in [None, Some(""), Some("nonsense")] {
            assert_eq!(SlotFaults::carried(text), SlotFaults::default());
        }
    }
}
