//! Whether a fleet could ever run a piece of work, were all of it idle and open; and if not, what it lacks.
//!
//! Agrees with the plan: what this accepts is placed on an idle fleet, and nothing else is.

use super::{
    fit::{labels_fit, slot_fits},
    snapshot::FleetWorker,
};
use senmon_protocol::{job::JobKind, resources::Needs};

/// What a piece of work asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Kind of the job.
    pub kind: JobKind,
    /// Slots of one worker.
    pub slots: u16,
    /// What each of them must offer.
    pub needs: Needs,
}

/// What a fleet lacks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// No worker can do this kind of work.
    Kind,
    /// Nobody who can has this label with this value; None where each label has its worker, but none has all.
    Label(Option<(String, String)>),
    /// Nobody who has the labels has a slot of this kind.
    Device,
    /// The largest such slot has so many bytes.
    Memory(u64),
    /// One worker has so many such slots at most.
    Slots(usize),
}

/// What a fleet lacks for a piece of work; None where a worker could run it.
#[must_use]
pub fn lack<'a>(ask: &Ask, fleet: impl IntoIterator<Item = &'a FleetWorker>) -> Option<Lack> {
    let capable: Vec<_> = fleet.into_iter().filter(|worker| worker.capabilities.contains(&ask.kind)).collect();
    if capable.is_empty() {
        return Some(Lack::Kind);
    }
    let labelled: Vec<_> = capable.iter().filter(|worker| labels_fit(worker, &ask.needs)).collect();
    if labelled.is_empty() {
        let nobodys = |(key, value): &(&String, &String)| capable.iter().all(|w| w.labels.get(*key) != Some(*value));
        let missing = ask.needs.labels.iter().find(nobodys);
        return Some(Lack::Label(missing.map(|(key, value)| (key.clone(), value.clone()))));
    }
    let of_any_size = Needs { memory_bytes: 0, ..ask.needs.clone() };
    let slots = labelled.iter().flat_map(|worker| &worker.slots);
    let most = slots.filter(|slot| slot_fits(slot, &of_any_size)).map(|slot| slot.memory_bytes).max();
    match most {
        None => return Some(Lack::Device),
        Some(most) if most < ask.needs.memory_bytes => return Some(Lack::Memory(most)),
        Some(_) => {}
    }
    let fitting = |worker: &FleetWorker| worker.slots.iter().filter(|slot| slot_fits(slot, &ask.needs)).count();
    let most = labelled.iter().map(|worker| fitting(worker)).max().unwrap_or(0);
    (most < usize::from(ask.slots)).then_some(Lack::Slots(most))
}
