//! The integration tests: one binary, one module a promise.

mod broken_rows;
mod chaos;
mod control_load;
mod dashboard;
mod door;
mod faults;
mod files;
mod fork;
mod fuzz;
mod goodput;
mod hostile;
mod house;
mod life;
mod model;
mod once;
mod publish;
mod ranges;
mod refusals;
mod scheduling;
mod scripts;
mod stall;
mod steering;
mod store;
mod worker_protocol;
