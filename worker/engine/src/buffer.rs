//! Memory of the fused step: a tensor for libtorch's matrix products, a slice for the kernels.

#![expect(unsafe_code, reason = "a tensor's memory seen as a slice")]

use senmon_kernels::Element;
use tch::{Device, Kind, Tensor};

/// A number format that both libtorch and the kernels know.
pub trait Number: Element {
    /// libtorch's name of it.
    const KIND: Kind;
}

impl Number for f32 {
    const KIND: Kind = Kind::Float;
}

impl Number for half::bf16 {
    const KIND: Kind = Kind::BFloat16;
}

/// Host memory of one number format, kept from step to step.
#[derive(Debug)]
pub struct Buffer<T> {
    tensor: Tensor,
    length: usize,
    number: std::marker::PhantomData<T>,
}

impl<T: Number> Buffer<T> {
    /// Memory for `length` numbers, zero.
    #[must_use]
    pub fn new(length: i64) -> Self {
        let tensor = Tensor::zeros([length], (T::KIND, Device::Cpu));
        Self { tensor, length: usize::try_from(length).unwrap_or(0), number: std::marker::PhantomData }
    }

    /// The numbers.
    #[must_use]
    pub fn values(&self) -> &[T] {
        // SAFETY: the tensor is contiguous, on the host, of `length` numbers of kind T, and lives as long as self.
        unsafe { std::slice::from_raw_parts(self.tensor.data_ptr().cast(), self.length) }
    }

    /// The numbers, to write.
    pub fn values_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; self is borrowed uniquely, and tensors from `view` live for one libtorch call only.
        unsafe { std::slice::from_raw_parts_mut(self.tensor.data_ptr().cast(), self.length) }
    }

    /// All numbers, for one call of libtorch.
    pub fn whole(&self) -> Tensor {
        self.tensor.shallow_clone()
    }

    /// The first numbers as a matrix or more, for one call of libtorch.
    pub fn view(&self, shape: &[i64]) -> Tensor {
        self.tensor.narrow(0, 0, shape.iter().product()).view(shape)
    }
}

/// The numbers of a contiguous host tensor.
///
/// # Panics
/// When the tensor is of another kind, elsewhere, or not contiguous.
#[must_use]
pub fn values<T: Number>(tensor: &Tensor) -> &[T] {
    // SAFETY: `checked` holds what from_raw_parts asks for.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), checked::<T>(tensor)) }
}

/// The numbers of a contiguous host tensor, to write.
///
/// # Panics
/// As [`values`].
pub fn values_mut<T: Number>(tensor: &mut Tensor) -> &mut [T] {
    // SAFETY: as above; the caller holds the tensor uniquely and lends no view of it meanwhile.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), checked::<T>(tensor)) }
}

fn checked<T: Number>(tensor: &Tensor) -> usize {
    assert!(tensor.kind() == T::KIND && tensor.device() == Device::Cpu && tensor.is_contiguous(), "{tensor:?}");
    tensor.numel()
}
