//! The integration tests: one binary, one module a promise.

mod dashboard;
mod faults;
mod house;
mod life;
mod refusals;
mod scheduling;
mod stall;
mod steering;
mod worker_protocol;
