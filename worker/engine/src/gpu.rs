//! NVIDIA devices as the driver sees them (NVML): names, memory, use. Opens no CUDA context and takes no device memory.
//!
//! CUDA counts the devices that `CUDA_VISIBLE_DEVICES` leaves, NVML counts all of them: `visible` maps the numbers.

use crate::lock::lock;
use anyhow::{Context, Result, anyhow};
use nvml_wrapper::{
    Device, Nvml,
    bitmasks::{device::ThrottleReasons, event::EventTypes},
    enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor},
    enums::event::XidError,
    error::NvmlError,
};
use std::{
    collections::HashMap,
    sync::{Mutex, OnceLock},
};

/// How long the driver is listened to at once.
const WAIT_MS: u32 = 60_000;

/// One device, now.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    /// The maker's name.
    pub name: String,
    /// Bytes in all.
    pub memory_bytes: u64,
    /// Bytes in use, by anyone.
    pub used_bytes: u64,
    /// Share of the last sample period in which a kernel ran, 0 to 1; None where the driver does not say (MIG).
    pub utilisation: Option<f64>,
    /// Temperature in degrees Celsius, where the driver says.
    pub celsius: Option<f64>,
    /// Power in watts, where the driver says.
    pub watts: Option<f64>,
    /// Whether heat or power holds its clocks back, where the driver says.
    pub throttled: Option<bool>,
    /// Errors of its memory that could not be corrected since the driver was loaded, where it has such memory.
    pub ecc_uncorrected: Option<u64>,
}

/// The driver, loaded once. Err says why there is none.
fn nvml() -> Result<&'static Nvml> {
    static NVML: OnceLock<Result<Nvml, String>> = OnceLock::new();
    let loaded = NVML.get_or_init(|| Nvml::init().map_err(|error| error.to_string()));
    loaded.as_ref().map_err(|error| anyhow!("no NVIDIA driver answers ({error})"))
}

/// Version of the driver.
///
/// # Errors
/// When there is none.
pub fn driver_version() -> Result<String> {
    Ok(nvml()?.sys_driver_version()?)
}

/// The device that CUDA calls `cuda:number`.
///
/// # Errors
/// When there is no driver or no such device.
pub fn cuda(number: u16) -> Result<Gpu> {
    let device = device(number)?;
    let memory = device.memory_info()?;
    Ok(Gpu {
        name: device.name()?,
        memory_bytes: memory.total,
        used_bytes: memory.used,
        utilisation: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
        celsius: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
        watts: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0),
        throttled: device.current_throttle_reasons().ok().map(|reasons| reasons.intersects(HELD_BACK)),
        ecc_uncorrected: device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile).ok(),
    })
}

/// Clocks are held back for a reason that a healthy machine does not have.
const HELD_BACK: ThrottleReasons = ThrottleReasons::HW_SLOWDOWN
    .union(ThrottleReasons::SW_THERMAL_SLOWDOWN)
    .union(ThrottleReasons::HW_THERMAL_SLOWDOWN)
    .union(ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN);

/// Grave errors that the driver told of and nobody asked for yet, by the device's UUID.
static XIDS: OnceLock<Mutex<HashMap<String, u32>>> = OnceLock::new();

/// The last grave error of a device that its driver told of since the last call (an Xid). The driver is listened to from
/// the first call on.
#[must_use]
pub fn xid(number: u16) -> Option<u32> {
    let told = XIDS.get_or_init(|| {
        let listening = std::thread::Builder::new().name("driver".into()).spawn(|| {
            if let Err(error) = listen() {
                tracing::debug!(error = format!("{error:#}"), "the driver does not tell of errors");
            }
        });
        if let Err(error) = listening {
            tracing::debug!(%error, "the driver's errors are not listened to");
        }
        Mutex::default()
    });
    lock(told).remove(&device(number).ok()?.uuid().ok()?)
}

/// Listens for as long as the driver tells.
fn listen() -> Result<()> {
    let nvml = nvml()?;
    let mut set = nvml.create_event_set()?;
    for index in 0..nvml.device_count()? {
        set = nvml.device_by_index(index)?.register_events(EventTypes::CRITICAL_XID_ERROR, set)?;
    }
    loop {
        let event = match set.wait(WAIT_MS) {
            Ok(event) => event,
            Err(NvmlError::Timeout) => continue,
            Err(error) => return Err(error.into()),
        };
        if let (Some(XidError::Value(code)), Some(told)) = (event.event_data, XIDS.get()) {
            let (uuid, code) = (event.device.uuid()?, u32::try_from(code).unwrap_or(u32::MAX));
            tracing::error!(device = uuid, code, "the driver tells of a grave error (Xid)");
            lock(told).insert(uuid, code);
        }
    }
}

fn device(number: u16) -> Result<Device<'static>> {
    let nvml = nvml()?;
    let count = nvml.device_count()?;
    let uuids: Vec<String> = (0..count)
        .map(|index| nvml.device_by_index(index)?.uuid())
        .collect::<Result<_, _>>()
        .context("list devices")?;
    let list = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let visible = visible(list.as_deref(), &uuids);
    let found = visible.get(usize::from(number)).with_context(|| {
        let of = list.map_or(String::new(), |list| format!(" (CUDA_VISIBLE_DEVICES={list})"));
        format!("found cuda:{number}, this machine offers {}{of}; cuda:0 is the first", visible.len())
    })?;
    Ok(match found {
        Visible::Index(index) => nvml.device_by_index(u32::try_from(*index)?)?,
        Visible::Mig(uuid) => nvml.device_by_uuid(uuid.as_str())?,
    })
}

/// A device as NVML finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Visible {
    /// By number, in the order of the bus.
    Index(usize),
    /// A slice of a device, by its name.
    Mig(String),
}

/// CUDA's devices in CUDA's order, for all devices' UUIDs in the order of the bus. As CUDA does (CUDA C++ Programming
/// Guide, environment variables): numbers or beginnings of UUIDs, and what follows the first that is unknown or
/// named twice does not count.
fn visible(list: Option<&str>, uuids: &[String]) -> Vec<Visible> {
    let Some(list) = list else { return (0..uuids.len()).map(Visible::Index).collect() };
    let mut found = Vec::new();
    for entry in list.split(',').map(str::trim) {
        let index = match entry.parse::<usize>() {
            Ok(index) => Some(index).filter(|index| *index < uuids.len()),
            Err(_) if entry.starts_with("MIG-") => {
                found.push(Visible::Mig(entry.to_owned()));
                continue;
            }
            Err(_) if entry.starts_with("GPU-") => uuids.iter().position(|uuid| uuid.starts_with(entry)),
            Err(_) => None,
        };
        let next = index.map(Visible::Index).filter(|next| !found.contains(next));
        let Some(next) = next else { break };
        found.push(next);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_visible_devices_are_counted_as_cuda_counts() {
        let uuids = ["GPU-aa11", "GPU-ab22", "GPU-cc33"].map(str::to_owned);
        let indices = |list: Option<&str>| -> Vec<usize> {
            let index = |found| match found {
                Visible::Index(index) => index,
                Visible::Mig(_) => usize::MAX,
            };
            visible(list, &uuids).into_iter().map(index).collect()
        };
        assert_eq!(indices(None), [0, 1, 2]);
        assert_eq!(indices(Some("2,0")), [2, 0]);
        assert_eq!(indices(Some("GPU-cc, 1")), [2, 1]);
        assert_eq!(indices(Some("1,7,0")), [1], "what follows an unknown one does not count");
        assert_eq!(indices(Some("1,1")), [1]);
        assert_eq!(indices(Some("")), [0; 0]);
        assert_eq!(indices(Some("-1")), [0; 0]);
        assert_eq!(indices(Some("MIG-5,0")), [usize::MAX, 0]);
    }

    #[test]
    fn without_a_driver_the_error_says_so() {
        if let Err(error) = cuda(0) {
            assert!(format!("{error:#}").contains("NVIDIA driver"), "{error:#}");
        }
    }
}
