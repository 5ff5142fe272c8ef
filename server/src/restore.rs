//! `senmon-server restore`: an empty database becomes what a backup says, no fence comes a second time, and what the
//! store has beyond the backup is found.

pub mod mark;

use crate::{
    backup::Place,
    config::Config,
    db::{self, events::NewEvent, leader::Leader},
    domain::adoption::{Branch, check, order},
    postgres::lock_folder,
    storage::Storage,
    tasks::identity,
};
use anyhow::{Context, Result, bail, ensure};
use mark::Mark;
use senmon_corpus::hex;
use senmon_protocol::{
    checkpoint::{MANIFEST_FILE, Manifest},
    ids::StorageKey,
    job::{EndedOutcome, Outcome, TerminationReason},
    said,
    worker::CompleteAttempt,
};
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection, PgPool};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    fs::File,
    io::Read,
    path::Path,
    time::Duration,
};

/// How long another server's lead is waited for.
const LEAD_MAX: Duration = Duration::from_secs(5);

/// What a restore found.
#[derive(Debug, Default)]
pub struct Restored {
    /// Present epoch.
    pub epoch: i64,
    /// Checkpoints that the store had beyond the backup and that are committed now.
    pub adopted: u64,
    /// Checkpoints of the backup whose bytes were removed since.
    pub gone: u64,
    /// Folders with a manifest that belong to nothing in the backup, by the reason.
    pub left: BTreeMap<String, u64>,
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Restored: epoch {}. Fences begin at {}.", self.epoch, self.epoch * 1_000_000_000)?;
        writeln!(f, "{} checkpoints of the store are newer than the backup and are used.", self.adopted)?;
        writeln!(f, "{} checkpoints of the backup were removed since.", self.gone)?;
        for (why, folders) in &self.left {
            writeln!(f, "{folders} checkpoints in the store stay there unused: {why}.")?;
        }
        write!(f, "Tokens are those of the backup; their secrets are not in it. Start the server now.")
    }
}

/// Restores a backup into an empty data folder or database.
///
/// # Errors
/// When there is a database already, the store is not the one of the backup, or a part fails; it can be run again.
pub async fn restore(config: &Config, file: &Path) -> Result<Restored> {
    let _lock = lock_folder(&config.data_dir)?;
    let file = std::path::absolute(file)?;
    let mut start = [0; 5];
    let read = File::open(&file).with_context(|| format!("open {}", file.display()))?.read_exact(&mut start);
    ensure!(read.is_ok() && &start == b"PGDMP", "{} is no backup of senmon-server", file.display());
    // Before anything is made: without its store a restored database is of no use.
    let storage = Storage::open(&config.store()?, &config.s3, config.data_dir.join("scratch")).await?;
    let mark = Mark::of(&config.data_dir);
    let place = Place::empty(config, mark.again())?;
    mark.set()?;
    let place = place.start()?;
    let leader = tokio::time::timeout(LEAD_MAX, Leader::wait(place.options()?))
        .await
        .context("another server leads this database: stop it first")??;
    let mut connection = PgConnection::connect_with(&place.options()?).await?;
    let is_empty = db::restore::is_empty(&mut connection).await?;
    connection.close().await?;
    if is_empty {
        place.load(&file)?;
    } else if !mark.again() {
        mark.unset()?;
        bail!("database_url: expected an empty database, found tables in it");
    }
    let pool = db::connect(place.options()?).await?;
    let restored = settle(&pool, &storage).await?;
    pool.close().await;
    drop(leader);
    mark.unset()?;
    Ok(restored)
}

/// Makes a database that was put back usable: a new epoch first, so that no fence comes again whatever fails later; then
/// what ran is ended, and the store is looked through.
async fn settle(pool: &PgPool, storage: &Storage) -> Result<Restored> {
    let epoch = identity::next_epoch(pool, storage).await?;
    for (attempt, fence) in db::restore::running(pool).await? {
        let outcome = Outcome::Ended(EndedOutcome::said(TerminationReason::Released, said!("ended_restored")));
        db::attempts::complete(pool, attempt, &CompleteAttempt { fence, outcome, time: None }).await?;
    }
    db::restore::raise(pool).await?;
    let mut restored = Restored { epoch, ..adopt(pool, storage).await? };
    restored.left.retain(|_, folders| *folders > 0);
    let (adopted, gone) = (restored.adopted, restored.gone);
    let said = said!("restored", epoch = epoch.unsigned_abs(), adopted = adopted, gone = gone);
    let event = NewEvent { kind: "restored", level: "warn", said, ..NewEvent::default() };
    db::events::insert(pool, &event).await?;
    Ok(restored)
}

/// Looks at every checkpoint in the store: what a branch committed after the backup is committed again.
async fn adopt(pool: &PgPool, storage: &Storage) -> Result<Restored> {
    let root = StorageKey::new("checkpoints")?;
    let objects: HashMap<String, u64> = storage
        .list(Some(&root))
        .await?
        .into_iter()
        .map(|object| (object.key.as_str().to_owned(), object.bytes))
        .collect();
    let there: HashSet<&str> =
        objects.keys().filter_map(|key| key.strip_suffix(&format!("/{MANIFEST_FILE}"))).collect();
    let known = db::restore::folders(pool).await?;
    let mut restored = Restored::default();
    let missing: Vec<String> = known.iter().filter(|folder| !there.contains(folder.as_str())).cloned().collect();
    restored.gone = db::restore::gone(pool, &missing).await?;
    let branches: HashMap<String, Branch> =
        db::restore::branches(pool).await?.into_iter().map(|branch| (branch.id.to_string(), branch)).collect();
    let mut found: Vec<(StorageKey, Manifest, String)> = Vec::new();
    for folder in there.into_iter().filter(|folder| !known.contains(*folder)) {
        let folder = StorageKey::new(folder)?;
        let branch = folder.as_str().split('/').nth(1).and_then(|id| branches.get(id));
        match look(storage, &objects, branch, &folder).await? {
            Ok((manifest, sha256)) => found.push((folder, manifest, sha256)),
            Err(why) => {
                tracing::warn!(checkpoint.folder = %folder, why, "a checkpoint in the store is left where it is");
                *restored.left.entry(why).or_default() += 1;
            }
        }
    }
    found.sort_by_key(|(_, manifest, _)| order(manifest));
    for (folder, manifest, sha256) in &found {
        if db::restore::adopt(pool, folder, manifest, sha256).await? {
            tracing::info!(checkpoint.folder = %folder, "adopted a checkpoint that the backup does not know");
            restored.adopted += 1;
        } else {
            *restored.left.entry("its id is that of another checkpoint".into()).or_default() += 1;
        }
    }
    Ok(restored)
}

/// The manifest of a folder and its hash, where it belongs to the branch and all its files are there; else why not.
/// Their contents are the scrub's to read.
async fn look(
    storage: &Storage,
    objects: &HashMap<String, u64>,
    branch: Option<&Branch>,
    folder: &StorageKey,
) -> Result<Result<(Manifest, String), String>> {
    let Some(branch) = branch else { return Ok(Err("the backup does not know its branch".into())) };
    let Some(bytes) = storage.get(&folder.join(MANIFEST_FILE)?).await? else {
        return Ok(Err("its manifest is gone".into()));
    };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else {
        return Ok(Err("its manifest cannot be read".into()));
    };
    if let Err(why) = check(branch, folder, &manifest) {
        return Ok(Err(why));
    }
    let is_there = |(name, entry): (&String, &senmon_protocol::checkpoint::FileEntry)| {
        objects.get(&format!("{folder}/{name}")) == Some(&entry.bytes)
    };
    if !manifest.files.iter().all(is_there) {
        return Ok(Err("a file of it is missing or of another size".into()));
    }
    Ok(Ok((manifest, hex(&Sha256::digest(&bytes)))))
}
