//! `senmon audit`: who changed what.

use crate::{
    cell::{self, Cell},
    client::{Client, encoded},
    error::CliResult,
    output::{Format, List},
    resolve,
    table::Table,
    words,
};
use clap::Args;
use senmon_protocol::{said, view::AuditView};
use serde_json::Value;

/// Arguments.
#[derive(Debug, Args)]
pub struct Audit {
    /// Only the history of this experiment.
    #[arg(value_name = "EXPERIMENT")]
    experiment: Option<String>,
    /// Only what the tokens of this name did.
    #[arg(long)]
    who: Option<String>,
    /// At most so many entries.
    #[arg(short = 'n', long, default_value_t = 50)]
    limit: usize,
}

/// Shows entries, newest first.
///
/// # Errors
/// When the server does not answer, or the token is no admin's.
pub async fn audit(client: &Client, format: Format, args: &Audit) -> CliResult {
    let mut path = String::from("/audit?limit=200");
    if let Some(experiment) = &args.experiment {
        path += &format!("&target={}", resolve::experiment(client, experiment).await?);
    }
    if let Some(who) = &args.who {
        path += &format!("&who={}", encoded(who));
    }
    let entries: Vec<AuditView> = client.list_up_to(&path, args.limit).await?;
    format.list(&entries, |entries| {
        let mut table = Table::new(&["=at", "who", "role", "operation", "of", ">status", "changed"]);
        for entry in entries {
            table.row::<Cell>(vec![
                cell::at(entry.at),
                entry.who.as_str().into(),
                words::name(&entry.role).into(),
                entry.operation.as_str().into(),
                resolve::short(&entry.target).into(),
                entry.status.map(|status| status.to_string()).into(),
                changed(&entry.before, &entry.after).into(),
            ]);
        }
        List::new(table, said!("none_changed"))
    })
}

/// `priority 50 → 70, state running → paused`.
fn changed(before: &Value, after: &Value) -> String {
    let Some(after) = after.as_object() else { return String::new() };
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let one = |(key, value): (&String, &Value)| match before.get(key) {
        Some(old) => format!("{key} {} → {}", word(old), word(value)),
        None => format!("{key} {}", word(value)),
    };
    after
        .iter()
        .filter(|(key, value)| !value.is_null() || before.get(*key).is_some())
        .map(one)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_change_is_shown_from_and_to() {
        let (before, after) =
            (json!({ "state": "running" }), json!({ "state": "paused", "name": "x", "deadline": null }));
        assert_eq!(changed(&before, &after), "name x, state running → paused");
    }
}
