//! The simulator's store is the database: the same random histories on both, compared after each operation.

mod enrol;

use anyhow::{Context, Result, ensure};
use senmon_protocol::{
    checkpoint::{CheckpointKind, CheckpointMeta, Manifest},
    corpus::LeftOut,
    ids::{AttemptId, BranchId, CheckpointId, ExperimentId, Fence, JobId, StorageKey, TokenId, WorkerId},
    job::{CompletedOutcome, JobResult, JobSpec, Outcome, TerminationReason, TrainResult, WrittenCheckpoint},
    view::{BranchRole, ExperimentState, JobState, WorkerMode},
    worker::{AttemptStarted, Command, CompleteAttempt, Heartbeat, MetricBatch, RunningAttempt},
};
use senmon_server::{
    db::{self, DbError, PgPool, ingest, jobs::Wish},
    domain::{
        expand::PlannedBranch,
        metrics::{Points, pyramid::CHUNK_POINTS},
        schedule::Placement,
    },
    postgres::Cluster,
};
use senmon_tests::{
    hand::enrolment_token,
    sim::{
        chance::Chance,
        settings::Want,
        store::{self, Branch, Refusal, Store, branch_id, row, worker_id},
        worker::ended,
    },
    spec,
};
use serde_json::json;
use std::collections::BTreeMap;

const HISTORIES: u64 = 12;
const OPERATIONS: usize = 90;
const BRANCHES: usize = 3;
const WORKERS: usize = 2;
const STEPS: u64 = 6;
/// Longer than a history.
const TTL_MS: u64 = 3_600_000;

#[tokio::test(flavor = "multi_thread")]
async fn the_simulators_store_does_as_the_database() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("senmon-model-").tempdir()?;
    let cluster = tokio::task::block_in_place(|| Cluster::start(folder.path(), None))?;
    let pool = db::connect(cluster.options()).await?;
    for seed in 0..HISTORIES {
        let mut both = Both::new(&pool, seed).await?;
        for n in 0..OPERATIONS {
            both.operation().await.with_context(|| format!("history {seed}, operation {n}"))?;
            both.compare().await.with_context(|| format!("history {seed} after operation {n}: {}", both.last))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_of_what_was_compacted_is_not_stored_again_and_a_new_fence_begins_anew() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("senmon-model-").tempdir()?;
    let cluster = tokio::task::block_in_place(|| Cluster::start(folder.path(), None))?;
    let pool = db::connect(cluster.options()).await?;
    let mut both = Both::new(&pool, 0).await?;
    both.ensure_job(0).await?;
    // A branch with as many steps as the batch has.
    sqlx::query("UPDATE branches SET steps = $1").bind(CHUNK_POINTS).execute(&pool).await?;
    for fence in [Fence(1), Fence(2)] {
        // As far from the end of the back-off as `grant` wants it.
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        both.store.now_ms = db::workers::now(&pool).await?.timestamp_millis();
        both.grant(0, 0).await?;
        let attempt = *both.attempts.last().context("it was granted")?;
        let batch = whole_chunk(attempt, fence);
        for is_new in [true, false] {
            let place = ingest::batch(&pool, &batch).await?;
            ensure!(place.branch == Some(both.branches[0]), "{place:?}");
            // A whole chunk is made out of it, where it was stored.
            let made = db::metrics::compact(&pool, both.branches[0], fence.0).await?;
            ensure!(made == is_new, "fence {fence:?}: new {is_new}, stored {made}");
        }
        let outcome = ended(TerminationReason::Released, "a test");
        db::attempts::complete(&pool, attempt, &CompleteAttempt { fence, outcome: outcome.clone(), time: None })
            .await?;
        let here = both.store.complete(store::attempt_id(both.attempts.len() - 1), fence, &outcome);
        ensure!(here.is_ok(), "{here:?}");
    }
    Ok(())
}

/// A batch that is a chunk by itself.
fn whole_chunk(attempt: AttemptId, fence: Fence) -> ingest::Batch {
    let steps: Vec<i64> = (1..=CHUNK_POINTS).collect();
    let zeros = vec![0; steps.len()];
    let points = Points { tokens: zeros.clone(), at_ms: zeros, series: BTreeMap::new(), steps };
    let body = points.encode(false);
    let points = i32::try_from(CHUNK_POINTS).expect("a few thousand");
    ingest::Batch { attempt, fence, step_first: 1, step_last: CHUNK_POINTS, points, loss: None, body }
}

/// A database's experiment and its model.
struct Both {
    pool: PgPool,
    /// Enrols the workers.
    token: TokenId,
    store: Store,
    chance: Chance,
    experiment: ExperimentId,
    seed: u64,
    branches: Vec<BranchId>,
    workers: Vec<WorkerId>,
    attempts: Vec<AttemptId>,
    last: String,
}

impl Both {
    async fn new(pool: &PgPool, seed: u64) -> Result<Self> {
        let name = format!("corpus-{seed}");
        let request = serde_json::from_value(json!({ "name": name, "paths": ["/x"], "fields": { "text": "text" } }))?;
        let corpus = db::corpora::insert(pool, &request, "test", &[], &LeftOut::default()).await?;
        let mut small = spec::small();
        small.max_restarts = 2;
        let experiment = db::experiments::insert(pool, &small, None, corpus, "test").await?;
        let planned: Vec<PlannedBranch> = (0..BRANCHES)
            .map(|n| PlannedBranch {
                name: format!("b{n}"),
                role: BranchRole::Expert,
                parent: None,
                domain: None,
                repeat: 0,
                mixture: None,
                training: Some(small.training.clone()),
                steps: STEPS,
                batch_tokens: 1,
                fresh_share: None,
                left_out: None,
                path: String::new(),
            })
            .collect();
        db::branches::insert_all(pool, experiment, &planned).await?;
        let branches = db::branches::plain(pool, experiment).await?.into_iter().map(|branch| branch.id).collect();
        let branch = Branch {
            parent: None,
            state: senmon_protocol::view::BranchState::Waiting,
            step: 0,
            steps: STEPS,
            want: Want::default(),
            batches: BTreeMap::new(),
        };
        let store =
            Store { branches: vec![branch; BRANCHES], jobs: vec![None; BRANCHES], restarts_max: 2, ..Store::default() };
        let chance = Chance::new(seed);
        let mut both = Self {
            pool: pool.clone(),
            token: enrolment_token(pool).await?,
            store,
            chance,
            experiment,
            seed,
            branches,
            workers: Vec::new(),
            attempts: Vec::new(),
            last: String::new(),
        };
        both.store.now_ms = db::workers::now(pool).await?.timestamp_millis();
        for w in 0..WORKERS {
            both.enrol(w).await?;
        }
        Ok(both)
    }

    /// An attempt, mostly the newest; and its fence, mostly the right one.
    fn attempt(&mut self) -> Option<(usize, Fence)> {
        let count = self.attempts.len();
        if count == 0 {
            return None;
        }
        let at = if self.chance.one_in(3) { self.chance.index(count) } else { count - 1 };
        let wrong = i64::from(self.chance.one_in(8));
        Some((at, Fence(self.store.attempts[at].fence + wrong)))
    }

    async fn operation(&mut self) -> Result<()> {
        let (branch, w) = (self.chance.index(BRANCHES), self.chance.index(WORKERS));
        self.store.now_ms = db::workers::now(&self.pool).await?.timestamp_millis();
        let kind = self.chance.below(19);
        self.last = format!("operation {kind} on branch {branch}, worker {w}");
        match kind {
            0 | 1 => self.ensure_job(branch).await?,
            2 => self.enrol(w).await?,
            3 => {
                let mode = [WorkerMode::Enabled, WorkerMode::Enabled, WorkerMode::Draining, WorkerMode::Disabled];
                let mode = mode[self.chance.index(mode.len())];
                db::workers::set_mode(&self.pool, self.workers[w], mode).await?;
                self.store.workers[w].mode = mode;
            }
            4 => {
                let to = if self.store.paused { ExperimentState::Running } else { ExperimentState::Paused };
                db::experiments::set_state(&self.pool, self.experiment, to).await?;
                self.store.paused = to == ExperimentState::Paused;
            }
            5..=7 => self.grant(branch, w).await?,
            8 => self.renew(w).await?,
            9 => self.started().await?,
            10 | 11 => self.metrics().await?,
            12 | 13 => self.checkpoint().await?,
            14 | 15 => self.complete().await?,
            16 => {
                let wish = [Wish::Pause, Wish::Resume, Wish::Cancel][self.chance.index(3)];
                self.last += &format!(", {wish:?}");
                let there = db::jobs::wish(&self.pool, self.branches[branch], wish).await;
                agree(&there, &self.store.wish(branch, wish))?;
            }
            17 => self.preempt(branch).await?,
            _ if self.chance.one_in(2) => {
                let there = db::branches::go_on(&self.pool, self.branches[branch]).await;
                agree(&there, &self.store.go_on(branch))?;
            }
            _ => {
                let silent_ms = if self.chance.one_in(2) { -60_000 } else { 3_600_000 };
                db::workers::mark_lost(&self.pool, silent_ms).await?;
                self.store.mark_lost(silent_ms);
            }
        }
        Ok(())
    }

    async fn ensure_job(&mut self, branch: usize) -> Result<()> {
        let small = spec::small();
        let job: JobSpec = serde_json::from_value(json!({
            "kind": "train", "experiment_id": self.experiment, "branch_id": self.branches[branch], "branch": "b",
            "start": { "kind": "folder", "path": "/x" }, "resume": null, "tokenizer": "t", "shards": "s",
            "sequence_length": 1, "mixture": { "version": 1, "weights": [] }, "epochs_max": 1.0, "steps": STEPS,
            "training": small.training, "output": "o",
        }))?;
        let new = db::jobs::NewJob {
            experiment_id: self.experiment,
            branch_id: Some(self.branches[branch]),
            evaluation: None,
            key: format!("train/b{branch}"),
            title: format!("b{branch}"),
            spec: job,
            priority: 50,
            slots: 1,
            needs: Default::default(),
            remaining: STEPS - self.store.branches[branch].step,
        };
        db::jobs::ensure(&self.pool, &new).await?;
        self.store.ensure_job(branch);
        Ok(())
    }

    async fn job(&self, branch: usize) -> Result<Option<JobId>> {
        let open = db::jobs::open(&self.pool).await?.rows;
        Ok(open.into_iter().find(|job| job.branch_id == Some(self.branches[branch])).map(|job| job.id))
    }

    async fn grant(&mut self, branch: usize, w: usize) -> Result<()> {
        // A moment at the end of a back-off is no moment to compare two clocks.
        let left = self.store.job(branch).map_or(1_000, |job| job.not_before_ms - self.store.now_ms);
        let Some(job) = self.job(branch).await?.filter(|_| !(-300..300).contains(&left)) else { return Ok(()) };
        let placement = Placement { job, worker: self.workers[w], slots: vec![0] };
        let granted = db::leases::grant(&self.pool, &[placement], TTL_MS).await?;
        let here = self.store.grant(branch, worker_id(w), &[0], i64::try_from(TTL_MS)?, None);
        ensure!(granted.len() == usize::from(here), "{} granted there, {here} here", granted.len());
        for (_, grant) in granted {
            self.attempts.push(grant.attempt_id);
            let JobSpec::Train(train) = grant.job else { anyhow::bail!("another kind") };
            let (there, here) = (train.resume.map(|from| from.id), self.store.job(branch).and_then(|job| job.resume));
            ensure!(there == here, "resumes {there:?} there, {here:?} here");
        }
        Ok(())
    }

    /// Some other branch shall give its slots up.
    async fn preempt(&mut self, branch: usize) -> Result<()> {
        let victim = (branch + 1) % BRANCHES;
        let (Some(from), Some(to)) = (self.job(victim).await?, self.job(branch).await?) else { return Ok(()) };
        let there = db::leases::preempt(&self.pool, from, to).await?.is_some();
        let here = self.store.preempt(victim, branch);
        ensure!(there == here, "asked {there} there, {here} here");
        Ok(())
    }

    async fn renew(&mut self, w: usize) -> Result<()> {
        let Some((at, fence)) = self.attempt() else { return Ok(()) };
        let session = self.store.workers[w].session - i64::from(self.chance.one_in(5));
        let running = RunningAttempt {
            attempt_id: self.attempts[at],
            fence,
            done: 0,
            total: 0,
            tokens_per_second: 0.0,
            time: Default::default(),
        };
        let body = Heartbeat { session, attempts: vec![running], memory_used_bytes: 0, cpu_share: 0.0 };
        let ttl = i64::try_from(TTL_MS)?;
        let beat = ingest::Beat { worker: self.workers[w], body };
        let there = ingest::beat(&self.pool, &beat, ttl).await.map(|told| told.attempts[0].command);
        let id = worker_id(w);
        let here: store::Result<Command> =
            self.store.beat(id, session).map(|()| self.store.renew(id, store::attempt_id(at), fence, ttl));
        agree(&there, &here)?;
        ensure!(there.as_ref().ok() == here.as_ref().ok(), "{there:?} there, {here:?} here");
        Ok(())
    }

    async fn started(&mut self) -> Result<()> {
        let Some((at, fence)) = self.attempt() else { return Ok(()) };
        let body = AttemptStarted { fence, step_start: self.chance.below(STEPS), resume_verified: None };
        let there = db::attempts::started(&self.pool, self.attempts[at], &body).await.map(|(_, is_new)| is_new);
        let here = self.store.started(store::attempt_id(at), &body);
        agree(&there, &here)?;
        ensure!(there.as_ref().ok() == here.as_ref().ok(), "{there:?} there, {here:?} here");
        Ok(())
    }

    async fn metrics(&mut self) -> Result<()> {
        let Some((at, fence)) = self.attempt() else { return Ok(()) };
        let first = self.chance.between(1, STEPS);
        let steps: Vec<u64> = (first..=self.chance.between(first, STEPS)).collect();
        let (step_first, step_last) = (i64::try_from(first)?, i64::try_from(steps[steps.len() - 1])?);
        let points = i32::try_from(steps.len())?;
        let batch = ingest::Batch {
            attempt: self.attempts[at],
            fence,
            step_first,
            step_last,
            points,
            loss: None,
            body: vec![0],
        };
        let there = ingest::batch(&self.pool, &batch).await;
        let (tokens, at_ms) = (steps.clone(), vec![0; steps.len()]);
        let here = self
            .store
            .metrics(store::attempt_id(at), &MetricBatch { fence, steps, tokens, at_ms, series: BTreeMap::new() });
        agree(&there, &here)
    }

    async fn checkpoint(&mut self) -> Result<()> {
        let Some((at, fence)) = self.attempt() else { return Ok(()) };
        let attempt = &self.store.attempts[at];
        let (branch, step) = (attempt.job, if self.chance.one_in(2) { STEPS } else { self.chance.below(STEPS) });
        let old = self.store.checkpoints.last().map(|c| c.id).filter(|_| self.chance.one_in(4));
        let id = old.unwrap_or_else(CheckpointId::new);
        let meta = |branch_id| CheckpointMeta {
            kind: CheckpointKind::Resumable,
            experiment_id: self.experiment,
            branch_id,
            fence,
            step,
            tokens: step,
            lineage: Default::default(),
            parent_id: None,
            bytes: 1,
            loss: None,
            config_sha256: String::new(),
            state_sha256: String::new(),
        };
        let written = |meta| -> Result<WrittenCheckpoint> {
            let folder = StorageKey::new(format!("checkpoints/{id}"))?;
            Ok(WrittenCheckpoint { id, folder, manifest_sha256: "0".into(), meta })
        };
        let (here, there) = (written(meta(branch_id(branch)))?, written(meta(self.branches[branch]))?);
        let created_at = db::workers::now(&self.pool).await?;
        let files = BTreeMap::new();
        let manifest = Manifest { format: 1, id, files, meta: there.meta.clone(), created_at, writer: String::new() };
        let there = db::attempts::checkpoint(&self.pool, self.attempts[at], fence, &there, &manifest).await;
        let there = there.map(|(_, is_new)| is_new);
        let here = self.store.checkpoint(store::attempt_id(at), fence, &here);
        agree(&there, &here)?;
        ensure!(there.as_ref().ok() == here.as_ref().ok(), "{there:?} there, {here:?} here");
        Ok(())
    }

    async fn complete(&mut self) -> Result<()> {
        let Some((at, fence)) = self.attempt() else { return Ok(()) };
        let before = self.store.attempts[at].outcome.clone().filter(|_| self.chance.one_in(2));
        use TerminationReason::{
            Cancelled, DeviceFault, InternalError, InvalidInput, LossSpike, OutOfMemory, Preempted, Released,
            RolledBack, StorageFailure, WorkerLost,
        };
        let reasons = [
            Cancelled,
            DeviceFault,
            InternalError,
            InvalidInput,
            LossSpike,
            OutOfMemory,
            Preempted,
            Released,
            RolledBack,
            StorageFailure,
            WorkerLost,
            WorkerLost,
            WorkerLost,
        ];
        let done = JobResult::Train(TrainResult { steps: STEPS, tokens: STEPS, loss_last: None });
        let fresh = match self.chance.index(reasons.len() + 4) {
            n if n < reasons.len() => ended(reasons[n], "a test"),
            _ => Outcome::Completed(CompletedOutcome { result: done }),
        };
        let outcome = before.unwrap_or(fresh);
        self.last += &format!(", {outcome:?}");
        let body = CompleteAttempt { fence, outcome: outcome.clone(), time: Default::default() };
        let there = db::attempts::complete(&self.pool, self.attempts[at], &body).await;
        let there = there.map(|ended| ended.map(|ended| ended.next));
        let here = self.store.complete(store::attempt_id(at), fence, &outcome);
        agree(&there, &here)?;
        ensure!(there.as_ref().ok() == here.as_ref().ok(), "{there:?} there, {here:?} here");
        Ok(())
    }

    async fn compare(&self) -> Result<()> {
        let open = db::jobs::open(&self.pool).await?.rows;
        for (n, found) in db::branches::plain(&self.pool, self.experiment).await?.iter().enumerate() {
            let branch = &self.store.branches[n];
            same("branch", &(found.state, found.step), &(branch.state, branch.step))?;
            let job = open.iter().find(|job| job.branch_id == Some(found.id));
            let there = job.map(|job| {
                let preempted_for = job.preempted_for.is_some();
                (job.state, job.attempts, job.worker_id, job.remaining, preempted_for)
            });
            let is_open = |state| matches!(state, JobState::Queued | JobState::Running | JobState::Paused);
            let here = self.store.job(n).filter(|job| is_open(job.state)).map(|job| {
                let worker = job.worker.map(|id| self.workers[row(id.0)]);
                (job.state, job.fence, worker, job.remaining, job.preempted_for.is_some())
            });
            same("job", &there, &here)?;
            let attempts = db::attempts::of(&self.pool, Some(found.id), None).await?;
            let there: Vec<_> =
                attempts.iter().map(|a| (a.fence.0, a.step_start, a.finished_at.is_some(), a.reason)).collect();
            let reason = |outcome: &Option<Outcome>| match outcome {
                Some(Outcome::Ended(ended)) => Some(ended.reason),
                _ => None,
            };
            let of = self.store.attempts.iter().filter(|attempt| attempt.job == n);
            let here: Vec<_> =
                of.map(|a| (a.fence, a.step_start, a.finished_ms.is_some(), reason(&a.outcome))).collect();
            same("attempts", &there, &here)?;
            let checkpoints = db::checkpoints::list(&self.pool, None, Some(found.id), None, None, 1_000).await?;
            let mut there: Vec<_> = checkpoints.rows.into_iter().map(|c| (c.id, c.meta.step)).collect();
            let mut here: Vec<_> =
                self.store.checkpoints.iter().filter(|c| c.branch == n).map(|c| (c.id, c.step)).collect();
            there.sort_unstable();
            here.sort_unstable();
            same("checkpoints", &there, &here)?;
        }
        for worker in db::workers::list(&self.pool, None).await?.rows {
            if let Some(w) = self.workers.iter().position(|id| *id == worker.id) {
                let here = &self.store.workers[w];
                same("worker", &(worker.mode, worker.lost), &(here.mode, here.lost))?;
            }
        }
        Ok(())
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, there: &T, here: &T) -> Result<()> {
    ensure!(there == here, "{what}: {there:?} in the database, {here:?} in the model");
    Ok(())
}

/// Both did it, or both refused it for the same reason.
fn agree<A: std::fmt::Debug, B: std::fmt::Debug>(there: &db::Result<A>, here: &store::Result<B>) -> Result<()> {
    let agree = matches!(
        (there, here),
        (Ok(_), Ok(_))
            | (Err(DbError::StaleFence(_)), Err(Refusal::StaleFence))
            | (Err(DbError::Conflict(_)), Err(Refusal::Conflict(_)))
    );
    ensure!(agree, "{there:?} in the database, {here:?} in the model");
    Ok(())
}
