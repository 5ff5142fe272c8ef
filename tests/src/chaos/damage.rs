//! Damage to every file of a checkpoint that was really trained, in every way that a disk or a crash knows. Each must be
//! found, and by name.

use super::{
    Chaos,
    report::{Figure, Figures},
    training::Training,
};
use crate::{World, WorldOptions};
use anyhow::{Context, Result, ensure};
use rand::Rng;
use senmon_corpus::manifest::verify;
use senmon_protocol::view::CheckpointView;
use std::{fs, path::Path};

/// A way to damage a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// One byte is missing at the end.
    ShortByOne,
    /// Everything from some byte on is missing.
    Truncated,
    /// All is missing.
    Emptied,
    /// One bit is another.
    BitFlipped,
    /// A page, or what there is of it, is zeros.
    PageZeroed,
    /// One byte too many.
    LongByOne,
    /// The file is gone.
    Deleted,
    /// Its bytes are those of another file.
    Swapped,
}

const ALL: [Damage; 8] = [
    Damage::ShortByOne,
    Damage::Truncated,
    Damage::Emptied,
    Damage::BitFlipped,
    Damage::PageZeroed,
    Damage::LongByOne,
    Damage::Deleted,
    Damage::Swapped,
];

/// Trains a little, then damages the checkpoint `rounds` times in every way at every file.
///
/// # Errors
/// When a damage is not found.
pub async fn run(chaos: &mut Chaos, rounds: usize) -> Result<Figures> {
    let world = World::start(WorldOptions { slots: 1, ..WorldOptions::default() }).await?;
    let training = Training::submit(&world, 40).await?;
    let branch = training.done(&world).await?;
    let id = branch.checkpoint_id.context("it has a checkpoint")?;
    let checkpoint: CheckpointView = world.api.get(&format!("/api/v1/checkpoints/{id}")).await?;
    training.cancel(&world).await?;
    let folder = world.path("server/storage").join(checkpoint.folder.as_str());
    let (tried, same, unnamed) = fuzz(chaos, &folder, &checkpoint.manifest_sha256, rounds)?;
    Ok(vec![
        Figure::count("damaged checkpoints", tried),
        Figure::count("of them found", tried),
        Figure::count("named by the file itself", tried - unnamed),
        Figure::count("left out because nothing was changed", same),
    ])
}

/// Damages that were tried and found, those that change nothing, and those named by another file than the damaged one.
fn fuzz(chaos: &mut Chaos, folder: &Path, manifest_sha256: &str, rounds: usize) -> Result<(usize, usize, usize)> {
    verify(folder, manifest_sha256).context("the checkpoint is whole before")?;
    let mut names: Vec<String> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    let (mut tried, mut same, mut unnamed) = (0, 0, 0);
    for _ in 0..rounds {
        for (at, name) in names.iter().enumerate() {
            let path = folder.join(name);
            let whole = fs::read(&path)?;
            let other = folder.join(&names[(at + 1) % names.len()]);
            for damage in ALL {
                let Some(bytes) = damaged(chaos, damage, &whole, &other)? else {
                    fs::remove_file(&path)?;
                    let error =
                        verify(folder, manifest_sha256).err().context(format!("{name} is gone, and nobody saw"))?;
                    unnamed += usize::from(!format!("{error:#}").contains(name.as_str()));
                    tried += 1;
                    fs::write(&path, &whole)?;
                    continue;
                };
                if bytes == whole {
                    same += 1;
                    continue;
                }
                fs::write(&path, &bytes)?;
                let found = verify(folder, manifest_sha256).err();
                let error = found.with_context(|| format!("{name}: {damage:?} was not found"))?;
                unnamed += usize::from(!format!("{error:#}").contains(name.as_str()));
                tried += 1;
                fs::write(&path, &whole)?;
            }
        }
    }
    verify(folder, manifest_sha256).context("the checkpoint is whole again")?;
    ensure!(unnamed == 0, "{unnamed} of {tried} damages were found, but not named");
    Ok((tried, same, unnamed))
}

/// The bytes after the damage; none for a file that is gone.
fn damaged(chaos: &mut Chaos, damage: Damage, whole: &[u8], other: &Path) -> Result<Option<Vec<u8>>> {
    let at = chaos.random.random_range(0..whole.len().max(1));
    let mut bytes = whole.to_vec();
    match damage {
        Damage::ShortByOne => {
            bytes.pop();
        }
        Damage::Truncated => bytes.truncate(at),
        Damage::Emptied => bytes.clear(),
        Damage::BitFlipped => bytes[at] ^= 1 << chaos.random.random_range(0..8),
        Damage::PageZeroed => {
            let from = at / 4096 * 4096;
            let to = (from + 4096).min(bytes.len());
            bytes[from..to].fill(0);
        }
        Damage::LongByOne => bytes.push(0),
        Damage::Deleted => return Ok(None),
        Damage::Swapped => bytes = fs::read(other)?,
    }
    Ok(Some(bytes))
}
