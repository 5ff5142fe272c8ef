//! `senmon-worker doctor`: says what this machine has, what was loaded and what runs, and checks that it computes.
//!
//! Never talks to the server.

use crate::{config::Config, devices, runner, slot_faults::SlotFaults, telemetry::say};
use anyhow::{Result, ensure};
use senmon_engine::gpu;
use senmon_protocol::worker::SlotInfo;
use std::fmt::Display;

/// Prints the findings; fails where a slot cannot work.
///
/// # Errors
/// When a device is missing or computes wrongly; what is well is printed all the same.
pub fn run(config: &Config, only: Option<u16>) -> Result<()> {
    line("worker", format_args!("senmon-worker {}", env!("CARGO_PKG_VERSION")));
    line("server", &config.server_url);
    line("state", config.state_dir.display());
    let kinds: Vec<_> = runner::capabilities().iter().map(|kind| format!("{kind:?}").to_lowercase()).collect();
    line("jobs", kinds.join(", "));
    libraries(config);
    match gpu::driver_version() {
        Ok(version) => line("driver", format_args!("NVIDIA {version}")),
        Err(error) => line("driver", format_args!("{error:#}")),
    }
    let slots: Vec<usize> = match only.map(usize::from) {
        Some(slot) => {
            let all = config.slots.len();
            ensure!(slot < all, "--only: found slot {slot}, this worker has 0 to {}", all.saturating_sub(1));
            vec![slot]
        }
        None => (0..config.slots.len()).collect(),
    };
    let ill: Vec<String> = slots
        .iter()
        .copied()
        .filter_map(|index| {
            let report = slot(config, index);
            report.err().map(|error| {
                line("", format_args!("✕ {error:#}"));
                format!("slot {index}: {error:#}")
            })
        })
        .collect();
    ensure!(ill.is_empty(), "{} of {} slots cannot work: {}", ill.len(), slots.len(), ill.join("; "));
    match only {
        Some(slot) => say(format_args!("slot {slot} works")),
        None => say(format_args!("all {} slots work", slots.len())),
    }
    Ok(())
}

fn line(name: &str, value: impl Display) {
    say(format_args!("{name:<9}{value}"));
}

fn slot(config: &Config, index: usize) -> Result<()> {
    let name = format!("slot {index}");
    let offered = devices::slots(&config.slots[index..=index], &SlotFaults::default())
        .inspect_err(|_| line(&name, &config.slots[index].device))?;
    for SlotInfo { device, device_name, memory_bytes, threads, .. } in offered {
        line(&name, format_args!("{device} ({device_name}), {} GiB, {threads} threads", memory_bytes >> 30));
        check(&device, threads, config.tf32)?;
    }
    Ok(())
}

/// What the linker found.
#[cfg(feature = "torch")]
fn libraries(config: &Config) {
    use senmon_engine::device::load_cuda;
    let cuda = load_cuda();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let path = |library: &str| {
        maps.lines().find_map(|line| line.find('/').map(|at| &line[at..]).filter(|p| p.contains(library)))
    };
    line("libtorch", path("/libtorch_cpu").unwrap_or("linked statically"));
    match cuda {
        Ok(()) => {
            line("cuda", path("/libtorch_cuda").unwrap_or("loaded"));
            line("tf32", if config.tf32 { "on: fp32 products are rounded to 10 bits" } else { "off" });
        }
        Err(error) => line("cuda", error),
    }
    line("kernels", format_args!("{} of base, v3 (AVX2), v4 (AVX-512)", senmon_kernels::level()));
}

#[cfg(not(feature = "torch"))]
fn libraries(_config: &Config) {
    line("libtorch", "built without: shard jobs only");
}

/// The self-test on one device, and how fast its matrix products are.
#[cfg(feature = "torch")]
fn check(device: &str, threads: u16, tf32: bool) -> Result<()> {
    use senmon_engine::{
        device::{matmul_peak, open},
        selftest,
    };
    tch::set_num_threads(threads.into());
    let opened = open(device).map_err(anyhow::Error::msg)?;
    let findings = selftest::run(opened, tf32);
    for finding in &findings {
        let sign = if finding.is_well() { "✓" } else { "✕" };
        let text =
            format!("{sign} {:<24} error {:.1e}, at most {:.0e}", finding.check, finding.error, finding.error_max);
        line("", text);
    }
    for (kind, name) in [(tch::Kind::Float, "fp32"), (tch::Kind::BFloat16, "bf16")] {
        line("", format_args!("{name} products at {:.1} GFLOP/s", matmul_peak(opened, kind) / 1e9));
    }
    if opened != tch::Device::Cpu {
        card(opened)?;
    }
    let ill: Vec<_> = findings.iter().filter(|finding| !finding.is_well()).map(|f| f.check.as_str()).collect();
    ensure!(ill.is_empty(), "{device} computes wrongly: {}; do not train on it", ill.join(", "));
    Ok(())
}

/// The kernels of the fused pass on a card, against autograd and against the clock, at the shapes of a billion parameters.
#[cfg(feature = "torch")]
fn card(device: tch::Device) -> Result<()> {
    use senmon_engine::cuda::{Machine, compile, proof, speed};
    let spec = serde_json::from_value(serde_json::json!({
        "vocab_size": 32768, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 4096
    }))?;
    if let Some(cache) = compile::cache_folder() {
        line("", format_args!("compiled kernels are kept in {}", cache.display()));
    }
    let machine = Machine::of_card(device, tch::Kind::BFloat16, &spec).map_err(anyhow::Error::msg)?;
    for found in proof::kernels(&machine, 2048) {
        let sign = if found.is_well() { "✓" } else { "✕" };
        let name = format!("kernel {}", found.kernel.name());
        line("", format_args!("{sign} {name:<28} error {:.1e}, at most {:.0e}", found.error, found.error_max));
    }
    proof::check(&machine, &spec).map_err(anyhow::Error::msg)?;
    line("", "✓ the fused pass against autograd");
    for found in speed::measure(&machine, &spec, 4, 2048) {
        line("", found.text());
    }
    Ok(())
}

#[cfg(not(feature = "torch"))]
#[expect(clippy::unnecessary_wraps, reason = "the other build can fail")]
fn check(_device: &str, _threads: u16, _tf32: bool) -> Result<()> {
    Ok(())
}
