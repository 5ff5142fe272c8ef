//! A small file system in memory, to fill it up.

use anyhow::{Context, Result, ensure};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// A mounted file system; it goes with its value.
#[derive(Debug)]
pub struct Tmpfs {
    folder: PathBuf,
}

impl Tmpfs {
    /// Why there can be none here, in a sentence for people; None where there can.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
        (!is_root).then_some("mounting a file system needs root")
    }

    /// Mounts one of so many MiB at `folder`, which is made.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn mount(folder: &Path, mib: u32) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let size = format!("size={mib}m,mode=755");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "senmon-chaos"]).arg(folder).output()?;
        ensure!(output.status.success(), "mount: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(Self { folder: folder.to_owned() })
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
                    Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
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

    fn ballast(&self) -> PathBuf {
        self.folder.join(".ballast")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a process that is still being killed may have a file open.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}
