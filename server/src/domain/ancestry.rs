//! Why a branch is not in the queue yet: what it waits for among the other branches.

use senmon_protocol::{
    said,
    said::Said,
    view::{BranchRole, BranchState, BranchView},
};

/// Why a branch waits for others. `all` are the branches of its experiment.
#[must_use]
pub fn why_not_queued(branch: &BranchView, all: &[BranchView]) -> Said {
    if branch.role == BranchRole::Average {
        let is_member = |other: &&BranchView| other.role == BranchRole::Expert && other.repeat == branch.repeat;
        let experts = all.iter().filter(is_member);
        let over = experts.clone().filter(|expert| expert.state == BranchState::Completed).count();
        return said!("branch_averages", done = over, all = experts.count());
    }
    let waits_for = branch.parent_id.filter(|_| branch.start_checkpoint_id.is_none());
    let Some(parent) = waits_for.and_then(|id| all.iter().find(|other| other.id == id)) else {
        return said!("branch_job_soon");
    };
    let parent_name = parent.name.as_str();
    match parent.state {
        BranchState::Running => {
            said!("parent_trains", parent = parent_name, percent = 100 * parent.step / parent.steps.max(1))
        }
        BranchState::Waiting | BranchState::Queued => said!("parent_has_not_begun", parent = parent_name),
        BranchState::Paused => said!("parent_is_paused", parent = parent_name),
        BranchState::Completed => said!("parent_is_done", parent = parent_name),
        BranchState::Failed | BranchState::Cancelled => said!("parent_failed", parent = parent_name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::ids::{BranchId, ExperimentId};
    use serde_json::json;

    fn branch(name: &str, role: BranchRole, state: BranchState, step: u64) -> BranchView {
        serde_json::from_value(json!({
            "id": BranchId::new(), "experiment_id": ExperimentId::new(), "name": name, "role": role, "state": state, "step": step,
            "steps": 80, "tokens": 0, "tokens_total": 0, "sparkline": [], "wall_seconds": 0.0, "attempts": 0
        }))
        .unwrap()
    }

    #[test]
    fn a_branch_says_what_it_waits_for() {
        let check = |state, step, expect: &str| {
            let seed = branch("seed", BranchRole::Seed, state, step);
            let mut child = branch("expert-0", BranchRole::Expert, BranchState::Waiting, 0);
            child.parent_id = Some(seed.id);
            assert_eq!(why_not_queued(&child, &[seed, child.clone()]).text(), expect);
        };
        check(BranchState::Running, 51, "Its parent seed is at 63 %.");
        check(BranchState::Queued, 0, "Its parent seed has not begun.");
        check(BranchState::Paused, 5, "Its parent seed is paused.");
        let average = branch("average", BranchRole::Average, BranchState::Waiting, 0);
        let done = branch("expert-0", BranchRole::Expert, BranchState::Completed, 80);
        let runs = branch("expert-1", BranchRole::Expert, BranchState::Running, 3);
        assert_eq!(why_not_queued(&average, &[done, runs]).text(), "It averages the experts: 1 of 2 are done.");
    }
}
