//! Every parameter of a model in two flat arenas: matrices, which decay, and vectors (norms and biases), which do not.
//!
//! Weights, moments and gradients share one layout, so an optimiser step is one pass over memory and a projection of
//! queries, keys and values is one matrix.

use senmon_protocol::model::ModelSpec;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// Where a parameter lies.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    vector: bool,
    offset: i64,
    shape: Vec<i64>,
}

/// Names, shapes and places of a model's parameters. Names are those of `transformers`.
#[derive(Debug, Clone)]
pub struct Layout {
    places: BTreeMap<String, Place>,
    matrices: i64,
    vectors: i64,
}

/// One value for each parameter.
#[derive(Debug)]
pub struct Arenas {
    /// Matrices, flat.
    pub matrices: Tensor,
    /// Norms and biases, flat.
    pub vectors: Tensor,
}

impl Layout {
    /// The layout of a model, in the order of [`ModelSpec::tensors`].
    #[must_use]
    pub fn new(spec: &ModelSpec) -> Self {
        let mut layout = Self { places: BTreeMap::new(), matrices: 0, vectors: 0 };
        for (name, shape) in spec.tensors() {
            layout.add(name, shape.into_iter().map(|n| i64::try_from(n).unwrap_or(i64::MAX)).collect());
        }
        layout
    }

    fn add(&mut self, name: String, shape: Vec<i64>) {
        let vector = shape.len() == 1;
        let end = if vector { &mut self.vectors } else { &mut self.matrices };
        let place = Place { vector, offset: *end, shape };
        *end += place.shape.iter().product::<i64>();
        self.places.insert(name, place);
    }

    /// Names and shapes.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[i64])> {
        self.places.iter().map(|(name, place)| (name.as_str(), place.shape.as_slice()))
    }

    /// Parameters in all.
    #[must_use]
    pub fn parameters(&self) -> i64 {
        self.matrices + self.vectors
    }

    /// Zeros for every parameter; `kind` is that of the matrices, vectors are fp32.
    #[must_use]
    pub fn zeros(&self, kind: Kind, device: Device) -> Arenas {
        Arenas {
            matrices: Tensor::zeros([self.matrices], (kind, device)),
            vectors: Tensor::zeros([self.vectors], (Kind::Float, device)),
        }
    }

    /// First element and shape of `first`, with the rows of `count - 1` matrices of the same width that follow it.
    fn span(&self, first: &str, also: &[String]) -> (bool, i64, Vec<i64>) {
        let place = &self.places[first];
        let mut shape = place.shape.clone();
        shape[0] += also.iter().map(|name| self.places[name].shape[0]).sum::<i64>();
        (place.vector, place.offset, shape)
    }

    /// A parameter of `arenas`, sharing its memory.
    pub fn view(&self, arenas: &Arenas, name: &str) -> Tensor {
        self.joined(arenas, name, &[])
    }

    /// A parameter and those that lie behind it, as one matrix or vector.
    pub fn joined(&self, arenas: &Arenas, first: &str, also: &[String]) -> Tensor {
        let (vector, offset, shape) = self.span(first, also);
        let arena = if vector { &arenas.vectors } else { &arenas.matrices };
        arena.narrow(0, offset, shape.iter().product()).view(shape.as_slice())
    }

    /// All parameters of `arenas` by name, sharing their memory.
    #[must_use]
    pub fn views(&self, arenas: &Arenas) -> BTreeMap<String, Tensor> {
        self.places.keys().map(|name| (name.clone(), self.view(arenas, name))).collect()
    }

    /// Copies named tensors of the same shapes into arenas.
    pub fn fill(&self, arenas: &mut Arenas, tensors: &BTreeMap<String, Tensor>) {
        for (name, tensor) in tensors {
            self.view(arenas, name).copy_(tensor);
        }
    }
}
