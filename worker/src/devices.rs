//! What this machine offers: slots with their devices, names and memory.
//!
//! Never allocates on a device and never runs a job.

use crate::config::SlotConfig;
use anyhow::{Context, Result};
use senmon_engine::gpu;
use senmon_protocol::worker::SlotInfo;
use sysinfo::System;

/// The configured slots as the server is told of them.
///
/// # Errors
/// When a slot names a device that is not there.
pub fn slots(config: &[SlotConfig]) -> Result<Vec<SlotInfo>> {
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
            Ok(SlotInfo { index, device: slot.device.clone(), device_name, memory_bytes, threads: slot.threads })
        })
        .collect()
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
        let one = slots(std::slice::from_ref(&slot)).unwrap();
        let two = slots(&[slot.clone(), slot]).unwrap();
        assert_eq!(one[0].memory_bytes / 2, two[1].memory_bytes);
        assert_eq!((two[1].index, two[1].device.as_str()), (1, "cpu"));
    }
}
