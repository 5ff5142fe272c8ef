//! `senmon alert …`: who is told of what.

use crate::{
    cell::{self, Cell},
    client::Client,
    error::{CliError, CliResult},
    lang::own,
    output::{Format, List, out},
    resolve::{self, short},
    table::Table,
    words,
};
use chrono::Utc;
use clap::{Args, Subcommand};
use senmon_protocol::alert::{
    AlertTarget, AlertView, CreateAlert, DeliveryState, DeliveryView, Hook, Mailbox, Occasion,
};
use senmon_protocol::said;

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Alert {
    /// Make an alert: occasions are told to a webhook, to Slack or by mail.
    Create(Create),
    /// List alerts.
    #[command(visible_alias = "list")]
    Ls,
    /// Send a message now, to see whether it arrives.
    Test(Id),
    /// Show an alert's messages, and what became of each, newest first.
    Deliveries(Id),
    /// Delete an alert with its messages.
    #[command(visible_alias = "rm")]
    Delete(Id),
}

const OCCASIONS: &str =
    "finished, failed, loss_spike, not_finite, forgetting, stalled, budget, worker_lost, storage_low, server";

/// Arguments of `create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Name, unique.
    name: String,
    /// What is told, separated by commas.
    #[arg(long, required = true, value_delimiter = ',', value_parser = occasion, long_help = format!("What is told, separated by commas: {OCCASIONS}"))]
    on: Vec<Occasion>,
    /// Of this experiment only; of the whole fleet without it.
    #[arg(long)]
    experiment: Option<String>,
    #[command(flatten)]
    target: Target,
}

/// Where it goes. An address is often a secret: it is read from a file, because flags are there for everybody to see.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// File with the address that takes a POST of JSON.
    #[arg(long, value_name = "FILE")]
    webhook_file: Option<std::path::PathBuf>,
    /// File with the address of an incoming webhook of Slack, Mattermost and others alike.
    #[arg(long, value_name = "FILE")]
    slack_file: Option<std::path::PathBuf>,
    /// Address of a person or a list: a mail through the server's own mail server.
    #[arg(long, value_name = "ADDRESS")]
    mail: Option<String>,
}

/// One alert.
#[derive(Debug, Args)]
pub struct Id {
    /// Name, id, or part of an id.
    #[arg(value_name = "ALERT")]
    id: String,
}

fn occasion(text: &str) -> Result<Occasion, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| format!("expected one of {OCCASIONS}"))
}

impl Target {
    fn read(&self) -> CliResult<AlertTarget> {
        let hook = |path: &std::path::Path| {
            let text = std::fs::read_to_string(path).map_err(|error| CliError::unread(path, &error))?;
            Ok(Hook { url: text.trim().to_owned() })
        };
        match (&self.webhook_file, &self.slack_file, &self.mail) {
            (Some(path), ..) => hook(path).map(AlertTarget::Webhook),
            (None, Some(path), _) => hook(path).map(AlertTarget::Slack),
            (None, None, Some(address)) => Ok(AlertTarget::Mail(Mailbox { address: address.clone() })),
            (None, None, None) => Err(CliError::refused(&said!("alert_needs_target"))),
        }
    }
}

/// Runs a command.
///
/// # Errors
/// When the server refuses.
pub async fn run(client: &Client, format: Format, command: Alert) -> CliResult {
    match command {
        Alert::Create(args) => {
            let experiment_id = match &args.experiment {
                Some(text) => Some(resolve::experiment(client, text).await?),
                None => None,
            };
            let target = args.target.read()?;
            let made: AlertView =
                client.post("/alerts", &CreateAlert { name: args.name, on: args.on, experiment_id, target }).await?;
            format.print(&made, |made| own(&said!("alert_is_made", name = &made.name)))
        }
        Alert::Ls => {
            let all: Vec<AlertView> = client.list("/alerts").await?;
            format.list(&all, |all| list(all))
        }
        Alert::Test(args) => {
            let id = resolve::alert(client, &args.id).await?;
            let alert: AlertView = client.post(&format!("/alerts/{id}/test"), &()).await?;
            format.print(&alert, |alert| own(&said!("alert_is_tried", name = &alert.name)))
        }
        Alert::Deliveries(args) => {
            let id = resolve::alert(client, &args.id).await?;
            let all: Vec<DeliveryView> = client.list(&format!("/alerts/{id}/deliveries")).await?;
            format.list(&all, |all| deliveries(all))
        }
        Alert::Delete(args) => {
            let id = resolve::alert(client, &args.id).await?;
            client.delete(&format!("/alerts/{id}")).await?;
            if format.is_text() {
                out(&own(&said!("alert_is_deleted", name = args.id)));
            }
            Ok(())
        }
    }
}

fn list(alerts: &[AlertView]) -> List {
    let mut table = Table::new(&["=id", "name", "of", "on", "to", "last message"]);
    for alert in alerts {
        table.row(vec![
            short(alert.id),
            alert.name.clone(),
            alert.experiment_id.map_or_else(|| own(&said!("whole_fleet")), short),
            alert.on.iter().map(words::name).collect::<Vec<_>>().join(", "),
            alert.target.address().to_owned(),
            alert.last.as_ref().map_or_else(|| own(&said!("none_yet")), state),
        ]);
    }
    List::new(table, said!("none_alerts"))
}

fn state(delivery: &DeliveryView) -> String {
    own(&match delivery.state {
        DeliveryState::Delivered => said!("delivery_done", ago = words::ago(delivery.at, Utc::now())),
        DeliveryState::Waiting if delivery.tries == 0 => said!("delivery_on_its_way"),
        DeliveryState::Waiting => said!("delivery_again", tries = delivery.tries),
        DeliveryState::GivenUp => said!("delivery_given_up", tries = delivery.tries),
    })
}

fn deliveries(all: &[DeliveryView]) -> List {
    let mut table = Table::new(&["=written", "what became of it", "text", "why not"]);
    for delivery in all {
        table.row::<Cell>(vec![
            cell::ago(delivery.at, Utc::now()),
            state(delivery).into(),
            delivery.text.as_str().into(),
            delivery.problem.as_deref().into(),
        ]);
    }
    List::new(table, said!("none_deliveries"))
}
