//! How this machine and its devices are: looked at every few seconds, told once a minute as means.
//!
//! Nothing waits for it: what the server does not take is forgotten.

use crate::{
    board::Board,
    client::{CallError, Client},
};
use senmon_engine::gpu;
use senmon_protocol::{
    readings::{DeviceReading, Readings},
    worker::SlotInfo,
};
use std::{fs, sync::Arc, time::Duration, time::Instant};
use sysinfo::System;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(10);
/// An older server knows no readings; after so long it may be a newer one.
const UNKNOWN: Duration = Duration::from_secs(1800);
/// Looks of a minute.
const LOOKS: usize = 6;

/// Numbers of the NVIDIA devices that slots have, each once.
#[must_use]
pub fn devices(slots: &[SlotInfo]) -> Vec<u16> {
    let mut numbers: Vec<u16> =
        slots.iter().filter_map(|slot| slot.device.strip_prefix("cuda:")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Looks and tells until its task ends.
pub async fn tell_for_ever(client: Client, board: Arc<Board>, devices: Vec<u16>) {
    let mut watch = Watch { system: System::new().ok(), devices, before: None };
    loop {
        let mut looks = Vec::with_capacity(LOOKS);
        for _ in 0..LOOKS {
            tokio::time::sleep(LOOK).await;
            // The driver may take its time; training and polls go on.
            let looked = tokio::task::spawn_blocking(move || {
                let look = watch.look();
                (watch, look)
            });
            let Ok((same, look)) = looked.await else { return };
            watch = same;
            looks.push(look);
        }
        let Some(session) = board.session() else { continue };
        let readings = Readings { session: session.session, ..mean(&looks) };
        match client.readings(session.worker_id, &readings).await {
            Err(CallError::Refused(problem)) if problem.status == 404 || problem.status == 405 => {
                tracing::debug!("this server keeps no readings");
                tokio::time::sleep(UNKNOWN).await;
            }
            Err(error) => tracing::debug!(%error, "the server took no readings"),
            Ok(()) => {}
        }
    }
}

struct Watch {
    /// None where the system does not tell.
    system: Option<System>,
    devices: Vec<u16>,
    before: Option<(Instant, Counters)>,
}

impl Watch {
    fn look(&mut self) -> Readings {
        let mut found = Readings::default();
        if let Some(system) = &mut self.system {
            system.refresh_memory();
            system.refresh_cpu_usage();
            found.cpu_share = Some((f64::from(system.global_cpu_usage()) / 100.0).clamp(0.0, 1.0));
            found.memory_used_bytes = Some(float(system.used_memory()));
            found.memory_bytes = Some(float(system.total_memory()));
        }
        let (now, counters) = (Instant::now(), Counters::now());
        if let Some((then, before)) = self.before.replace((now, counters)) {
            let seconds = now.duration_since(then).as_secs_f64().max(1e-3);
            // A counter that began anew says nothing of the time between.
            let rate =
                |now: Option<u64>, before: Option<u64>| Some(float(now?.checked_sub(before?)?)).map(|of| of / seconds);
            found.received_bytes_per_second = rate(counters.received, before.received);
            found.sent_bytes_per_second = rate(counters.sent, before.sent);
            found.read_bytes_per_second = rate(counters.read, before.read);
            found.written_bytes_per_second = rate(counters.written, before.written);
        }
        found.devices = self.devices.iter().filter_map(|number| device(*number)).collect();
        found
    }
}

fn device(number: u16) -> Option<DeviceReading> {
    let gpu = gpu::cuda(number).ok()?;
    Some(DeviceReading {
        device: format!("cuda:{number}"),
        utilisation: gpu.utilisation.map(|share| share.clamp(0.0, 1.0)),
        memory_used_bytes: Some(float(gpu.used_bytes)),
        memory_bytes: Some(float(gpu.memory_bytes)),
        celsius: gpu.celsius,
        watts: gpu.watts,
        throttled: gpu.throttled.map(|held| f64::from(u8::from(held))),
        ecc_uncorrected: gpu.ecc_uncorrected.map(float),
        xid: gpu::xid(number),
    })
}

/// Bytes since the machine's start, as Linux counts them; None where nothing counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counters {
    received: Option<u64>,
    sent: Option<u64>,
    read: Option<u64>,
    written: Option<u64>,
}

impl Counters {
    fn now() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (received, sent) = networks(&read("/proc/net/dev")).unzip();
        // What /sys/block lists are whole disks; partitions and what lies on disks would count twice.
        let is_disk = |name: &str| {
            !["loop", "ram", "dm-", "md", "zram"].iter().any(|kind| name.starts_with(kind))
                && fs::exists(format!("/sys/block/{name}")).unwrap_or(false)
        };
        let (read, written) = disks(&read("/proc/diskstats"), is_disk).unzip();
        Self { received, sent, read, written }
    }
}

/// Bytes received and sent by all interfaces but the loopback, from the text of /proc/net/dev.
fn networks(text: &str) -> Option<(u64, u64)> {
    let lines = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    let counted = lines.filter_map(|(_, rest)| {
        let fields: Vec<u64> = rest.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        Some((*fields.first()?, *fields.get(8)?))
    });
    counted.reduce(|sum, one| (sum.0.saturating_add(one.0), sum.1.saturating_add(one.1)))
}

/// Bytes of a sector as /proc/diskstats counts them, whatever the disk's are.
const SECTOR: u64 = 512;

/// Bytes read and written by disks, from the text of /proc/diskstats.
fn disks(text: &str, is_disk: impl Fn(&str) -> bool) -> Option<(u64, u64)> {
    let counted = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let sectors = |at: usize| fields.get(at)?.parse::<u64>().ok();
        is_disk(fields.get(2).copied()?).then_some((sectors(5)? * SECTOR, sectors(9)? * SECTOR))
    });
    counted.reduce(|sum, one| (sum.0.saturating_add(one.0), sum.1.saturating_add(one.1)))
}

#[expect(clippy::cast_precision_loss, reason = "drawn, not counted")]
fn float(count: u64) -> f64 {
    count as f64
}

/// The mean of some looks, each figure over the looks that have it.
fn mean(looks: &[Readings]) -> Readings {
    fn over<T>(all: &[T], of: impl Fn(&T) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = all.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / float(values.len() as u64))
    }
    let last: &[DeviceReading] = looks.last().map_or(&[], |look| look.devices.as_slice());
    let names: Vec<&str> = last.iter().map(|device| device.device.as_str()).collect();
    let devices = names.into_iter().map(|name| {
        let own: Vec<&DeviceReading> =
            looks.iter().flat_map(|look| &look.devices).filter(|device| device.device == name).collect();
        DeviceReading {
            device: name.to_owned(),
            utilisation: over(&own, |device| device.utilisation),
            memory_used_bytes: over(&own, |device| device.memory_used_bytes),
            memory_bytes: over(&own, |device| device.memory_bytes),
            celsius: over(&own, |device| device.celsius),
            watts: over(&own, |device| device.watts),
            throttled: over(&own, |device| device.throttled),
            ecc_uncorrected: own.iter().filter_map(|device| device.ecc_uncorrected).reduce(f64::max),
            xid: own.iter().rev().find_map(|device| device.xid),
        }
    });
    Readings {
        session: 0,
        cpu_share: over(looks, |look| look.cpu_share),
        memory_used_bytes: over(looks, |look| look.memory_used_bytes),
        memory_bytes: over(looks, |look| look.memory_bytes),
        received_bytes_per_second: over(looks, |look| look.received_bytes_per_second),
        sent_bytes_per_second: over(looks, |look| look.sent_bytes_per_second),
        read_bytes_per_second: over(looks, |look| look.read_bytes_per_second),
        written_bytes_per_second: over(looks, |look| look.written_bytes_per_second),
        devices: devices.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_traffic_and_parts_of_disks_are_not_counted() {
        let text = "Inter-|   Receive                        |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets\n\
                    lo: 900 1 0 0 0 0 0 0 900 1 0 0 0 0 0 0\n  eth0: 100 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n  eth1:5 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n";
        assert_eq!(networks(text), Some((105, 27)));
        assert_eq!(networks(""), None);
        let text = "   8 0 sda 10 0 4 0 5 0 6 0 0 0 0\n   8 1 sda1 10 0 4 0 5 0 6 0 0 0 0\n   7 0 loop0 1 0 9 0 1 0 9 0 0 0 0\n";
        assert_eq!(disks(text, |name| name == "sda"), Some((2048, 3072)));
    }

    #[test]
    fn a_minute_is_the_mean_of_what_was_seen_in_it() {
        let look = |share: Option<f64>, celsius: Option<f64>| Readings {
            cpu_share: share,
            devices: vec![DeviceReading { device: "cuda:0".into(), celsius, ..DeviceReading::default() }],
            ..Readings::default()
        };
        let seen = mean(&[look(Some(0.5), None), look(None, Some(60.0)), look(Some(1.0), Some(70.0))]);
        assert_eq!((seen.cpu_share, seen.memory_bytes, seen.devices[0].celsius), (Some(0.75), None, Some(65.0)));
        assert_eq!(mean(&[]), Readings::default());
    }

    #[test]
    fn a_device_of_two_slots_is_looked_at_once() {
        let slot = |device: &str| SlotInfo {
            index: 0,
            device: device.into(),
            device_name: String::new(),
            memory_bytes: 0,
            threads: 1,
            set_aside: None,
        };
        assert_eq!(devices(&[slot("cuda:1"), slot("cpu"), slot("cuda:0"), slot("cuda:1")]), [0, 1]);
    }
}
