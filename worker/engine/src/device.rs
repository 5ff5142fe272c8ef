//! Devices: `cpu` and `cuda:N`, one binary for both. `libtorch_cuda` is loaded at run time, before anything asks
//! for CUDA.

use super::cuda::driver::Card;
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

/// Host numbers as a tensor on a device. CUDA takes them into memory of its own before this returns; the fused pass,
/// which must not wait for that, has pinned memory that it keeps.
pub fn upload<T: tch::kind::Element>(values: &[T], device: Device) -> Tensor {
    let tensor = Tensor::from_slice(values);
    match device {
        Device::Cuda(_) => tensor.to_device_(device, T::KIND, true, false),
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
/// against. Random numbers, since a card computes faster with equal ones; warmed, since its clock rests before; by the
/// card's own clock. Median of a few.
#[must_use]
pub fn matmul_peak(device: Device, kind: Kind) -> f64 {
    let card = match device {
        Device::Cuda(index) => Card::open(index).ok(),
        _ => None,
    };
    let (n, warm, runs): (i64, usize, usize) = if device == Device::Cpu { (512, 1, 5) } else { (8192, 10, 7) };
    let random = || Tensor::randn([n, n], (Kind::Float, device)).to_kind(kind);
    let (a, b, product) = (random(), random(), random());
    let multiply = || drop(a.mm_out(&product, &b));
    for _ in 0..warm {
        multiply();
    }
    let by_host = || {
        let start = Instant::now();
        multiply();
        let _ = product.get(0).get(0).double_value(&[]);
        start.elapsed().as_secs_f64()
    };
    let mut seconds: Vec<f64> =
        (0..runs).map(|_| card.as_ref().map_or_else(by_host, |card| card.seconds(multiply))).collect();
    seconds.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "a count of operations")]
    let operations = 2.0 * (n * n * n) as f64;
    operations / seconds[runs / 2].max(1e-9)
}

/// Dense bf16 operations per second of cards by the maker's data sheets, by a part of the name that the driver gives.
const DATA_SHEETS: [(&str, f64); 10] = [
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H200", 989e12),
    ("GH200", 989e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
];

/// What the data sheet says of a card's matrix products in bf16; None for fp32, for a CPU and for cards not listed.
#[must_use]
pub fn data_sheet_peak(device: Device, kind: Kind) -> Option<f64> {
    let Device::Cuda(number) = device else { return None };
    let name = gpu::cuda(u16::try_from(number).ok()?).ok().filter(|_| kind == Kind::BFloat16)?.name;
    DATA_SHEETS.iter().find(|(part, _)| name.contains(part)).map(|(_, peak)| *peak)
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
