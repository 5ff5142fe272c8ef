//! Decisions. Pure: no SQL, no network, no clock, no chance; everything is an argument.

pub mod access;
pub mod adoption;
pub mod advance;
pub mod ancestry;
pub mod claims;
pub mod deadline;
pub mod disk;
pub mod ensemble;
pub mod expand;
pub mod forwarded;
pub mod goodput;
pub mod held_out;
pub mod lease;
pub mod metrics;
pub mod orphans;
pub mod pace;
pub mod planner;
pub mod rate;
pub mod report;
pub mod retention;
pub mod schedule;
pub mod strikes;
pub mod validate;
pub mod waits;
pub mod watch;
