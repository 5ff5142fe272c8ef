//! One job of any kind.

use crate::{context::JobContext, decontaminate, deduplicate, place::Place, scan, shard};
#[cfg(feature = "torch")]
use crate::{ensemble, evaluate, merge, session};
use senmon_protocol::job::{CompletedOutcome, EndedOutcome, JobResult, JobSpec, Outcome};
#[cfg(not(feature = "torch"))]
use {crate::context::ended, senmon_protocol::job::TerminationReason};

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
