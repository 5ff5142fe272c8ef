//! What the server, the workers, the `senmon` command and the dashboard say to each other.
//!
//! Types and ids, with the checks that a type can make of itself. Never does I/O, never reads a clock,
//! never decides what happens next.
//!
//! Reading order: [`ids`], [`spec`] (the experiment file), [`job`] (units of work and their results),
//! [`worker`] (the protocol of a worker daemon), [`view`] (what people and scripts read), [`report`].

#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss))]

pub mod access;
pub mod address;
pub mod alert;
pub mod aside;
pub mod attempt;
pub mod checkpoint;
pub mod clustering;
pub mod corpus;
pub mod decontamination;
pub mod edit;
pub mod ensemble;
pub mod evaluation;
pub mod event;
pub mod file;
pub mod fleet;
pub mod goodput;
pub mod ids;
pub mod job;
pub mod kind;
pub mod lineage;
pub mod model;
pub mod outcome;
pub mod plan;
pub mod problem;
pub mod readings;
pub mod report;
pub mod resources;
pub mod said;
pub mod scan;
pub mod schema;
pub mod shard;
pub mod spec;
pub mod storage;
pub mod stream;
pub mod tokens;
pub mod training;
pub mod view;
pub mod worker;

/// A text as Postgres can store it: NUL characters, which no text there may hold, become U+FFFD. For what quotes bytes of
/// a corpus or a file.
#[must_use]
pub fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Version of the worker protocol. A worker of another version is refused at enrolment with both numbers.
pub const WORKER_PROTOCOL_VERSION: u32 = 3;
