//! One thread of a worker is frozen, by a tracer; the others go on. The worker notices, says what it saw, and is rid
//! of the thread by starting itself anew.

use anyhow::{Context, Result, ensure};
use senmon_protocol::{
    job::TerminationReason,
    view::{AttemptView, BranchState, BranchView, LogsView},
};
use senmon_tests::{World, WorldOptions, spec};
use std::{fs, ptr, sync::mpsc, thread, time::Duration};

const LIMIT: Duration = Duration::from_secs(240);

#[tokio::test]
async fn a_training_that_hangs_is_given_up_and_goes_on_in_a_new_process() -> Result<()> {
    let options = WorldOptions { slots: 1, worker_settings: "stall_seconds = 3", ..WorldOptions::default() };
    let world = World::start(options).await?;
    let id = world.submit(&spec::long_seed(1_600)).await?.summary.id;
    let seed = async || -> Result<Option<BranchView>> {
        Ok(world.experiment(id).await?.branches.into_iter().find(|branch| branch.name == "seed"))
    };
    let at = async |step| Ok(seed().await?.filter(|branch| branch.step >= step));
    world.until(LIMIT, "the seed trains", async || at(50).await).await?;
    let pid = world.workers[0].as_ref().context("the worker runs")?.id();
    let began = started_at(pid)?;
    freeze(trainer(pid)?)?;
    let done = world
        .until(LIMIT, "the seed is done", async || {
            Ok(at(1600).await?.filter(|branch| branch.state == BranchState::Completed))
        })
        .await?;
    let attempts: Vec<AttemptView> = world.api.list(&format!("/api/v1/branches/{}/attempts", done.id)).await?;
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    assert_eq!(attempts[0].reason, Some(TerminationReason::Stalled));
    assert_eq!(attempts[1].resume_verified, Some(true), "{attempts:?}");
    let log: LogsView = world.api.get(&format!("/api/v1/branches/{}/logs", done.id)).await?;
    let text: Vec<_> = log.lines.iter().map(|line| line.text.as_str()).collect();
    let says = |words: &str| text.iter().any(|line| line.contains(words));
    // Stopped in a step that is 3 s, in a save 90.
    assert!(says("nothing happened for ") && says("train ") && says("tracing stop"), "{text:#?}");
    // The same number and the same age: the program was replaced, not the process.
    assert_eq!(started_at(pid)?, began);
    Ok(())
}

/// When a process began, in ticks since the system did.
fn started_at(pid: u32) -> Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit(')').next().context("a name in parentheses")?;
    Ok(after.split_whitespace().nth(19).context("field 22")?.to_owned())
}

/// The thread that trains.
fn trainer(pid: u32) -> Result<i32> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let folder = task?.path();
        if fs::read_to_string(folder.join("comm"))?.starts_with("train ") {
            return Ok(folder.file_name().context("a number")?.to_string_lossy().parse()?);
        }
    }
    anyhow::bail!("no thread trains")
}

/// Stops one thread and leaves it stopped until it is killed.
#[expect(unsafe_code, reason = "ptrace(2) and waitpid(2) have no safe wrapper")]
fn freeze(id: i32) -> Result<()> {
    let (said, frozen) = mpsc::channel();
    // A tracer is a thread: it waits for the end of what it traces, as the kernel asks of it.
    thread::spawn(move || {
        let none = ptr::null_mut::<libc::c_void>();
        let mut status = 0;
        // SAFETY: plain system calls on a thread of a process that this test started.
        let stopped = unsafe {
            libc::ptrace(libc::PTRACE_SEIZE, id, none, none) == 0
                && libc::ptrace(libc::PTRACE_INTERRUPT, id, none, none) == 0
                && libc::waitpid(id, &raw mut status, libc::__WALL) == id
        };
        let _ = said.send(stopped);
        // SAFETY: as above.
        while stopped && unsafe { libc::waitpid(id, &raw mut status, libc::__WALL) } == id && libc::WIFSTOPPED(status) {
        }
    });
    ensure!(frozen.recv()?, "the thread was not stopped: {}", std::io::Error::last_os_error());
    Ok(())
}
