//! The server or its database is away for many leases: training goes on, what it says is kept, and delivered once.

use super::{
    Chaos, LIMIT,
    checks::{Verdict, check},
    proxy::{Fault, Proxy},
    report::{Figure, Figures},
    training::Training,
};
use crate::{World, WorldOptions};
use anyhow::{Context, Result, ensure};
use senmon_protocol::view::AttemptView;
use senmon_server::postgres::Cluster;
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// An outage that is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Outage {
    /// Steps of the training: better more than the outage takes.
    pub steps: u64,
    /// Life of a lease; a worker is lost after two.
    pub lease: Duration,
    /// How long.
    pub away: Duration,
}

/// The server is killed and started again much later, with nobody else to take the job: the same attempt goes on.
///
/// # Errors
/// What does not hold.
pub async fn of_the_server(chaos: &mut Chaos, outage: Outage) -> Result<Figures> {
    chaos.long_enough(outage.steps, async |chaos, steps| server_away(chaos, Outage { steps, ..outage }).await).await
}

async fn server_away(chaos: &mut Chaos, outage: Outage) -> Result<Figures> {
    let mut world = World::empty(options(outage)?)?;
    let proxy = Proxy::tcp("127.0.0.1", world.port()).await?;
    world.options.server_url = Some(proxy.url().to_owned());
    world.begin().await?;
    let calm = chaos.calm(&world, outage.steps).await?;
    let training = Training::submit(&world, outage.steps).await?;
    training.reaches(&world, 60).await?;
    let attempt = training.attempts(&world).await?.pop().context("an attempt trains")?;
    proxy.watch("/attempts/");
    // The worker knocks, nobody opens; when it last said something of its attempt is noted.
    proxy.set(Fault::Cut);
    let began = Instant::now();
    world.kill_server();
    let spooled = spooled_meanwhile(&world, &attempt, outage.away).await?;
    let spoke_last = proxy.last_said().map_or(Duration::ZERO, |at| at.saturating_duration_since(began));
    // The look of a courier that waits, and a request on its way.
    let slack = Duration::from_millis(600);
    ensure!(spoke_last <= outage.lease * 2 / 3 + slack, "it still wrote {spoke_last:?} after the last renewal");
    let starting = Instant::now();
    proxy.set(Fault::None);
    world.start_server().await?;
    let ready = starting.elapsed();
    let verdict = end(&world, &training, calm.as_deref()).await?;
    Ok(vec![
        Figure::of("server away", outage.away),
        Figure::of("life of a lease", outage.lease),
        Figure::count("bytes spooled meanwhile", spooled),
        Figure::of("last write tried after the server was gone", spoke_last),
        Figure::of("server's restart to ready", ready),
        Figure::count("attempts", verdict.attempts),
        Figure::count("metric points", verdict.points),
        Figure::zero("lost or doubled metric points"),
        Figure::count("checkpoints committed, all verified", verdict.checkpoints),
    ])
}

/// Postgres is away while the server lives: nobody is declared lost for silence that nobody could hear.
///
/// # Errors
/// What does not hold.
pub async fn of_the_database(chaos: &mut Chaos, outage: Outage) -> Result<Figures> {
    chaos.long_enough(outage.steps, async |chaos, steps| database_away(chaos, Outage { steps, ..outage }).await).await
}

async fn database_away(chaos: &mut Chaos, outage: Outage) -> Result<Figures> {
    let mut world = World::empty(options(outage)?)?;
    let folder = world.path("cluster");
    let start = || tokio::task::block_in_place(|| Cluster::start(&folder, None));
    let cluster = start()?;
    let socket = cluster.socket().display();
    world.options.database_url = Some(format!("postgres://senmon@localhost/postgres?host={socket}"));
    world.begin().await?;
    let calm = chaos.calm(&world, outage.steps).await?;
    let training = Training::submit(&world, outage.steps).await?;
    training.reaches(&world, 60).await?;
    let attempt = training.attempts(&world).await?.pop().context("an attempt trains")?;
    tokio::task::block_in_place(|| drop(cluster));
    let spooled = spooled_meanwhile(&world, &attempt, outage.away).await?;
    let cluster = start()?;
    let verdict = end(&world, &training, calm.as_deref()).await?;
    drop(world);
    tokio::task::block_in_place(|| drop(cluster));
    Ok(vec![
        Figure::of("Postgres away", outage.away),
        Figure::of("life of a lease", outage.lease),
        Figure::count("bytes spooled meanwhile", spooled),
        Figure::count("attempts", verdict.attempts),
        Figure::count("metric points", verdict.points),
        Figure::zero("lost or doubled metric points"),
        Figure::count("checkpoints committed, all verified", verdict.checkpoints),
    ])
}

fn options(outage: Outage) -> Result<WorldOptions> {
    let lease_ttl_ms = u64::try_from(outage.lease.as_millis())?;
    Ok(WorldOptions { slots: 1, lease_ttl_ms, ..WorldOptions::default() })
}

/// Waits out the outage; the bytes that the attempt spooled in its second half, when every lease had run out. None are
/// needed where training has come to its end meanwhile.
async fn spooled_meanwhile(world: &World, attempt: &AttemptView, away: Duration) -> Result<usize> {
    let spool: PathBuf = world.path("worker-0/spool").join(attempt.id.to_string()).join("records.jsonl");
    let read = || fs::read_to_string(&spool).context("the attempt's spool");
    sleep(away / 2).await;
    let half = read()?.len();
    sleep(away / 2).await;
    let spooled = read()?;
    let more = spooled.len() - half;
    ensure!(more > 0 || spooled.contains("\"record\":\"complete\""), "training did not go on\n{}", world.logs());
    Ok(more)
}

async fn end(world: &World, training: &Training, calm: Option<&str>) -> Result<Verdict> {
    world
        .outlast(LIMIT, "the training is done", async || {
            let branch = training.branch(world).await?.context("there is a branch")?;
            Ok((branch.step == training.steps).then_some(()))
        })
        .await?;
    training.done(world).await?;
    let verdict = check(world, training, calm).await?;
    ensure!(verdict.attempts == 1, "the same attempt should have gone on: {verdict:?}");
    Ok(verdict)
}
