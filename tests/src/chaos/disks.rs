//! Disks that are full, read-only, hang or answer with errors: the store's, and the one on which a worker keeps what it
//! has to say.

use super::{
    Chaos, LIMIT,
    checks::check,
    disk::{Disk, Fsync},
    report::{Figure, Figures},
    training::{Over, Training},
};
use crate::{World, WorldOptions};
use anyhow::{Context, Result, ensure};
use senmon_protocol::{
    ids::BranchId,
    view::{EventView, MetricsView},
};
use std::{
    fs,
    time::{Duration, Instant},
};

/// Events that name the cause, when a save fails and when one is left out.
const CAUSES: [&str; 2] = ["checkpoint_failed", "checkpoint_skipped"];
/// How long a disk hangs: longer than the next save waits for the one before (30 s).
const HANG: Duration = Duration::from_secs(40);
/// Longest answer of the server while its store hangs.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What the store's disk does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It has no room.
    Full,
    /// It takes no writes.
    ReadOnly,
    /// It keeps writes waiting.
    Hangs,
    /// It answers each sync of a file with an error.
    Errors,
}

impl Trouble {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Full, Self::ReadOnly, Self::Hangs, Self::Errors];

    /// What is said of it.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Full => "the store's disk is full",
            Self::ReadOnly => "the store's disk is read-only",
            Self::Hangs => "the store's disk hangs",
            Self::Errors => "the store's disk answers with errors",
        }
    }

    /// Steps that are trained without it once a save was given up. Saves are 20 steps apart ([`crate::spec::small`]): so
    /// many hold several of them; where each waits for the disk, fewer than lie between two.
    const fn steps_without(self) -> u64 {
        match self {
            Self::Hangs => 10,
            Self::Full | Self::ReadOnly | Self::Errors => 100,
        }
    }

    /// Why it cannot be made here, in a sentence for people; None where it can.
    #[must_use]
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Self::Full | Self::ReadOnly => Disk::missing(),
            Self::Hangs => Disk::hanging_missing(),
            Self::Errors => Fsync::missing(),
        }
    }
}

/// The disk of a world's store, and how to break it.
enum Breaker {
    Full(Disk),
    ReadOnly(Disk),
    Hangs(Disk),
    Errors(Fsync),
}

impl Breaker {
    fn prepare(trouble: Trouble, world: &mut World) -> Result<Self> {
        let (store, fifos) = (world.path("server/storage"), world.path("fiu"));
        Ok(match trouble {
            Trouble::Full => Self::Full(Disk::in_memory(&store, 96)?),
            Trouble::ReadOnly => Self::ReadOnly(Disk::in_memory(&store, 96)?),
            Trouble::Hangs => Self::Hangs(Disk::in_file(&store, 256)?),
            Trouble::Errors => Self::Errors(Fsync::prepare(&mut world.options, &fifos)?),
        })
    }

    async fn begin(&self, world: &World) -> Result<()> {
        match self {
            Self::Full(disk) => disk.fill(),
            Self::ReadOnly(disk) => {
                world.outlast(LIMIT, "no file is open for writing", async || disk.set_read_only(true).map(Some)).await
            }
            Self::Hangs(disk) => disk.freeze(HANG),
            Self::Errors(fsync) => fsync.set_broken(worker(world)?, true),
        }
    }

    fn end(&self, world: &World) -> Result<()> {
        match self {
            Self::Full(disk) => disk.free(),
            Self::ReadOnly(disk) => disk.set_read_only(false),
            // It thaws by itself.
            Self::Hangs(_) => Ok(()),
            Self::Errors(fsync) => fsync.set_broken(worker(world)?, false),
        }
    }
}

fn worker(world: &World) -> Result<u32> {
    Ok(world.workers[0].as_ref().context("the worker runs")?.id())
}

/// The store takes no checkpoint for several saves: training goes on, the server answers, the cause is an event, and
/// saves succeed again afterwards.
///
/// # Errors
/// What does not hold.
pub async fn of_the_store(chaos: &mut Chaos, steps: u64, trouble: Trouble) -> Result<Figures> {
    chaos.long_enough(steps, async |chaos, steps| store_in(chaos, steps, trouble).await).await
}

async fn store_in(chaos: &mut Chaos, steps: u64, trouble: Trouble) -> Result<Figures> {
    let mut world = World::empty(WorldOptions { slots: 1, ..WorldOptions::default() })?;
    let breaker = Breaker::prepare(trouble, &mut world)?;
    world.begin().await?;
    let calm = chaos.calm(&world, steps).await?;
    let training = Training::submit(&world, steps).await?;
    let branch = training.reaches(&world, 60).await?.id;
    breaker.begin(&world).await?;
    let began = Instant::now();
    training.branch(&world).await?;
    ensure!(began.elapsed() < ANSWER_MAX, "the server took {:?} for an answer", began.elapsed());
    let told = training
        .meets(&world, "an event names the cause", async || {
            let is_cause = |event: &EventView| CAUSES.contains(&event.kind.as_str());
            Ok(events(&world, branch).await?.into_iter().find(is_cause))
        })
        .await?;
    let (after, without) = (began.elapsed(), trouble.steps_without());
    let step = told.step.context("the event has its step")? + without;
    training.reaches(&world, step).await?;
    ensure!(trouble != Trouble::Hangs || began.elapsed() < HANG, "the disk hung no longer: {:?}", began.elapsed());
    ensure!(training.attempts(&world).await?.len() == 1, "the attempt ended: {:?}", training.attempts(&world).await?);
    breaker.end(&world)?;
    let again = training.saves_committed_beyond(&world, step).await?;
    training.done(&world).await?;
    let attempts = training.attempts(&world).await?;
    if attempts.len() > 1 && attempts[0].time.step_last >= steps {
        return Err(anyhow::Error::new(Over).context("its last save came before the store was well again"));
    }
    let verdict = check(&world, &training, calm.as_deref()).await?;
    ensure!(verdict.attempts == 1, "{verdict:?}: {attempts:?}");
    Ok(vec![
        Figure::of("until an event named the cause", after),
        Figure::count("steps trained after it without a store", usize::try_from(without)?),
        Figure::count("step of the first save after it", usize::try_from(again)?),
        Figure::count("attempts", verdict.attempts),
        Figure::count("metric points", verdict.points),
        Figure::zero("lost or doubled metric points"),
    ])
}

/// The worker's own disk is full: what it has to say waits in memory and is delivered once there is room.
///
/// # Errors
/// What does not hold.
pub async fn of_the_spool(chaos: &mut Chaos, steps: u64) -> Result<Figures> {
    chaos.long_enough(steps, async |chaos, steps| spool_full(chaos, steps).await).await
}

async fn spool_full(chaos: &mut Chaos, steps: u64) -> Result<Figures> {
    let mut world = World::empty(WorldOptions { slots: 1, ..WorldOptions::default() })?;
    let disk = Disk::in_memory(&world.path("worker-0"), 2)?;
    world.begin().await?;
    let calm = chaos.calm(&world, steps).await?;
    let training = Training::submit(&world, steps).await?;
    training.reaches(&world, 60).await?;
    disk.fill()?;
    let full = training.branch(&world).await?.context("there is a branch")?;
    // Nothing is delivered now; that training goes on is seen where checkpoints are written.
    let folder = Training::checkpoints(&world, full.id);
    let saves = || fs::read_dir(&folder).map_or(0, Iterator::count);
    let before = saves();
    let last = |entry: std::io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{steps}-")))
    };
    let is_last = || fs::read_dir(&folder).is_ok_and(|mut entries| entries.any(last));
    let more = world
        .until(LIMIT, "checkpoints are written while the spool is full", async || {
            Ok((saves() >= before + 3 || is_last()).then(|| saves() >= before + 3))
        })
        .await?;
    if !more {
        return Err(anyhow::Error::new(Over).context("it is over before three checkpoints were written"));
    }
    disk.free()?;
    training.done(&world).await?;
    let told = events(&world, full.id).await?.iter().filter(|event| event.kind == "spool_refused").count();
    ensure!(told > 0, "no event names the cause");
    let verdict = check(&world, &training, calm.as_deref()).await?;
    ensure!(verdict.attempts == 1, "{verdict:?}");
    Ok(vec![
        Figure::count("checkpoints written meanwhile", 3),
        Figure::count("events that name the cause", told),
        Figure::count("attempts", verdict.attempts),
        Figure::count("metric points", verdict.points),
        Figure::zero("lost or doubled metric points"),
    ])
}

async fn events(world: &World, branch: BranchId) -> Result<Vec<EventView>> {
    let metrics: MetricsView = world.api.get(&format!("/api/v1/branches/{branch}/metrics?points_max=1")).await?;
    Ok(metrics.events)
}
