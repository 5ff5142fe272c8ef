//! The daemon on a node: leases jobs from the server, runs them on this machine's slots, reports what they find.
//!
//! Never keeps a truth of its own: what the server has not acknowledged lies in the spool, everything else is the
//! server's. Reading order: [`config`], [`agent`], [`heartbeat`], [`lease`], [`watchdog`], [`board`], [`runner`], [`report`],
//! [`scribe`], [`spool`], [`courier`], [`client`], [`vitals`]; the jobs themselves are `senmon_engine`'s.

#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss))]

pub mod config;

pub mod agent;
pub mod board;
pub mod heartbeat;
pub mod lease;
pub mod stacks;
pub mod watchdog;

pub mod courier;
pub mod credential;
pub mod report;
pub mod runner;
pub mod scribe;
pub mod slot_faults;
pub mod spool;

pub mod cache;
pub mod client;
pub mod devices;
pub mod doctor;
#[cfg(feature = "torch")]
pub mod scoring;
pub mod store;
pub mod telemetry;
pub mod vitals;
