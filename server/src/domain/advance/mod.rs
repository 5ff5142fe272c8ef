//! What an owner of jobs needs next: one planner for each kind of owner, all of one shape. Facts in, commands out; asking
//! twice, with the commands carried out in between, changes nothing.

pub mod corpus;
pub mod experiment;
