//! Where the private cluster lies and who runs it: folders that its unprivileged user reaches, or what it lacks there.

use anyhow::{Context, Result, bail, ensure};
use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

/// Who runs Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// This process' user; started as root, `postgres` or `nobody`.
///
/// # Errors
/// When root finds neither.
#[expect(unsafe_code, reason = "geteuid(2) has no safe wrapper in std")]
pub fn owner() -> Result<Owner> {
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

/// Name of a user; its number where it has none.
#[must_use]
pub fn user_name(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users
        .lines()
        .find(|line| line.split(':').nth(2) == Some(&uid.to_string()))
        .and_then(|line| line.split(':').next());
    name.map_or_else(|| uid.to_string(), str::to_owned)
}

/// Lets a command run as the owner, where this process may choose.
#[expect(unsafe_code, reason = "geteuid(2) has no safe wrapper in std")]
pub fn drop_privileges(command: &mut Command, owner: Owner) {
    // SAFETY: plain system call without arguments.
    if unsafe { libc::geteuid() } == 0 {
        command.uid(owner.uid).gid(owner.gid).current_dir("/");
    }
}

/// Folder of the cluster: `<data_dir>/pg`, or, when the owner cannot get there (below /root, say), a folder of
/// /var/lib/senmon named after the data folder; then the log says what the owner lacks.
///
/// # Errors
/// When neither can be made and reached.
pub fn home(data_dir: &Path, owner: Owner) -> Result<PathBuf> {
    let wanted = data_dir.join("pg");
    fs::create_dir_all(&wanted).with_context(|| format!("create {}", wanted.display()))?;
    give(&wanted, owner)?;
    let Some(lack) = lack(&wanted, owner, "-w") else { return Ok(wanted) };
    let name = senmon_corpus::hex(&digest(data_dir));
    let elsewhere = Path::new("/var/lib/senmon").join(name);
    fs::create_dir_all(&elsewhere).with_context(|| format!("{lack}; create {} instead", elsewhere.display()))?;
    give(&elsewhere, owner)?;
    if let Some(also) = self::lack(&elsewhere, owner, "-w") {
        bail!("data_dir: {lack}; and {also}");
    }
    tracing::warn!("data_dir: {lack}; Postgres' files lie in {} instead", elsewhere.display());
    fs::write(wanted.join("MOVED"), format!("{}\n", elsewhere.display()))?;
    Ok(elsewhere)
}

/// A folder for the socket whose path is short enough.
///
/// # Errors
/// When it cannot be made.
pub fn short_socket_folder(home: &Path, owner: Owner) -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("senmon-{}", senmon_corpus::hex(&digest(home))));
    fs::create_dir_all(&folder)?;
    give(&folder, owner)?;
    Ok(folder)
}

/// Makes sure that the owner can run a program.
///
/// # Errors
/// The folder and the permission that it lacks.
pub fn may_run(program: &Path, owner: Owner) -> Result<()> {
    let path = std::path::absolute(program)?;
    let lack = lack(&path, owner, "-x");
    ensure!(lack.is_none(), "{} cannot be run: {}", path.display(), lack.unwrap_or_default());
    Ok(())
}

fn give(folder: &Path, owner: Owner) -> Result<()> {
    let user = user_name(owner.uid);
    chown(folder, Some(owner.uid), Some(owner.gid))
        .with_context(|| format!("give {} to the user {user}", folder.display()))
}

fn digest(path: &Path) -> [u8; 8] {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(path.as_os_str().as_encoded_bytes());
    std::array::from_fn(|i| hash[i])
}

/// What the owner lacks to use a path, in words; None where `test` says that it can, which knows what modes alone do
/// not tell.
fn lack(path: &Path, owner: Owner, how: &str) -> Option<String> {
    let mut command = Command::new("test");
    command.arg(how).arg(path);
    drop_privileges(&mut command, owner);
    if command.status().is_ok_and(|status| status.success()) {
        return None;
    }
    let user = user_name(owner.uid);
    let modes = path.ancestors().skip(1).filter_map(|folder| {
        let meta = fs::metadata(folder).ok()?;
        Some((folder.to_owned(), Mode { bits: meta.mode(), uid: meta.uid(), gid: meta.gid() }))
    });
    let outermost_first: Vec<_> = modes.collect::<Vec<_>>().into_iter().rev().collect();
    let shut = outermost_first.into_iter().find_map(|(folder, mode)| Some((mode.lacks(owner)?, mode.bits, folder)));
    Some(match shut {
        Some((permission, bits, folder)) => format!(
            "the user {user}, who runs Postgres, cannot enter {}: of its mode {:04o} the permission {permission} is missing",
            folder.display(),
            bits & 0o7777
        ),
        None => format!("the user {user}, who runs Postgres, cannot use {}", path.display()),
    })
}

/// Who may enter a folder.
#[derive(Debug, Clone, Copy)]
struct Mode {
    bits: u32,
    uid: u32,
    gid: u32,
}

impl Mode {
    /// The permission, as `chmod` writes it, that somebody lacks to enter.
    fn lacks(self, owner: Owner) -> Option<&'static str> {
        let (bit, permission) = match (self.uid == owner.uid, self.gid == owner.gid) {
            (true, _) => (0o100, "u+x"),
            (false, true) => (0o010, "g+x"),
            (false, false) => (0o001, "o+x"),
        };
        (owner.uid != 0 && self.bits & bit == 0).then_some(permission)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_below_a_private_home_is_named_with_what_is_missing() {
        let owner = owner().unwrap();
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            return eprintln!("only root starts Postgres as somebody who lacks something: not tried");
        }
        let private = tempfile::tempdir().unwrap();
        let mode = |mode| fs::set_permissions(private.path(), fs::Permissions::from_mode(mode)).unwrap();
        mode(0o700);
        let below = private.path().join("data");
        fs::create_dir(&below).unwrap();
        give(&below, owner).unwrap();
        let program = below.join("postgres");
        fs::copy("/bin/true", &program).unwrap();
        let error = may_run(&program, owner).unwrap_err().to_string();
        for part in [private.path().display().to_string().as_str(), "mode 0700", "o+x", &user_name(owner.uid)] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
        assert!(lack(&below, owner, "-w").is_some());
        mode(0o711);
        assert_eq!(lack(&below, owner, "-w"), None);
        may_run(&program, owner).unwrap();
    }

    #[test]
    fn the_permission_that_is_missing_is_named() {
        let postgres = Owner { uid: 105, gid: 110 };
        for (bits, uid, gid, expect) in [
            (0o40700, 0, 0, Some("o+x")),
            (0o40750, 0, 110, None),
            (0o40740, 0, 110, Some("g+x")),
            (0o40655, 105, 0, Some("u+x")),
            (0o40755, 0, 0, None),
        ] {
            assert_eq!(Mode { bits, uid, gid }.lacks(postgres), expect, "{bits:o} {uid} {gid}");
        }
        assert_eq!(Mode { bits: 0o40000, uid: 5, gid: 5 }.lacks(Owner { uid: 0, gid: 0 }), None, "root enters all");
    }
}
