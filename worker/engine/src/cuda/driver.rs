//! A card through the driver's own interface, opened at run time: kernels, pinned memory, events. Works in the context
//! and on the stream that libtorch uses on it.

#![expect(unsafe_code, reason = "calls into the NVIDIA driver")]

use super::library::Library;
use senmon_kernels::device::{Grid, Kernel};
use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    path::PathBuf,
    ptr::null_mut,
};

type Handle = *mut c_void;
type Launch = unsafe extern "C" fn(
    Handle,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    Handle,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;

/// The driver's functions that are used.
struct Driver {
    error_text: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
    context_set: unsafe extern "C" fn(Handle) -> c_int,
    attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int,
    module_load: unsafe extern "C" fn(*mut Handle, *const c_void) -> c_int,
    module_function: unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> c_int,
    launch: Launch,
    host_alloc: unsafe extern "C" fn(*mut *mut c_void, usize, c_uint) -> c_int,
    host_free: unsafe extern "C" fn(*mut c_void) -> c_int,
    to_device: unsafe extern "C" fn(u64, *const c_void, usize, Handle) -> c_int,
    to_host: unsafe extern "C" fn(*mut c_void, u64, usize, Handle) -> c_int,
    stream_synchronize: unsafe extern "C" fn(Handle) -> c_int,
    event_create: unsafe extern "C" fn(*mut Handle, c_uint) -> c_int,
    event_record: unsafe extern "C" fn(Handle, Handle) -> c_int,
    event_synchronize: unsafe extern "C" fn(Handle) -> c_int,
    event_elapsed: unsafe extern "C" fn(*mut f32, Handle, Handle) -> c_int,
    event_destroy: unsafe extern "C" fn(Handle) -> c_int,
    memory: unsafe extern "C" fn(*mut usize, *mut usize) -> c_int,
}

/// A card, ready to run kernels.
pub struct Card {
    driver: Driver,
    context: Handle,
    stream: Handle,
    functions: BTreeMap<Kernel, Handle>,
    /// Compute capability, 90 for 9.0.
    pub capability: u32,
    /// Multiprocessors.
    pub processors: i64,
}

// SAFETY: handles of the driver may be used by any thread that has set the context, which `enter` does.
unsafe impl Send for Card {}
// SAFETY: as above; nothing here changes after `load`.
unsafe impl Sync for Card {}

/// Host memory that the card reads without a copy between; kept by its owner from step to step.
pub struct Pinned {
    at: *mut c_void,
    bytes: usize,
    free: unsafe extern "C" fn(*mut c_void) -> c_int,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}

impl Driver {
    fn open() -> Result<(Self, Library), String> {
        let library = Library::open(&["libcuda.so.1", "libcuda.so"].map(PathBuf::from))
            .map_err(|said| format!("the NVIDIA driver does not load ({said})"))?;
        // SAFETY: the types are those of cuda.h.
        let driver = unsafe {
            Self {
                error_text: library.function("cuGetErrorString")?,
                context_set: library.function("cuCtxSetCurrent")?,
                attribute: library.function("cuDeviceGetAttribute")?,
                module_load: library.function("cuModuleLoadData")?,
                module_function: library.function("cuModuleGetFunction")?,
                launch: library.function("cuLaunchKernel")?,
                host_alloc: library.function("cuMemHostAlloc")?,
                host_free: library.function("cuMemFreeHost")?,
                to_device: library.function("cuMemcpyHtoDAsync_v2")?,
                to_host: library.function("cuMemcpyDtoHAsync_v2")?,
                stream_synchronize: library.function("cuStreamSynchronize")?,
                event_create: library.function("cuEventCreate")?,
                event_record: library.function("cuEventRecord")?,
                event_synchronize: library.function("cuEventSynchronize")?,
                event_elapsed: library.function("cuEventElapsedTime")?,
                event_destroy: library.function("cuEventDestroy_v2")?,
                memory: library.function("cuMemGetInfo_v2")?,
            }
        };
        Ok((driver, library))
    }

    fn check(&self, code: c_int, what: &str) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: the driver points to a constant text of its own, or leaves null.
        let said = unsafe {
            (self.error_text)(code, &raw mut text);
            if text.is_null() { "unknown".into() } else { CStr::from_ptr(text).to_string_lossy() }
        };
        Err(format!("CUDA error {code} ({said}) in {what}"))
    }
}

impl Card {
    /// The card that libtorch calls `cuda:index`, after libtorch has opened it.
    ///
    /// # Errors
    /// When driver or libtorch lack something; their words.
    pub fn open(index: usize) -> Result<Self, String> {
        let (driver, library) = Driver::open()?;
        let number = c_int::try_from(index).map_err(|error| error.to_string())?;
        let (mut device, mut context, mut stream): (c_int, Handle, Handle) = (0, null_mut(), null_mut());
        // SAFETY: types as in cuda.h and in libtorch's aoti_torch/c/shim.h; each writes one value.
        unsafe {
            let init: unsafe extern "C" fn(c_uint) -> c_int = library.function("cuInit")?;
            let get: unsafe extern "C" fn(*mut c_int, c_int) -> c_int = library.function("cuDeviceGet")?;
            let retain: unsafe extern "C" fn(*mut Handle, c_int) -> c_int =
                library.function("cuDevicePrimaryCtxRetain")?;
            driver.check(init(0), "cuInit")?;
            driver.check(get(&raw mut device, number), "cuDeviceGet")?;
            driver.check(retain(&raw mut context, device), "cuDevicePrimaryCtxRetain")?;
            let current: unsafe extern "C" fn(i32, *mut Handle) -> i32 =
                Library::loaded().function("aoti_torch_get_current_cuda_stream")?;
            if current(number, &raw mut stream) != 0 {
                return Err("libtorch names no stream of the device".to_owned());
            }
        }
        let attribute = |which: c_int| -> Result<c_int, String> {
            let mut value = 0;
            // SAFETY: writes one number.
            driver.check(unsafe { (driver.attribute)(&raw mut value, which, device) }, "cuDeviceGetAttribute")?;
            Ok(value)
        };
        // CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, _COMPUTE_CAPABILITY_MAJOR, _MINOR.
        let (processors, major, minor) = (attribute(16)?, attribute(75)?, attribute(76)?);
        let capability = u32::try_from(major * 10 + minor).unwrap_or(0);
        Ok(Self { driver, context, stream, functions: BTreeMap::new(), capability, processors: processors.into() })
    }

    /// Loads machine code and finds every kernel in it.
    ///
    /// # Errors
    /// What the driver says.
    pub fn load(&mut self, code: &[u8]) -> Result<(), String> {
        self.enter()?;
        let mut module: Handle = null_mut();
        // SAFETY: an ELF file in memory, whole by its digest; it says its own length.
        self.driver
            .check(unsafe { (self.driver.module_load)(&raw mut module, code.as_ptr().cast()) }, "cuModuleLoadData")?;
        for &kernel in Kernel::ALL {
            let name = CString::new(kernel.name()).map_err(|error| error.to_string())?;
            let mut function: Handle = null_mut();
            // SAFETY: writes one handle.
            let code = unsafe { (self.driver.module_function)(&raw mut function, module, name.as_ptr()) };
            self.driver.check(code, kernel.name())?;
            self.functions.insert(kernel, function);
        }
        Ok(())
    }

    /// Makes the card's context that of this thread.
    ///
    /// # Errors
    /// What the driver says.
    pub fn enter(&self) -> Result<(), String> {
        // SAFETY: a context that is retained for ever.
        self.driver.check(unsafe { (self.driver.context_set)(self.context) }, "cuCtxSetCurrent")
    }

    /// Starts a kernel on libtorch's stream.
    ///
    /// # Safety
    /// `arguments` point to the kernel's arguments, in order and of their types; memory they name is on this card and
    /// as large as the kernel reads and writes.
    ///
    /// # Panics
    /// When the driver refuses, with its words, as libtorch does.
    pub unsafe fn launch(&self, kernel: Kernel, grid: Grid, arguments: &mut [*mut c_void]) {
        let size = |n: i64| c_uint::try_from(n).unwrap_or(c_uint::MAX);
        let [bx, by] = grid.blocks.map(size);
        let [tx, ty] = grid.threads.map(|n| size(n.into()));
        // SAFETY: the caller's promise.
        let code = unsafe {
            let (function, list) = (self.functions[&kernel], arguments.as_mut_ptr());
            (self.driver.launch)(function, bx, by, 1, tx, ty, 1, 0, self.stream, list, null_mut())
        };
        self.must(code, kernel.name());
    }

    /// Host memory for `bytes`, pinned.
    ///
    /// # Errors
    /// When there is none.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned, String> {
        self.enter()?;
        let mut at = null_mut();
        // SAFETY: writes one pointer.
        self.driver.check(unsafe { (self.driver.host_alloc)(&raw mut at, bytes.max(1), 0) }, "cuMemHostAlloc")?;
        Ok(Pinned { at, bytes, free: self.driver.host_free })
    }

    /// Copies the first `bytes` to the card behind what was started before; `from` must stay as it is until then.
    ///
    /// # Safety
    /// `to` is memory of this card of at least that size.
    pub unsafe fn upload(&self, from: &Pinned, bytes: usize, to: *mut c_void) {
        assert!(bytes <= from.bytes);
        // SAFETY: the caller's promise, and the size checked above.
        self.must(unsafe { (self.driver.to_device)(to as u64, from.at, bytes, self.stream) }, "cuMemcpyHtoDAsync");
    }

    /// Copies from the card and waits for it, and so for all that was started before.
    ///
    /// # Safety
    /// `from` is memory of this card, as large as `to`.
    pub unsafe fn download(&self, from: *const c_void, to: &Pinned) {
        // SAFETY: the caller's promise.
        self.must(unsafe { (self.driver.to_host)(to.at, from as u64, to.bytes, self.stream) }, "cuMemcpyDtoHAsync");
        // SAFETY: a stream of this context.
        self.must(unsafe { (self.driver.stream_synchronize)(self.stream) }, "cuStreamSynchronize");
    }

    /// Seconds that the card takes for what `work` starts.
    pub fn seconds(&self, work: impl FnOnce()) -> f64 {
        let create = || {
            let mut event: Handle = null_mut();
            // SAFETY: writes one handle.
            self.must(unsafe { (self.driver.event_create)(&raw mut event, 0) }, "cuEventCreate");
            event
        };
        let (start, end) = (create(), create());
        // SAFETY: events and stream of this context.
        let record = |event| self.must(unsafe { (self.driver.event_record)(event, self.stream) }, "cuEventRecord");
        record(start);
        work();
        record(end);
        let mut milliseconds = 0.0_f32;
        // SAFETY: both events were recorded.
        unsafe {
            self.must((self.driver.event_synchronize)(end), "cuEventSynchronize");
            self.must((self.driver.event_elapsed)(&raw mut milliseconds, start, end), "cuEventElapsedTime");
            (self.driver.event_destroy)(start);
            (self.driver.event_destroy)(end);
        }
        f64::from(milliseconds) / 1e3
    }

    /// Free bytes on the card.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        let (mut free, mut all) = (0, 0);
        // SAFETY: writes two numbers.
        unsafe { (self.driver.memory)(&raw mut free, &raw mut all) };
        free
    }

    fn must(&self, code: c_int, what: &str) {
        self.driver.check(code, what).unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Pinned {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: memory of that size, owned.
        unsafe { std::slice::from_raw_parts(self.at.cast(), self.bytes) }
    }

    /// Its bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated by the driver, freed once; its context lives as long as the process.
        unsafe { (self.free)(self.at) };
    }
}
