//! The fused pass on NVIDIA cards: own kernels, compiled at start for the card that is there, around libtorch's
//! products and attention. Needs no CUDA to build: every library is opened when a job names a card.
//!
//! `library` opens, `driver` is the card, `compile` makes kernels of text, `machine` is where they run (a card, or
//! this CPU in tests), `ops` calls each with tensors, `attention` chooses and runs attention, `pass` is forward and
//! backward, `proof` holds all of it to autograd on the same device before the first step.
//!
//! Never linked to CUDA; never used unproven.

mod attention;
mod checks;
pub mod compile;
pub mod driver;
mod layers;
mod library;
pub mod machine;
mod ops;
pub mod pass;
pub mod proof;
mod sink;
pub mod speed;
mod upload;

pub use machine::Machine;
pub use ops::Sorted;
pub use pass::Pass;
