//! A fresh world for each test: data folder, private Postgres, server on a free port, workers.

use crate::{
    client::Api,
    corpus,
    process::{self, Process},
    s3::Store,
};
use anyhow::{Context, Result, anyhow, bail};
use senmon_corpus::{
    roots::Roots,
    scan::scan_file,
    snapshot::{expand_paths, format_of},
};
use senmon_protocol::{
    corpus::{CorpusFile, CorpusState, CorpusView, LeftOut, RegisterCorpus},
    ids::ExperimentId,
    spec::ExperimentSpec,
    view::{ExperimentState, ExperimentView},
};
use senmon_server::db;
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgConnectOptions};
use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
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
    /// Silence beyond a lease after which a worker is lost; none for as long as the lease.
    pub worker_lost_ms: Option<u64>,
    /// Documents of each of four sources in the corpus `small`; 0 for no corpus.
    pub documents: usize,
    /// Where workers find the server, if not where it is: a proxy.
    pub server_url: Option<String>,
    /// What becomes each worker: `ip netns exec NAME`.
    pub worker_by: Vec<String>,
    /// Postgres instead of a private one.
    pub database_url: Option<String>,
    /// More lines of the server's settings.
    pub server_settings: String,
    /// More lines of each worker's settings.
    pub worker_settings: &'static str,
    /// Certificate authority that workers trust.
    pub ca_file: Option<PathBuf>,
    /// A store in a bucket instead of the data folder.
    pub s3: Option<Store>,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            workers: 1,
            slots: 2,
            lease_ttl_ms: 3_000,
            worker_lost_ms: None,
            documents: 120,
            server_url: None,
            worker_by: Vec::new(),
            database_url: None,
            server_settings: String::new(),
            worker_settings: "",
            ca_file: None,
            s3: None,
        }
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
    /// What the next start of a process goes by.
    pub options: WorldOptions,
    port: u16,
    folder: TempDir,
}

impl World {
    /// Starts everything and registers the corpus.
    ///
    /// # Errors
    /// When a process does not come up, with its log.
    pub async fn start(options: WorldOptions) -> Result<Self> {
        let mut world = Self::empty(options)?;
        world.begin().await?;
        Ok(world)
    }

    /// A world with a folder and an address, in which nothing runs yet.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn empty(options: WorldOptions) -> Result<Self> {
        // The user who runs Postgres passes through: its files go with the folder.
        let passable = fs::Permissions::from_mode(0o711);
        let folder = tempfile::Builder::new().prefix("senmon-test-").permissions(passable).tempdir()?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let api = Api::new(&format!("http://127.0.0.1:{port}"), "");
        Ok(Self { api, server: None, workers: Vec::new(), options, port, folder })
    }

    /// Starts everything in an empty world and registers the corpus.
    ///
    /// # Errors
    /// When a process does not come up, with its log.
    pub async fn begin(&mut self) -> Result<()> {
        self.start_server().await?;
        for _ in 0..self.options.workers {
            self.workers.push(None);
            self.start_worker(self.workers.len() - 1)?;
        }
        if self.options.documents > 0 {
            corpus::slice(&self.path("corpus"), 4, self.options.documents)?;
            if self.options.workers > 0 {
                self.register("small", "corpus").await?;
            } else {
                self.was_scanned("small", "corpus").await?;
            }
        }
        Ok(())
    }

    /// Where the server listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
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
        let mut text = format!(
            "listen = \"127.0.0.1:{}\"\ndata_dir = {:?}\ncorpus_roots = [{:?}]\nlease_ttl_ms = {}\nworker_lost_ms = {}\n{}\n",
            self.port,
            self.path("server"),
            self.path("corpus"),
            self.options.lease_ttl_ms,
            self.options.worker_lost_ms.unwrap_or(self.options.lease_ttl_ms),
            self.options.server_settings,
        );
        if !text.contains("disk_reserve") {
            text = format!("disk_reserve = \"8MiB\"\n{text}");
        }
        if let Some(url) = &self.options.database_url {
            text.push_str(&format!("database_url = {url:?}\n"));
        }
        let (url, s3) = self.options.s3.as_ref().map_or_else(Default::default, Store::settings);
        text.push_str(&format!("{url}\n{s3}"));
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
        self.api = self.api.with_token(token.trim());
        Ok(())
    }

    /// Process id and socket folder of the server's private cluster.
    ///
    /// # Errors
    /// When there is none.
    pub fn postmaster(&self) -> Result<(u32, String)> {
        let wanted = self.path("server/pg");
        let home = match fs::read_to_string(wanted.join("MOVED")) {
            Ok(moved) => PathBuf::from(moved.trim()),
            Err(_) => wanted,
        };
        let text = fs::read_to_string(home.join("data/postmaster.pid"))?;
        let mut lines = text.lines();
        let pid = lines.next().context("postmaster.pid is empty")?.parse()?;
        Ok((pid, lines.nth(3).context("postmaster.pid names no socket folder")?.to_owned()))
    }

    /// kill -9 of the server (its Postgres is left to itself).
    pub fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill();
        }
    }

    /// The credential of worker number `index`.
    ///
    /// # Errors
    /// When it has not made one.
    pub fn credential(&self, index: usize) -> Result<String> {
        let path = self.path(&format!("worker-{index}/credential"));
        Ok(fs::read_to_string(path).context("read a worker's credential")?.trim().to_owned())
    }

    /// The enrolment token of the first start.
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
        let (_, s3) = self.options.s3.as_ref().map_or_else(Default::default, Store::settings);
        let slots = "  { device = \"cpu\", threads = 1 },\n".repeat(self.options.slots);
        // Between the name spaces of one machine nobody listens.
        let url = self.options.server_url.as_deref().unwrap_or(self.api.base());
        let insecure = url.starts_with("http://") && !url.starts_with("http://127.0.0.1");
        let ca = self.options.ca_file.as_ref().map(|file| format!("ca_file = {file:?}\n")).unwrap_or_default();
        let text = format!(
            "server_url = {url:?}\ninsecure_http = {insecure}\ntoken_file = {:?}\nname = \"worker-{index}\"\nstate_dir = {:?}\nslots = [\n{slots}]\n{ca}{}\n{s3}",
            self.path("server/worker-token"),
            self.path(&format!("worker-{index}")),
            self.options.worker_settings,
        );
        fs::write(&path, text)?;
        let args = ["--config".to_owned(), path.display().to_string()];
        let log = self.path(&format!("worker-{index}.log"));
        self.workers[index] = Some(Process::start_by(&self.options.worker_by, "senmon-worker", &args, &log)?);
        Ok(())
    }

    /// kill -9 of worker number `index`.
    pub fn kill_worker(&mut self, index: usize) {
        if let Some(mut worker) = self.workers[index].take() {
            worker.kill();
        }
    }

    /// Connects to the server's private cluster.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn database(&self) -> Result<PgPool> {
        let (_, socket) = self.postmaster()?;
        let options = PgConnectOptions::new_without_pgpass().socket(socket).username("senmon").database("postgres");
        PgPool::connect_with(options).await.context("connect to the server's Postgres")
    }

    fn registration(&self, name: &str, folder: &str) -> Value {
        json!({
            "name": name,
            "paths": [self.path(folder)],
            "fields": { "text": "text", "id": "id", "source": "source" },
        })
    }

    /// A folder below this world's as a corpus that workers scanned before this world began, in which none may be.
    async fn was_scanned(&self, name: &str, folder: &str) -> Result<()> {
        let request: RegisterCorpus = serde_json::from_value(self.registration(name, folder))?;
        let roots = Roots::new([self.path("corpus")]);
        let found = expand_paths(&request.paths, &roots, &|| true);
        let paths = found.map_err(|faults| anyhow!("{faults:?}"))?.files;
        let read = |(index, path): (usize, &PathBuf)| {
            let scanned = scan_file(&roots, path, &request.fields, &self.path("scan"), &mut |_| true)?;
            let scanned = scanned.context("nobody stops it")?;
            Ok(CorpusFile {
                index: u32::try_from(index)?,
                path: path.display().to_string(),
                format: format_of(path).context("a known format")?,
                bytes: scanned.bytes,
                sha256: scanned.sha256,
                counts: scanned.counts,
                dropped: None,
                problem: scanned.problem,
            })
        };
        let files = paths.iter().enumerate().map(read).collect::<Result<Vec<_>>>()?;
        let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
        let db = self.database().await?;
        let id = db::corpora::insert(&db, &request, "admin", &paths, &LeftOut::default()).await?;
        db::corpora::finish_scan(&db, id, &files, &[], None).await?;
        db.close().await;
        Ok(())
    }

    /// Registers a folder below this world's as a corpus and waits until it is scanned.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn register(&self, name: &str, folder: &str) -> Result<CorpusView> {
        let body = self.registration(name, folder);
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

    /// As [`Self::until`], but asking may fail: something is being killed or cut off.
    ///
    /// # Errors
    /// When there is no answer within `limit`: with the last failure and the logs of all processes.
    pub async fn outlast<T>(&self, limit: Duration, what: &str, ask: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
        let start = Instant::now();
        loop {
            let asked = ask().await;
            match asked {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) | Err(_) if start.elapsed() < limit => tokio::time::sleep(Duration::from_millis(50)).await,
                Ok(None) => bail!("not within {limit:?}: {what}\n{}", self.logs()),
                Err(error) => return Err(error.context(format!("not within {limit:?}: {what}\n{}", self.logs()))),
            }
        }
    }

    /// The last lines of all processes.
    #[must_use]
    pub fn logs(&self) -> String {
        let tails = self.server.iter().chain(self.workers.iter().flatten()).map(Process::log_tail);
        tails.collect::<Vec<_>>().join("\n--- next process ---\n")
    }
}

impl Drop for World {
    /// Workers first and without grace, because nobody needs what they would hand back; a Postgres that a killed server
    /// left behind too.
    fn drop(&mut self) {
        for index in 0..self.workers.len() {
            self.kill_worker(index);
        }
        if self.server.is_none()
            && let Ok((pid, _)) = self.postmaster()
            && fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("postgres"))
        {
            process::signal(pid, libc::SIGQUIT);
        }
    }
}
