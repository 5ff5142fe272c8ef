//! Watching an experiment: one line a stage with bar, counts and time left. On a terminal the lines are drawn anew;
//! on a pipe a line is printed when a stage begins or ends, and every 15 s; as JSON it is an object then.

use crate::{
    client::Client,
    error::{CliError, CliResult},
    lang::{self, own},
    output::{Format, out},
    report,
    resolve::{self, Id, short},
    table::{bar, display_lines, fit},
    term, words,
};
use clap::Args;
use senmon_protocol::{
    ids::ExperimentId,
    report::Report,
    said,
    view::{ExperimentState, ExperimentSummary, ExperimentView, Stage, StageProgress, StageState},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    time::{Duration, Instant},
};
use unicode_width::UnicodeWidthStr as _;

/// Between two looks.
const PACE: Duration = Duration::from_secs(1);
/// Between two lines about the same stage on a pipe.
const PIPE_PACE: Duration = Duration::from_secs(15);
/// A server that restarts is back by then; one that is not is gone.
const AWAY_MAX: Duration = Duration::from_secs(300);
/// Columns of a stage's line with its whole bar.
const COLUMNS: usize = 79;
/// Columns of that bar, and of the shortest one.
const BAR: usize = 20;
const BAR_MIN: usize = 4;

/// Arguments.
#[derive(Debug, Args)]
pub struct Follow {
    #[command(flatten)]
    experiment: Id,
}

/// `senmon follow`.
///
/// # Errors
/// When there is no such experiment, or it fails.
pub async fn follow(client: &Client, format: Format, args: &Follow) -> CliResult {
    let id = resolve::experiment(client, &args.experiment.id).await?;
    watch(client, format, id).await
}

/// Watches until the experiment ends, then shows its report. Ctrl-C ends the watching alone.
///
/// # Errors
/// When it fails or is cancelled, the server stays away, or somebody has seen enough.
pub async fn watch(client: &Client, format: Format, id: ExperimentId) -> CliResult {
    tokio::select! {
        done = look(client, format, id) => done,
        _ = tokio::signal::ctrl_c() => {
            // Below the ^C that the terminal wrote.
            eprintln!();
            let id = short(id);
            Err(CliError::Left(own(&said!("left_watching", id = id))))
        }
    }
}

async fn look(client: &Client, format: Format, id: ExperimentId) -> CliResult {
    let mut screen = Screen::new(format);
    let mut away_since: Option<Instant> = None;
    loop {
        match client.get::<ExperimentView>(&format!("/experiments/{id}")).await {
            Ok(view) => {
                if away_since.take().is_some() {
                    screen.say(&own(&said!("server_answers_again")));
                }
                screen.show(&view)?;
                match view.summary.state {
                    ExperimentState::Running | ExperimentState::Paused => {}
                    ExperimentState::Completed => {
                        screen.close();
                        if format.is_text() {
                            return report::print(client, format, id).await;
                        }
                        let report: Report = client.get(&format!("/experiments/{id}/report")).await?;
                        return format.line(&Told::Report(&report), |_| String::new());
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
                    screen.say(&own(&said!("trying_again", why = &why)));
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

/// What is told of an experiment as JSON, an object a line.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
enum Told<'a> {
    Progress(&'a ExperimentSummary),
    Report(&'a Report),
}

/// Where progress is drawn.
struct Screen {
    format: Format,
    /// Lines as they were drawn last.
    drawn: Vec<String>,
    said: BTreeMap<Stage, (StageState, Instant)>,
}

impl Screen {
    fn new(format: Format) -> Self {
        Self { format, drawn: Vec::new(), said: BTreeMap::new() }
    }

    fn show(&mut self, view: &ExperimentView) -> CliResult {
        match term::width().filter(|_| self.format.is_text()) {
            Some(width) => {
                self.draw(&view.summary.stages, width);
                Ok(())
            }
            None => self.tell_news(&view.summary),
        }
    }

    fn draw(&mut self, stages: &[StageProgress], width: usize) {
        // A line that fills the last column would wrap on some terminals.
        let room = width.saturating_sub(1);
        let lines: Vec<String> = stages.iter().map(|stage| fit(&stage_line(stage, Some(room)), room)).collect();
        let mut text = String::new();
        // What was drawn on a wider terminal is wrapped on this one.
        let up: usize = self.drawn.iter().map(|line| display_lines(line, width)).sum();
        if up > 0 {
            let _ = write!(text, "\x1b[{up}A\r\x1b[J");
        }
        for line in &lines {
            let _ = writeln!(text, "{line}");
        }
        self.drawn = lines;
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            std::process::exit(0);
        }
    }

    fn tell_news(&mut self, summary: &ExperimentSummary) -> CliResult {
        let mut news = Vec::new();
        for stage in &summary.stages {
            let is_news = match self.said.get(&stage.stage) {
                None => !matches!(stage.state, StageState::Waiting | StageState::Skipped),
                Some((state, at)) => {
                    *state != stage.state || stage.state == StageState::Running && at.elapsed() >= PIPE_PACE
                }
            };
            if is_news {
                self.said.insert(stage.stage, (stage.state, Instant::now()));
                news.push(stage_line(stage, None));
            }
        }
        if news.is_empty() {
            return Ok(());
        }
        self.format.line(&Told::Progress(summary), |_| news.join("\n"))
    }

    /// A sentence between the drawings.
    fn say(&mut self, text: &str) {
        self.drawn.clear();
        eprintln!("{text}");
    }

    fn close(&self) {
        if self.format.is_text() {
            out("");
        }
    }
}

/// `Branches   ██████████··········   52 %   3.4 M of 6.5 M tokens   2 min 10 s left`.
#[must_use]
pub fn stage_line(stage: &StageProgress, width: Option<usize>) -> String {
    // On a narrow terminal the bar gives way to the figures.
    let missing = COLUMNS.saturating_sub(width.unwrap_or(COLUMNS));
    let bar_width = BAR.saturating_sub(missing).max(BAR_MIN);
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
        (done, 1) if done >= 1 => {
            let unit = lang::term(stage.unit.strip_suffix('s').unwrap_or(&stage.unit));
            own(&said!("stage_all", count = "1", unit = unit))
        }
        (done, total) if done >= total => {
            own(&said!("stage_all", count = amount(total), unit = lang::term(&stage.unit)))
        }
        (done, total) => {
            let unit = lang::term(&stage.unit);
            own(&said!("stage_some", done = amount(done), total = amount(total), unit = unit))
        }
    };
    let end = own(&match stage.state {
        StageState::Waiting => said!("stage_waits"),
        StageState::Skipped => said!("stage_skipped"),
        StageState::Failed => said!("stage_failed"),
        StageState::Done => {
            spent.map_or_else(|| said!("stage_done"), |s| said!("stage_done_in", time = words::duration(s)))
        }
        StageState::Running => stage
            .seconds_left
            .map_or_else(|| said!("stage_running"), |s| said!("stage_left", time = words::duration(s))),
    });
    let title = title(stage.stage);
    if matches!(stage.state, StageState::Waiting | StageState::Skipped) {
        return format!("{title} {}        {end}", bar(0.0, bar_width));
    }
    format!("{title} {} {percent:>3} %  {} {end}", bar(share, bar_width), padded(&counts, 23))
}

/// The name of a stage, all as wide as the widest.
fn title(stage: Stage) -> String {
    padded(
        &own(&match stage {
            Stage::Discover => said!("line_discover"),
            Stage::Shard => said!("line_shard"),
            Stage::Seed => said!("line_seed"),
            Stage::Branches => said!("line_branches"),
            Stage::Merge => said!("line_merge"),
            Stage::Evaluate => said!("line_evaluate"),
            Stage::Report => said!("line_report"),
        }),
        9,
    )
}

/// A text and spaces up to so many columns of a terminal.
fn padded(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(text.width())))
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
        assert_eq!(stage_line(stage, None), expect);
        assert_eq!(stage_line(stage, Some(200)), expect);
        assert!(unicode_width::UnicodeWidthStr::width(expect) <= COLUMNS);
    }

    #[test]
    fn a_narrow_terminal_shows_the_figures() {
        let line = stage_line(&stage(StageState::Running, 3_250_000, 6_500_000, "tokens"), Some(66));
        assert_eq!(line, "Branches  ███▌···  50 %  3.2 M of 6.5 M tokens   2 min 10 s left");
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
