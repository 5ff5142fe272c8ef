//! What the threads of this process do, for the log of an attempt that hangs: name and state of each from /proc, and
//! the stack of the hanging one, taken by itself in a signal handler.
//!
//! Never waits for a thread that does not answer: one that the kernel holds runs no handler, and its line says so.

use std::{
    ffi::{CStr, c_int, c_void},
    fs, io,
    path::Path,
    ptr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI32, AtomicPtr, Ordering},
    },
    time::{Duration, Instant},
};

/// Frames of a stack, at most: a backward pass of a deep model is no deeper.
const FRAMES_MAX: usize = 128;
/// How long a thread has to answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Number of this thread.
#[must_use]
#[expect(unsafe_code, reason = "gettid(2) has no safe wrapper")]
pub fn thread_id() -> i32 {
    // SAFETY: plain system call.
    unsafe { libc::gettid() }
}

/// All threads in a line each, then the stack of one of them.
#[must_use]
pub fn dump(hanging: i32) -> Vec<String> {
    let mut lines = threads().unwrap_or_else(|error| vec![format!("threads: {error}")]);
    lines.extend(match stack(hanging) {
        Ok(frames) => frames.into_iter().map(|frame| format!("  {frame}")).collect(),
        Err(why) => vec![format!("  no stack of thread {hanging}: {why}")],
    });
    lines
}

fn threads() -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        let folder = task?.path();
        let id = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = read(&folder.join("comm"));
        let status = read(&folder.join("status"));
        let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("?").trim().to_owned();
        // Where the kernel has it; 0 where it runs, or where the system does not tell.
        let waits = read(&folder.join("wchan"));
        lines.push(format!(
            "thread {id} {name}: {state}, kernel {waits}, system call {}",
            read(&folder.join("syscall"))
        ));
    }
    Ok(lines)
}

/// A thread that ends meanwhile leaves nothing to read.
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

static FRAMES: [AtomicPtr<c_void>; FRAMES_MAX] = [const { AtomicPtr::new(ptr::null_mut()) }; FRAMES_MAX];
/// Frames written; -1 while none are.
static WRITTEN: AtomicI32 = AtomicI32::new(-1);
/// One stack at a time.
static ASKED: Mutex<()> = Mutex::new(());

/// Runs on the hanging thread: unwinds, allocates nothing, takes no lock.
#[expect(unsafe_code, reason = "backtrace(3) has no safe wrapper")]
extern "C" fn answer(_: c_int) {
    let mut found = [ptr::null_mut(); FRAMES_MAX];
    // SAFETY: the buffer holds as many pointers as said; the unwinder was loaded before the signal was sent.
    let n = unsafe { libc::backtrace(found.as_mut_ptr(), c_int::try_from(FRAMES_MAX).unwrap_or(0)) };
    for (slot, frame) in FRAMES.iter().zip(found) {
        slot.store(frame, Ordering::Relaxed);
    }
    WRITTEN.store(n, Ordering::Release);
}

/// Frames of a thread's stack, the innermost first: library, function where it is known, offset for `addr2line -e`.
#[expect(unsafe_code, reason = "signals and backtrace(3) have no safe wrapper")]
fn stack(thread: i32) -> Result<Vec<String>, String> {
    let _one = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    WRITTEN.store(-1, Ordering::Release);
    // A real-time signal that nobody else uses here.
    let signal = libc::SIGRTMIN() + 7;
    let mut first = [ptr::null_mut(); 1];
    // SAFETY: the first call loads the unwinder, outside of any handler; the action is zeroed and then filled; the
    // thread belongs to this process, or the call answers ESRCH.
    let sent = unsafe {
        libc::backtrace(first.as_mut_ptr(), 1);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = answer as extern "C" fn(c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &raw const action, ptr::null_mut());
        libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal)
    };
    if sent != 0 {
        return Err(io::Error::last_os_error().to_string());
    }
    let began = Instant::now();
    while WRITTEN.load(Ordering::Acquire) < 0 {
        if began.elapsed() > ANSWER_MAX {
            return Err("it does not answer a signal: the kernel, a tracer or a device driver holds it".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let n = WRITTEN.load(Ordering::Acquire);
    let taken = FRAMES.iter().take(usize::try_from(n).unwrap_or(0));
    let frames: Vec<*mut c_void> = taken.map(|frame| frame.load(Ordering::Relaxed)).collect();
    Ok(names(&frames))
}

#[expect(unsafe_code, reason = "backtrace_symbols(3) has no safe wrapper")]
fn names(frames: &[*mut c_void]) -> Vec<String> {
    // SAFETY: the array has as many pointers as said; the answer is one block of as many strings, freed once.
    unsafe {
        let found = libc::backtrace_symbols(frames.as_ptr(), c_int::try_from(frames.len()).unwrap_or(0));
        if found.is_null() {
            return frames.iter().map(|frame| format!("{frame:?}")).collect();
        }
        let name = |i| CStr::from_ptr(*found.add(i)).to_string_lossy().into_owned();
        let names = (0..frames.len()).map(name).collect();
        libc::free(found.cast());
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read as _, sync::mpsc};

    #[test]
    fn the_stack_of_a_thread_that_reads_for_ever_shows_where_it_is() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (said, id) = mpsc::channel();
        let thread = std::thread::Builder::new().name("hangs".into()).spawn(move || {
            said.send(thread_id()).unwrap();
            reader.read(&mut [0]).unwrap()
        });
        let id = id.recv().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let text = dump(id).join("\n");
        assert!(text.contains(&format!("thread {id} hangs: S (sleeping)")), "{text}");
        assert!(text.contains("libc.so") && text.contains("read"), "{text}");
        // The signal was no end of its reading.
        drop(writer);
        assert_eq!(thread.unwrap().join().unwrap(), 0);
        assert!(dump(id).join("\n").contains("no stack of thread"));
    }
}
