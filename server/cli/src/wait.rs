//! `senmon wait`: for scripts that go on when an experiment is where they need it.

use crate::{
    client::Client,
    error::{CliError, CliResult},
    lang::own,
    moment,
    output::Format,
    resolve::{self, short},
    words,
};
use clap::{Args, ValueEnum};
use senmon_protocol::{
    said,
    view::{ExperimentState, ExperimentView},
};
use std::time::{Duration, Instant};

/// Between two looks.
const PACE: Duration = Duration::from_secs(1);
/// A server that restarts is back by then.
const AWAY_MAX: Duration = Duration::from_secs(300);

/// Arguments.
#[derive(Debug, Args)]
pub struct Wait {
    /// Ids, parts of ids, or names: all of them must come there.
    #[arg(value_name = "EXPERIMENT", required = true)]
    experiments: Vec<String>,
    /// The state to wait for.
    #[arg(long = "for", value_enum, value_name = "STATE", default_value_t = Wanted::Completed)]
    wanted: Wanted,
    /// Give up after so long, with exit code 5: 90s, 15m, 6h, 2d.
    #[arg(long, value_name = "SPAN", value_parser = moment::span)]
    timeout: Option<Duration>,
}

/// States that can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wanted {
    /// It has its report.
    Completed,
    /// It failed.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// It is paused.
    Paused,
    /// It runs.
    Running,
    /// It ended, one way or the other.
    Over,
}

/// What a state means for the one who waits.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Arrived,
    NotYet,
    Never,
}

fn judge(state: ExperimentState, wanted: Wanted) -> Verdict {
    let is_over = matches!(state, ExperimentState::Completed | ExperimentState::Failed | ExperimentState::Cancelled);
    let arrived = match wanted {
        Wanted::Completed => state == ExperimentState::Completed,
        Wanted::Failed => state == ExperimentState::Failed,
        Wanted::Cancelled => state == ExperimentState::Cancelled,
        Wanted::Paused => state == ExperimentState::Paused,
        Wanted::Running => state == ExperimentState::Running,
        Wanted::Over => is_over,
    };
    match (arrived, is_over) {
        (true, _) => Verdict::Arrived,
        (false, true) => Verdict::Never,
        (false, false) => Verdict::NotYet,
    }
}

/// Waits.
///
/// # Errors
/// When an experiment ends in another state (1), the time runs out (5), or the server stays away (3).
pub async fn wait(client: &Client, format: Format, args: &Wait) -> CliResult {
    let mut ids = Vec::new();
    for text in &args.experiments {
        ids.push(resolve::experiment(client, text).await?);
    }
    let began = Instant::now();
    let mut last_answer = began;
    for id in ids {
        loop {
            match client.get::<ExperimentView>(&format!("/experiments/{id}")).await {
                Ok(view) => {
                    last_answer = Instant::now();
                    let (name, state) = (&view.summary.name, words::name(&view.summary.state));
                    match judge(view.summary.state, args.wanted) {
                        Verdict::Arrived => {
                            format.line(&view.summary, |_| own(&said!("stands", name = name, state = state)))?;
                            break;
                        }
                        Verdict::Never => {
                            let (id, state) = (short(id), state.as_str());
                            return Err(CliError::failed(&match &view.summary.problem {
                                Some(why) => {
                                    said!("ended_otherwise_why", name = name, id = id, state = state, why = why)
                                }
                                None => said!("ended_otherwise", name = name, id = id, state = state),
                            }));
                        }
                        Verdict::NotYet => {}
                    }
                }
                Err(CliError::Unreachable(why) | CliError::Failed(why)) => {
                    if last_answer.elapsed() > AWAY_MAX {
                        return Err(CliError::Unreachable(why));
                    }
                }
                Err(error) => return Err(error),
            }
            if args.timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
                return Err(CliError::Late(own(&said!("wait_over", id = short(id)))));
            }
            tokio::time::sleep(PACE).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_otherwise_never_comes() {
        for (state, wanted, expect) in [
            (ExperimentState::Running, Wanted::Completed, Verdict::NotYet),
            (ExperimentState::Completed, Wanted::Completed, Verdict::Arrived),
            (ExperimentState::Failed, Wanted::Completed, Verdict::Never),
            (ExperimentState::Cancelled, Wanted::Over, Verdict::Arrived),
            (ExperimentState::Paused, Wanted::Over, Verdict::NotYet),
            (ExperimentState::Completed, Wanted::Running, Verdict::Never),
            (ExperimentState::Paused, Wanted::Paused, Verdict::Arrived),
        ] {
            assert_eq!(judge(state, wanted), expect, "{state:?} {wanted:?}");
        }
    }
}
