//! Why a branch is not in the queue yet, in one sentence: what it waits for among the other branches.

use senmon_protocol::view::{BranchRole, BranchState, BranchView};

/// Why a branch waits for others. `all` are the branches of its experiment.
#[must_use]
pub fn why_not_queued(branch: &BranchView, all: &[BranchView]) -> String {
    if branch.role == BranchRole::Average {
        let is_member = |other: &&BranchView| other.role == BranchRole::Expert && other.repeat == branch.repeat;
        let experts = all.iter().filter(is_member);
        let over = experts.clone().filter(|expert| expert.state == BranchState::Completed).count();
        return format!("It averages the experts: {over} of {} are done.", experts.count());
    }
    let waits_for = branch.parent_id.filter(|_| branch.start_checkpoint_id.is_none());
    let Some(parent) = waits_for.and_then(|id| all.iter().find(|other| other.id == id)) else {
        return "Its job is about to be made.".to_owned();
    };
    let name = &parent.name;
    match parent.state {
        BranchState::Running => format!("Its parent {name} is at {} %.", 100 * parent.step / parent.steps.max(1)),
        BranchState::Waiting | BranchState::Queued => format!("Its parent {name} has not begun."),
        BranchState::Paused => format!("Its parent {name} is paused."),
        BranchState::Completed => format!("Its parent {name} is done; its job is about to be made."),
        BranchState::Failed | BranchState::Cancelled => format!("Its parent {name} did not finish."),
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
            assert_eq!(why_not_queued(&child, &[seed, child.clone()]), expect);
        };
        check(BranchState::Running, 51, "Its parent seed is at 63 %.");
        check(BranchState::Queued, 0, "Its parent seed has not begun.");
        check(BranchState::Paused, 5, "Its parent seed is paused.");
        let average = branch("average", BranchRole::Average, BranchState::Waiting, 0);
        let done = branch("expert-0", BranchRole::Expert, BranchState::Completed, 80);
        let runs = branch("expert-1", BranchRole::Expert, BranchState::Running, 3);
        assert_eq!(why_not_queued(&average, &[done, runs]), "It averages the experts: 1 of 2 are done.");
    }
}
