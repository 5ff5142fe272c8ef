//! A private Postgres: its own cluster in the data folder, a Unix socket and no password, fsync on, unprivileged when
//! started as root, stopped with the server, recovered after kill -9 of either.
//!
//! `postgres` runs as a child of a thread that starts it again when it ends by itself; peer authentication maps root
//! and the service's user to the role `senmon`.

use anyhow::{Context, Result, bail, ensure};
use sqlx::postgres::PgConnectOptions;
use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

const START_SECONDS_MAX: u64 = 60;
/// How often the keeper looks whether Postgres still runs.
const LOOK: Duration = Duration::from_millis(100);
/// Pause before a start that failed is tried again: backends of a killed postmaster hold its memory for a moment.
const START_AGAIN: Duration = Duration::from_millis(500);
/// How long that moment may be.
const LEFTOVER_MAX: Duration = Duration::from_secs(15);
/// A socket's path has at most 107 bytes, of which `/.s.PGSQL.5432` takes 15.
const SOCKET_FOLDER_BYTES_MAX: usize = 90;

/// A running private cluster; stopped when dropped.
#[derive(Debug)]
pub struct Cluster {
    socket: PathBuf,
    /// Its end is the order to stop.
    stop: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

/// How Postgres is started, each time.
#[derive(Debug)]
struct Launch {
    bin: PathBuf,
    home: PathBuf,
    socket: PathBuf,
    owner: Owner,
}

impl Cluster {
    /// Makes the cluster if there is none, starts it and waits until it answers.
    ///
    /// # Errors
    /// When Postgres is not installed, the folder belongs to another version, or it does not start.
    pub fn start(data_dir: &Path, configured: Option<&Path>) -> Result<Self> {
        let bin = find_programs(configured)?;
        let owner = owner()?;
        let home = home(data_dir, owner)?;
        let data = home.join("data");
        if !data.join("PG_VERSION").exists() {
            initialise(&bin, &data, owner)?;
        }
        check_version(&bin, &data)?;
        stop_leftover(&data)?;
        let socket = if home.as_os_str().len() <= SOCKET_FOLDER_BYTES_MAX {
            home.clone()
        } else {
            short_socket_folder(&home, owner)?
        };
        fs::write(data.join("pg_hba.conf"), "local all senmon peer map=senmon\n")?;
        fs::write(data.join("pg_ident.conf"), format!("senmon root senmon\nsenmon {} senmon\n", user_name(owner.uid)))?;
        let launch = Launch { bin, home, socket: socket.clone(), owner };
        let child = launch.start_after_a_crash()?;
        let (stop, stopped) = mpsc::channel();
        let keeper =
            std::thread::Builder::new().name("postgres".into()).spawn(move || keep(&launch, child, &stopped))?;
        Ok(Self { socket, stop: Some(stop), keeper: Some(keeper) })
    }

    /// How to connect.
    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().socket(&self.socket).username("senmon").database("postgres")
    }

    /// Folder of its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Fast, clean stop.
    pub fn stop(&mut self) {
        self.stop = None;
        if let Some(keeper) = self.keeper.take()
            && keeper.join().is_err()
        {
            tracing::error!("the thread that keeps Postgres panicked");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Keeps Postgres running until told to stop: whoever kills it, it recovers from its log and the server goes on.
fn keep(launch: &Launch, mut child: Child, stop: &mpsc::Receiver<()>) {
    let mut pause = LOOK;
    while stop.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        pause = LOOK;
        let Ok(Some(status)) = child.try_wait() else { continue };
        tracing::error!(%status, "postgres ended by itself; starting it again");
        match launch.start() {
            Ok(started) => child = started,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "postgres does not start yet");
                pause = START_AGAIN;
            }
        }
    }
    if matches!(child.try_wait(), Ok(None)) {
        signal(child.id(), libc::SIGINT);
        let _ = child.wait();
    }
}

impl Launch {
    /// Starts Postgres; where an earlier one was killed, its backends may hold its memory for a moment yet.
    fn start_after_a_crash(&self) -> Result<Child> {
        let (crashed, begin) = (self.home.join("data/postmaster.pid").exists(), Instant::now());
        loop {
            match self.start() {
                Err(error) if crashed && begin.elapsed() < LEFTOVER_MAX => {
                    tracing::warn!(error = format!("{error:#}"), "postgres does not start yet");
                    std::thread::sleep(START_AGAIN);
                }
                done => return done,
            }
        }
    }

    /// Starts Postgres and waits until it answers.
    fn start(&self) -> Result<Child> {
        let log = fs::File::options().create(true).append(true).open(self.home.join("postgres.log"))?;
        let mut command = Command::new(self.bin.join("postgres"));
        command.arg("-D").arg(self.home.join("data")).arg("-k").arg(&self.socket);
        for setting in [
            "listen_addresses=",
            "fsync=on",
            "synchronous_commit=on",
            "max_connections=64",
            "shared_buffers=128MB",
            "max_wal_size=1GB",
            // A look into an index costs no seek: not on an SSD, and not in memory.
            "random_page_cost=1.1",
            // Our queries are short; compiling one takes longer than running it.
            "jit=off",
        ] {
            command.arg("-c").arg(setting);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        drop_privileges(&mut command, self.owner);
        let mut child = command.spawn().context("start postgres")?;
        self.wait_ready(&mut child).inspect_err(|_| {
            let _ = child.kill();
            let _ = child.wait();
        })?;
        Ok(child)
    }

    fn wait_ready(&self, child: &mut Child) -> Result<()> {
        let start = Instant::now();
        let log = self.home.join("postgres.log");
        loop {
            // Asked before Postgres itself, so that the answer of one that was left behind is not taken for this one's.
            if let Some(status) = child.try_wait()? {
                bail!("postgres ended with {status}; its log is {}", log.display());
            }
            let ready = Command::new(self.bin.join("pg_isready")).arg("-q").arg("-h").arg(&self.socket).status();
            if ready.is_ok_and(|status| status.success()) {
                return Ok(());
            }
            ensure!(
                start.elapsed().as_secs() < START_SECONDS_MAX,
                "postgres did not answer within {START_SECONDS_MAX} s; its log is {}",
                log.display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn find_programs(configured: Option<&Path>) -> Result<PathBuf> {
    let mut places: Vec<PathBuf> =
        configured.map(Path::to_owned).into_iter().chain(std::env::var_os("PG_BIN").map(PathBuf::from)).collect();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        places.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let mut debian: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    debian.sort();
    places.extend(debian.into_iter().rev());
    places.push(PathBuf::from(".deps/postgres/bin"));
    places.into_iter().find(|bin| bin.join("postgres").exists() && bin.join("initdb").exists())
        .context("no Postgres found: install postgresql (scripts/setup-postgres does), or set postgres_bin, PG_BIN or database_url")
}

#[expect(unsafe_code, reason = "geteuid(2) has no safe wrapper in std")]
fn owner() -> Result<Owner> {
    // SAFETY: plain system calls without arguments.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    if uid != 0 {
        return Ok(Owner { uid, gid });
    }
    let users = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let find = |name: &str| {
        let fields: Vec<&str> = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').collect();
        Some(Owner { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
    };
    find("postgres")
        .or_else(|| find("nobody"))
        .context("started as root, but there is neither a user postgres nor nobody to run Postgres as")
}

fn user_name(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users
        .lines()
        .find(|line| line.split(':').nth(2) == Some(&uid.to_string()))
        .and_then(|line| line.split(':').next());
    name.map_or_else(|| uid.to_string(), str::to_owned)
}

/// Folder of the cluster: `<data_dir>/pg`, or, when the owner cannot get there (below /root, say), a folder of
/// /var/lib/senmon named after the data folder.
fn home(data_dir: &Path, owner: Owner) -> Result<PathBuf> {
    let wanted = data_dir.join("pg");
    fs::create_dir_all(&wanted).with_context(|| format!("create {}", wanted.display()))?;
    chown(&wanted, Some(owner.uid), Some(owner.gid))?;
    if reachable(&wanted, owner) {
        return Ok(wanted);
    }
    let name = senmon_corpus::hex(&xxh(data_dir));
    let elsewhere = Path::new("/var/lib/senmon").join(name);
    fs::create_dir_all(&elsewhere).with_context(|| format!("create {}", elsewhere.display()))?;
    chown(&elsewhere, Some(owner.uid), Some(owner.gid))?;
    fs::write(wanted.join("MOVED"), format!("{}\n", elsewhere.display()))?;
    Ok(elsewhere)
}

fn xxh(path: &Path) -> [u8; 8] {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(path.as_os_str().as_encoded_bytes());
    std::array::from_fn(|i| hash[i])
}

fn reachable(path: &Path, owner: Owner) -> bool {
    let mut command = Command::new("test");
    command.arg("-w").arg(path);
    drop_privileges(&mut command, owner);
    command.status().is_ok_and(|status| status.success())
}

fn short_socket_folder(home: &Path, owner: Owner) -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("senmon-{}", senmon_corpus::hex(&xxh(home))));
    fs::create_dir_all(&folder)?;
    chown(&folder, Some(owner.uid), Some(owner.gid))?;
    Ok(folder)
}

#[expect(unsafe_code, reason = "geteuid(2) has no safe wrapper in std")]
fn drop_privileges(command: &mut Command, owner: Owner) {
    // SAFETY: plain system call without arguments.
    if unsafe { libc::geteuid() } == 0 {
        command.uid(owner.uid).gid(owner.gid).current_dir("/");
    }
}

fn initialise(bin: &Path, data: &Path, owner: Owner) -> Result<()> {
    // An interrupted initdb leaves a folder without PG_VERSION; it holds nothing.
    if data.exists() {
        fs::remove_dir_all(data).with_context(|| format!("remove the unfinished {}", data.display()))?;
    }
    let mut command = Command::new(bin.join("initdb"));
    command.arg("-D").arg(data).args(["--auth=peer", "--username=senmon", "--encoding=UTF8", "--locale=C.UTF-8"]);
    drop_privileges(&mut command, owner);
    let output = command.output().context("start initdb")?;
    ensure!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn check_version(bin: &Path, data: &Path) -> Result<()> {
    let found = fs::read_to_string(data.join("PG_VERSION"))?.trim().to_owned();
    let output =
        Command::new(bin.join("postgres")).arg("--version").output().context("ask postgres for its version")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(2).and_then(|version| version.split('.').next()).unwrap_or_default();
    ensure!(
        found == version,
        "{} was made by Postgres {found}, the installed one is {version}: install {found}, or migrate with pg_upgrade",
        data.display()
    );
    Ok(())
}

/// After kill -9 of the server its Postgres lives on: stop it cleanly. The data folder's lock is ours, so nobody
/// else uses it.
fn stop_leftover(data: &Path) -> Result<()> {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return Ok(()) };
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok()) else { return Ok(()) };
    let is_ours = fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&data.display().to_string()));
    if !is_ours {
        return Ok(());
    }
    tracing::info!(postgres.pid = pid, "stopping the Postgres that an earlier server left behind");
    signal(pid, libc::SIGINT);
    let start = Instant::now();
    while Path::new(&format!("/proc/{pid}")).exists() {
        ensure!(start.elapsed().as_secs() < START_SECONDS_MAX, "the Postgres left behind (pid {pid}) does not stop");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[expect(unsafe_code, reason = "kill(2) has no safe wrapper in std")]
fn signal(pid: u32, signal: i32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: plain system call.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Holds the data folder for this process; the lock ends with it.
#[derive(Debug)]
pub struct FolderLock {
    _file: fs::File,
}

/// Locks the data folder.
///
/// # Errors
/// When another server holds it: the message names the folder and the process.
pub fn lock_folder(data_dir: &Path) -> Result<FolderLock> {
    use std::io::{Seek, Write};
    fs::create_dir_all(data_dir).with_context(|| format!("create the data folder {}", data_dir.display()))?;
    let path = data_dir.join("server.lock");
    let mut file = fs::File::options()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    if file.try_lock().is_err() {
        let holder = fs::read_to_string(&path).unwrap_or_default();
        bail!(
            "data_dir: {} is in use by the server with process id {}; stop it, or give this one another folder",
            data_dir.display(),
            holder.trim()
        );
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(FolderLock { _file: file })
}
