//! Watching an experiment: one line a stage with bar, counts and time left. On a terminal the lines are drawn anew;
//! on a pipe a line is printed when a stage begins or ends, and every 15 s.

use crate::{
    client::Client,
    error::{CliError, CliResult},
    experiments::Id,
    lang::own,
    output::{Format, out},
    report, resolve,
    table::{bar, fit},
    words,
};
use senmon_protocol::{
    ids::ExperimentId,
    said,
    view::{ExperimentState, ExperimentView, Stage, StageProgress, StageState},
};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// Between two looks.
const PACE: Duration = Duration::from_secs(1);
/// Between two lines about the same stage on a pipe.
const PIPE_PACE: Duration = Duration::from_secs(15);
/// A server that restarts is back by then; one that is not is gone.
const AWAY_MAX: Duration = Duration::from_secs(300);
/// Columns of a stage's line, so that it does not wrap on a usual terminal.
const COLUMNS: usize = 79;

/// `senmon follow`.
///
/// # Errors
/// When there is no such experiment, or it fails.
pub async fn follow(client: &Client, format: Format, args: &Id) -> CliResult {
    let id = resolve::experiment(client, &args.id).await?;
    watch(client, format, id).await
}

/// Watches until the experiment ends, then shows its report.
///
/// # Errors
/// When it fails or is cancelled, or the server stays away.
pub async fn watch(client: &Client, format: Format, id: ExperimentId) -> CliResult {
    let mut screen = Screen::new(format);
    let mut away_since: Option<Instant> = None;
    loop {
        match client.get::<ExperimentView>(&format!("/experiments/{id}")).await {
            Ok(view) => {
                if away_since.take().is_some() {
                    screen.say("the server answers again");
                }
                screen.show(&view);
                match view.summary.state {
                    ExperimentState::Running | ExperimentState::Paused => {}
                    ExperimentState::Completed => {
                        screen.close();
                        return report::print(client, format, id).await;
                    }
                    ExperimentState::Failed | ExperimentState::Cancelled => {
                        screen.close();
                        let why = view.summary.problem.unwrap_or_else(|| words::name(&view.summary.state));
                        let ended = said!("ended_without_report", name = &view.summary.name, why = why);
                        return Err(CliError::Failed(own(&ended)));
                    }
                }
            }
            // A server whose database restarts answers, but that it failed.
            Err(CliError::Unreachable(why) | CliError::Failed(why)) => {
                let since = *away_since.get_or_insert_with(|| {
                    screen.say(&format!("{why}; trying again"));
                    Instant::now()
                });
                if since.elapsed() > AWAY_MAX {
                    return Err(CliError::Unreachable(why));
                }
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Where progress is drawn: standard output for people, nowhere when the answer is for a script.
struct Screen {
    terminal: bool,
    silent: bool,
    /// Lines to go up before drawing again.
    drawn: usize,
    said: BTreeMap<Stage, (StageState, Instant)>,
}

impl Screen {
    fn new(format: Format) -> Self {
        let silent = format != Format::Table;
        Self { terminal: std::io::stdout().is_terminal(), silent, drawn: 0, said: BTreeMap::new() }
    }

    fn show(&mut self, view: &ExperimentView) {
        if self.silent {
            return;
        }
        if self.terminal {
            let lines: Vec<String> = view.summary.stages.iter().map(stage_line).collect();
            self.draw(&lines);
        } else {
            self.print_news(&view.summary.stages);
        }
    }

    fn draw(&mut self, lines: &[String]) {
        let mut text = String::new();
        if self.drawn > 0 {
            let _ = write!(text, "\x1b[{}A", self.drawn);
        }
        for line in lines {
            let _ = writeln!(text, "\x1b[2K{}", fit(line, COLUMNS));
        }
        self.drawn = lines.len();
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            std::process::exit(0);
        }
    }

    fn print_news(&mut self, stages: &[StageProgress]) {
        for stage in stages {
            let news = match self.said.get(&stage.stage) {
                None => !matches!(stage.state, StageState::Waiting | StageState::Skipped),
                Some((state, at)) => {
                    *state != stage.state || stage.state == StageState::Running && at.elapsed() >= PIPE_PACE
                }
            };
            if news {
                self.said.insert(stage.stage, (stage.state, Instant::now()));
                out(&stage_line(stage));
            }
        }
    }

    /// A sentence between the drawings.
    fn say(&mut self, text: &str) {
        self.drawn = 0;
        eprintln!("{text}");
    }

    fn close(&self) {
        if !self.silent {
            out("");
        }
    }
}

/// `Branches   ██████████··········   52 %   3.4 M of 6.5 M tokens   2 min 10 s left`.
#[must_use]
pub fn stage_line(stage: &StageProgress) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let share = match stage.state {
        StageState::Done => 1.0,
        _ if stage.total == 0 => 0.0,
        _ => (stage.done as f64 / stage.total as f64).min(1.0),
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
    let percent = (share * 100.0).floor() as u32;
    let amount = |n: u64| if stage.unit == "tokens" { words::tokens(n) } else { words::count(n) };
    let spent = stage.started_at.zip(stage.finished_at).map(|(a, b)| (b - a).as_seconds_f64());
    let counts = match (stage.done, stage.total) {
        (_, 0) => String::new(),
        (done, 1) if done >= 1 => format!("1 {}", stage.unit.strip_suffix('s').unwrap_or(&stage.unit)),
        (done, total) if done >= total => format!("{} {}", amount(total), stage.unit),
        (done, total) => format!("{} of {} {}", amount(done), amount(total), stage.unit),
    };
    let end = match stage.state {
        StageState::Waiting => "waits".into(),
        StageState::Skipped => "not asked for".into(),
        StageState::Failed => "failed".into(),
        StageState::Done => spent.map(|s| format!("done in {}", words::duration(s))).unwrap_or_else(|| "done".into()),
        StageState::Running => {
            stage.seconds_left.map(|s| format!("{} left", words::duration(s))).unwrap_or_else(|| "running".into())
        }
    };
    if matches!(stage.state, StageState::Waiting | StageState::Skipped) {
        return format!("{:<9} {}        {end}", title(stage.stage), bar(0.0, 20));
    }
    format!("{:<9} {} {percent:>3} %  {counts:<23} {end}", title(stage.stage), bar(share, 20))
}

fn title(stage: Stage) -> &'static str {
    match stage {
        Stage::Discover => "Discover",
        Stage::Shard => "Shard",
        Stage::Seed => "Seed",
        Stage::Branches => "Branches",
        Stage::Merge => "Merge",
        Stage::Evaluate => "Evaluate",
        Stage::Report => "Report",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(state: StageState, done: u64, total: u64, unit: &str) -> StageProgress {
        let started_at = Some("2026-01-01T00:00:00Z".parse().unwrap());
        let finished_at = (state == StageState::Done).then(|| "2026-01-01T00:02:05Z".parse().unwrap());
        let seconds_left = (state == StageState::Running).then_some(130.0);
        StageProgress {
            stage: Stage::Branches,
            state,
            done,
            total,
            unit: unit.into(),
            started_at,
            finished_at,
            seconds_left,
        }
    }

    fn check(stage: &StageProgress, expect: &str) {
        assert_eq!(stage_line(stage), expect);
        assert!(unicode_width::UnicodeWidthStr::width(expect) <= COLUMNS);
    }

    #[test]
    fn a_stage_is_one_line() {
        check(
            &stage(StageState::Running, 3_250_000, 6_500_000, "tokens"),
            "Branches  ██████████··········  50 %  3.2 M of 6.5 M tokens   2 min 10 s left",
        );
        check(
            &stage(StageState::Done, 12, 12, "files"),
            "Branches  ████████████████████ 100 %  12 files                done in 2 min 5 s",
        );
        check(
            &stage(StageState::Done, 1, 1, "merges"),
            "Branches  ████████████████████ 100 %  1 merge                 done in 2 min 5 s",
        );
        check(&stage(StageState::Waiting, 0, 0, "files"), "Branches  ····················        waits");
        check(
            &stage(StageState::Running, 0, 0, "files"),
            "Branches  ····················   0 %                          2 min 10 s left",
        );
    }
}
