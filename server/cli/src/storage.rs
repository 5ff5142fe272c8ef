//! `senmon storage`: what the store holds, and what it will.

use crate::{client::Client, error::CliResult, output::Format, table::Table, words};
use senmon_protocol::storage::StorageView;

/// Shows the store.
///
/// # Errors
/// When the server does not answer.
pub async fn storage(client: &Client, format: Format) -> CliResult {
    let view: StorageView = client.get("/storage").await?;
    format.print(&view, render)
}

fn render(view: &StorageView) -> String {
    let mut facts = Table::facts();
    let mut fact = |name: &str, value: String| facts.row(vec![name.to_owned(), value]);
    fact("store", view.url.clone());
    fact("checkpoints", words::bytes(view.checkpoint_bytes));
    fact("shards", words::bytes(view.shard_bytes));
    fact("other", words::bytes(view.other_bytes));
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let share = |budget: u64| 100.0 * view.used_bytes() as f64 / budget.max(1) as f64;
    let budget = view.budget_bytes.map(|budget| format!("{:.0} % of {}", share(budget), words::bytes(budget)));
    fact("used", format!("{}, {}", words::bytes(view.used_bytes()), budget.unwrap_or_else(|| "no budget set".into())));
    fact("still to come", format!("{} at most", words::bytes(view.growth_bytes)));
    let mut text = facts.render();
    if !view.experiments.is_empty() {
        let mut table = Table::new(&["experiment", ">checkpoints", ">when over, at most"]);
        for forecast in &view.experiments {
            let over = words::or_dash(forecast.bytes_forecast.map(words::bytes));
            table.row(vec![forecast.experiment.clone(), words::bytes(forecast.bytes), over]);
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_the_budget_is_shown() {
        let view = StorageView {
            url: "s3://models/team".into(),
            checkpoint_bytes: 8 << 30,
            shard_bytes: 1 << 30,
            other_bytes: 0,
            counted_at: chrono::DateTime::UNIX_EPOCH,
            budget_bytes: Some(10 << 30),
            growth_bytes: 2 << 30,
            experiments: vec![],
        };
        let text = render(&view);
        for part in ["9.0 GiB, 90 % of 10.0 GiB", "2.0 GiB at most", "s3://models/team"] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
}
