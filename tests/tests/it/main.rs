//! The integration tests: one binary, one module a promise.

mod chaos;
mod control_load;
mod dashboard;
mod faults;
mod goodput;
mod house;
mod life;
mod refusals;
mod steering;
mod store;
mod worker_protocol;
