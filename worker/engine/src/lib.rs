//! The engine: jobs in, files and numbers out. A job's inputs are values and folders; what it says goes through one trait,
//! [`JobContext`], and what it asks of the store behind the folders through another, [`depot::Depot`].
//!
//! Synchronous. Never opens a connection, never reads the wall clock into a decision, and knows no daemon, server or
//! queue: a daemon, a command or a test runs it. Reading order: [`context`], [`place`], [`depot`], [`run_job`], [`session`],
//! [`trainer`], [`cuda`], [`checkpoint`], [`evaluate`], [`ensemble`], [`shard`].

#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss))]

#[cfg(feature = "torch")]
mod attention;
#[cfg(feature = "torch")]
mod autograd;
#[cfg(feature = "torch")]
mod buffer;
#[cfg(feature = "torch")]
pub mod checkpoint;
#[cfg(feature = "torch")]
pub mod clock;
#[cfg(feature = "torch")]
pub mod commit;
pub mod context;
#[cfg(feature = "torch")]
mod cpu;
#[cfg(feature = "torch")]
pub mod cuda;
#[cfg(feature = "torch")]
pub mod data;
pub mod decontaminate;
pub mod deduplicate;
pub mod depot;
#[cfg(feature = "torch")]
pub mod device;
#[cfg(feature = "torch")]
pub mod ensemble;
#[cfg(feature = "torch")]
pub mod evaluate;
#[cfg(feature = "torch")]
pub mod export;
pub mod faults;
#[cfg(feature = "torch")]
mod fused;
pub mod gpu;
#[cfg(feature = "torch")]
pub mod health;
#[cfg(feature = "torch")]
pub mod hub;
pub mod lock;
pub mod memory;
#[cfg(feature = "torch")]
pub mod merge;
#[cfg(feature = "torch")]
pub mod mix;
#[cfg(feature = "torch")]
pub mod model;
#[cfg(feature = "torch")]
mod names;
#[cfg(feature = "torch")]
pub mod optimizer;
#[cfg(feature = "torch")]
pub mod parameters;
#[cfg(feature = "torch")]
pub mod pass;
pub mod place;
#[cfg(feature = "torch")]
mod reach;
#[cfg(feature = "torch")]
mod rotary;
#[cfg(feature = "torch")]
pub mod route;
mod run;
#[cfg(feature = "torch")]
pub mod saver;
pub mod scan;
#[cfg(feature = "torch")]
pub mod schedule;
#[cfg(feature = "torch")]
pub mod score;
#[cfg(feature = "torch")]
pub mod selftest;
#[cfg(feature = "torch")]
pub mod session;
#[cfg(feature = "torch")]
pub mod shape;
pub mod shard;
#[cfg(feature = "torch")]
mod sink;
#[cfg(feature = "torch")]
pub mod trainer;
pub mod transfer;
pub mod tune;
#[cfg(feature = "torch")]
mod windows;

pub use context::{JobContext, MetricPoint, Phase, TrainingTime, ended};
pub use place::Place;
pub use run::run_job;
