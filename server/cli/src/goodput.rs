//! `senmon goodput`: where the time of a branch, an experiment or the fleet went.

use crate::{
    client::Client,
    error::{CliError, CliResult},
    lang::{own, term},
    output::Format,
    resolve,
    table::{Table, bar},
    words,
};
use clap::Args;
use senmon_protocol::{
    goodput::{GoodputView, TokenAccount},
    said,
    said::decimal,
};
use std::fmt::Write as _;

/// Arguments.
#[derive(Debug, Args)]
pub struct Goodput {
    /// An experiment, or EXPERIMENT/BRANCH; the fleet when absent.
    #[arg(conflicts_with = "fleet")]
    of: Option<String>,
    /// The slots of all workers.
    #[arg(long)]
    fleet: bool,
    /// Hours of the fleet's account.
    #[arg(long, default_value_t = 24.0, conflicts_with = "of")]
    hours: f64,
}

/// `senmon goodput`.
///
/// # Errors
/// When there is no such experiment or branch.
pub async fn show(client: &Client, format: Format, args: &Goodput) -> CliResult {
    if args.hours.is_nan() || args.hours <= 0.0 {
        return Err(CliError::refused(&said!("hours_zero", found = args.hours)));
    }
    let path = match &args.of {
        Some(text) if text.contains('/') => format!("/branches/{}/goodput", resolve::branch(client, text).await?),
        Some(text) => format!("/experiments/{}/goodput", resolve::experiment(client, text).await?),
        None => format!("/goodput?hours={}", args.hours),
    };
    let view: GoodputView = client.get(&path).await?;
    format.print(&view, |view| render(view, format.width()))
}

fn render(view: &GoodputView, width: Option<usize>) -> String {
    let Some(share) = view.goodput_share else { return own(&said!("none_slots")) };
    let mut text = own(&said!(
        "goodput_line",
        percent = decimal(share * 100.0, 1),
        time = words::duration(view.seconds),
        attempts = words::count(view.attempts),
        faults = words::count(view.faults)
    ));
    text.push_str("\n\n");
    let mut table = Table::new(&["", "=", "=", ">time", ">share", ""]);
    for time in &view.causes {
        table.row(vec![
            term(if time.is_goodput { "good" } else { "bad" }),
            words::name(&time.cause),
            bar(time.share, 20),
            words::duration(time.seconds),
            format!("{:.1} %", time.share * 100.0),
            time.sentence.clone(),
        ]);
    }
    text.push_str(&table.render_in(width));
    if view.first_wait_seconds >= 0.5 {
        let waited = words::duration(view.first_wait_seconds);
        let _ = writeln!(text, "\n{}", own(&said!("goodput_first_wait", time = waited)));
    }
    if let Some(tokens) = view.tokens.filter(|tokens| tokens.steps > 0) {
        let _ = writeln!(text, "\n{}", trained(&tokens));
    }
    text
}

fn trained(tokens: &TokenAccount) -> String {
    own(&said!(
        "goodput_tokens",
        trained = words::tokens(tokens.trained),
        drawn = words::tokens(tokens.drawn),
        skipped = words::tokens(tokens.skipped),
        steps = words::count(tokens.steps_superseded),
        superseded = words::tokens(tokens.superseded)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::goodput::{CauseTime, TimeCause};

    #[test]
    fn causes_have_a_bar_and_a_sentence() {
        let time = |cause: TimeCause, seconds: f64| CauseTime {
            cause,
            is_goodput: cause.is_goodput(),
            seconds,
            share: seconds / 200.0,
            sentence: cause.sentence(),
        };
        let view = GoodputView {
            from: None,
            until: "2026-01-01T00:00:00Z".parse().unwrap(),
            seconds: 200.0,
            goodput_seconds: 150.0,
            badput_seconds: 50.0,
            goodput_share: Some(0.75),
            causes: vec![time(TimeCause::Productive, 150.0), time(TimeCause::DataWait, 50.0)],
            first_wait_seconds: 0.0,
            attempts: 2,
            faults: 1,
            tokens: Some(TokenAccount { steps: 9, steps_superseded: 3, ..TokenAccount::default() }),
        };
        let text = render(&view, None);
        assert!(text.starts_with("goodput 75.0 % of 3 min 20 s  (2 attempts, 1 ended by a fault)"), "{text}");
        assert!(text.contains("bad   data wait   █████···············        50 s  25.0 %  Training waited"), "{text}");
        assert!(text.contains("3 steps"), "{text}");
    }
}
