//! Which Postgres: of all that are installed, the one of the version that the data has.

use anyhow::{Context, Result, bail};
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A folder with the programs of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The folder.
    pub bin: PathBuf,
    /// Major version.
    pub version: u32,
}

impl Programs {
    /// Path of one of them.
    ///
    /// # Errors
    /// When it is not there: some packages bring the server alone.
    pub fn of(&self, name: &str) -> Result<PathBuf> {
        let path = self.bin.join(name);
        if path.exists() {
            return Ok(path);
        }
        bail!("{} has no {name}: install postgresql-client-{}", self.bin.display(), self.version)
    }
}

/// What is installed, the preferred first: what is configured, `PG_BIN`, `PATH`, the system's newest, what
/// `scripts/setup-postgres` fetched.
///
/// # Errors
/// When `postgres_bin` is given and holds no Postgres.
pub fn installed(configured: Option<&Path>) -> Result<Vec<Programs>> {
    let mut places = Vec::new();
    if let Some(bin) = configured {
        is_postgres(bin).with_context(|| format!("postgres_bin: {} holds no Postgres", bin.display()))?;
        places.push(bin.to_owned());
    }
    places.extend(std::env::var_os("PG_BIN").map(PathBuf::from));
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        places.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path));
    let mut system: Vec<PathBuf> = folders("/usr/lib/postgresql").chain(folders("/usr")).collect();
    system.retain(|folder| folder.starts_with("/usr/lib/postgresql") || name_of(folder).starts_with("pgsql-"));
    places.extend(system.into_iter().map(|folder| folder.join("bin")));
    places.push(PathBuf::from(".deps/postgres/bin"));
    let mut seen = HashSet::new();
    let mut found: Vec<(usize, Programs)> = Vec::new();
    for (place, bin) in places.into_iter().enumerate() {
        // Whoever starts them may do so from another folder.
        let Ok(bin) = std::path::absolute(bin) else { continue };
        let Ok(version) = is_postgres(&bin) else { continue };
        if seen.insert(bin.canonicalize().unwrap_or_else(|_| bin.clone())) {
            found.push((place, Programs { bin, version }));
        }
    }
    // Of what nobody named, the newest first.
    let named = usize::from(configured.is_some()) + usize::from(std::env::var_os("PG_BIN").is_some());
    found.sort_by_key(
        |(place, programs)| if *place < named { (*place, 0) } else { (named, u32::MAX - programs.version) },
    );
    Ok(found.into_iter().map(|(_, programs)| programs).collect())
}

/// The programs for a cluster: of the version that made its data, or the preferred ones where there is none yet.
///
/// # Errors
/// Which package is missing.
pub fn choose(installed: &[Programs], made_by: Option<u32>) -> Result<&Programs> {
    let Some(version) = made_by else {
        return installed.first().context(
            "no Postgres found: install postgresql (scripts/setup-postgres does), or set postgres_bin, PG_BIN or database_url",
        );
    };
    if let Some(found) = installed.iter().find(|programs| programs.version == version) {
        return Ok(found);
    }
    let others: Vec<String> =
        installed.iter().map(|programs| format!("{} in {}", programs.version, programs.bin.display())).collect();
    let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
    bail!(
        "the data was made by Postgres {version}; installed is {others}: install the package postgresql-{version} \
         (or set postgres_bin to where it is), or restore a backup into an empty data folder"
    )
}

/// Major version that made a cluster's data; None where there is no cluster yet.
///
/// # Errors
/// When `PG_VERSION` cannot be read.
pub fn made_by(data: &Path) -> Result<Option<u32>> {
    let path = data.join("PG_VERSION");
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let version = text.trim().parse().with_context(|| format!("{}: found {:?}", path.display(), text.trim()))?;
    Ok(Some(version))
}

fn is_postgres(bin: &Path) -> Result<u32> {
    let program = bin.join("postgres");
    if !program.exists() || !bin.join("initdb").exists() {
        bail!("expected postgres and initdb there");
    }
    let output =
        Command::new(&program).arg("--version").output().with_context(|| format!("run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    major(&text).with_context(|| format!("{} --version: found {:?}", program.display(), text.trim()))
}

/// `postgres (PostgreSQL) 15.13 (Debian …)`, `… 18beta1`.
fn major(text: &str) -> Option<u32> {
    let word = text.split_whitespace().nth(2)?;
    let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    word[..digits].parse().ok()
}

fn folders(parent: &str) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(versions: &[u32]) -> Vec<Programs> {
        let of =
            |version: &u32| Programs { bin: format!("/usr/lib/postgresql/{version}/bin").into(), version: *version };
        versions.iter().map(of).collect()
    }

    fn check(installed: &[u32], made_by: Option<u32>, expect: Result<u32, &str>) {
        let found = choose(&programs(installed), made_by).map(|programs| programs.version);
        match (found, expect) {
            (Ok(found), Ok(expect)) => assert_eq!(found, expect, "{installed:?} {made_by:?}"),
            (Err(error), Err(expect)) => assert!(error.to_string().contains(expect), "{error}"),
            (found, expect) => panic!("{installed:?} {made_by:?}: {found:?}, not {expect:?}"),
        }
    }

    #[test]
    fn data_keeps_its_version_whatever_else_is_installed() {
        check(&[17, 16, 15], Some(15), Ok(15));
        check(&[15, 17], Some(17), Ok(17));
        check(&[17, 15], None, Ok(17));
        check(&[17, 15], Some(16), Err("install the package postgresql-16"));
        check(&[17, 15], Some(16), Err("17 in /usr/lib/postgresql/17/bin, 15 in"));
        check(&[], Some(15), Err("installed is none"));
        check(&[], None, Err("scripts/setup-postgres"));
    }

    #[test]
    fn versions_are_read() {
        let words = [
            ("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)", Some(15)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("bash: no", None),
        ];
        for (text, expect) in words {
            assert_eq!(major(text), expect, "{text}");
        }
    }
}
