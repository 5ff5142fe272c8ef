//! The parent's side: starts the child, watches its memory and its time, and kills it when it takes too much of either.

use super::{Answer, Request};
use crate::app::App;
use anyhow::{Context, Result, anyhow, bail};
use senmon_protocol::storage::Bytes;
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::{Instant, sleep},
};

/// Between two looks at the child's memory.
const LOOK: Duration = Duration::from_millis(100);
/// Most of an answer that is read: a tokenizer of a million entries has a tenth of it.
const ANSWER_BYTES_MAX: u64 = 1 << 30;
/// What is kept of the child's last words.
const WORDS_MAX: usize = 500;

/// Has something done in a child of this process, within a time.
///
/// # Errors
/// When the child does not come to an answer: it died, or took more memory or time than it may.
pub async fn run(app: &App, request: &Request, time_max: Duration) -> Result<Answer> {
    let mut child = Command::new(&app.config.program)
        .arg("apart")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {} apart", app.config.program.display()))?;
    // Held open to the end: when this process dies, it is closed, and the child ends.
    let mut stdin = child.stdin.take().context("the child has an input")?;
    let stdout = child.stdout.take().context("the child has an output")?;
    let stderr = child.stderr.take().context("the child has an output for errors")?;
    let mut line = serde_json::to_vec(request).context("write the request")?;
    line.push(b'\n');
    let (mut answer, mut words) = (Vec::new(), Vec::new());
    let talk = async {
        // A child that died meanwhile says why by its end.
        let _ = stdin.write_all(&line).await;
        let _ = stdin.flush().await;
        let mut stdout = stdout.take(ANSWER_BYTES_MAX);
        let mut stderr = stderr.take(ANSWER_BYTES_MAX);
        let read = tokio::join!(stdout.read_to_end(&mut answer), stderr.read_to_end(&mut words));
        read.0.and(read.1).context("read what the child says")
    };
    let pid = child.id().context("the child has a number")?;
    let mut stopping = app.stopping.clone();
    let read = tokio::select! {
        read = talk => read.map(|_| ()),
        broken = watch(app, pid, time_max) => Err(broken),
        _ = stopping.wait_for(|stop| *stop) => Err(stops()),
    };
    if let Err(error) = read {
        end(&mut child).await;
        return Err(error);
    }
    let status = child.wait().await.context("wait for the child")?;
    if !status.success() {
        bail!("its process ended with {status}{}", last(&words));
    }
    serde_json::from_slice(&answer).context("its process answered with something that cannot be read")
}

/// No fault of what is done: the next server does it anew.
fn stops() -> anyhow::Error {
    std::io::Error::new(std::io::ErrorKind::Interrupted, "the server stops").into()
}

async fn end(child: &mut Child) {
    if let Err(error) = child.kill().await {
        tracing::error!(%error, "a process could not be killed");
    }
}

/// Ends, with the reason, when the child takes too much.
async fn watch(app: &App, pid: u32, time_max: Duration) -> anyhow::Error {
    let (began, memory_max) = (Instant::now(), app.config.text_memory_max);
    loop {
        if memory(pid) > memory_max.0 {
            return anyhow!("it took more than {memory_max} of memory (text_memory_max)");
        }
        if began.elapsed() > time_max {
            return anyhow!("it took longer than {} s (fit_time_max_ms)", time_max.as_secs());
        }
        sleep(LOOK).await;
    }
}

/// Memory that a process holds now, in bytes; 0 where that is not known.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map_or(0, |kib: u64| Bytes(kib << 10).0)
}

/// The child's last words, for people.
fn last(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let text = text.trim();
    let from = text.floor_char_boundary(text.len().saturating_sub(WORDS_MAX));
    if text.is_empty() { String::new() } else { format!(": {}", &text[from..]) }
}
