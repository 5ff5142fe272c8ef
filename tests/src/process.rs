//! Child processes that never outlive their test, with their output kept for the failure message.

use anyhow::{Context, Result, bail};
use std::{
    fs::{File, read_to_string},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// A running program of the workspace.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    name: String,
}

impl Process {
    /// Starts `program` with its output in `log` (appended).
    ///
    /// # Errors
    /// When the program was not built, or cannot be started.
    pub fn start(program: &str, args: &[String], log: &Path) -> Result<Self> {
        Self::start_by(&[], program, args, log)
    }

    /// Starts `program` by a command that becomes it (`ip netns exec NAME`), or itself where there is none.
    ///
    /// # Errors
    /// When the program was not built, or cannot be started.
    pub fn start_by(by: &[String], program: &str, args: &[String], log: &Path) -> Result<Self> {
        let path = binary(program)?;
        let mut command = match by {
            [] => Command::new(path),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(path);
                command
            }
        };
        command
            .args(args)
            .env_remove("SENMON_TOKEN")
            .env_remove("SENMON_SERVER")
            .env("SENMON_LANG", "en")
            .env("NO_COLOR", "1");
        Self::run(command, program, log)
    }

    /// Starts any command with its output in `log` (appended).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(mut command: Command, program: &str, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log).context("open the log of a process")?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // Its own group, so that a signal to the test runner does not reach it twice.
        let child = command.process_group(0).spawn().with_context(|| format!("start {program}"))?;
        Ok(Self { child, log: log.to_owned(), name: program.to_owned() })
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    pub fn signal(&self, number: i32) {
        signal(self.child.id(), number);
    }

    /// kill -9, then waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                bail!("{} still runs after {limit:?}\n{}", self.name, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGTERM, then waits for a clean end.
    ///
    /// # Errors
    /// When it does not end with code 0 within `limit`.
    pub fn stop(&mut self, limit: Duration) -> Result<()> {
        self.signal(libc::SIGTERM);
        let status = self.wait(limit)?;
        if status.success() {
            return Ok(());
        }
        bail!("{} ended with {:?} (signal {:?})\n{}", self.name, status.code(), status.signal(), self.log_tail())
    }

    /// The last lines of its output.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            self.signal(libc::SIGTERM);
            if self.wait(Duration::from_secs(10)).is_err() {
                self.kill();
            }
        }
    }
}

/// Sends a signal to a process that the test started, itself or through a program of the workspace.
#[expect(unsafe_code, reason = "kill(2) has no safe wrapper in std")]
pub fn signal(pid: u32, number: i32) {
    let pid = libc::pid_t::try_from(pid).expect("a pid fits pid_t");
    // SAFETY: plain system call.
    unsafe { libc::kill(pid, number) };
}

/// Path of a program of this workspace, built with the same profile as the test.
///
/// # Errors
/// When it was not built: `make test` builds all programs first.
pub fn binary(name: &str) -> Result<PathBuf> {
    // Programs lie in target/<profile>, tests in target/<profile>/deps.
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.exists());
    found.with_context(|| format!("{name} is not built; run `cargo build --workspace` first"))
}

/// Root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}
