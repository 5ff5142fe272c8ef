//! The engine: jobs in, files and numbers out. Synchronous; speaks to the world through [`JobContext`] alone.
//! Never opens a connection, never reads the wall clock into a decision.

#[cfg(feature = "torch")]
mod attention;
#[cfg(feature = "torch")]
mod buffer;
#[cfg(feature = "torch")]
pub mod checkpoint;
#[cfg(feature = "torch")]
pub mod clock;
#[cfg(feature = "torch")]
pub mod commit;
pub mod context;
#[cfg(feature = "torch")]
pub mod cuda;
#[cfg(feature = "torch")]
pub mod data;
pub mod decontaminate;
pub mod deduplicate;
#[cfg(feature = "torch")]
pub mod device;
#[cfg(feature = "torch")]
pub mod ensemble;
#[cfg(feature = "torch")]
pub mod evaluate;
#[cfg(feature = "torch")]
pub mod export;
#[cfg(feature = "torch")]
mod fused;
#[cfg(feature = "torch")]
pub mod health;
#[cfg(feature = "torch")]
pub mod hub;
pub mod memory;
#[cfg(feature = "torch")]
pub mod merge;
#[cfg(feature = "torch")]
pub mod mix;
#[cfg(feature = "torch")]
pub mod model;
#[cfg(feature = "torch")]
pub mod optimizer;
#[cfg(feature = "torch")]
pub mod parameters;
#[cfg(feature = "torch")]
mod rotary;
#[cfg(feature = "torch")]
pub mod route;
#[cfg(feature = "torch")]
pub mod saver;
pub mod scan;
#[cfg(feature = "torch")]
pub mod schedule;
#[cfg(feature = "torch")]
pub mod score;
#[cfg(feature = "torch")]
pub mod selftest;
#[cfg(feature = "torch")]
pub mod session;
#[cfg(feature = "torch")]
pub mod shape;
pub mod shard;
#[cfg(feature = "torch")]
pub mod trainer;

pub use context::{JobContext, MetricPoint, Phase, Place, TrainingTime, ended};

#[cfg(not(feature = "torch"))]
use senmon_protocol::job::TerminationReason;
use senmon_protocol::job::{CompletedOutcome, EndedOutcome, JobResult, JobSpec, Outcome};

/// Runs a job to its end.
#[must_use]
pub fn run_job(job: &JobSpec, place: &Place, context: &dyn JobContext) -> Outcome {
    // OpenMP's number is this thread's own, so slots side by side do not disturb each other.
    #[cfg(feature = "torch")]
    tch::set_num_threads(place.threads.into());
    let result: Result<JobResult, EndedOutcome> = match job {
        JobSpec::Scan(job) => scan::run(job, place, context).map(JobResult::Scan),
        JobSpec::Deduplicate(job) => deduplicate::run(job, place, context).map(JobResult::Deduplicate),
        JobSpec::Shard(job) => shard::run(job, place, context).map(JobResult::Shard),
        JobSpec::Decontaminate(job) => decontaminate::run(job, place, context).map(JobResult::Decontaminate),
        #[cfg(feature = "torch")]
        JobSpec::Train(job) => session::run(job, place, context).map(JobResult::Train),
        #[cfg(feature = "torch")]
        JobSpec::Evaluate(job) => evaluate::run(job, place, context).map(JobResult::Evaluate),
        #[cfg(feature = "torch")]
        JobSpec::Merge(job) => merge::run(job, place, context).map(JobResult::Merge),
        #[cfg(feature = "torch")]
        JobSpec::Ensemble(job) => {
            ensemble::run(job, place, context).map(|result| JobResult::Ensemble(Box::new(result)))
        }
        #[cfg(not(feature = "torch"))]
        other => Err(ended(
            TerminationReason::InternalError,
            format!("this worker was built without libtorch and cannot run {:?} jobs", other.kind()),
        )),
    };
    match result {
        Ok(result) => Outcome::Completed(CompletedOutcome { result }),
        Err(ended) => Outcome::Ended(ended),
    }
}
