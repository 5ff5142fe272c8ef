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

/// A matrix product with a known result on the slot's device.
#[cfg(feature = "torch")]
fn check(device: &str) -> Result<()> {
    use anyhow::{Context as _, bail};
    let tch_device = match device.strip_prefix("cuda:") {
        None => tch::Device::Cpu,
        Some(number) => tch::Device::Cuda(number.parse()?),
    };
    let n = 512;
    let start = std::time::Instant::now();
    let ones_nn =
        tch::Tensor::f_ones([n, n], (tch::Kind::Float, tch_device)).with_context(|| format!("allocate on {device}"))?;
    let sum = f64::try_from(ones_nn.f_matmul(&ones_nn)?.f_sum(tch::Kind::Double)?)?;
    let expect = (n * n * n) as f64;
    if sum != expect {
        bail!("{device}: a product of ones sums to {sum}, expected {expect}");
    }
    println!("            libtorch computes there: 512 × 512 product in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

#[cfg(not(feature = "torch"))]
#[expect(clippy::unnecessary_wraps, reason = "the other build can fail")]
fn check(_device: &str) -> Result<()> {
    println!("            built without libtorch: shard jobs only");
    Ok(())
}
