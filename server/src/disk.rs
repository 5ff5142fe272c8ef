//! The disk of the database: a thread looks how full it is, gives the reserve up when it is full and makes it again when
//! there is room. It runs before Postgres does, which may not start without that room.

use crate::domain::disk::{Level, Move, judge};
use anyhow::{Context, Result};
use senmon_protocol::{said, said::Said, storage::Bytes};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, ErrorKind},
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

/// Name of the file that holds room.
pub const RESERVE_FILE: &str = "reserve";
/// How often the disk is looked at: what fills a quarter of the reserve in this time is faster than any Postgres.
const LOOK: Duration = Duration::from_millis(250);

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Of all.
    pub total: u64,
    /// Free for this process.
    pub free: u64,
}

/// The last look.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// The judgement.
    pub level: Level,
    /// What there was.
    pub room: Room,
    /// Whether the reserve stands.
    pub held: bool,
}

/// What is known of the database's disk; cheap to clone. The thread ends with the last clone.
#[derive(Debug, Clone)]
pub struct Disk {
    folder: Arc<PathBuf>,
    reserve: u64,
    look: Arc<Mutex<Look>>,
    /// Why else nothing that grows is begun, by what is full.
    refused: Arc<Mutex<BTreeMap<&'static str, Said>>>,
    _thread: mpsc::Sender<()>,
}

impl Disk {
    /// Looks at once, and from then on. `folder` is where the reserve lies; one of 0 bytes holds nothing and finds no
    /// disk low.
    ///
    /// # Errors
    /// When there is no such folder.
    pub fn watch(folder: &Path, reserve: u64) -> Result<Self> {
        let look = Look { level: Level::Ample, room: room(folder)?, held: held(folder) };
        let look = Arc::new(Mutex::new(look));
        let (stop, stopped) = mpsc::channel();
        let disk = Self { folder: Arc::new(folder.to_owned()), reserve, look, refused: Arc::default(), _thread: stop };
        let (folder, look) = (disk.folder.clone(), disk.look.clone());
        let turn = move || {
            let was = *look.lock().unwrap_or_else(PoisonError::into_inner);
            match turn(&folder, reserve, was.level) {
                Ok(now) => *look.lock().unwrap_or_else(PoisonError::into_inner) = now,
                Err(error) => tracing::warn!(error = format!("{error:#}"), "the disk cannot be looked at"),
            }
        };
        turn();
        std::thread::Builder::new().name("disk".into()).spawn(move || {
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                turn();
            }
        })?;
        Ok(disk)
    }

    /// The last look.
    #[must_use]
    pub fn look(&self) -> Look {
        *self.look.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes why nothing that grows is begun, or that this is over. `what` is full.
    pub fn refuse(&self, what: &'static str, why: Option<Said>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => refused.insert(what, why),
            None => refused.remove(what),
        };
    }

    /// Why nothing that grows is begun now.
    #[must_use]
    pub fn refusal(&self) -> Option<Said> {
        let look = self.look();
        if look.level > Level::Ample {
            let folder = self.folder.display().to_string();
            return Some(said!("database_disk_nearly_full", folder = folder, free = Bytes(look.room.free)));
        }
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).values().next().cloned()
    }

    /// Where.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes of the reserve.
    #[must_use]
    pub fn reserve(&self) -> u64 {
        self.reserve
    }
}

fn turn(folder: &Path, reserve: u64, was: Level) -> Result<Look> {
    let before = room(folder)?;
    let (level, step) = judge(reserve, before.free, held(folder), was);
    let path = folder.join(RESERVE_FILE);
    match step {
        Move::Keep => return Ok(Look { level, room: before, held: held(folder) }),
        Move::Release => {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            tracing::error!(folder = %folder.display(), free = before.free, "the disk is full; gave the reserve up");
        }
        Move::Make => {
            make(&path, reserve).with_context(|| format!("make {}", path.display()))?;
            tracing::info!(folder = %folder.display(), bytes = reserve, "made the reserve");
        }
    }
    Ok(Look { level, room: room(folder)?, held: held(folder) })
}

fn held(folder: &Path) -> bool {
    folder.join(RESERVE_FILE).exists()
}

/// A file that takes its room at once, whatever is written to it.
#[expect(unsafe_code, reason = "posix_fallocate(3) has no safe wrapper in std")]
fn make(path: &Path, bytes: u64) -> Result<()> {
    let unfinished = path.with_extension("making");
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    let length = libc::off_t::try_from(bytes).context("its size")?;
    // SAFETY: plain system call on a file that is open.
    let error = if length == 0 { 0 } else { unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) } };
    if error != 0 {
        let _ = fs::remove_file(&unfinished);
        return Err(io::Error::from_raw_os_error(error).into());
    }
    fs::rename(&unfinished, path).context("rename it")
}

/// Room of the file system that a folder lies on.
///
/// # Errors
/// When there is no such folder.
#[expect(unsafe_code, reason = "statvfs(3) has no safe wrapper in std")]
pub fn room(folder: &Path) -> Result<Room> {
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).context("a path with a NUL")?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a NUL, and there is room for the answer.
    let done = unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("look at the disk of {}", folder.display()));
    }
    // SAFETY: it was filled in.
    let found = unsafe { found.assume_init() };
    Ok(Room { total: found.f_blocks * found.f_frsize, free: found.f_bavail * found.f_frsize })
}

/// Bytes of all files below a folder. What disappears meanwhile counts nothing.
///
/// # Errors
/// When a folder cannot be read.
pub fn bytes_below(folder: &Path) -> io::Result<u64> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes += bytes_below(&entry.path())?,
            Ok(meta) => bytes += meta.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_takes_its_room_at_once() {
        let home = tempfile::tempdir().unwrap();
        let disk = Disk::watch(home.path(), 1 << 20).unwrap();
        let look = disk.look();
        assert!(look.held && look.level == Level::Ample, "{look:?}");
        assert_eq!(bytes_below(home.path()).unwrap(), 1 << 20);
        use std::os::unix::fs::MetadataExt;
        assert!(fs::metadata(home.path().join(RESERVE_FILE)).unwrap().blocks() * 512 >= 1 << 20, "it is sparse");
        assert!(look.room.free > 0 && look.room.total >= look.room.free);
    }

    #[test]
    fn without_a_reserve_no_disk_is_low() {
        let home = tempfile::tempdir().unwrap();
        let disk = Disk::watch(home.path(), 0).unwrap();
        assert_eq!(disk.look().level, Level::Ample);
    }
}
