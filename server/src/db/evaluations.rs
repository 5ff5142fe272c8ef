//! Evaluations: known by what they evaluate, created with their jobs.

use super::{Listed, Result, Stored, each, stored};
use senmon_protocol::{
    ids::{BranchId, CheckpointId, EvaluationId, ExperimentId},
    job::JobResult,
};
use sqlx::{PgConnection, PgPool};

/// What an evaluation is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// One checkpoint, by itself.
    Checkpoint(BranchId, CheckpointId),
    /// The models of one repeat, used together.
    Repeat(u32),
}

/// An evaluation to create.
#[derive(Debug)]
pub struct NewEvaluation {
    /// Its id, if it is new.
    pub id: EvaluationId,
    /// What it is of; asking twice creates it once.
    pub of: Subject,
    /// For people.
    pub title: String,
}

impl NewEvaluation {
    /// Creates it; false where there is one of the same.
    pub(super) async fn insert(&self, tx: &mut PgConnection, experiment: ExperimentId) -> Result<bool> {
        let (branch, checkpoint, repeat) = match self.of {
            Subject::Checkpoint(branch, checkpoint) => (Some(branch.0), Some(checkpoint.0), None),
            Subject::Repeat(repeat) => (None, None, Some(i32::try_from(repeat).unwrap_or(i32::MAX))),
        };
        let done = sqlx::query!(
            "INSERT INTO evaluations (id, experiment_id, branch_id, checkpoint_id, repeat, title) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            self.id.0, experiment.0, branch, checkpoint, repeat, self.title
        )
        .execute(tx)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

/// An evaluation's row.
#[derive(Debug, Clone)]
pub struct EvaluationRow {
    /// Id.
    pub id: EvaluationId,
    /// The branch; None for ensembles.
    pub branch_id: Option<BranchId>,
    /// The checkpoint; None for ensembles.
    pub checkpoint_id: Option<CheckpointId>,
    /// The repeat whose models are used together; None for one checkpoint.
    pub repeat: Option<u32>,
    /// Branch name or ensemble, for people.
    pub title: String,
    /// What it found.
    pub result: Option<JobResult>,
    /// Whether its job was given up, or what it found cannot be read.
    pub failed: bool,
}

/// Evaluations of an experiment, oldest first. One whose result cannot be read has failed: nobody would ever read it.
///
/// # Errors
/// When Postgres refuses.
pub async fn evaluations(pool: &PgPool, experiment: ExperimentId) -> Result<Listed<EvaluationRow>> {
    let rows = sqlx::query!(
        r#"SELECT v.id, v.branch_id, v.checkpoint_id, v.repeat, v.title, v.result AS "result: Stored<JobResult>",
           EXISTS (SELECT 1 FROM jobs j WHERE j.evaluation_id = v.id AND j.state IN ('failed', 'cancelled')) AS "failed!"
           FROM evaluations v WHERE v.experiment_id = $1 ORDER BY v.id"#,
        experiment.0
    )
    .fetch_all(pool)
    .await?;
    Ok(each(
        "evaluation",
        rows,
        |row| row.id,
        |row| {
            let result = row.result.map(|result| stored::said("evaluation", row.id, result.read("result"))).transpose();
            Ok(EvaluationRow {
                id: EvaluationId(row.id),
                branch_id: row.branch_id.map(BranchId),
                checkpoint_id: row.checkpoint_id.map(CheckpointId),
                repeat: row.repeat.and_then(|repeat| u32::try_from(repeat).ok()),
                title: row.title,
                failed: row.failed || result.is_err(),
                result: result.unwrap_or_default(),
            })
        },
    ))
}
