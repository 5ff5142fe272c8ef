//! Labels and notes: written on what runs and on what is over, by its owner, by the command as by the API, found by filters, and
//! told by the audit.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use senmon_protocol::view::{AuditView, ExperimentSummary, ExperimentView, Page};
use senmon_tests::{World, WorldOptions, process::binary, spec};
use serde_json::{Value, json};
use std::{
    io::Write,
    process::{Command, Stdio},
};

/// The command with a world's server and token: what it answered, or what it said.
fn senmon(world: &World, args: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(binary("senmon")?);
    command.args(["--server", world.api.base()]).args(args).env("SENMON_TOKEN", world.api.token());
    command.env("HOME", world.path("nobody")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("standard input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test]
async fn labels_and_a_note_are_written_when_it_is_over_and_found_again() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 40, ..WorldOptions::default() }).await?;
    let id = world.submit(&spec::small()).await?.summary.id;
    let path = format!("/api/v1/experiments/{id}");
    let _: ExperimentView = world.api.post(&format!("{path}/cancel"), &json!({})).await?;

    let shown = senmon(&world, &["label", "small", "team=nlp", "overnight"], "")?;
    ensure!(shown.contains("team=nlp, overnight"), "{shown}");
    let shown = senmon(&world, &["label", "small", "team=speech", "overnight-"], "")?;
    ensure!(shown.contains("team=speech") && !shown.contains("overnight"), "{shown}");
    senmon(&world, &["note", "small", "-"], "The tokenizer was **too small**.\n")?;
    ensure!(senmon(&world, &["note", "small"], "")? == "The tokenizer was **too small**.\n");
    let shown = senmon(&world, &["show", "small"], "")?;
    ensure!(shown.contains("team=speech") && shown.contains("**too small**"), "{shown}");

    let with = async |labels: &str| -> Result<usize> {
        let found: Vec<ExperimentSummary> = world.api.list(&format!("/api/v1/experiments?labels={labels}")).await?;
        Ok(found.len())
    };
    ensure!((with("team%3Dspeech").await?, with("team%3Dnlp").await?) == (1, 0));
    // What steers an experiment is not changed when it is over, and nothing that comes with it is.
    let refused = senmon(&world, &["set", "small", "--priority", "3"], "").unwrap_err().to_string();
    ensure!(refused.contains("over"), "{refused}");
    let refused = senmon(&world, &["label", "small", "a,b"], "").unwrap_err().to_string();
    ensure!(refused.contains("a,b"), "{refused}");

    let audit: Page<AuditView> = world.api.get(&format!("/api/v1/audit?target={id}")).await?;
    let note = audit.items.iter().find(|entry| entry.after["note"].is_string()).context("an entry of the note")?;
    ensure!(note.operation == "PATCH /experiments/{id}" && note.before["note"] == "", "{note:?}");
    let labels = audit.items.iter().find(|entry| entry.after["labels"].is_array()).context("an entry of labels")?;
    ensure!(labels.before["labels"] == json!(["team=nlp", "overnight"]), "{labels:?}");

    let made: Value = world.api.post("/api/v1/tokens", &json!({ "name": "another", "role": "user" })).await?;
    let another = world.api.with_token(made["secret"].as_str().context("a token")?);
    let (status, body) = another.send(Method::PATCH, &path, Some(&json!({ "note": "mine" }))).await?;
    ensure!(status == 403, "another's note was written: {status} {body}");
    Ok(())
}
