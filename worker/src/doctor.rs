//! `senmon-worker doctor`: says what this machine can run, and checks that it computes.
//!
//! Never talks to the server.

use crate::{config::Config, devices, runner};
use anyhow::Result;

/// Prints the findings; fails where a slot cannot work.
///
/// # Errors
/// When a device is missing or computes wrongly.
pub fn run(config: &Config) -> Result<()> {
    println!("senmon-worker {}", env!("CARGO_PKG_VERSION"));
    println!("server      {}", config.server_url);
    println!("state       {}", config.state_dir.display());
    println!(
        "can run     {}",
        runner::capabilities().iter().map(|kind| format!("{kind:?}").to_lowercase()).collect::<Vec<_>>().join(", ")
    );
    for slot in devices::slots(&config.slots)? {
        let gib = slot.memory_bytes >> 30;
        println!(
            "slot {}      {} ({}), {gib} GiB, {} threads",
            slot.index, slot.device, slot.device_name, slot.threads
        );
        check(&slot.device)?;
    }
    Ok(())
}

/// A matrix product on the slot's device against the same in double precision, and how fast it is.
#[cfg(feature = "torch")]
fn check(device: &str) -> Result<()> {
    use crate::train::device::{matmul_error, matmul_peak, open};
    let opened = open(device).map_err(anyhow::Error::msg)?;
    // A product of 256 terms in fp32 errs by less than 1e-5; more means a broken device or library.
    let error = matmul_error(opened, tch::Kind::Float);
    anyhow::ensure!(error < 1e-3, "{device}: a matrix product errs by {error:.1e}, expected less than 1e-3");
    let peak = matmul_peak(opened, tch::Kind::Float) / 1e9;
    println!("            libtorch computes there: error {error:.0e}, {peak:.1} GFLOP/s in fp32");
    Ok(())
}

#[cfg(not(feature = "torch"))]
#[expect(clippy::unnecessary_wraps, reason = "the other build can fail")]
fn check(_device: &str) -> Result<()> {
    println!("            built without libtorch: shard jobs only");
    Ok(())
}
