//! A control plane stepped by hand: its loops run when a test says so, in the test's own process, over a Postgres of
//! its own.

use crate::{process::binary, spec};
use anyhow::{Context, Result, ensure};
use senmon_protocol::{
    corpus::LeftOut,
    ids::{AttemptId, BranchId, ExperimentId, Fence, TokenId, WorkerId},
    job::{JobKind, JobSpec},
    spec::ExperimentSpec,
    view::{BranchRole, Role},
    worker::{EnrolWorker, SlotInfo},
};
use senmon_server::{
    app::App,
    config::Config,
    db::{self, PgPool, jobs::NewJob, workers::Asked},
    disk::Disk,
    domain::{expand::PlannedBranch, schedule::Placement},
    postgres::Cluster,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Row};
use std::{collections::BTreeMap, time::Duration};
use tempfile::TempDir;
use tokio::sync::watch;

/// Life of the leases: longer than a test.
const TTL_MS: u64 = 3_600_000;

/// The control plane.
#[derive(Debug)]
pub struct Hand {
    /// What loops and requests share.
    pub app: App,
    stop: watch::Sender<bool>,
    cluster: Option<Cluster>,
    folder: TempDir,
}

/// An enrolment token, straight in the database.
///
/// # Errors
/// When the database refuses.
pub async fn enrolment_token(pool: &PgPool) -> Result<TokenId> {
    let secret_sha256 = &Sha256::digest(TokenId::new().0.as_bytes());
    let new =
        db::tokens::New { name: "test", role: Role::Enrol, prefix: "smn_e_", secret_sha256, days: None, uses: None };
    Ok(db::tokens::insert(pool, &new).await?.id)
}

impl Hand {
    /// Starts a Postgres, and nothing else.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(change: impl FnOnce(&mut Config)) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("senmon-hand-").tempdir()?;
        let cluster = tokio::task::block_in_place(|| Cluster::start(&folder.path().join("cluster"), None))?;
        let program = binary("senmon-server")?;
        let mut config = Config {
            data_dir: folder.path().join("server"),
            corpus_roots: vec![folder.path().to_owned()],
            program,
            ..Config::default()
        };
        std::fs::create_dir_all(&config.data_dir)?;
        change(&mut config);
        let (stop, stopping) = watch::channel(false);
        let disk = Disk::watch(&config.data_dir, 0)?;
        let app = App::open(config, db::connect(cluster.options()).await?, disk, stopping).await?;
        Ok(Self { app, stop, cluster: Some(cluster), folder })
    }

    /// A path in the folder of this test.
    #[must_use]
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a thread panicked.
    pub async fn stop(mut self) -> Result<()> {
        let _ = self.stop.send(true);
        self.app.db.close().await;
        if let Some(mut cluster) = self.cluster.take() {
            tokio::task::spawn_blocking(move || cluster.stop()).await?;
        }
        Ok(())
    }

    /// Asks the database; the first column of each row, which must be text.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn sql(&self, text: &str) -> Result<Vec<String>> {
        let rows = sqlx::query(AssertSqlSafe(text.to_owned())).fetch_all(&self.app.db).await;
        rows.with_context(|| text.to_owned())?.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Tells the database, in as many statements as it takes.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn tell(&self, text: &str) -> Result<()> {
        sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&self.app.db).await.with_context(|| text.to_owned())?;
        Ok(())
    }

    /// An experiment of its own corpus, which is `ready` with no file.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn experiment(&self, name: &str) -> Result<ExperimentId> {
        let pool = &self.app.db;
        let request = serde_json::from_value(json!({ "name": name, "paths": ["/x"], "fields": { "text": "text" } }))?;
        let corpus = db::corpora::insert(pool, &request, "test", &[], &LeftOut::default()).await?;
        self.tell(&format!("UPDATE corpora SET state = 'ready' WHERE name = '{name}'")).await?;
        let spec = ExperimentSpec { name: name.into(), corpus: name.into(), ..spec::small() };
        Ok(db::experiments::insert(pool, &spec, None, corpus, "test").await?)
    }

    /// Branches `b0`, `b1`, … that wait.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn branches(&self, experiment: ExperimentId, count: usize) -> Result<Vec<BranchId>> {
        db::branches::insert_all(&self.app.db, experiment, &planned(count)).await?;
        Ok(db::branches::plain(&self.app.db, experiment).await?.into_iter().map(|branch| branch.id).collect())
    }

    /// A worker with a slot.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn worker(&self) -> Result<WorkerId> {
        let slot = SlotInfo {
            index: 0,
            device: "cpu".into(),
            device_name: "cpu".into(),
            memory_bytes: 1,
            threads: 1,
            set_aside: None,
        };
        let request = EnrolWorker {
            name: "w".into(),
            protocol_version: senmon_protocol::WORKER_PROTOCOL_VERSION,
            version: "0".into(),
            host: "here".into(),
            slots: vec![slot],
            capabilities: vec![JobKind::Train],
            labels: BTreeMap::new(),
            credential_sha256: None,
        };
        let token = enrolment_token(&self.app.db).await?;
        let by = Asked::Token { token, credential_sha256: &Sha256::digest(request.name.as_bytes()) };
        Ok(db::workers::enrol(&self.app.db, &by, &request, |_| self.app.patience()).await?.worker)
    }

    /// The training job of a branch, as the loop that advances experiments makes it.
    ///
    /// # Errors
    /// When it is no job.
    pub fn training(&self, experiment: ExperimentId, branch: BranchId) -> Result<NewJob> {
        let spec: JobSpec = serde_json::from_value(json!({
            "kind": "train", "experiment_id": experiment, "branch_id": branch, "branch": "b",
            "start": { "kind": "folder", "path": "/x" }, "resume": null, "tokenizer": "t", "shards": "s",
            "sequence_length": 1, "mixture": { "version": 1, "weights": [] }, "epochs_max": 1.0, "steps": 6,
            "training": spec::small().training, "output": "o",
        }))?;
        Ok(NewJob {
            experiment_id: experiment,
            branch_id: Some(branch),
            evaluation: None,
            key: format!("train/{branch}"),
            title: "train b".into(),
            spec,
            priority: 50,
            slots: 1,
            needs: Default::default(),
            remaining: 6,
        })
    }

    /// Grants the only job that waits.
    ///
    /// # Errors
    /// When there is none.
    pub async fn grant(&self, worker: WorkerId) -> Result<(AttemptId, Fence)> {
        let job = db::jobs::open(&self.app.db).await?.rows.pop().context("a job that waits")?.id;
        let placement = Placement { job, worker, slots: vec![0] };
        let mut granted = db::leases::grant(&self.app.db, &[placement], TTL_MS).await?;
        let (_, grant) = granted.pop().context("it was granted")?;
        Ok((grant.attempt_id, grant.fence))
    }

    /// Waits until so many statements wait for locks.
    ///
    /// # Errors
    /// When they never do.
    pub async fn blocked(&self, count: usize) -> Result<()> {
        let waiting = "SELECT 'x' FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        for _ in 0..3_000 {
            if self.sql(waiting).await?.len() >= count {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ensure!(false, "{count} statements never waited");
        Ok(())
    }
}

/// Branches `b0`, `b1`, … of six steps.
#[must_use]
pub fn planned(count: usize) -> Vec<PlannedBranch> {
    let branch = |n| PlannedBranch {
        name: format!("b{n}"),
        role: BranchRole::Expert,
        parent: None,
        domain: None,
        repeat: 0,
        mixture: None,
        training: Some(spec::small().training),
        steps: 6,
        batch_tokens: 1,
        fresh_share: None,
        left_out: None,
        path: String::new(),
    };
    (0..count).map(branch).collect()
}
