//! Jobs, and what people wish of them. Their leases, which live in the same rows, are in `leases`.

use super::{
    DbError, Listed, Result, Stored, begin, count, each,
    evaluations::NewEvaluation,
    experiments::{Life, holds},
    kept, sentence, signed, transaction, unword,
};
use chrono::{DateTime, Utc};
use senmon_protocol::{
    ids::{BranchId, CorpusId, ExperimentId, JobId, WorkerId},
    job::{JobKind, JobSpec},
    resources::Needs,
    said,
    said::{Said, SaidValue, of},
    view::{JobOwner, JobState, JobView},
};
use sqlx::PgPool;

/// A job to create.
#[derive(Debug)]
pub struct NewJob {
    /// The experiment.
    pub experiment_id: ExperimentId,
    /// The branch, for training and merging.
    pub branch_id: Option<BranchId>,
    /// The evaluation, for scoring: created with its job.
    pub evaluation: Option<NewEvaluation>,
    /// What it is in its experiment; asking twice creates it once.
    pub key: String,
    /// For people.
    pub title: String,
    /// What to do.
    pub spec: JobSpec,
    /// Of the experiment.
    pub priority: u8,
    /// Slots.
    pub slots: u16,
    /// What each of them must offer.
    pub needs: Needs,
    /// Tokens left.
    pub remaining: u64,
}

/// Creates a job unless it is there already, and queues its branch. A snapshot may be old: an experiment that is paused
/// or over by now, and a branch that somebody paused or cancelled, get none. The experiment's row is held, so that an
/// end that comes at the same moment sees the job.
///
/// # Errors
/// [`DbError::Unstorable`]; when Postgres refuses.
pub async fn ensure(pool: &PgPool, job: &NewJob) -> Result<()> {
    let mut tx = transaction(pool).await?;
    if !holds(&mut tx, job.experiment_id, Life::Running).await? {
        return Ok(());
    }
    if let Some(branch) = job.branch_id {
        let done = sqlx::query!("UPDATE branches SET state = 'queued' WHERE id = $1 AND state = 'waiting'", branch.0)
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(());
        }
    }
    let evaluation = match &job.evaluation {
        Some(evaluation) if !evaluation.insert(&mut tx, job.experiment_id).await? => return Ok(()),
        evaluation => evaluation.as_ref().map(|evaluation| evaluation.id.0),
    };
    let slots = i16::try_from(job.slots).unwrap_or(i16::MAX);
    sqlx::query!(
        "INSERT INTO jobs (id, experiment_id, branch_id, evaluation_id, key, kind, title, spec, priority, slots, remaining, needs)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (experiment_id, key) DO NOTHING",
        JobId::new().0, job.experiment_id.0, job.branch_id.map(|id| id.0), evaluation, job.key, job.spec.kind().word(),
        job.title, kept("job", &job.spec)? as _, i16::from(job.priority), slots, signed(job.remaining), kept("needs", &job.needs)? as _
    ).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

/// A job as the scheduler and the queue see it.
#[derive(Debug, Clone)]
pub struct JobRow {
    /// Id.
    pub id: JobId,
    /// Whose work it is.
    pub owner: JobOwner,
    /// The branch.
    pub branch_id: Option<BranchId>,
    /// For people.
    pub title: String,
    /// Kind.
    pub kind: JobKind,
    /// State.
    pub state: JobState,
    /// Priority.
    pub priority: i16,
    /// Slots.
    pub slots: u16,
    /// What each of them must offer.
    pub needs: Needs,
    /// Tokens left.
    pub remaining: i64,
    /// Whether its back-off is over and its owner runs.
    pub ready: bool,
    /// Whether its owner is paused.
    pub owner_paused: bool,
    /// Why the server paused its owner.
    pub paused_why: Option<Said>,
    /// Seconds to its owner's deadline.
    pub deadline_seconds: Option<f64>,
    /// Seconds left of its back-off; negative when it is over.
    pub wait_seconds: f64,
    /// The worker that has it.
    pub worker_id: Option<WorkerId>,
    /// Name of the worker.
    pub worker: Option<String>,
    /// Slots it holds.
    pub slots_held: Vec<u16>,
    /// Seconds since it was granted.
    pub ran_seconds: f64,
    /// Whether it was asked to give them back.
    pub asked_back: bool,
    /// For the sake of which job.
    pub preempted_for: Option<JobId>,
    /// Attempts so far.
    pub attempts: i64,
    /// Progress.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Why it was given up.
    pub problem: Option<Said>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

/// Whose work a job is, by the columns of its row and its owner's name.
///
/// # Errors
/// [`DbError::Impossible`] when it has none, which the schema forbids.
pub(super) fn owner(experiment: Option<uuid::Uuid>, corpus: Option<uuid::Uuid>, name: String) -> Result<JobOwner> {
    match (experiment, corpus) {
        (Some(id), _) => Ok(JobOwner::Experiment { id: ExperimentId(id), name }),
        (None, Some(id)) => Ok(JobOwner::Corpus { id: CorpusId(id), name }),
        (None, None) => Err(DbError::Impossible("a job without an owner".into())),
    }
}

/// Open jobs (queued, running, paused) in the order of creation.
///
/// # Errors
/// When Postgres refuses.
pub async fn open(pool: &PgPool) -> Result<Listed<JobRow>> {
    let rows = sqlx::query!(
        r#"SELECT j.id, j.experiment_id, j.corpus_id, e.name AS "owner!", j.branch_id, j.title, j.kind, j.state, j.priority, j.slots, j.remaining,
           (j.not_before <= now() AND e.state = 'running') AS "ready!", e.state = 'paused' AS "owner_paused!",
           EXTRACT(EPOCH FROM j.not_before - now())::double precision AS "wait_seconds!", j.worker_id, w.name AS "worker?", a.slots AS "slots_held?: Stored<Vec<u16>>",
           j.fence AS attempts, j.done, j.total, j.tokens_per_second, j.problem, j.problem_said AS "problem_said: Stored<Said>", j.created_at, j.needs AS "needs: Stored<Needs>", j.preempted_for,
           j.command <> 'continue' AS "asked_back!", e.paused_why, x.paused_why_said AS "paused_why_said?: Stored<Said>", EXTRACT(EPOCH FROM e.deadline - now())::double precision AS deadline_seconds,
           COALESCE(EXTRACT(EPOCH FROM now() - a.started_at), 0)::double precision AS "ran_seconds!"
           FROM jobs j JOIN owners e ON e.id = j.owner_id LEFT JOIN experiments x ON x.id = j.experiment_id
               LEFT JOIN workers w ON w.id = j.worker_id LEFT JOIN attempts a ON a.id = j.attempt_id
           WHERE j.state IN ('queued', 'running', 'paused') ORDER BY j.created_at, j.id"#
    ).fetch_all(pool).await?;
    Ok(each(
        "job",
        rows,
        |row| row.id,
        |row| {
            Ok(JobRow {
                id: JobId(row.id),
                owner: owner(row.experiment_id, row.corpus_id, row.owner)?,
                branch_id: row.branch_id.map(BranchId),
                title: row.title,
                kind: unword(&row.kind)?,
                state: unword(&row.state)?,
                priority: row.priority,
                slots: u16::try_from(row.slots).unwrap_or(1),
                needs: row.needs.read("needs")?,
                remaining: row.remaining,
                ready: row.ready,
                owner_paused: row.owner_paused,
                paused_why: sentence(row.paused_why, row.paused_why_said),
                deadline_seconds: row.deadline_seconds,
                wait_seconds: row.wait_seconds,
                worker_id: row.worker_id.map(WorkerId),
                worker: row.worker,
                slots_held: row.slots_held.map(|slots| slots.read("slots")).transpose()?.unwrap_or_default(),
                ran_seconds: row.ran_seconds,
                asked_back: row.asked_back,
                preempted_for: row.preempted_for.map(JobId),
                attempts: row.attempts,
                done: count(row.done),
                total: count(row.total),
                tokens_per_second: row.tokens_per_second,
                problem: sentence(row.problem, row.problem_said),
                created_at: row.created_at,
            })
        },
    ))
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
pub(super) fn progress(done: u64, total: u64) -> Option<f64> {
    (total > 0).then(|| (done as f64 / total as f64).min(1.0))
}

impl JobRow {
    /// Progress, 0 to 1.
    #[must_use]
    pub fn progress(&self) -> Option<f64> {
        progress(self.done, self.total)
    }

    /// As the API shows it.
    #[must_use]
    pub fn view(&self, why: Option<Said>) -> JobView {
        JobView {
            id: self.id,
            owner: self.owner.clone(),
            branch_id: self.branch_id,
            title: self.title.clone(),
            kind: self.kind,
            state: self.state,
            why: why.as_ref().map(Said::text),
            why_said: why,
            priority: u8::try_from(self.priority).unwrap_or(0),
            slots: self.slots,
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
            worker: self.worker.clone(),
            progress: self.progress().filter(|_| self.state == JobState::Running),
            created_at: self.created_at,
        }
    }
}

/// Number of jobs that wait.
///
/// # Errors
/// When Postgres refuses.
pub async fn queued(pool: &PgPool) -> Result<u32> {
    let count =
        sqlx::query_scalar!(r#"SELECT count(*) AS "n!" FROM jobs WHERE state = 'queued'"#).fetch_one(pool).await?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// What a person wants of a branch's job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Hold it; a running attempt is released.
    Pause,
    /// Let it go on.
    Resume,
    /// End it; a running attempt is cancelled.
    Cancel,
}

impl Wish {
    fn said(self) -> Said {
        match self {
            Self::Pause => said!("wish_pause"),
            Self::Resume => said!("wish_resume"),
            Self::Cancel => said!("wish_cancel"),
        }
    }
}

/// One state or another.
fn one_of(states: &[String]) -> SaidValue {
    let either = |first: SaidValue, then: SaidValue| said!("either", first = first, then = then).into();
    states.iter().map(|state| of::state(state)).reduce(either).unwrap_or_else(|| "".into())
}

/// Carries a wish out on the job and the branch.
///
/// # Errors
/// [`DbError::Conflict`] when the branch's state does not allow it.
pub async fn wish(pool: &PgPool, branch: BranchId, wish: Wish) -> Result<()> {
    let mut tx = begin(pool).await?;
    let (from, job_from, to, command): (&[&str], &[&str], &str, &str) = match wish {
        Wish::Pause => (&["waiting", "queued", "running"], &["queued"], "paused", "release"),
        Wish::Resume => (&["paused"], &["paused"], "queued", "continue"),
        Wish::Cancel => (&["waiting", "queued", "running", "paused"], &["queued", "paused"], "cancelled", "cancel"),
    };
    let (from, job_from): (Vec<String>, Vec<String>) =
        (from.iter().map(|s| (*s).to_owned()).collect(), job_from.iter().map(|s| (*s).to_owned()).collect());
    let job = sqlx::query_scalar!("SELECT state FROM jobs WHERE branch_id = $1 FOR UPDATE", branch.0)
        .fetch_optional(&mut *tx)
        .await?;
    let to_branch = match (wish, job.as_deref()) {
        (Wish::Resume, None) => "waiting",
        // Resumed before the attempt had let go: it simply goes on.
        (Wish::Resume, Some("running")) => "running",
        _ => to,
    };
    let problem = (wish == Wish::Cancel).then(|| said!("cancelled_by_person"));
    let done = sqlx::query!(
        "UPDATE branches SET state = $2, problem = $4, problem_said = $5 WHERE id = $1 AND state = ANY($3)",
        branch.0,
        to_branch,
        &from,
        problem.as_ref().map(Said::text),
        problem.as_ref().map(|said| kept("problem", said)).transpose()? as _
    )
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 0 {
        let state =
            sqlx::query_scalar!("SELECT state FROM branches WHERE id = $1", branch.0).fetch_optional(&mut *tx).await?;
        return Err(match state {
            Some(state) => DbError::Conflict(said!(
                "needs_branch",
                state = of::state(&state),
                wish = wish.said(),
                states = one_of(&from)
            )),
            None => DbError::NotFound { noun: "branch", id: branch.to_string() },
        });
    }
    sqlx::query!("UPDATE jobs SET state = $2 WHERE branch_id = $1 AND state = ANY($3)", branch.0, to, &job_from)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("UPDATE jobs SET command = $2 WHERE branch_id = $1 AND state = 'running'", branch.0, command)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}
