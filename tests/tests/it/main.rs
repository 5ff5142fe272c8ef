//! The integration tests: one binary, one module a promise.

mod access;
mod ageing;
mod broken_rows;
mod chaos;
mod control_load;
mod dashboard;
mod disk;
mod door;
mod faults;
mod files;
mod fork;
mod goodput;
mod house;
mod life;
mod model;
mod publish;
mod ranges;
mod refusals;
mod release;
mod restore;
mod scheduling;
mod stall;
mod steering;
mod store;
mod worker_protocol;
