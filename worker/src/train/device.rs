//! Devices: `cpu` and `cuda:N`, one binary for both. `libtorch_cuda` is loaded at run time, before anything asks
//! for CUDA.

use crate::gpu;
use std::{ffi::CString, sync::OnceLock, time::Instant};
use tch::{Device, Kind, Tensor};

/// Loads the CUDA half of libtorch, once.
///
/// # Errors
/// A sentence that names what is missing.
#[expect(unsafe_code, reason = "dlopen(3) registers the CUDA hooks; linking the library would need it on every node")]
pub fn load_cuda() -> Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED
        .get_or_init(|| {
            let name = CString::new("libtorch_cuda.so").map_err(|error| error.to_string())?;
            // SAFETY: plain dlopen of a library that is made for it; the handle is kept for ever.
            let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
            if !handle.is_null() {
                return Ok(());
            }
            // SAFETY: dlerror returns a string of this thread, valid until the next call.
            let text = unsafe { std::ffi::CStr::from_ptr(libc::dlerror()) }.to_string_lossy().into_owned();
            Err(format!("libtorch_cuda.so does not load ({text}); SENMON_CUDA=1 scripts/setup-libtorch fetches it"))
        })
        .clone()
}

/// The device of a name.
///
/// # Errors
/// A sentence for unknown names, and for CUDA devices that are not there.
pub fn open(name: &str) -> Result<Device, String> {
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let index = name.strip_prefix("cuda:").and_then(|index| index.parse::<usize>().ok());
    let index = index.ok_or_else(|| format!("device: found {name:?}, expected cpu or cuda:N"))?;
    load_cuda()?;
    if !tch::Cuda::is_available() {
        return Err(format!("device {name}: libtorch_cuda is loaded, but there is no usable GPU or driver"));
    }
    let count = tch::Cuda::device_count();
    if i64::try_from(index).unwrap_or(i64::MAX) >= count {
        return Err(format!("device {name}: this node has {count} CUDA devices"));
    }
    Ok(Device::Cuda(index))
}

/// Host numbers as a tensor on a device; to a GPU through pinned memory, so that the copy does not stop the host.
pub fn upload<T: tch::kind::Element>(values: &[T], device: Device) -> Tensor {
    let tensor = Tensor::from_slice(values);
    match device {
        Device::Cuda(_) => tensor.pin_memory(device).to_device_(device, T::KIND, true, false),
        _ => tensor,
    }
}

/// Memory in use on a GPU, by anyone, and the share of time it worked, as metrics by name; none for a CPU.
#[must_use]
pub fn usage(device: Device) -> Vec<(&'static str, f64)> {
    let Device::Cuda(number) = device else { return Vec::new() };
    let Ok(gpu) = gpu::cuda(u16::try_from(number).unwrap_or(u16::MAX)) else { return Vec::new() };
    #[expect(clippy::cast_precision_loss, reason = "bytes for people")]
    let memory = gpu.used_bytes as f64;
    std::iter::once(("device/memory_bytes", memory))
        .chain(gpu.utilisation.map(|share| ("device/utilisation", share)))
        .collect()
}

/// Floating-point operations per second of a square matrix product here: the peak that utilisation is measured
/// against. Median of five.
#[must_use]
pub fn matmul_peak(device: Device, kind: Kind) -> f64 {
    let n: i64 = if device == Device::Cpu { 512 } else { 4096 };
    let (a, b) = (Tensor::ones([n, n], (kind, device)), Tensor::ones([n, n], (kind, device)));
    let mut seconds: Vec<f64> = (0..6)
        .map(|_| {
            let start = Instant::now();
            let product = a.matmul(&b);
            let _ = product.get(0).get(0).double_value(&[]);
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "a count of operations")]
    let operations = 2.0 * (n * n * n) as f64;
    operations / seconds[2].max(1e-9)
}

/// A matrix product against the same in double precision, for the self-test: the largest relative error.
#[must_use]
pub fn matmul_error(device: Device, kind: Kind) -> f64 {
    let n = 256;
    let values: Vec<f64> = (0..n * n).map(|i| f64::from(i % 97) / 97.0 - 0.5).collect();
    let exact = Tensor::from_slice(&values).view([i64::from(n), i64::from(n)]);
    let found = exact.to_device(device).to_kind(kind);
    let found = found.matmul(&found).to_device(Device::Cpu).to_kind(Kind::Double);
    let expected = exact.matmul(&exact);
    ((&found - &expected).abs().max() / expected.abs().max()).double_value(&[])
}
