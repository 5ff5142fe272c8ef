//! The world of the integration tests: a real server with a Postgres of its own, real workers, real files.
//! Never fakes a part that can run.

pub mod bench;
pub mod chaos;
pub mod client;
pub mod corpus;
pub mod fuzz;
pub mod hand;
pub mod pretended;
pub mod process;
pub mod refusing;
pub mod s3;
pub mod sim;
pub mod spec;
pub mod tls;
pub mod world;

pub use pretended::Pretended;
pub use world::{World, WorldOptions};
