//! The kernels of a GPU: their text, which NVRTC compiles where a card is, and the same bodies compiled for this CPU,
//! on which tests run them.
//!
//! Never talks to a driver; a caller brings pointers that fit.

use crate::table::Heads;
use std::{
    ffi::{CStr, c_char, c_void},
    sync::{Mutex, PoisonError},
};

/// What is compiled.
pub const SOURCE: &str = include_str!("../device/kernels.cu");

/// What [`SOURCE`] includes, by name.
pub const HEADERS: [(&str, &str); 5] = [
    ("layer.hpp", include_str!("../device/layer.hpp")),
    ("norm.hpp", include_str!("../device/norm.hpp")),
    ("heads.hpp", include_str!("../device/heads.hpp")),
    ("loss.hpp", include_str!("../device/loss.hpp")),
    ("optimizer.hpp", include_str!("../device/optimizer.hpp")),
];

/// Most threads of a block.
pub const THREADS_MAX: i64 = 512;
/// Packs that one thread takes of a row of a norm, in the form for this CPU.
pub const NORM_PACKS_CPU: i64 = 32;

macro_rules! kernels {
    ($($(#[$doc:meta])* $kernel:ident = $name:literal,)*) => {
        /// A kernel; what it does is said in `device/`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kernel { $($(#[$doc])* $kernel,)* }

        impl Kernel {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kernel,)*];

            /// Its name in the source.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$kernel => $name,)* }
            }
        }
    };
}

kernels! {
    /// Residual addition and norm.
    AddRmsNorm = "add_rms_norm",
    /// The way back through a norm.
    RmsNormBackward = "rms_norm_backward",
    /// Sums of strips of rows.
    ColumnParts = "column_parts",
    /// Sums of such sums.
    SumParts = "sum_parts",
    /// Norms of queries and keys.
    NormHeads = "norm_heads",
    /// Their way back.
    NormHeadsBackward = "norm_heads_backward",
    /// Bias and rotary positions.
    Rotate = "rotate",
    /// Their way back.
    RotateBack = "rotate_back",
    /// Gated activation.
    Swiglu = "swiglu",
    /// Its way back.
    SwigluBackward = "swiglu_backward",
    /// The same with GELU.
    Geglu = "geglu",
    /// Its way back.
    GegluBackward = "geglu_backward",
    /// Rows of the embedding.
    Embed = "embed",
    /// Gradient of the embedding: pieces of equal tokens.
    EmbedBackward = "embed_backward",
    /// Gradient of the embedding: the pieces together.
    EmbedBackwardRuns = "embed_backward_runs",
    /// Losses, and the logits' gradient in their place.
    CrossEntropy = "cross_entropy",
    /// Sums of squares.
    Squares = "squares",
    /// Sums of squares of fp32.
    SquaresWide = "squares_wide",
    /// What the host reads.
    Finish = "finish",
    /// A gradient added in fp32.
    Accumulate = "accumulate",
    /// A step of the optimiser.
    Adamw = "adamw",
    /// A step of the optimiser from fp32 gradients.
    AdamwWide = "adamw_wide",
}

/// How a kernel is spread: blocks and threads of a block, in x and y.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Grid {
    /// Blocks.
    pub blocks: [i64; 2],
    /// Threads of a block.
    pub threads: [i32; 2],
}

/// Which compilation: a number format, and how many numbers a thread takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Form {
    /// bf16; otherwise fp32.
    pub bf16: bool,
    /// 8, or 1 where a width is no multiple of 8.
    pub pack: i64,
}

/// Where the numbers of a head lie, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Strides {
    /// From one sequence to the next.
    pub b: i64,
    /// From one token to the next.
    pub t: i64,
    /// From one head to the next.
    pub head: i64,
}

const _: () = assert!(size_of::<Heads>() == 40 && size_of::<Strides>() == 24);

#[repr(C)]
struct Entry {
    name: *const c_char,
    run: Option<unsafe extern "C" fn(*mut *mut c_void, *const Grid)>,
}

unsafe extern "C" {
    static senmon_device_bf16_8: Entry;
    static senmon_device_bf16_1: Entry;
    static senmon_device_fp32_8: Entry;
    static senmon_device_fp32_1: Entry;
}

/// Runs a kernel's CPU form to its end.
///
/// # Safety
/// `arguments` point to the kernel's arguments, in order and of their types, and those to memory of this machine that
/// is as large as the kernel reads and writes.
///
/// # Panics
/// When the kernel is missing in the table, which a test holds.
pub unsafe fn run_on_cpu(form: Form, kernel: Kernel, grid: Grid, arguments: &mut [*mut c_void]) {
    /// A barrier and the memory of a block are one for each kernel.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _held = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut entry = match (form.bf16, form.pack) {
        (true, 8) => &raw const senmon_device_bf16_8,
        (true, _) => &raw const senmon_device_bf16_1,
        (false, 8) => &raw const senmon_device_fp32_8,
        (false, _) => &raw const senmon_device_fp32_1,
    };
    // SAFETY: immutable tables of the library that build.rs links; each ends with an entry without a function, and names
    // are literals.
    let run = unsafe {
        loop {
            let Some(run) = (*entry).run else { panic!("no kernel {}", kernel.name()) };
            if CStr::from_ptr((*entry).name).to_bytes() == kernel.name().as_bytes() {
                break run;
            }
            entry = entry.add(1);
        }
    };
    // SAFETY: the caller's promise.
    unsafe { run(arguments.as_mut_ptr(), &raw const grid) }
}
