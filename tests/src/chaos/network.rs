//! Wires that lie: a proxy between worker and server and another between server and Postgres, which delay, stall, cut,
//! drop, and swallow the answer to what was done.

use super::{
    Chaos, LIMIT,
    checks::check,
    proxy::{Fault, Proxy},
    report::{Figure, Figures},
    training::Training,
};
use crate::{World, WorldOptions};
use anyhow::{Context, Result, ensure};
use reqwest::Method;
use senmon_server::postgres::Cluster;
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::{task::JoinSet, time::sleep};

/// Answers that are swallowed, by what they answer; the first and the last word of an attempt among them.
const ANSWERS: [&str; 4] = ["/metrics HTTP", "/checkpoints HTTP", "/logs HTTP", "/heartbeat HTTP"];
/// How many of each.
const EACH: u64 = 3;

/// What is dropped is noticed by time-outs of half a minute: only where there is as much patience.
const DROP_FROM: Duration = Duration::from_secs(10);

/// Requests at once: more than the server has connections to Postgres.
const AT_ONCE: usize = 40;

/// A world whose server reaches its Postgres over a proxy; nothing but that Postgres runs in it yet.
fn wired() -> Result<(World, Cluster, Proxy)> {
    let mut world = World::empty(WorldOptions { slots: 1, ..WorldOptions::default() })?;
    let cluster = tokio::task::block_in_place(|| Cluster::start(&world.path("cluster"), None))?;
    let to_postgres = Proxy::postgres(&world.path("wire"), cluster.socket())?;
    world.options.database_url = Some(to_postgres.url().to_owned());
    Ok((world, cluster, to_postgres))
}

/// Every connection to Postgres goes dead without a word, more often than the server has connections: each is given up,
/// every request is answered, and training goes on.
///
/// # Errors
/// What does not hold.
pub async fn dead_wires(chaos: &mut Chaos, steps: u64) -> Result<Figures> {
    chaos.long_enough(steps, async |chaos, steps| dead(chaos, steps).await).await
}

async fn dead(chaos: &mut Chaos, steps: u64) -> Result<Figures> {
    let (mut world, cluster, to_postgres) = wired()?;
    world.begin().await?;
    let calm = chaos.calm(&world, steps).await?;
    let training = Training::submit(&world, steps).await?;
    training.reaches(&world, 20).await?;
    // All connections are open and were just used: each goes dead in the middle of a question.
    ask(&world).join_all().await;
    to_postgres.set(Fault::Drop(1));
    let mut asking = ask(&world);
    sleep(Duration::from_secs(1)).await;
    to_postgres.set(Fault::None);
    let began = Instant::now();
    world.outlast(LIMIT, "the server answers again", async || training.branch(&world).await).await?;
    let deaf = began.elapsed();
    let mut refused = 0;
    while let Some(answer) = asking.join_next().await {
        let (status, answer) = answer?.context("a request was never answered")?;
        ensure!(status == 200 || status == 503, "{status} {answer}");
        refused += usize::from(status == 503);
    }
    ensure!(refused > 0, "no connection went dead");
    training.done(&world).await?;
    let verdict = check(&world, &training, calm.as_deref()).await?;
    drop(world);
    tokio::task::block_in_place(|| drop(cluster));
    Ok(vec![
        Figure::count("requests that were told to ask again", refused),
        Figure::of("until the server answered again", deaf),
        Figure::count("attempts", verdict.attempts),
        Figure::count("metric points", verdict.points),
        Figure::zero("lost or doubled metric points"),
    ])
}

fn ask(world: &World) -> JoinSet<Result<(u16, Value)>> {
    let one = |_| {
        let api = world.api.clone();
        async move { api.send::<()>(Method::GET, "/api/v1/experiments", None).await }
    };
    (0..AT_ONCE).map(one).collect()
}

/// Trains over both proxies and disturbs them in turn. `stall` is how long everything stands still.
///
/// # Errors
/// What does not hold.
pub async fn run(chaos: &mut Chaos, steps: u64, stall: Duration) -> Result<Figures> {
    chaos.long_enough(steps, async |chaos, steps| disturbed(chaos, steps, stall).await).await
}

async fn disturbed(chaos: &mut Chaos, steps: u64, stall: Duration) -> Result<Figures> {
    let (mut world, cluster, to_postgres) = wired()?;
    let to_server = Proxy::tcp("127.0.0.1", world.port()).await?;
    world.options.server_url = Some(to_server.url().to_owned());
    world.begin().await?;
    let calm = chaos.calm(&world, steps).await?;

    to_server.swallow("/started HTTP", 1);
    let training = Training::submit(&world, steps).await?;
    training.reaches(&world, 20).await?;
    for word in ANSWERS {
        let before = to_server.swallowed();
        to_server.swallow(word, EACH);
        training
            .meets(&world, &format!("answers to {word} are swallowed"), async || {
                Ok((to_server.swallowed() >= before + EACH).then_some(()))
            })
            .await?;
        to_server.set(Fault::None);
    }
    // Postgres has committed, and the server never hears of it.
    to_postgres.swallow("COMMIT", EACH);
    world
        .outlast(LIMIT, "answers to COMMIT are swallowed", async || Ok((to_postgres.swallowed() >= EACH).then_some(())))
        .await?;
    to_postgres.set(Fault::None);
    for proxy in [&to_server, &to_postgres] {
        proxy.set(Fault::Delay(Duration::from_millis(50)));
        sleep(Duration::from_secs(1)).await;
        proxy.set(Fault::Cut);
        sleep(Duration::from_secs(1)).await;
        if stall >= DROP_FROM {
            proxy.set(Fault::Drop(20));
            sleep(Duration::from_secs(1)).await;
        }
        proxy.set(Fault::Stall);
        sleep(stall).await;
        proxy.set(Fault::None);
    }
    to_server.swallow("/complete HTTP", 2);
    training.done(&world).await?;
    let verdict = check(&world, &training, calm.as_deref()).await?;
    let swallowed = usize::try_from(to_server.swallowed() + to_postgres.swallowed())?;
    drop(world);
    tokio::task::block_in_place(|| drop(cluster));
    Ok(vec![
        Figure::count("answers swallowed after the deed", swallowed),
        Figure::of("longest stall", stall),
        Figure::count("attempts", verdict.attempts),
        Figure::count("metric points", verdict.points),
        Figure::zero("lost or doubled metric points"),
        Figure::count("checkpoints committed, all verified", verdict.checkpoints),
    ])
}
