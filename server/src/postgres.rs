//! A private Postgres: its own cluster in the data folder, a Unix socket and no password, fsync on, unprivileged when
//! started as root, stopped with the server, recovered after kill -9 of either.
//!
//! `postgres` runs as a child of a thread that starts it again when it ends by itself; peer authentication maps root
//! and the service's user to the role `senmon`.

pub mod place;
pub mod programs;

use anyhow::{Context, Result, bail, ensure};
use place::{Owner, drop_privileges, may_run, user_name};
use programs::Programs;
use sqlx::postgres::PgConnectOptions;
use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Longest silence of a Postgres that starts.
const START_SECONDS_MAX: u64 = 60;
/// Longest time in which one may recover from its log, while it says so.
const RECOVER_SECONDS_MAX: u64 = 3_600;
/// How often the keeper looks whether Postgres still runs.
const LOOK: Duration = Duration::from_millis(100);
/// Pause before a start that failed is tried again: backends of a killed postmaster hold its memory for a moment.
const START_AGAIN: Duration = Duration::from_millis(500);
/// How long that moment may be.
const LEFTOVER_MAX: Duration = Duration::from_secs(15);
/// Size of `postgres.log` from which it becomes `postgres.log.1`, in bytes: a few hours of a Postgres that complains all
/// the time, and room for both on any disk.
const LOG_BYTES_MAX: u64 = 16 << 20;
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

/// How Postgres is started, each time.
#[derive(Debug)]
struct Launch {
    programs: Programs,
    home: PathBuf,
    socket: PathBuf,
    owner: Owner,
}

impl Cluster {
    /// Makes the cluster if there is none, starts it and waits until it answers.
    ///
    /// # Errors
    /// When no Postgres of the version that made its data is installed, a folder cannot be reached, or it does not start.
    pub fn start(data_dir: &Path, configured: Option<&Path>) -> Result<Self> {
        let owner = place::owner()?;
        Self::start_in(place::home(data_dir, owner)?, owner, configured)
    }

    /// As [`Self::start`], in a folder that its owner reaches.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_in(home: PathBuf, owner: Owner, configured: Option<&Path>) -> Result<Self> {
        let data = home.join("data");
        let programs = programs_for(&data, configured)?;
        may_run(&programs.of("postgres")?, owner)?;
        if programs::made_by(&data)?.is_none() {
            initialise(&programs, &data, owner)?;
        }
        stop_leftover(&data)?;
        let socket = if home.as_os_str().len() <= SOCKET_FOLDER_BYTES_MAX {
            home.clone()
        } else {
            place::short_socket_folder(&home, owner)?
        };
        write_if_new(&data.join("pg_hba.conf"), "local all senmon peer map=senmon\n")?;
        let names = format!("senmon root senmon\nsenmon {} senmon\n", user_name(owner.uid));
        write_if_new(&data.join("pg_ident.conf"), &names)?;
        let launch = Launch { programs, home, socket: socket.clone(), owner };
        let child = launch.start_after_a_crash()?;
        let (stop, stopped) = mpsc::channel();
        let keeper =
            std::thread::Builder::new().name("postgres".into()).spawn(move || keep(&launch, child, &stopped))?;
        Ok(Self { socket, stop: Some(stop), keeper: Some(keeper) })
    }

    /// How to connect.
    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        options(&self.socket)
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
        rotate(&launch.home.join("postgres.log"));
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
        let mut command = Command::new(self.programs.bin.join("postgres"));
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
            let ready =
                Command::new(self.programs.bin.join("pg_isready")).arg("-q").arg("-h").arg(&self.socket).status();
            let limit = match ready.ok().and_then(|status| status.code()) {
                Some(0) => return Ok(()),
                // It says that it starts: it recovers, which begins anew when it is killed.
                Some(1) => RECOVER_SECONDS_MAX,
                _ => START_SECONDS_MAX,
            };
            ensure!(
                start.elapsed().as_secs() < limit,
                "postgres did not answer within {limit} s; its log is {}",
                log.display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// How to connect to the cluster whose socket lies in a folder.
#[must_use]
pub fn options(socket: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass().socket(socket).username("senmon").database("postgres")
}

/// Folder of the socket of a cluster that runs already; None where none does.
#[must_use]
pub fn running(home: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(home.join("data/postmaster.pid")).ok()?;
    let mut lines = text.lines();
    let pid = lines.next()?.trim();
    let is_ours = fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&home.join("data").display().to_string()));
    lines.nth(3).filter(|_| is_ours).map(PathBuf::from)
}

/// The programs of the version that a cluster's data has.
///
/// # Errors
/// Which package is missing.
pub fn programs_for(data: &Path, configured: Option<&Path>) -> Result<Programs> {
    let made_by = programs::made_by(data)?;
    let installed = programs::installed(configured)?;
    Ok(programs::choose(&installed, made_by).with_context(|| data.display().to_string())?.clone())
}

/// Keeps what a log says from growing for ever: its first part becomes `….1`. Postgres appends to the file it opened, so
/// that is copied and cut; a disk without room for the copy gets the room.
fn rotate(log: &Path) {
    if fs::metadata(log).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
        let older = log.with_extension("log.1");
        if fs::copy(log, &older).is_err() {
            let _ = fs::remove_file(&older);
        }
        let cut = fs::File::options().write(true).open(log).and_then(|file| file.set_len(0));
        if let Err(error) = cut {
            tracing::warn!(%error, "could not cut {}", log.display());
        }
    }
}

/// Writes a settings file where it says something else: a full disk has no room for what is there already.
fn write_if_new(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn initialise(programs: &Programs, data: &Path, owner: Owner) -> Result<()> {
    // An interrupted initdb leaves a folder without PG_VERSION; it holds nothing.
    if data.exists() {
        fs::remove_dir_all(data).with_context(|| format!("remove the unfinished {}", data.display()))?;
    }
    let mut command = Command::new(programs.bin.join("initdb"));
    command.arg("-D").arg(data).args(["--auth=peer", "--username=senmon", "--encoding=UTF8", "--locale=C.UTF-8"]);
    drop_privileges(&mut command, owner);
    let output = command.output().context("start initdb")?;
    ensure!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// After kill -9 of the server its Postgres lives on: stop it cleanly. The data folder's lock is ours, so nobody
/// else uses it.
pub(crate) fn stop_leftover(data: &Path) -> Result<()> {
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
    // The lock is what counts; a full disk may have no room for the number.
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(FolderLock { _file: file })
}
