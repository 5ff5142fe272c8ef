//! `senmon-server backup`: everything that the database holds, of one moment, in one file; and the database that a
//! backup is restored into. Postgres' own programs do it, of the version that the data has.

use crate::{
    config::Config,
    postgres::{self, Cluster, FolderLock, lock_folder, place, programs},
    restore::mark::check_whole,
};
use anyhow::{Context, Result, bail, ensure};
use sqlx::postgres::PgConnectOptions;
use std::{
    fs::{self, File},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Variables by which libpq would go elsewhere.
const ELSEWHERE: [&str; 7] = ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE", "PGOPTIONS", "PGPASSFILE"];

/// Writes a backup: whole or not at all, readable by its owner alone. Returns its size in bytes.
///
/// # Errors
/// When there is no database, or `pg_dump` refuses.
pub fn backup(config: &Config, file: &Path) -> Result<u64> {
    check_whole(&config.data_dir)?;
    let file = std::path::absolute(file)?;
    let folder = file.parent().context("expected a file")?;
    let source = Running::find(config)?;
    let name = file.file_name().context("expected a file")?.to_string_lossy();
    let unfinished = folder.join(format!(".{name}.{}", std::process::id()));
    let out = File::options().write(true).create_new(true).mode(0o600).open(&unfinished);
    let out = out.with_context(|| format!("create {}", unfinished.display()))?;
    let written = source.dump(&out).and_then(|()| {
        out.sync_all()?;
        fs::rename(&unfinished, &file).with_context(|| format!("write {}", file.display()))?;
        File::open(folder)?.sync_all().context("sync the folder")
    });
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    Ok(fs::metadata(&file)?.len())
}

/// A database that answers, and the programs for it. What was started for it stops when this is dropped.
#[derive(Debug)]
pub struct Running {
    target: Target,
    programs: programs::Programs,
    // Stopped before the folder is given back.
    _cluster: Option<Cluster>,
    _lock: Option<FolderLock>,
}

#[derive(Debug)]
enum Target {
    /// The private cluster's socket folder.
    Socket(PathBuf),
    /// `database_url`.
    Url(String),
}

impl Running {
    /// The database of these settings: as it runs, or started for the occasion.
    fn find(config: &Config) -> Result<Self> {
        if let Some(url) = &config.database_url {
            return Self::elsewhere(config, url);
        }
        let owner = place::owner()?;
        let home = place::home(&config.data_dir, owner)?;
        let data = home.join("data");
        ensure!(programs::made_by(&data)?.is_some(), "data_dir: found no database in {}", config.data_dir.display());
        let programs = postgres::programs_for(&data, config.postgres_bin.as_deref())?;
        if let Some(socket) = postgres::running(&home) {
            return Ok(Self { target: Target::Socket(socket), programs, _cluster: None, _lock: None });
        }
        let lock = lock_folder(&config.data_dir)?;
        let cluster = Cluster::start_in(home, owner, config.postgres_bin.as_deref())?;
        let target = Target::Socket(cluster.socket().to_owned());
        Ok(Self { target, programs, _cluster: Some(cluster), _lock: Some(lock) })
    }

    fn elsewhere(config: &Config, url: &str) -> Result<Self> {
        let installed = programs::installed(config.postgres_bin.as_deref())?;
        let newest = installed.into_iter().max_by_key(|programs| programs.version);
        let programs = newest.context("no Postgres found: install postgresql-client, or set postgres_bin")?;
        Ok(Self { target: Target::Url(url.to_owned()), programs, _cluster: None, _lock: None })
    }

    /// How to connect.
    ///
    /// # Errors
    /// When `database_url` is none.
    pub fn options(&self) -> Result<PgConnectOptions> {
        match &self.target {
            Target::Socket(socket) => Ok(postgres::options(socket)),
            Target::Url(url) => url.parse().context("database_url"),
        }
    }

    fn dump(&self, out: &File) -> Result<()> {
        let mut command = self.command("pg_dump")?;
        // Whoever was signed in signs in again.
        command.args(["--format=custom", "--no-owner", "--no-privileges", "--exclude-table-data=sessions"]);
        run(command.stdout(out.try_clone()?))
    }

    /// Loads a backup, all of it or nothing.
    ///
    /// # Errors
    /// When `pg_restore` refuses.
    pub fn load(&self, file: &Path) -> Result<()> {
        let mut command = self.command("pg_restore")?;
        command.args(["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges"]).arg(file);
        run(command.stdout(Stdio::null()))
    }

    /// One of Postgres' programs that connects there; a password is not seen in the list of processes.
    fn command(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(self.programs.of(name)?);
        match &self.target {
            Target::Socket(socket) => {
                for name in ELSEWHERE {
                    command.env_remove(name);
                }
                command.arg("--host").arg(socket).args(["--username=senmon", "--dbname=postgres"]);
            }
            Target::Url(url) => {
                let (url, password) = without_password(url)?;
                command.arg(format!("--dbname={url}"));
                if let Some(password) = password {
                    command.env("PGPASSWORD", password);
                }
            }
        }
        command.arg("--no-password").stdin(Stdio::null());
        Ok(command)
    }
}

/// Where a backup is to be restored into.
#[derive(Debug)]
pub struct Place<'a> {
    config: &'a Config,
    home: Option<(PathBuf, place::Owner)>,
}

impl<'a> Place<'a> {
    /// The place of these settings, where it is empty. `again`: what an earlier restore left half done goes.
    ///
    /// # Errors
    /// When there is a database already.
    pub fn empty(config: &'a Config, again: bool) -> Result<Self> {
        if config.database_url.is_some() {
            return Ok(Self { config, home: None });
        }
        let owner = place::owner()?;
        let home = place::home(&config.data_dir, owner)?;
        let data = home.join("data");
        if programs::made_by(&data)?.is_some() {
            let found = data.display();
            ensure!(again, "data_dir: {found} holds a database: move it away first, or give another data_dir");
            postgres::stop_leftover(&data)?;
            fs::remove_dir_all(&data).with_context(|| format!("remove the unfinished {}", data.display()))?;
        }
        Ok(Self { config, home: Some((home, owner)) })
    }

    /// Starts it.
    ///
    /// # Errors
    /// When Postgres does not start.
    pub fn start(self) -> Result<Running> {
        let (config, Some((home, owner))) = (self.config, self.home) else {
            let Some(url) = &self.config.database_url else { bail!("no place to restore into") };
            return Running::elsewhere(self.config, url);
        };
        let data = home.join("data");
        let cluster = Cluster::start_in(home, owner, config.postgres_bin.as_deref())?;
        let programs = postgres::programs_for(&data, config.postgres_bin.as_deref())?;
        let target = Target::Socket(cluster.socket().to_owned());
        Ok(Running { target, programs, _cluster: Some(cluster), _lock: None })
    }
}

fn run(command: &mut Command) -> Result<()> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let output = command.stderr(Stdio::piped()).spawn().with_context(|| format!("start {name}"))?.wait_with_output()?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// An address without its password, and the password.
fn without_password(url: &str) -> Result<(String, Option<String>)> {
    let (scheme, rest) = url.split_once("://").context("database_url: expected postgres://…")?;
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let (user, mut password) = match user.and_then(|user| user.split_once(':')) {
        Some((user, password)) => (Some(user), Some(password)),
        None => (user, None),
    };
    let mut kept = Vec::new();
    for pair in query.into_iter().flat_map(|query| query.split('&')) {
        match pair.strip_prefix("password=") {
            Some(found) => password = Some(found),
            None => kept.push(pair),
        }
    }
    let user = user.map_or_else(String::new, |user| format!("{user}@"));
    let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    Ok((format!("{scheme}://{user}{host}{path}{query}"), password.map(decoded).transpose()?))
}

/// `%41` is `A`.
fn decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend(parts.next().unwrap_or_default().bytes());
    for part in parts {
        let code = part.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.push(code.context("database_url: its password has a % that two hexadecimal digits do not follow")?);
        bytes.extend(part[2..].bytes());
    }
    String::from_utf8(bytes).context("database_url: its password is no UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_in_the_arguments() {
        let cases = [
            ("postgres://a:b%40c@h:1/d?x=y", "postgres://a@h:1/d?x=y", Some("b@c")),
            ("postgres://a@h/d", "postgres://a@h/d", None),
            ("postgresql:///d?host=/run&password=p&user=u", "postgresql:///d?host=/run&user=u", Some("p")),
            ("postgres://h", "postgres://h", None),
        ];
        for (url, expect, password) in cases {
            let (found, secret) = without_password(url).unwrap();
            assert_eq!((found.as_str(), secret.as_deref()), (expect, password), "{url}");
        }
    }
}
