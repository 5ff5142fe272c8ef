//! Small file systems that fill up, refuse writes or hang, and a worker whose disk answers with errors.

use crate::WorldOptions;
use anyhow::{Context, Result, ensure};
use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Preloaded into a program, it answers calls of the C library with errors on command (Debian: `fiu-utils`).
const FIU: [&str; 2] = ["/usr/lib/fiu/fiu_run_preload.so", "/usr/lib/fiu/fiu_posix_preload.so"];

/// A mounted file system; it goes with its value.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    /// File that it lies in; none in memory.
    image: Option<PathBuf>,
}

impl Disk {
    /// Why there can be none here, in a sentence for people; None where there can.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
        (!is_root).then_some("mounting a file system needs root")
    }

    /// Why none can hang here, in a sentence for people; None where one can.
    #[must_use]
    pub fn hanging_missing() -> Option<&'static str> {
        let has_loop = || Path::new("/dev/loop-control").exists();
        Self::missing().or_else(|| (!has_loop()).then_some("a file system that hangs needs a loop device"))
    }

    /// Mounts one of so many MiB in memory at `folder`, which is made.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn in_memory(folder: &Path, mib: u32) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let size = format!("size={mib}m,mode=755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "senmon-chaos"]).arg(folder))?;
        Ok(Self { folder: folder.to_owned(), image: None })
    }

    /// Mounts one of so many MiB at `folder`, which is made, in a file beside it: it can be frozen.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn in_file(folder: &Path, mib: u32) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let image = folder.with_extension("img");
        File::create(&image)?.set_len(u64::from(mib) << 20)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(folder))?;
        Ok(Self { folder: folder.to_owned(), image: Some(image) })
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    /// When it fails for another reason than being full.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.ballast()).context("open the ballast")?;
        for size in [1 << 20, 1 << 12, 1] {
            let zeros = vec![0; size];
            loop {
                match file.write_all(&zeros) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("fill a file system"),
                }
            }
        }
        Ok(())
    }

    /// Makes the room free again.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("remove the ballast")
    }

    /// Makes it read-only, or writable again. A file that is open for writing forbids the first: it may be tried again.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        let option = if read_only { "remount,ro" } else { "remount,rw" };
        run(Command::new("mount").args(["-o", option]).arg(&self.folder))
    }

    /// Lets every write wait for so long. A process of its own thaws it, whatever becomes of this one.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn freeze(&self, time: Duration) -> Result<()> {
        // Its output goes nowhere: whoever waits for the end of this command's output would wait for the thaw.
        let script = r#"fsfreeze -f "$1" && { (sleep "$2"; fsfreeze -u "$1") >/dev/null 2>&1 & }"#;
        let mut freeze = Command::new("setsid");
        run(freeze.args(["sh", "-c", script, "sh"]).arg(&self.folder).arg(time.as_secs_f64().to_string()))
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join(".ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.image.is_some() {
            let _ = Command::new("fsfreeze").arg("-u").arg(&self.folder).output();
        }
        // Lazily: a process that is still being killed may have a file open.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}

/// Workers of a world whose calls of `fsync` can be answered with errors.
#[derive(Debug)]
pub struct Fsync {
    fifos: PathBuf,
}

impl Fsync {
    /// Why there can be none here, in a sentence for people; None where there can.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        let is_there = FIU.iter().all(|library| Path::new(library).exists());
        (!is_there).then_some("answering with errors needs the package fiu-utils")
    }

    /// Lets the workers be started so. `folder` is made.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn prepare(options: &mut WorldOptions, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let fifos = folder.join("fiu");
        let [preload, control] =
            [format!("LD_PRELOAD={}", FIU.join(":")), format!("FIU_CTRL_FIFO={}", fifos.display())];
        options.worker_by = vec!["env".into(), preload, control];
        Ok(Self { fifos })
    }

    /// Answers each `fsync` of a process with EIO (5), or lets it through again.
    ///
    /// # Errors
    /// When the process does not take the command.
    pub fn set_broken(&self, pid: u32, broken: bool) -> Result<()> {
        const NAME: &str = "posix/io/sync/fsync";
        let command =
            if broken { format!("enable name={NAME},failinfo=5\n") } else { format!("disable name={NAME}\n") };
        let fifo = |way: &str| PathBuf::from(format!("{}-{pid}.{way}", self.fifos.display()));
        let mut to = File::options().write(true).open(fifo("in")).context("open the worker's fiu fifo")?;
        to.write_all(command.as_bytes())?;
        drop(to);
        let mut answer = String::new();
        File::open(fifo("out"))?.read_to_string(&mut answer)?;
        ensure!(answer.trim() == "0", "fiu answers {answer:?} to {command:?}");
        Ok(())
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
