//! The kinds of events: a word for scripts each, and when it is said. An event's sentence is for people and has the rest.

/// Kind, level and when it is said. The worker's own are those with a step of its branch.
pub const EVENTS: &[(&str, &str, &str)] = &[
    ("experiment_submitted", "info", "An experiment was submitted."),
    ("experiment_waits", "warn", "It was accepted and cannot begin yet: the event says what it waits for."),
    ("experiment_changed", "info", "Somebody paused, resumed, cancelled, deleted or edited it."),
    ("experiment_stalled", "warn", "It made no progress for `stalled_after_ms`; said once, with what it waits for."),
    (
        "chain_forgot",
        "warn",
        "A link of a chain has forgotten of a domain what a link before it knew; said once of each link.",
    ),
    ("experiment_completed", "info", "Its report is there."),
    ("experiment_failed", "error", "It ended without a report; the event says why."),
    ("stage_finished", "info", "A stage is done: discover, shard, seed, branches, merge, evaluate, report."),
    (
        "domain_left_out",
        "warn",
        "A domain has not one whole window of text; its branch is cancelled, the rest goes on.",
    ),
    ("deadline_missed", "warn", "At the present rate the deadline cannot be kept; said once."),
    ("budget_spent", "warn", "The budget is spent and the experiment is paused."),
    ("branch_changed", "info", "Somebody paused, resumed, cancelled, continued or forked a branch."),
    ("corpus_deleted", "info", "A corpus was deleted; its files stay."),
    ("attempt_started", "info", "A worker began a job from its beginning."),
    (
        "attempt_resumed",
        "info",
        "A worker goes on from a checkpoint, and whether state and next batch are what it recorded.",
    ),
    ("attempt_ended", "info or warn", "An attempt ended: why, and what comes next. `warn` where it was not planned."),
    ("branch_failed", "error", "An attempt ended, and its branch is given up."),
    ("job_preempted", "info", "A job gives its slots to one of higher priority."),
    ("checkpoint_committed", "info", "A checkpoint is committed: branches resume from it."),
    ("checkpoint_damaged", "error", "A checkpoint differs from its manifest and is set aside."),
    ("checkpoints_removed", "info", "Retention removed checkpoints of a branch."),
    ("worker_enrolled", "info", "A worker enrolled, or came back."),
    ("worker_changed", "info", "Somebody drained, enabled or disabled a worker."),
    ("worker_deleted", "info", "Somebody deleted a worker that was lost."),
    ("worker_lost", "warn", "A worker was not heard of for too long; its jobs go elsewhere."),
    ("worker_slow", "warn", "A worker trains much slower than its siblings."),
    ("worker_set_aside", "error", "Too much fails on a worker: it gets no new jobs until somebody enables it."),
    (
        "slot_set_aside",
        "error",
        "The device of a slot failed again: the slot gets no jobs until its worker is started again.",
    ),
    (
        "device_xid",
        "error",
        "The driver of a device told of a grave error; NVIDIA's list of Xid errors says what it means.",
    ),
    ("alert_made", "info", "Somebody made an alert."),
    ("alert_deleted", "info", "Somebody deleted an alert."),
    ("set_aside", "error", "Something failed three times and is left alone: `senmon set-aside`."),
    ("tried_again", "info", "Somebody had it tried again."),
    ("loop_failing", "error", "A loop of the server failed three times in a row; it goes on trying."),
    ("loop_recovered", "info", "That loop works again."),
    ("disk_low", "warn", "The database's disk has less than twice `disk_reserve` free: new work is refused."),
    ("disk_full", "error", "It has less than a quarter of it: the reserve is in use, points and log lines wait."),
    ("disk_has_room", "info", "The database's disk has room again."),
    ("database_nearly_full", "warn", "The database holds 90 % of `database_budget`."),
    ("database_has_room", "info", "It holds less again."),
    ("store_disk_low", "warn", "The store's disk has little room: new work is refused."),
    ("store_disk_has_room", "info", "It has room again."),
    ("storage_nearly_full", "warn", "The store holds 90 % of `storage_budget`."),
    ("storage_has_room", "info", "It holds less again."),
    (
        "store_unknown",
        "error",
        "The store is not the one of this database, or not mounted: nothing is checked or removed.",
    ),
    ("store_known", "info", "It is there again."),
    (
        "store_ahead",
        "error",
        "The store knows fences that this database never gave: it is an older copy. Restore a backup.",
    ),
    ("restored", "warn", "The database comes from a backup: what was found in the store beyond it."),
    ("orphan_removed", "info", "Folders of the store that belonged to nobody were removed."),
    ("loss_spike", "warn", "The loss is far above its fellows; what is done is `training.loss_spikes` of the file."),
    ("step_skipped", "warn", "A loss or gradient was not finite, or a spike is skipped: the batch is left out."),
    ("rolled_back", "warn", "Training went back to a checkpoint before a spike and leaves the batch out."),
    ("micro_batch_halved", "warn", "Memory ran out: passes have half as many windows, the batch stays."),
    ("held_out_unread", "warn", "Held-out text cannot be scored beside training: its curves are missing or end here."),
    ("pass_changed", "warn", "The fast pass did not prove itself on this device: autograd takes over."),
    ("checkpoint_skipped", "warn", "The store still takes the checkpoint before; this one is left out."),
    (
        "checkpoint_failed",
        "warn",
        "A checkpoint could not be written; training goes on and a later interval tries again.",
    ),
    (
        "branch_degraded",
        "warn",
        "Three checkpoints in a row could not be written: a fault now costs all since the last.",
    ),
    ("branch_recovered", "info", "A checkpoint was written again."),
    ("spool_refused", "warn", "The worker's own disk refuses its reports; they are kept in memory."),
];

/// Whether the list has this kind.
#[must_use]
pub fn is_known(kind: &str) -> bool {
    EVENTS.iter().any(|(known, ..)| *known == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kind_is_listed_twice() {
        for (i, (kind, ..)) in EVENTS.iter().enumerate() {
            assert!(!EVENTS[..i].iter().any(|(other, ..)| other == kind), "{kind}");
        }
    }
}
