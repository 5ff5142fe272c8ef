//! The `senmon` command as people and scripts use it: contexts, files with faults, plain lists, several names at once.

use anyhow::{Context, Result, ensure};
use senmon_protocol::view::ExperimentState;
use senmon_tests::{World, WorldOptions, process::binary, spec};
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(240);

/// The command of somebody with this home and no variables of ours.
fn at_home(home: &Path, args: &[&str], input: &str) -> Result<Output> {
    let mut command = Command::new(binary("senmon")?);
    for name in ["SENMON_TOKEN", "SENMON_SERVER", "SENMON_CONTEXT", "XDG_CONFIG_HOME"] {
        command.env_remove(name);
    }
    let pipes =
        command.args(args).env("HOME", home).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn()?;
    child.stdin.take().context("standard input")?.write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

/// The command with a world's server and token.
fn senmon(world: &World, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary("senmon")?);
    command.args(["--server", world.api.base()]).args(args).env("SENMON_TOKEN", world.api.token());
    Ok(command.env("HOME", world.path("nobody")).stdin(Stdio::null()).output()?)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn fine(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{:?} {}", output.status, said(output));
    Ok(String::from_utf8(output.stdout.clone())?)
}

fn ends(output: &Output, code: i32, part: &str) -> Result<()> {
    ensure!(output.status.code() == Some(code) && said(output).contains(part), "{:?} {}", output.status, said(output));
    Ok(())
}

/// A server that takes one request, answers nothing of use, and tells what it was sent.
fn listener() -> Result<(String, std::thread::JoinHandle<Result<String>>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let base = format!("http://{}", listener.local_addr()?);
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut request = Vec::new();
        let mut piece = [0; 1024];
        while !request.ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut piece)?;
            ensure!(read > 0, "the request ended early");
            request.extend_from_slice(&piece[..read]);
        }
        stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
        Ok(String::from_utf8(request)?)
    });
    Ok((base, heard))
}

#[tokio::test]
async fn a_server_and_its_token_are_kept_together_and_go_nowhere_else() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 0, ..WorldOptions::default() }).await?;
    let (home, base, token) = (world.path("home"), world.api.base(), world.api.token());
    fs::create_dir_all(&home)?;
    ends(&at_home(&home, &["login", "lab", "--server", base], "smn_a_wrong\n")?, 4, "")?;
    let signed_in = fine(&at_home(&home, &["login", "lab", "--server", base], token)?)?;
    ensure!(signed_in.contains("(admin)") && signed_in.contains("lab"), "{signed_in}");
    let file = home.join(".config/senmon/contexts.yaml");
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);

    // Neither address nor token is needed again, and no list tells the token.
    let who: Value = serde_json::from_str(&fine(&at_home(&home, &["whoami", "-o", "json"], "")?)?)?;
    ensure!(who["role"] == "admin" && who["context"] == "lab" && who["server"] == base, "{who}");
    let listed = fine(&at_home(&home, &["context", "ls", "-o", "json"], "")?)?;
    ensure!(listed.contains("\"current\": true") && !listed.contains(token), "{listed}");
    ends(&at_home(&home, &["--context", "moon", "ls"], "")?, 4, "there are lab")?;

    // The token stays at home when the server is another one.
    let (other, heard) = listener()?;
    ends(&at_home(&home, &["--server", &other, "ls"], "")?, 1, "is it a Senmon server?")?;
    let request = heard.join().expect("the listener ends")?.to_lowercase();
    ensure!(request.starts_with("get /api/v1/experiments") && !request.contains("authorization"), "{request}");
    ends(&at_home(&home, &["--server", &other, "--context", "lab", "ls"], "")?, 4, "leave one of the two out")?;

    // A logout forgets the token, and the next login needs no address.
    fine(&at_home(&home, &["logout"], "")?)?;
    ensure!(!fs::read_to_string(&file)?.contains(token));
    ends(&at_home(&home, &["whoami"], "")?, 4, "no token was given")?;
    fine(&at_home(&home, &["login"], token)?)?;
    fine(&at_home(&home, &["context", "use", "lab"], "")?)?;
    fine(&at_home(&home, &["ls"], "")?)?;

    // The file of a login from before there were contexts is still read.
    let old = world.path("old");
    fs::create_dir_all(old.join(".config/senmon"))?;
    fs::write(old.join(".config/senmon/token"), token)?;
    ensure!(fine(&at_home(&old, &["--server", base, "whoami"], "")?)?.contains("admin"));

    // A second token of one name is made when somebody means it.
    fine(&senmon(&world, &["token", "create", "bob"])?)?;
    ends(&senmon(&world, &["token", "create", "bob"])?, 4, "--another")?;
    fine(&senmon(&world, &["token", "create", "bob", "--another"])?)?;

    let tls = base.replace("http://", "https://");
    ends(&at_home(&home, &["--server", &tls, "whoami"], "")?, 3, "it speaks http, not https?")?;
    Ok(())
}

#[tokio::test]
async fn faults_of_a_file_have_lines_and_a_new_file_has_none() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 40, ..WorldOptions::default() }).await?;
    let file = world.path("file.yaml");
    let name = file.to_str().context("a path of text")?;

    let good = fine(&senmon(&world, &["init", "small", "--name", "first"])?)?;
    ensure!(good.contains("# Peak learning rate"), "{good}");
    fs::write(&file, &good)?;
    fine(&senmon(&world, &["plan", name])?)?;
    ends(&senmon(&world, &["init", "small", "--file", name])?, 4, "exists")?;

    // What the command finds, all at once; then what only the server knows.
    let line = |text: &str, part: &str| text.lines().position(|line| line.starts_with(part)).map_or(0, |line| line + 1);
    let bad = good.replace("  schedule: linear", "  schedule: liner").replace("\nevaluation:", "\nevaluaton:");
    fs::write(&file, &bad)?;
    let faults = senmon(&world, &["run", name])?;
    ends(&faults, 4, &format!("{name}:{}:13: training.schedule: ", line(&bad, "  schedule: liner")))?;
    ends(
        &faults,
        4,
        &format!("{name}:{}:1: evaluaton: there is no such key; did you mean `evaluation`?", line(&bad, "evaluaton:")),
    )?;
    let bad = good.replace("corpus: \"small\"", "corpus: \"smal\"").replace("  learning_rate: ", "  learning_rate: -");
    fs::write(&file, &bad)?;
    for command in ["run", "plan"] {
        let faults = senmon(&world, &[command, name])?;
        // A plan needs no corpus.
        if command == "run" {
            ends(&faults, 4, &format!("{name}:{}:9: corpus: ", line(&bad, "corpus:")))?;
        }
        ends(&faults, 4, &format!("{name}:{}:18: training.learning_rate: ", line(&bad, "  learning_rate:")))?;
    }
    ensure!(fine(&senmon(&world, &["explain", "learning_rate"])?)?.contains("must be given"));
    Ok(())
}

#[tokio::test]
async fn scripts_read_plain_columns_and_steer_several_at_once() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 40, ..WorldOptions::default() }).await?;
    for name in ["one", "two", "three"] {
        let mut small = spec::small();
        small.name = name.into();
        world.submit(&small).await?;
    }
    let listed =
        fine(&senmon(&world, &["list", "--columns", "name,state,tokens", "--no-header", "--sort", "oldest"])?)?;
    let rows: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    ensure!(rows == [["one", "running", "0"], ["two", "running", "0"], ["three", "running", "0"]], "{listed}");
    let whole = fine(&senmon(&world, &["ls"])?)?;
    ensure!(whole.starts_with("id ") && !whole.contains(" M ") && !whole.contains("ago"), "{whole}");
    ends(&senmon(&world, &["ls", "--columns", "size"])?, 4, "expected some of: id, name")?;

    // A typing error in one name changes nothing about the others.
    ends(&senmon(&world, &["pause", "one", "too"])?, 4, "no experiment \"too\"")?;
    let paused = fine(&senmon(&world, &["pause", "one", "two"])?)?;
    ensure!(paused == "one is paused\ntwo is paused\n", "{paused}");
    fine(&senmon(&world, &["wait", "one", "two", "--for", "paused", "--timeout", "20s"])?)?;
    ends(&senmon(&world, &["wait", "three", "--timeout", "1s"])?, 5, "it goes on")?;
    fine(&senmon(&world, &["cancel", "--yes", "one", "two"])?)?;
    ends(&senmon(&world, &["wait", "one"])?, 1, "is cancelled")?;
    fine(&senmon(&world, &["wait", "one", "two", "--for", "over"])?)?;
    ends(&senmon(&world, &["delete", "one", "three"])?, 4, "cancel it")?;
    let left = fine(&senmon(&world, &["ls", "--columns", "name", "--no-header"])?)?;
    ensure!(left == "three\ntwo\n", "{left}");

    let compared: Value = serde_json::from_str(&fine(&senmon(&world, &["compare", "two", "three", "-o", "json"])?)?)?;
    ensure!(compared["file"].as_array().is_some_and(|all| all.len() == 1), "{compared}");
    ensure!(compared["file"][0]["path"] == "name" && compared["file"][0]["b"] == "three", "{compared}");
    fine(&senmon(&world, &["set", "three", "--deadline", "+3d"])?)?;
    ends(&senmon(&world, &["set", "three", "--deadline", "3d"])?, 2, "from now on: +12h")?;
    let address = fine(&senmon(&world, &["open", "three"])?)?;
    ensure!(address.trim().starts_with(&format!("{}/experiments/", world.api.base())), "{address}");

    let newest = fine(&senmon(&world, &["events", "--reverse", "-n", "3", "-o", "json"])?)?;
    let newest: Vec<Value> = serde_json::from_str(&newest)?;
    ensure!(newest.len() == 3 && newest[0]["id"].as_i64() > newest[2]["id"].as_i64(), "{newest:?}");
    let (first, last) = (&newest[2], newest[0]["at"].as_str().context("a time")?);
    let until = first["at"].as_str().context("a time")?;
    let before = fine(&senmon(&world, &["events", "--until", until, "-o", "json"])?)?;
    let before: Vec<Value> = serde_json::from_str(&before)?;
    ensure!(before.last().context("an event")?["id"] == first["id"] && until <= last, "{before:?}");
    Ok(())
}

#[tokio::test]
async fn curves_logs_and_branches_of_a_run_are_read() -> Result<()> {
    let world = World::start(WorldOptions { documents: 60, ..WorldOptions::default() }).await?;
    let mut small = spec::small();
    (small.controls.random_split, small.controls.dense, small.weight_average) = (false, false, false);
    small.plan.truncate(1);
    let id = world.submit(&small).await?.summary.id;
    let followed = fine(&senmon(&world, &["follow", "small", "-o", "json"])?)?;
    let lines: Vec<Value> = followed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let last = lines.last().context("a line")?;
    ensure!(
        lines[0]["kind"] == "progress" && last["kind"] == "report" && last["value"]["headline"].is_string(),
        "{last}"
    );
    let done = world.completed(id, LIMIT).await?;
    ensure!(done.summary.state == ExperimentState::Completed);

    let csv = fine(&senmon(&world, &["export", "small", "--keys", "train/loss"])?)?;
    let mut rows = csv.lines();
    ensure!(rows.next() == Some("experiment,branch,role,step,tokens,time,train/loss"), "{csv}");
    let of_seed: Vec<&str> = rows.filter(|row| row.starts_with("small,seed,seed,")).collect();
    // 80 steps, a point each five.
    ensure!(of_seed.len() >= 16, "{csv}");
    let path = world.path("curves.jsonl");
    let to = path.to_str().context("a path of text")?;
    fine(&senmon(&world, &["export", "small/seed", "--format", "jsonl", "--file", to])?)?;
    let points: Vec<Value> = fs::read_to_string(&path)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(points.len() == of_seed.len() && points[0]["train/loss"].is_number(), "{points:?}");

    let log = fine(&senmon(&world, &["logs", "small/seed", "-n", "2"])?)?;
    ensure!(log.lines().count() == 2, "{log}");
    let events = fine(&senmon(&world, &["events", "small", "--branch", "seed", "-o", "json"])?)?;
    let events: Vec<Value> = serde_json::from_str(&events)?;
    let seed = done.branches.iter().find(|branch| branch.name == "seed").context("a seed")?.id.to_string();
    ensure!(!events.is_empty() && events.iter().all(|event| event["branch_id"] == *seed), "{events:?}");
    let compared = fine(&senmon(&world, &["compare", "small", &id.to_string()])?)?;
    ensure!(compared.contains("The files are alike.") && compared.contains("perplexity A"), "{compared}");
    Ok(())
}
