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
use anyhow::Result;
use senmon_server::postgres::Cluster;
use std::time::Duration;
use tokio::time::sleep;

/// Answers that are swallowed, by what they answer; the first and the last word of an attempt among them.
const ANSWERS: [&str; 4] = ["/metrics HTTP", "/checkpoints HTTP", "/logs HTTP", "/heartbeat HTTP"];
/// How many of each.
const EACH: u64 = 3;

/// What is dropped is noticed by time-outs of half a minute: only where there is as much patience.
const DROP_FROM: Duration = Duration::from_secs(10);

/// Trains over both proxies and disturbs them in turn. `stall` is how long everything stands still.
///
/// # Errors
/// What does not hold.
pub async fn run(chaos: &mut Chaos, steps: u64, stall: Duration) -> Result<Figures> {
    let mut world = World::empty(WorldOptions { slots: 1, ..WorldOptions::default() })?;
    let cluster = tokio::task::block_in_place(|| Cluster::start(&world.path("cluster"), None))?;
    let to_postgres = Proxy::postgres(&world.path("wire"), cluster.socket())?;
    let to_server = Proxy::tcp("127.0.0.1", world.port()).await?;
    world.options.database_url = Some(to_postgres.url().to_owned());
    world.options.server_url = Some(to_server.url().to_owned());
    world.begin().await?;
    let calm = chaos.calm(&world, steps).await?;

    to_server.swallow("/started HTTP", 1);
    let training = Training::submit(&world, steps).await?;
    training.reaches(&world, 20).await?;
    for word in ANSWERS {
        let before = to_server.swallowed();
        to_server.swallow(word, EACH);
        world
            .outlast(LIMIT, &format!("answers to {word} are swallowed"), async || {
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
