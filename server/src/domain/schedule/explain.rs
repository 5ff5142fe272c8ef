//! Why a job waits, in one sentence: what it needs, and what stands in its way on each worker.

use super::{
    fit::{labels_fit, slot_fits},
    snapshot::{FleetWorker, Release, Snapshot, Standing, WaitingJob},
};
use senmon_protocol::resources::Needs;

/// Workers named one by one; the others are counted.
const NAMED_MAX: usize = 4;

/// Why a job waits, in one sentence.
#[must_use]
pub fn why_waiting(job: &WaitingJob, fleet: &Snapshot) -> String {
    let gives_up: Vec<&str> = fleet
        .running
        .iter()
        .filter(|running| running.release == Release::For(job.id))
        .map(|running| running.title.as_str())
        .collect();
    if !gives_up.is_empty() {
        let verb = if gives_up.len() == 1 { "writes a checkpoint and gives" } else { "write checkpoints and give" };
        return format!("Starts soon: {} {verb} room to it.", gives_up.join(", "));
    }
    if fleet.workers.is_empty() {
        return "Waiting for a worker: none has enrolled.".to_owned();
    }
    let obstacles: Vec<_> = fleet.workers.iter().map(|worker| (worker, obstacle(worker, job))).collect();
    let able = obstacles.iter().filter(|(_, obstacle)| obstacle.is_none()).count();
    if able > 0 {
        let count =
            if able == 1 { "the one worker that can".to_owned() } else { format!("the {able} workers that can") };
        let verb = if able == 1 { "has" } else { "have" };
        let wanted = if job.slots == 1 { "a slot".to_owned() } else { format!("{} slots on one worker", job.slots) };
        return format!("Waiting for {wanted}: {count} {} {verb} none free for it yet.", job.kind.word());
    }
    let named = obstacles.iter().take(NAMED_MAX);
    let mut parts: Vec<String> = named
        .map(|(worker, obstacle)| format!("worker {} {}", worker.name, obstacle.as_deref().unwrap_or_default()))
        .collect();
    if obstacles.len() > NAMED_MAX {
        parts.push(format!("{} more", obstacles.len() - NAMED_MAX));
    }
    format!("Needs {}: {}.", wanted(job), parts.join(", "))
}

/// What the job needs, in words.
fn wanted(job: &WaitingJob) -> String {
    let mut text = if job.slots == 1 { "1 slot".to_owned() } else { format!("{} slots on one worker", job.slots) };
    let Needs { memory_bytes, device, labels } = &job.needs;
    let mut with: Vec<String> = Vec::new();
    with.extend(device.map(|device| device.word().to_owned()));
    with.extend((*memory_bytes > 0).then(|| gib(*memory_bytes)));
    with.extend(labels.iter().map(|(key, value)| format!("{key}={value}")));
    if !with.is_empty() {
        text = format!("{text} with {}", with.join(" and "));
    }
    text
}

/// Why the job cannot run on a worker at all, or not now. None where it only has to wait for slots.
fn obstacle(worker: &FleetWorker, job: &WaitingJob) -> Option<String> {
    let standing = match worker.standing {
        Standing::Open => None,
        Standing::Draining => Some("is draining"),
        Standing::Disabled => Some("is disabled"),
        Standing::SetAside => Some("is set aside"),
        Standing::Silent => Some("does not answer"),
        Standing::Lost => Some("is lost"),
    };
    if let Some(standing) = standing {
        return Some(standing.to_owned());
    }
    if !worker.capabilities.contains(&job.kind) {
        return Some(format!("cannot {}", job.kind.word()));
    }
    if !labels_fit(worker, &job.needs) {
        let missing = job.needs.labels.iter().find(|(key, value)| worker.labels.get(*key) != Some(value));
        return Some(missing.map_or_else(String::new, |(key, value)| format!("is not labelled {key}={value}")));
    }
    if worker.slots.iter().filter(|slot| slot_fits(slot, &job.needs)).count() >= usize::from(job.slots) {
        return None;
    }
    let of_kind: Vec<_> =
        worker.slots.iter().filter(|slot| job.needs.device.is_none_or(|device| slot.device == device)).collect();
    let device = job.needs.device.map_or("", |device| device.word());
    Some(match of_kind.iter().map(|slot| slot.memory_bytes).max() {
        None => format!("has no {device} slot"),
        Some(most) if most < job.needs.memory_bytes => format!("has {}", gib(most)),
        Some(_) => match of_kind.iter().filter(|slot| slot_fits(slot, &job.needs)).count() {
            1 => "has 1 such slot".to_owned(),
            n => format!("has {n} such slots"),
        },
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
