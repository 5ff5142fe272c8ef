//! `make chaos`: every scenario once, then kills by chance until the time is over. Prints a table, writes
//! `target/chaos/report.json`, and fails where something did not hold.
//!
//! `CHAOS_MINUTES` (10), `CHAOS_SEED` (by the clock; printed), `CHAOS_ONLY` (a word of a scenario's name),
//! `CHAOS_OUTAGE_MINUTES` (an outage at the shipped lease besides, 15 for the whole promise).

use anyhow::{Context, Result};
use senmon_tests::{
    chaos::{
        Chaos, damage,
        disk::Disk,
        disks::{self, Trouble},
        kills,
        netns::{Lost, Namespace},
        network,
        outages::{self, Outage},
        partitions, recovery,
        report::{Figures, Report, Scenario, Went},
        trials, unmounted, zombies,
    },
    process::repository,
};
use std::{
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Steps of most trainings: some seconds, long enough for what is done to them.
const STEPS: u64 = 1_200;
/// Kills of one round by chance.
const KILLS: usize = 4;
/// How long such a round takes.
const ROUND: Duration = Duration::from_secs(45);
/// Steps a second of a CPU, for an outage of minutes.
const STEPS_PER_SECOND: u64 = 150;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let seed = setting("CHAOS_SEED")?.unwrap_or_else(by_the_clock);
    let minutes = setting("CHAOS_MINUTES")?.unwrap_or(10);
    let outage_minutes: u64 = setting("CHAOS_OUTAGE_MINUTES")?.unwrap_or(0);
    println!("chaos: seed {seed}, about {minutes} minutes (CHAOS_SEED={seed} makes the same choices again)");
    let mut run = Run {
        chaos: Chaos::new(seed),
        report: Report { seed, seconds: 0.0, scenarios: Vec::new() },
        began: Instant::now(),
        only: std::env::var("CHAOS_ONLY").unwrap_or_default(),
    };
    // A scenario that is dropped ends what it started.
    tokio::select! {
        done = all(&mut run, minutes, outage_minutes) => done?,
        _ = tokio::signal::ctrl_c() => println!("chaos: stopped"),
    }
    println!("{}", run.report.table());
    println!(
        "chaos: {} in {:.0} s; the figures are in target/chaos/report.json (seed {seed})",
        word(&run),
        run.report.seconds
    );
    Ok(if run.report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn all(run: &mut Run, minutes: u64, outage_minutes: u64) -> Result<()> {
    every_scenario(run).await?;
    if outage_minutes > 0 {
        let away = Duration::from_secs(outage_minutes * 60);
        let steps = (away.as_secs() + 60) * STEPS_PER_SECOND;
        let outage = Outage { steps, lease: Duration::from_secs(15), away };
        run.scenario("the server is away for long, at the shipped lease", async |chaos| {
            outages::of_the_server(chaos, outage).await
        })
        .await?;
    }
    let until = Duration::from_secs(minutes * 60).saturating_sub(ROUND);
    let mut round = 0;
    while "kills by chance".contains(&run.only) && run.began.elapsed() < until && run.report.held() {
        round += 1;
        run.scenario(&format!("kills by chance, round {round}"), async |chaos| {
            let kills = kills::by_chance(chaos, KILLS);
            kills::run(chaos, &kills).await
        })
        .await?;
    }
    Ok(())
}

async fn every_scenario(run: &mut Run) -> Result<()> {
    let outage = Outage { steps: 2_000, lease: Duration::from_millis(1_200), away: Duration::from_secs(12) };
    run.scenario("damaged checkpoints", async |chaos| damage::run(chaos, 20).await).await?;
    run.scenario("1,000 zombies at the protocol", async |_| trials::run(1_000).await).await?;
    run.scenario("a frozen worker wakes up", async |chaos| zombies::run(chaos, STEPS).await).await?;
    run.scenario("kills", async |chaos| kills::run(chaos, &kills::SHORT).await).await?;
    run.scenario("wires that lie", async |chaos| network::run(chaos, STEPS, Duration::from_secs(30)).await).await?;
    run.scenario("dead wires to Postgres", async |chaos| network::dead_wires(chaos, STEPS).await).await?;
    run.scenario("the server is away", async |chaos| outages::of_the_server(chaos, outage).await).await?;
    run.scenario("Postgres is away", async |chaos| outages::of_the_database(chaos, outage).await).await?;
    match Namespace::missing() {
        Some(why) => run.skip("partitions", why),
        None => {
            let long = [Lost::ToServer, Lost::ToWorker, Lost::Both];
            run.scenario("partitions", async |chaos| partitions::run(chaos, 5 * STEPS, &long).await).await?;
        }
    }
    for trouble in Trouble::ALL {
        match trouble.missing() {
            Some(why) => run.skip(trouble.title(), why),
            None => {
                run.scenario(trouble.title(), async |chaos| disks::of_the_store(chaos, STEPS, trouble).await).await?;
            }
        }
    }
    match Disk::missing() {
        Some(why) => run.skip("the spool's disk is full", why),
        None => run.scenario("the spool's disk is full", async |chaos| disks::of_the_spool(chaos, STEPS).await).await?,
    }
    run.scenario("the store is not mounted", async |chaos| unmounted::run(chaos, 2 * STEPS).await).await?;
    run.scenario("times at the shipped lease", async |chaos| recovery::run(chaos, STEPS).await).await
}

/// A run under way.
struct Run {
    chaos: Chaos,
    report: Report,
    began: Instant,
    only: String,
}

impl Run {
    async fn scenario(&mut self, name: &str, scenario: impl AsyncFnOnce(&mut Chaos) -> Result<Figures>) -> Result<()> {
        if !name.contains(&self.only) {
            return Ok(());
        }
        println!("chaos: {name} …");
        let began = Instant::now();
        let went = match scenario(&mut self.chaos).await {
            Ok(figures) => Went::Held { figures },
            Err(error) => Went::Broke { problem: format!("{error:#}") },
        };
        let scenario = Scenario { name: name.to_owned(), seconds: began.elapsed().as_secs_f64(), went };
        self.keep(scenario);
        self.report.write(&repository().join("target/chaos/report.json"))
    }

    fn skip(&mut self, name: &str, why: &str) {
        self.keep(Scenario { name: name.to_owned(), seconds: 0.0, went: Went::Skipped { why: why.to_owned() } });
    }

    fn keep(&mut self, scenario: Scenario) {
        self.report.scenarios.push(scenario);
        self.report.seconds = self.began.elapsed().as_secs_f64();
    }
}

fn word(run: &Run) -> &'static str {
    if run.report.held() { "everything held" } else { "something did not hold" }
}

/// A number of the environment.
fn setting<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(name: &str) -> Result<Option<T>> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("{name}: found {text:?}, expected a number"))?)),
        Err(_) => Ok(None),
    }
}

fn by_the_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
