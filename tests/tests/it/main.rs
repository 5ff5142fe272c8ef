//! The integration tests: one binary, one module a promise.

mod apart;
mod broken_rows;
mod chaos;
mod control_load;
mod dashboard;
mod door;
mod faults;
mod files;
mod fork;
mod goodput;
mod house;
mod life;
mod model;
mod publish;
mod races;
mod ranges;
mod refusals;
mod scheduling;
mod set_aside;
mod stall;
mod steering;
mod store;
mod worker_protocol;
