//! `senmon storage`: what the store holds, and what it will.

use crate::{
    client::Client,
    error::CliResult,
    lang::{own, term},
    output::Format,
    table::Table,
    words,
};
use senmon_protocol::{
    said,
    said::{Said, decimal},
    storage::StorageView,
};

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
    let used = words::bytes(view.used_bytes());
    let used = match view.budget_bytes {
        Some(budget) => {
            said!("storage_of_budget", used = used, percent = decimal(share(budget), 0), budget = words::bytes(budget))
        }
        None => said!("storage_without_budget", used = used),
    };
    fact("used", own(&used));
    fact("still to come", own(&said!("storage_growth", growth = words::bytes(view.growth_bytes))));
    let held = words::bytes(view.database.bytes);
    fact(
        "database",
        match view.database.budget_bytes {
            Some(budget) => own(&said!("bytes_of", part = held, whole = words::bytes(budget))),
            None => held,
        },
    );
    for disk in &view.disks {
        let (free, total) = (words::bytes(disk.free_bytes), words::bytes(disk.total_bytes));
        let mut parts = vec![said!("disk_free", free = free, total = total)];
        if disk.reserve_bytes > 0 {
            parts.push(said!("disk_reserve", bytes = words::bytes(disk.reserve_bytes)));
        }
        let mut about = vec![Said::verbatim(disk.folder.as_str())];
        about.extend(disk.held_bytes.map(|bytes| said!("disk_held", bytes = words::bytes(bytes))));
        fact(&format!("disk of the {}", disk.name), own(&said!("disk_line", parts = parts, about = about)));
    }
    let mut text = facts.render();
    let mut table = Table::new(&["in the database", ">bytes", ">rows, about"]);
    for family in &view.database.tables {
        table.row(vec![term(&family.family), words::bytes(family.bytes), words::count(family.rows)]);
    }
    text.push('\n');
    text.push_str(&table.render());
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
    use senmon_protocol::storage::{DatabaseUsage, DiskUsage, TableUsage};

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
            database: DatabaseUsage {
                bytes: 3 << 30,
                budget_bytes: None,
                tables: vec![TableUsage { family: "metrics".into(), bytes: 2 << 30, rows: 12_345 }],
            },
            disks: vec![DiskUsage {
                name: "database".into(),
                folder: "/srv/senmon/pg".into(),
                total_bytes: 100 << 30,
                free_bytes: 40 << 30,
                held_bytes: Some(4 << 30),
                reserve_bytes: 256 << 20,
            }],
        };
        let text = render(&view);
        let parts = [
            "9.0 GiB, 90 % of 10.0 GiB",
            "2.0 GiB at most",
            "s3://models/team",
            "40.0 GiB of 100.0 GiB free, 256.0 MiB in reserve (/srv/senmon/pg, 4.0 GiB in it)",
            "12 345",
        ];
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
}
