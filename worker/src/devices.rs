//! What this machine offers: slots with their devices, names and memory.
//!
//! Never allocates on a device and never runs a job.

use crate::{config::SlotConfig, slot_faults::SlotFaults};
use anyhow::{Context, Result};
use senmon_engine::gpu;
use senmon_protocol::worker::SlotInfo;
use std::{process::Stdio, time::Duration};
use sysinfo::System;

/// A test that takes longer hangs.
const TEST_MAX: Duration = Duration::from_secs(300);
/// Characters of what a test said that are kept.
const CHARS_MAX: usize = 200;

/// The configured slots as the server is told of them, with those that are set aside.
///
/// # Errors
/// When a slot names a device that is not there.
pub fn slots(config: &[SlotConfig], faults: &SlotFaults) -> Result<Vec<SlotInfo>> {
    let mut system = System::new().map_err(|error| anyhow::anyhow!("read this machine's memory: {error}"))?;
    system.refresh_memory();
    system.refresh_cpu_all();
    let cpu = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).filter(|name| !name.is_empty());
    let on_cpu = config.iter().filter(|slot| slot.device == "cpu").count().max(1) as u64;
    config
        .iter()
        .enumerate()
        .map(|(index, slot)| {
            let (device_name, memory_bytes) = match slot.device.strip_prefix("cuda:") {
                None => (cpu.clone().unwrap_or_else(|| "CPU".into()), system.total_memory() / on_cpu),
                Some(number) => {
                    cuda(number.parse().context("a device number")?).with_context(|| format!("slots[{index}]"))?
                }
            };
            let index = u16::try_from(index).context("slots: too many")?;
            let set_aside = faults.set_aside(index).map(str::to_owned);
            let (device, threads) = (slot.device.clone(), slot.threads);
            Ok(SlotInfo { index, device, device_name, memory_bytes, threads, set_aside })
        })
        .collect()
}

/// Tests the slots whose device failed in the process before, each in a process of its own: a device that fails once more
/// takes nothing with it.
pub async fn examine(faults: &mut SlotFaults) {
    for slot in faults.doubtful() {
        match test(slot).await {
            Ok(()) => tracing::info!(slot, "its device failed, and computes rightly now: it works on"),
            Err(error) => {
                let said = format!("{error:#}");
                tracing::error!(slot, error = said, "its device failed, and fails its test: the slot is set aside");
                let said: String = said.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect();
                faults.failed(&[slot], &said);
            }
        }
    }
}

/// `senmon-worker doctor --only SLOT`, with the settings of this process.
async fn test(slot: u16) -> Result<()> {
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "run");
    let child = tokio::process::Command::new(std::env::current_exe()?)
        .args(arguments)
        .args(["doctor", "--only", &slot.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let done = tokio::time::timeout(TEST_MAX, child).await.context("its test hangs")??;
    let said = String::from_utf8_lossy(&done.stderr);
    let last = said.lines().last().unwrap_or("its test ended without a word").trim_start_matches("senmon-worker: ");
    anyhow::ensure!(done.status.success(), "{last}");
    Ok(())
}

/// Name and memory of an NVIDIA device, from the driver, so that no context is opened for the asking.
fn cuda(number: u16) -> Result<(String, u64)> {
    anyhow::ensure!(
        cfg!(feature = "torch"),
        "device: cuda:{number} needs a worker built with the feature torch; this one runs shard jobs on the cpu"
    );
    let gpu = gpu::cuda(number).context("device")?;
    Ok((gpu.name, gpu.memory_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_slots_share_the_machines_memory() {
        let slot = SlotConfig { device: "cpu".into(), threads: 1 };
        let one = slots(std::slice::from_ref(&slot), &SlotFaults::default()).unwrap();
        let mut faults = SlotFaults::default();
        faults.failed(&[1], "CUDA error: a");
        faults.failed(&[1], "CUDA error: b");
        let two = slots(&[slot.clone(), slot], &faults).unwrap();
        assert_eq!((two[0].set_aside.as_deref(), two[1].set_aside.as_deref()), (None, Some("CUDA error: b")));
        assert_eq!(one[0].memory_bytes / 2, two[1].memory_bytes);
        assert_eq!((two[1].index, two[1].device.as_str()), (1, "cpu"));
    }
}
