//! kill -9 of the worker, the server and Postgres, at random moments and in the middle of saves, while a branch trains.

use super::{
    Chaos,
    checks::check,
    report::{Figure, Figures},
    training::Training,
};
use crate::{World, WorldOptions, process::signal};
use anyhow::{Context, Result};
use rand::Rng;
use reqwest::Method;
use senmon_protocol::checkpoint::MANIFEST_FILE;
use std::time::{Duration, Instant};

/// Who is killed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The worker, started again at once.
    Worker,
    /// The server, started again at once; its Postgres is left to itself.
    Server,
    /// The postmaster: its backends lose their mother.
    Postmaster,
    /// The postmaster by SIGQUIT, as `pg_ctl stop -m immediate` does: it recovers from its log.
    PostgresAtOnce,
    /// A backend of Postgres: the postmaster ends all others and recovers.
    Backend,
    /// Everything at once, as a power cut does.
    All,
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Some steps after the one before.
    Random,
    /// While a checkpoint is being written.
    Save,
}

/// The kills of the short form.
pub const SHORT: [(Victim, Moment); 5] = [
    (Victim::Worker, Moment::Save),
    (Victim::Postmaster, Moment::Random),
    (Victim::Server, Moment::Save),
    (Victim::PostgresAtOnce, Moment::Save),
    (Victim::All, Moment::Random),
];

/// So many kills by chance.
pub fn by_chance(chaos: &mut Chaos, count: usize) -> Vec<(Victim, Moment)> {
    let victims =
        [Victim::Worker, Victim::Server, Victim::Postmaster, Victim::PostgresAtOnce, Victim::Backend, Victim::All];
    (0..count)
        .map(|_| {
            let victim = victims[chaos.random.random_range(0..victims.len())];
            (victim, if chaos.random.random_bool(0.5) { Moment::Save } else { Moment::Random })
        })
        .collect()
}

/// Trains, kills as told, and checks: the same bits as undisturbed.
///
/// # Errors
/// What does not hold.
pub async fn run(chaos: &mut Chaos, kills: &[(Victim, Moment)]) -> Result<Figures> {
    let steps = 400 * (kills.len() as u64 + 1);
    chaos.long_enough(steps, async |chaos, steps| disturbed(chaos, kills, steps).await).await
}

async fn disturbed(chaos: &mut Chaos, kills: &[(Victim, Moment)], steps: u64) -> Result<Figures> {
    let share = steps / (kills.len() as u64 + 1);
    let mut world = World::start(WorldOptions { slots: 1, ..WorldOptions::default() }).await?;
    let calm = chaos.calm(&world, steps).await?;
    let training = Training::submit(&world, steps).await?;
    let (mut torn, mut ready_ms_max) = (0_u32, 0);
    for ((victim, moment), number) in kills.iter().zip(1_u64..) {
        // A share of the training for each kill, and the rest to end in.
        training.reaches(&world, (number - 1) * share + chaos.random.random_range(40..200)).await?;
        let saving = match moment {
            Moment::Save => Some(training.saves(&world).await?),
            Moment::Random => None,
        };
        let killed = Instant::now();
        kill(&mut world, *victim)?;
        if saving.is_some_and(|folder| folder.exists() && !folder.join(MANIFEST_FILE).exists())
            && matches!(victim, Victim::Worker | Victim::All)
        {
            torn += 1;
        }
        start_again(&mut world).await.with_context(|| format!("kill {number}: {victim:?} at {moment:?}"))?;
        world
            .outlast(super::LIMIT, "the server is ready", async || {
                let answer = world.api.send::<()>(Method::GET, "/readyz", None).await?;
                Ok((answer.0 == 200).then_some(()))
            })
            .await?;
        if *victim != Victim::Worker {
            ready_ms_max = ready_ms_max.max(killed.elapsed().as_millis());
        }
    }
    training.done(&world).await?;
    let verdict = check(&world, &training, calm.as_deref()).await?;
    Ok(vec![
        Figure::count("kills", kills.len()),
        Figure::count("of them in the middle of a save", torn as usize),
        Figure::of("kill of server or Postgres to ready, at most", Duration::from_millis(u64::try_from(ready_ms_max)?)),
        Figure::count("attempts", verdict.attempts),
        Figure::count("metric points", verdict.points),
        Figure::zero("lost or doubled metric points"),
        Figure::count("checkpoints committed, all verified", verdict.checkpoints),
    ])
}

fn kill(world: &mut World, victim: Victim) -> Result<()> {
    let (postmaster, _) = world.postmaster()?;
    match victim {
        Victim::Worker => world.kill_worker(0),
        Victim::Server => world.kill_server(),
        Victim::Postmaster => signal(postmaster, libc::SIGKILL),
        Victim::PostgresAtOnce => signal(postmaster, libc::SIGQUIT),
        Victim::Backend => {
            let children = format!("/proc/{postmaster}/task/{postmaster}/children");
            let text = std::fs::read_to_string(children).context("list the processes of Postgres")?;
            let last = text.split_whitespace().last().context("Postgres has no process")?;
            signal(last.parse()?, libc::SIGKILL);
        }
        Victim::All => {
            signal(postmaster, libc::SIGKILL);
            world.kill_worker(0);
            world.kill_server();
        }
    }
    Ok(())
}

async fn start_again(world: &mut World) -> Result<()> {
    if world.server.is_none() {
        world.start_server().await?;
    }
    if world.workers[0].is_none() {
        world.start_worker(0)?;
    }
    Ok(())
}
