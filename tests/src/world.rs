//! A fresh world for each test: data folder, private Postgres, server on a free port, workers.

use crate::{client::Api, corpus, process::Process};
use anyhow::{Context, Result, bail};
use senmon_protocol::{
    corpus::{CorpusState, CorpusView},
    ids::ExperimentId,
    spec::ExperimentSpec,
    view::{ExperimentState, ExperimentView},
};
use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// What a test wants of its world.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// Workers started at once.
    pub workers: usize,
    /// One-thread CPU slots of each.
    pub slots: usize,
    /// Life of a lease.
    pub lease_ttl_ms: u64,
    /// Documents of each of four sources in the corpus `small`; 0 for no corpus.
    pub documents: usize,
    /// More lines of the server's settings.
    pub server_settings: &'static str,
    /// More lines of each worker's settings.
    pub worker_settings: &'static str,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self { workers: 1, slots: 2, lease_ttl_ms: 3_000, documents: 120, server_settings: "", worker_settings: "" }
    }
}

/// A running Senmon.
#[derive(Debug)]
pub struct World {
    /// Admin's client.
    pub api: Api,
    /// The server; None while it is killed.
    pub server: Option<Process>,
    /// The workers; None where killed.
    pub workers: Vec<Option<Process>>,
    options: WorldOptions,
    port: u16,
    folder: TempDir,
}

impl World {
    /// Starts everything and registers the corpus.
    ///
    /// # Errors
    /// When a process does not come up, with its log.
    pub async fn start(options: WorldOptions) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("senmon-test-").tempdir()?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let base = format!("http://127.0.0.1:{port}");
        let mut world = Self {
            api: Api::new(&base, ""),
            server: None,
            workers: Vec::new(),
            options: options.clone(),
            port,
            folder,
        };
        world.start_server().await?;
        for _ in 0..options.workers {
            world.workers.push(None);
            world.start_worker(world.workers.len() - 1)?;
        }
        if options.documents > 0 {
            corpus::slice(&world.path("corpus"), 4, options.documents)?;
            world.register("small", "corpus").await?;
        }
        Ok(world)
    }

    /// A path inside this world's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Path of the server's configuration.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn server_config(&self) -> Result<PathBuf> {
        fs::create_dir_all(self.path("corpus"))?;
        let path = self.path("server.toml");
        let text = format!(
            "listen = \"127.0.0.1:{}\"\ndata_dir = {:?}\ncorpus_roots = [{:?}]\nlease_ttl_ms = {}\nworker_lost_ms = {}\n{}\n",
            self.port,
            self.path("server"),
            self.path("corpus"),
            self.options.lease_ttl_ms,
            self.options.lease_ttl_ms,
            self.options.server_settings,
        );
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Starts the server and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready within 60 s, with its log.
    pub async fn start_server(&mut self) -> Result<()> {
        let config = self.server_config()?;
        let args = ["--config".to_owned(), config.display().to_string()];
        let mut server = Process::start("senmon-server", &args, &self.path("server.log"))?;
        let start = Instant::now();
        loop {
            if let Ok((200, _)) = self.api.send::<()>(reqwest::Method::GET, "/readyz", None).await {
                break;
            }
            if !server.is_running() || start.elapsed() > Duration::from_secs(60) {
                bail!("the server did not become ready\n{}", server.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.server = Some(server);
        let token = fs::read_to_string(self.path("server/admin-token")).context("read the admin token")?;
        self.api = Api::new(self.api.base(), token.trim());
        Ok(())
    }

    /// kill -9 of the server (its Postgres is left to itself).
    pub fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill();
        }
    }

    /// The worker's token.
    ///
    /// # Errors
    /// When the server has not written it.
    pub fn worker_token(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path("server/worker-token")).context("read the worker token")?.trim().to_owned())
    }

    /// Starts worker number `index` (again).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_worker(&mut self, index: usize) -> Result<()> {
        let path = self.path(&format!("worker-{index}.toml"));
        let slots = "  { device = \"cpu\", threads = 1 },\n".repeat(self.options.slots);
        let text = format!(
            "server_url = {:?}\ntoken_file = {:?}\nname = \"worker-{index}\"\nstate_dir = {:?}\nslots = [\n{slots}]\n{}\n",
            self.api.base(),
            self.path("server/worker-token"),
            self.path(&format!("worker-{index}")),
            self.options.worker_settings,
        );
        fs::write(&path, text)?;
        let args = ["--config".to_owned(), path.display().to_string()];
        let log = self.path(&format!("worker-{index}.log"));
        self.workers[index] = Some(Process::start("senmon-worker", &args, &log)?);
        Ok(())
    }

    /// kill -9 of worker number `index`.
    pub fn kill_worker(&mut self, index: usize) {
        if let Some(mut worker) = self.workers[index].take() {
            worker.kill();
        }
    }

    /// Registers a folder below this world's as a corpus and waits until it is scanned.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn register(&self, name: &str, folder: &str) -> Result<CorpusView> {
        let body = serde_json::json!({
            "name": name,
            "paths": [self.path(folder)],
            "fields": { "text": "text", "id": "id", "source": "source" },
        });
        let corpus: CorpusView = self.api.post("/api/v1/corpora", &body).await?;
        self.until(Duration::from_secs(60), "the corpus is scanned", async || {
            let corpus: CorpusView = self.api.get(&format!("/api/v1/corpora/{}", corpus.id)).await?;
            match corpus.state {
                CorpusState::Scanning => Ok(None),
                CorpusState::Ready => Ok(Some(corpus)),
                CorpusState::Failed => bail!("the corpus was refused: {:?}", corpus.problem),
            }
        })
        .await
    }

    /// Submits an experiment.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn submit(&self, spec: &ExperimentSpec) -> Result<ExperimentView> {
        self.api.post("/api/v1/experiments", spec).await
    }

    /// The experiment now.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn experiment(&self, id: ExperimentId) -> Result<ExperimentView> {
        self.api.get(&format!("/api/v1/experiments/{id}")).await
    }

    /// Waits until the experiment is completed.
    ///
    /// # Errors
    /// When it fails or takes longer than `limit`.
    pub async fn completed(&self, id: ExperimentId, limit: Duration) -> Result<ExperimentView> {
        self.until(limit, "the experiment is completed", async || {
            let experiment = self.experiment(id).await?;
            match experiment.summary.state {
                ExperimentState::Completed => Ok(Some(experiment)),
                ExperimentState::Failed | ExperimentState::Cancelled => bail!("it ended: {:?}", experiment.summary),
                _ => Ok(None),
            }
        })
        .await
    }

    /// Asks until there is an answer.
    ///
    /// # Errors
    /// When asking fails, or there is none within `limit`: with the logs of all processes.
    pub async fn until<T>(&self, limit: Duration, what: &str, ask: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
        let start = Instant::now();
        loop {
            match ask().await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) if start.elapsed() < limit => tokio::time::sleep(Duration::from_millis(100)).await,
                Ok(None) => bail!("not within {limit:?}: {what}\n{}", self.logs()),
                Err(error) => return Err(error.context(format!("{what}\n{}", self.logs()))),
            }
        }
    }

    fn logs(&self) -> String {
        let tails = self.server.iter().chain(self.workers.iter().flatten()).map(Process::log_tail);
        tails.collect::<Vec<_>>().join("\n--- next process ---\n")
    }
}
