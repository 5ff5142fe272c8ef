//! `senmon set-aside`: what the server's loops failed on again and again.

use crate::{
    cell::{self, Cell},
    client::Client,
    error::{CliError, CliResult},
    lang::own,
    output::{Format, List, out},
    table::Table,
    words,
};
use chrono::Utc;
use clap::Args;
use senmon_protocol::{
    said,
    said::{expected::quoted, of},
    view::{SetAside as Item, TroubleKind},
};

/// Arguments.
#[derive(Debug, Args)]
pub struct SetAside {
    /// Try this one again: its id, or a unique end of it.
    #[arg(long, value_name = "ID")]
    again: Option<String>,
}

/// `senmon set-aside`.
///
/// # Errors
/// When the server does not answer, or nothing that is set aside has that id.
pub async fn run(client: &Client, format: Format, args: &SetAside) -> CliResult {
    let items: Vec<Item> = client.list("/set-aside").await?;
    let Some(id) = &args.again else {
        return format.list(&items, |items| table(items));
    };
    let mut named = items.iter().filter(|item| item.id.to_string().ends_with(id.as_str()));
    let (Some(item), None) = (named.next(), named.next()) else {
        return Err(CliError::refused(&said!("no_such_aside", found = quoted(id))));
    };
    client.delete(&format!("/set-aside/{}/{}", word(item.kind), item.id)).await?;
    out(&own(&said!("is_tried_again", kind = of::trouble(item.kind), name = &item.name)));
    Ok(())
}

/// The kind as addresses have it.
fn word(kind: TroubleKind) -> String {
    of::trouble(kind).text()
}

fn table(items: &[Item]) -> List {
    let mut table = Table::new(&["=id", "what", "name", ">tries", "=since", "why"]);
    for item in items {
        table.row::<Cell>(vec![
            item.id.to_string().into(),
            words::name(&item.kind).into(),
            item.name.as_str().into(),
            item.tries.to_string().into(),
            cell::ago(item.since, Utc::now()),
            item.problem.as_str().into(),
        ]);
    }
    List::new(table, said!("none_aside"))
}
