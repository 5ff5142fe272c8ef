//! Where kernels run: a card, or this CPU in tests. How a kernel is spread over it is decided here.

#![expect(unsafe_code, reason = "kernels take pointers")]

use super::{
    compile::{self, Target},
    driver::{Card, Pinned},
};
use crate::device;
use senmon_kernels::device::{Form, Grid, Kernel, NORM_PACKS_CPU, THREADS_MAX, run_on_cpu};
use senmon_protocol::model::ModelSpec;
use std::{ffi::c_void, sync::Arc};
use tch::{Device, Kind, Tensor};

/// Kernels of one number format, ready to run.
#[derive(Clone)]
pub struct Machine {
    runs: Runs,
    /// Where its tensors lie.
    pub device: Device,
    /// Number format and width.
    pub form: Form,
    /// A kernel that is left out: what a test plants.
    without: Option<Kernel>,
}

#[derive(Clone)]
enum Runs {
    Card(Arc<Card>),
    Cpu,
}

/// Host memory on its way to the machine, kept from step to step.
pub enum Staging {
    /// On a card.
    Pinned(Pinned),
    /// On this CPU; words, so that numbers lie where they may.
    Plain(Vec<u64>),
}

impl Machine {
    /// The card `device` with kernels for a model, compiled or out of the cache.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn of_card(device: Device, kind: Kind, spec: &ModelSpec) -> Result<Self, String> {
        let Device::Cuda(index) = device else { return Err(format!("{device:?} is no NVIDIA card")) };
        device::load_cuda()?;
        let form = Self::form(kind, spec)?;
        let mut card = Card::open(index)?;
        if card.capability < 80 {
            return Err(format!("its capability is {}, the kernels need 80", card.capability));
        }
        let widest = spec.qk_norm_widths().into_iter().chain([spec.hidden_size.into()]).max().unwrap_or(0);
        let norm_packs = norm_packs(i64::try_from(widest).unwrap_or(0), form.pack);
        let target = Target { capability: card.capability, form, norm_packs };
        card.load(&compile::kernels(target, compile::cache_folder().as_deref())?)?;
        Ok(Self { runs: Runs::Card(Arc::new(card)), device, form, without: None })
    }

    /// This CPU, with the same kernel bodies: for tests, slow.
    ///
    /// # Errors
    /// Where the kernels lack a number format.
    pub fn of_cpu(kind: Kind, spec: &ModelSpec) -> Result<Self, String> {
        Ok(Self { runs: Runs::Cpu, device: Device::Cpu, form: Self::form(kind, spec)?, without: None })
    }

    /// The same machine, on which one kernel does nothing: what a self-proof must find.
    #[must_use]
    pub fn without(self, kernel: Kernel) -> Self {
        Self { without: Some(kernel), ..self }
    }

    fn form(kind: Kind, spec: &ModelSpec) -> Result<Form, String> {
        let bf16 = match kind {
            Kind::BFloat16 => true,
            Kind::Float => false,
            other => return Err(format!("there are kernels for bf16 and fp32, none for {other:?}")),
        };
        let half = spec.head_size() / 2;
        let widths = [spec.hidden_size, spec.intermediate_size, spec.vocab_size.unwrap_or(0), half];
        let pack = if widths.iter().all(|width| width % 8 == 0) { 8 } else { 1 };
        Ok(Form { bf16, pack })
    }

    /// The card; None on this CPU.
    #[must_use]
    pub fn card(&self) -> Option<&Card> {
        match &self.runs {
            Runs::Card(card) => Some(card),
            Runs::Cpu => None,
        }
    }

    /// Makes this thread one that may use the machine.
    ///
    /// # Panics
    /// When the driver refuses.
    pub fn enter(&self) {
        if let Some(card) = self.card() {
            card.enter().unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// Number format of activations.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.form.bf16 { Kind::BFloat16 } else { Kind::Float }
    }

    /// Starts a kernel.
    ///
    /// # Safety
    /// `arguments` point to the kernel's arguments, in order and of their types; memory they name is on this machine
    /// and as large as the kernel reads and writes.
    pub unsafe fn launch(&self, kernel: Kernel, grid: Grid, arguments: &mut [*mut c_void]) {
        if self.without == Some(kernel) || grid.blocks.contains(&0) {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe {
            match &self.runs {
                Runs::Card(card) => card.launch(kernel, grid, arguments),
                Runs::Cpu => run_on_cpu(self.form, kernel, grid, arguments),
            }
        }
    }

    /// One thread for each of `count` packs.
    pub(super) fn flat(&self, count: i64) -> Grid {
        let threads = if self.card().is_some() { 256 } else { 3 };
        Grid { blocks: [ceil(count, threads), 1], threads: [int(threads), 1] }
    }

    /// A loop over `count` packs, with at most a few blocks a multiprocessor.
    pub(super) fn strided(&self, count: i64) -> Grid {
        let Grid { blocks: [blocks, _], threads } = self.flat(count);
        Grid { blocks: [blocks.clamp(1, 16 * self.processors()), 1], threads }
    }

    /// One block a row of `packs`.
    pub(super) fn row_each(&self, rows: i64, packs: i64) -> Grid {
        Grid { blocks: [rows, 1], threads: [int(self.row_threads(packs)), 1] }
    }

    /// Rows of a norm: threads in x for each, several of them a block. With `few`, blocks loop over rows.
    pub(super) fn rows(&self, rows: i64, packs: i64, few: bool) -> Grid {
        let threads = self.row_threads(packs);
        let at_once = if self.card().is_some() { (THREADS_MAX / 2 / threads).max(1) } else { 2 };
        let blocks = ceil(rows, at_once);
        // As many threads as a multiprocessor's registers hold.
        let resident = (1024 / (threads * at_once)).max(1);
        let most = if few { resident * self.processors() } else { blocks };
        Grid { blocks: [blocks.min(most), 1], threads: [int(threads), int(at_once)] }
    }

    /// Columns in x, and `deep` threads that share what lies below each.
    pub(super) fn columns(&self, columns: i64, deep: i64, slots: i64) -> Grid {
        let (x, y) = if self.card().is_some() { (32, deep) } else { (2, 3) };
        Grid { blocks: [ceil(columns, x), slots], threads: [int(x), int(y)] }
    }

    /// Strips of rows in x, packs of columns in y.
    pub(super) fn strips(&self, strips: i64, packs: i64) -> Grid {
        let threads = if self.card().is_some() { 64 } else { 3 };
        Grid { blocks: [strips, ceil(packs, threads)], threads: [int(threads), 1] }
    }

    /// One block.
    pub(super) fn single(&self) -> Grid {
        let threads = if self.card().is_some() { THREADS_MAX } else { 4 };
        Grid { blocks: [1, 1], threads: [int(threads), 1] }
    }

    fn row_threads(&self, packs: i64) -> i64 {
        if self.card().is_some() { row_threads(packs) } else { ceil(packs, NORM_PACKS_CPU).max(4) }
    }

    fn processors(&self) -> i64 {
        self.card().map_or(2, |card| card.processors)
    }

    /// Host memory of `bytes` for [`Machine::upload`].
    ///
    /// # Errors
    /// When there is none.
    pub fn staging(&self, bytes: usize) -> Result<Staging, String> {
        Ok(match self.card() {
            Some(card) => Staging::Pinned(card.pinned(bytes)?),
            None => Staging::Plain(vec![0; bytes.div_ceil(8)]),
        })
    }

    /// The first `bytes` of `from` to the beginning of `to`, without waiting on a card.
    pub fn upload(&self, from: &Staging, bytes: usize, to: &Tensor) {
        assert!(
            to.is_contiguous() && to.device() == self.device && bytes <= to.numel() * to.kind().elt_size_in_bytes()
        );
        match (self.card(), from) {
            // SAFETY: the size was checked above.
            (Some(card), Staging::Pinned(pinned)) => unsafe { card.upload(pinned, bytes, to.data_ptr()) },
            (None, Staging::Plain(plain)) => {
                // SAFETY: the size was checked above; memory of another owner, which no slice names now.
                unsafe {
                    let from: &[u8] = &bytemuck::cast_slice(plain)[..bytes];
                    std::ptr::copy_nonoverlapping(from.as_ptr(), to.data_ptr().cast::<u8>(), bytes);
                }
            }
            _ => panic!("host memory of another machine"),
        }
    }

    /// All of `from` to the host; waits for it, and so for all that was started.
    pub fn download(&self, from: &Tensor, to: &mut Staging) {
        let bytes = from.numel() * from.kind().elt_size_in_bytes();
        assert!(from.is_contiguous() && from.device() == self.device && bytes == to.bytes().len());
        match (self.card(), to) {
            // SAFETY: sizes were checked above.
            (Some(card), Staging::Pinned(pinned)) => unsafe { card.download(from.data_ptr(), pinned) },
            (None, Staging::Plain(plain)) => {
                // SAFETY: as above.
                let found = unsafe { std::slice::from_raw_parts(from.data_ptr().cast::<u8>(), bytes) };
                bytemuck::cast_slice_mut(plain).copy_from_slice(found);
            }
            _ => panic!("host memory of another machine"),
        }
    }
}

impl Staging {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Pinned(pinned) => pinned.bytes(),
            Self::Plain(plain) => bytemuck::cast_slice(plain),
        }
    }

    /// Its bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Pinned(pinned) => pinned.bytes_mut(),
            Self::Plain(plain) => bytemuck::cast_slice_mut(plain),
        }
    }
}

/// Threads of a card for a row: whole warps.
fn row_threads(packs: i64) -> i64 {
    (ceil(packs, 32) * 32).clamp(32, THREADS_MAX)
}

/// Packs that one thread takes of a row of `h` numbers.
fn norm_packs(h: i64, pack: i64) -> i64 {
    let packs = ceil(h, pack);
    ceil(packs, row_threads(packs))
}

pub(super) fn ceil(a: i64, b: i64) -> i64 {
    (a + b - 1) / b
}

fn int(n: i64) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
