//! The integration tests: one binary, one module a promise.

mod dashboard;
mod faults;
mod goodput;
mod house;
mod life;
mod refusals;
mod steering;
mod worker_protocol;
