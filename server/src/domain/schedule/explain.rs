//! Why a job waits: what it needs, and what stands in its way on each worker.

use super::{
    fit::{labels_fit, slot_fits},
    snapshot::{FleetWorker, Release, Snapshot, Standing, WaitingJob},
};
use senmon_protocol::{
    resources::Needs,
    said,
    said::{Said, SaidValue, of},
};

/// Workers named one by one; the others are counted.
const NAMED_MAX: usize = 4;

/// Why a job waits, in one sentence.
#[must_use]
pub fn why_waiting(job: &WaitingJob, fleet: &Snapshot) -> Said {
    let gives_up: Vec<SaidValue> = fleet
        .running
        .iter()
        .filter(|running| running.release == Release::For(job.id))
        .map(|running| of::title(&running.title))
        .collect();
    if !gives_up.is_empty() {
        return said!("job_starts_soon", jobs = gives_up);
    }
    if fleet.workers.is_empty() {
        return said!("job_waits_no_worker");
    }
    let obstacles: Vec<_> = fleet.workers.iter().map(|worker| (worker, obstacle(worker, job))).collect();
    let able = obstacles.iter().filter(|(_, obstacle)| obstacle.is_none()).count();
    if able > 0 {
        let wanted = if job.slots == 1 { said!("wanted_a_slot") } else { said!("wanted_slots", slots = job.slots) };
        return match able {
            1 => said!("job_waits_one_able", wanted = wanted, kind = of::kind(job.kind)),
            _ => said!("job_waits_able", wanted = wanted, able = able, kind = of::kind(job.kind)),
        };
    }
    let named = obstacles.iter().take(NAMED_MAX).filter_map(|(worker, obstacle)| {
        Some(said!("worker_stands", name = worker.name.as_str(), how = obstacle.clone()?))
    });
    let mut workers: Vec<Said> = named.collect();
    if obstacles.len() > NAMED_MAX {
        workers.push(said!("workers_more", more = obstacles.len() - NAMED_MAX));
    }
    said!("job_needs", wanted = wanted(job), workers = workers)
}

/// What the job needs.
fn wanted(job: &WaitingJob) -> Said {
    let slots = if job.slots == 1 { said!("wanted_slot") } else { said!("wanted_slots", slots = job.slots) };
    let Needs { memory_bytes, device, labels } = &job.needs;
    let mut needs: Vec<String> = Vec::new();
    needs.extend(device.map(|device| device.word().to_owned()));
    needs.extend((*memory_bytes > 0).then(|| gib(*memory_bytes)));
    needs.extend(labels.iter().map(|(key, value)| format!("{key}={value}")));
    let all =
        needs.into_iter().map(SaidValue::from).reduce(|first, then| said!("both", first = first, then = then).into());
    match all {
        Some(all) => said!("wanted_with", slots = slots, needs = all),
        None => slots,
    }
}

/// Why the job cannot run on a worker at all, or not now. None where it only has to wait for slots.
fn obstacle(worker: &FleetWorker, job: &WaitingJob) -> Option<Said> {
    match worker.standing {
        Standing::Open => {}
        Standing::Draining => return Some(said!("worker_is_draining")),
        Standing::Disabled => return Some(said!("worker_is_disabled")),
        Standing::SetAside => return Some(said!("worker_is_set_aside")),
        Standing::Silent => return Some(said!("worker_is_silent")),
        Standing::Lost => return Some(said!("worker_is_lost")),
    }
    if !worker.capabilities.contains(&job.kind) {
        return Some(said!("worker_cannot", kind = of::kind(job.kind)));
    }
    if !labels_fit(worker, &job.needs) {
        let missing = job.needs.labels.iter().find(|(key, value)| worker.labels.get(*key) != Some(value));
        let label = missing.map_or_else(String::new, |(key, value)| format!("{key}={value}"));
        return Some(said!("worker_lacks_label", label = label));
    }
    if worker.slots.iter().filter(|slot| slot_fits(slot, &job.needs)).count() >= usize::from(job.slots) {
        return None;
    }
    let of_kind: Vec<_> =
        worker.slots.iter().filter(|slot| job.needs.device.is_none_or(|device| slot.device == device)).collect();
    Some(match (of_kind.iter().map(|slot| slot.memory_bytes).max(), job.needs.device) {
        (None, Some(device)) => said!("worker_lacks_device", device = device.word()),
        (None, None) => said!("worker_lacks_slot"),
        (Some(most), _) if most < job.needs.memory_bytes => said!("worker_has_memory", memory = gib(most)),
        (Some(_), _) => {
            let slots = of_kind.iter().filter(|slot| slot_fits(slot, &job.needs)).count();
            said!("worker_has_slots", slots = slots)
        }
    })
}

/// Memory in words: `40 GiB`, `1.5 GiB`.
#[must_use]
pub fn gib(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let value = bytes as f64 / f64::from(1_u32 << 30);
    let text = format!("{value:.1}");
    format!("{} GiB", text.strip_suffix(".0").unwrap_or(&text))
}
