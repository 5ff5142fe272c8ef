//! Figures: percentiles, CPU and memory of processes, and the report as a table and as JSON.

use super::Size;
use crate::World;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::fs;

/// Durations in milliseconds.
#[derive(Debug, Default)]
pub struct Times(Vec<f64>);

impl Times {
    /// One more.
    pub fn push(&mut self, ms: f64) {
        self.0.push(ms);
    }

    /// Those of another too.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Half are shorter.
    pub fn p50(&self) -> f64 {
        self.quantile(0.5)
    }

    /// 95 of 100 are shorter.
    pub fn p95(&self) -> f64 {
        self.quantile(0.95)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank")]
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
}

/// CPU time.
#[derive(Debug, Clone, Copy)]
pub struct Cpu(f64);

impl Cpu {
    /// Seconds per thousand of something: a figure that neighbours on the machine do not change much.
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    pub fn per_thousand(self, count: usize) -> f64 {
        self.0 * 1000.0 / count.max(1) as f64
    }
}

/// What server and Postgres used until now.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// The server's.
    pub server_cpu: Cpu,
    /// Postgres's, all its processes together.
    pub postgres_cpu: Cpu,
    /// Most memory that the server ever held.
    pub server_rss_mib_max: f64,
}

impl Usage {
    /// Reads /proc.
    ///
    /// # Errors
    /// When the server does not run.
    pub fn of(world: &World) -> Result<Self> {
        let server = world.server.as_ref().context("the server runs")?.id();
        let (postmaster, _) = world.postmaster()?;
        let status = fs::read_to_string(format!("/proc/{server}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        let kib: f64 = peak.trim().trim_end_matches("kB").trim().parse()?;
        let mut postgres = cpu(postmaster, true)?;
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let parent = fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| field(&stat, 1));
            if parent == Some(f64::from(postmaster)) {
                postgres += cpu(pid, false).unwrap_or(0.0);
            }
        }
        Ok(Self { server_cpu: Cpu(cpu(server, false)?), postgres_cpu: Cpu(postgres), server_rss_mib_max: kib / 1024.0 })
    }

    /// What was used since; the memory is the most ever.
    pub fn since(self, before: &Self) -> Self {
        Self {
            server_cpu: Cpu(self.server_cpu.0 - before.server_cpu.0),
            postgres_cpu: Cpu(self.postgres_cpu.0 - before.postgres_cpu.0),
            ..self
        }
    }
}

/// Field of /proc/pid/stat, counted from the state on.
fn field(stat: &str, index: usize) -> Option<f64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(index)?.parse().ok()
}

/// CPU seconds of a process, with those of its children that ended.
fn cpu(pid: u32, ended_children: bool) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = if ended_children { 11..15 } else { 11..13 };
    // Linux counts in hundredths of a second.
    Ok(fields.filter_map(|index| field(&stat, index)).sum::<f64>() / 100.0)
}

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// Less than.
    Below(f64),
    /// No less than.
    AtLeast(f64),
    /// For information.
    None,
}

/// All figures.
#[derive(Debug)]
pub struct Report {
    figures: Map<String, Value>,
    about: Value,
}

impl Report {
    pub(super) fn new(size: &Size, prepared_seconds: f64, postgres: &str) -> Result<Self> {
        let memory = fs::read_to_string("/proc/meminfo")?;
        let about = json!({
            "machine": {
                "cores": std::thread::available_parallelism()?.get(),
                "memory": memory.lines().next().unwrap_or_default().trim_start_matches("MemTotal:").trim(),
                "postgres": postgres,
                "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
            },
            "size": {
                "workers": size.workers, "branches": size.branches, "points": size.points, "curve_points": size.curve_points,
                "batch_steps": size.batch_steps, "seconds": size.seconds,
            },
            "prepared_seconds": prepared_seconds,
            "note": "load generator, server and Postgres share the machine; stored points were written as chunks, and all branches but the long curve share theirs; a point is a step with all its metrics",
        });
        Ok(Self { figures: Map::new(), about })
    }

    pub(super) fn add(&mut self, name: &str, value: f64, goal: Goal) {
        let (goal, met) = match goal {
            Goal::Below(most) => (json!(format!("< {most}")), json!(value < most)),
            Goal::AtLeast(least) => (json!(format!(">= {least}")), json!(value >= least)),
            Goal::None => (Value::Null, Value::Null),
        };
        self.figures.insert(name.to_owned(), json!({ "value": value, "goal": goal, "met": met }));
    }

    pub(super) fn count(&mut self, name: &str, value: usize) {
        self.figures.insert(name.to_owned(), json!({ "value": value }));
    }

    /// A figure by its name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        self.figures.get(name)?["value"].as_f64()
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({ "about": self.about, "figures": self.figures })
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let line = |(name, figure): (&String, &Value)| {
            let goal = figure["goal"].as_str().unwrap_or_default();
            let met = figure["met"].as_bool().map_or("", |met| if met { "met" } else { "MISSED" });
            format!("{name:<40} {:>14.3}  {goal:<10} {met}", figure["value"].as_f64().unwrap_or(f64::NAN))
        };
        let lines: Vec<_> = self.figures.iter().map(line).collect();
        format!("{}\n{}", lines.join("\n"), self.about["machine"])
    }
}
