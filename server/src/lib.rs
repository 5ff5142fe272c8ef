//! The control plane of Senmon: it decides in `domain`, remembers in `db`, speaks in `api`, and keeps going in `tasks`.

#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss))]

pub mod apart;
pub mod api;
pub mod app;
pub mod backup;
pub mod config;
pub mod db;
pub mod disk;
pub mod domain;
pub mod door;
mod ending;
mod fleet;
pub mod forecasts;
pub mod heavy;
pub mod ingest;
pub mod keys;
pub mod known;
pub mod limits;
pub mod logins;
pub mod mail;
pub mod outgoing;
pub mod paces;
pub mod postgres;
pub mod restore;
pub mod serve;
pub mod storage;
pub mod tasks;
pub mod telemetry;
pub mod traces;
pub mod usage;
