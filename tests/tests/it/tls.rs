//! The way in: TLS by the server itself, and a proxy in front that speaks it, below a path.

use anyhow::{Context, Result, ensure};
use senmon_protocol::view::{WorkerState, WorkerView};
use senmon_tests::{
    World, WorldOptions,
    client::Api,
    process::{Process, binary, repository},
    tls::{Certificate, front},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

async fn sign_in(http: &reqwest::Client, base: &str, token: &str) -> Result<String> {
    let answer = http.post(format!("{base}/api/v1/session")).json(&json!({ "token": token })).send().await?;
    Ok(answer.headers().get("set-cookie").context("a cookie")?.to_str()?.to_owned())
}

fn senmon(args: &[&str], server: &str, ca: Option<&Path>, token: &str) -> Result<Output> {
    let mut command = Command::new(binary("senmon")?);
    command.args(["--server", server]).env("SENMON_TOKEN", token);
    if let Some(ca) = ca {
        command.arg("--ca-file").arg(ca);
    }
    Ok(command.args(args).output()?)
}

async fn alive(world: &World, api: &Api) -> Result<()> {
    world
        .until(Duration::from_secs(60), "the worker is alive", async || {
            let workers: Vec<WorkerView> = api.list("/api/v1/workers").await?;
            Ok(workers.iter().any(|worker| worker.state == WorkerState::Alive).then_some(()))
        })
        .await
}

#[tokio::test]
async fn the_server_speaks_tls_and_reads_its_certificate_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = Certificate::make(folder.path())?;
    let options = WorldOptions {
        documents: 0,
        workers: 0,
        server_settings: made.settings(),
        ca_file: Some(made.ca.clone()),
        ..WorldOptions::default()
    };
    let mut world = World::empty(options)?;
    let base = format!("https://127.0.0.1:{}", world.port());
    world.api = Api::by(made.client()?, &base, "");
    world.options.workers = 1;
    world.begin().await?;
    alive(&world, &world.api).await?;

    let page = made.client()?.get(format!("{base}/")).send().await?;
    ensure!(page.headers()["strict-transport-security"].to_str()?.contains("max-age"), "{:?}", page.headers());
    let policy = page.headers()["content-security-policy"].to_str()?.to_owned();
    ensure!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
    let cookie = sign_in(&made.client()?, &base, world.api.token()).await?;
    for part in ["; Secure", "; HttpOnly", "; SameSite=Strict", "; Path=/;"] {
        ensure!(cookie.contains(part), "{part}: {cookie}");
    }
    ensure!(reqwest::get(format!("http://127.0.0.1:{}/healthz", world.port())).await.is_err(), "answered in the clear");
    let token = world.api.token();
    ensure!(senmon(&["ls"], &base, Some(&made.ca), token)?.status.success());
    let untrusting = senmon(&["ls"], &base, None, token)?;
    ensure!(untrusting.status.code() == Some(3), "{untrusting:?}");

    // A certificate that cannot be used changes nothing; a new one counts from then on.
    let before = made.client()?;
    fs::write(&made.certificate, "no certificate")?;
    let hang_up = |world: &World| world.server.as_ref().map(|server| server.signal(libc::SIGHUP));
    hang_up(&world).context("a server")?;
    let log = world.path("server.log");
    let says = async |text: &str| {
        let found = async || Ok(fs::read_to_string(&log)?.contains(text).then_some(()));
        world.until(Duration::from_secs(20), text, found).await
    };
    says("the new certificate cannot be used").await?;
    ensure!(before.get(format!("{base}/healthz")).send().await?.status() == 200);
    let renewed = Certificate::make(folder.path())?;
    hang_up(&world).context("a server")?;
    says("the certificate was read again").await?;
    ensure!(renewed.client()?.get(format!("{base}/healthz")).send().await?.status() == 200);
    Ok(())
}

// The proxy runs here, while commands are waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn behind_a_proxy_everything_works_below_its_path() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let made = Certificate::make(folder.path())?;
    let settings = "behind_proxy = true\nbase_path = \"/senmon\"\n".to_owned();
    let options = WorldOptions { workers: 0, documents: 0, server_settings: settings, ..WorldOptions::default() };
    let mut world = World::start(options).await?;
    let token = world.api.token().to_owned();
    // One proxy takes the path away, the other leaves it.
    for strip in ["/senmon", ""] {
        let base = format!("https://{}/senmon", front(&made, world.port(), strip).await?);
        let http = made.client()?;
        let api = Api::by(http.clone(), &base, &token);
        let corpora: Value = api.get("/api/v1/corpora").await?;
        ensure!(corpora["items"].is_array(), "{corpora}");
        let page = http.get(format!("{base}/experiments/some/page")).header("accept", "text/html").send().await?;
        let page = page.text().await?;
        ensure!(page.contains("<base href=\"/senmon/\""), "{page}");
        let asset = page.split("src=\"./").nth(1).and_then(|rest| rest.split('"').next()).context("a script")?;
        let script = http.get(format!("{base}/{asset}")).send().await?;
        ensure!(script.headers()["content-type"].to_str()?.contains("javascript"), "{asset}: {script:?}");
        let cookie = sign_in(&http, &base, &token).await?;
        ensure!(cookie.contains("; Path=/senmon/;") && cookie.contains("; Secure"), "{cookie}");
        let session = http.get(format!("{base}/api/v1/session")).header("cookie", &cookie).send().await?;
        ensure!(session.status() == 200, "{session:?}");
        let mut stream = http.get(format!("{base}/api/v1/stream")).bearer_auth(&token).send().await?;
        world.api.post::<_, Value>("/api/v1/tokens", &json!({ "name": "x", "role": "viewer" })).await?;
        let first = tokio::time::timeout(Duration::from_secs(60), stream.chunk()).await??;
        ensure!(first.is_some(), "the stream ended");
        ensure!(senmon(&["ls"], &base, Some(&made.ca), &token)?.status.success());
        world.options.server_url = Some(base);
    }
    world.options.ca_file = Some(made.ca.clone());
    world.workers.push(None);
    world.start_worker(0)?;
    alive(&world, &world.api).await?;
    in_chromium(&world).await
}

/// The dashboard below the path, over TLS, in a browser that reports what a policy forbids.
async fn in_chromium(world: &World) -> Result<()> {
    let (url, token) = (world.options.server_url.clone().context("a proxy")?, world.api.token().to_owned());
    let browser = tokio::task::spawn_blocking(move || {
        Command::new("node")
            .arg("e2e/base.e2e.mjs")
            .current_dir(repository().join("web"))
            .env("SENMON_URL", url)
            .env("SENMON_TOKEN", token)
            .output()
    });
    let output = browser.await?.context("start node")?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let text = format!("{}\n{}", said(&output.stdout), said(&output.stderr));
    ensure!(output.status.success() && text.contains(" passed, 0 failed"), "{text}");
    Ok(())
}

#[tokio::test]
async fn nobody_listens_or_sends_a_token_in_the_clear_unasked() -> Result<()> {
    let world = World::empty(WorldOptions::default())?;
    let start = |settings: &str| -> Result<Output> {
        fs::write(world.path("server.toml"), settings)?;
        let mut command = Command::new(binary("senmon-server")?);
        Ok(command.arg("--config").arg(world.path("server.toml")).arg("check-config").output()?)
    };
    let open = start("listen = \"0.0.0.0:8080\"\n")?;
    let said = String::from_utf8(open.stderr)?;
    ensure!(!open.status.success(), "{said}");
    for way in ["tls_certificate", "behind_proxy", "127.0.0.1"] {
        ensure!(said.contains(way), "{way}: {said}");
    }
    let secrets = "database_url = \"postgres://senmon:geheim@db/senmon\"\n[s3]\nsecret_access_key = \"geheim\"\n";
    let shown = String::from_utf8(start(secrets)?.stdout)?;
    ensure!(shown.contains("@db/senmon") && !shown.contains("geheim"), "{shown}");

    let refused = senmon(&["ls"], "http://senmon.invalid:8080", None, "smn_a_x")?;
    let said = String::from_utf8(refused.stderr)?;
    ensure!(refused.status.code() == Some(4) && said.contains("--insecure-http"), "{said}");
    let told = senmon(&["--insecure-http", "ls"], "http://senmon.invalid:8080", None, "smn_a_x")?;
    ensure!(told.status.code() == Some(3), "{told:?}");

    let path = world.path("worker.toml");
    fs::write(&path, "server_url = \"http://senmon.invalid:8080\"\ntoken = \"smn_w_x\"\nname = \"w\"\n")?;
    let args = ["--config".to_owned(), path.display().to_string()];
    let mut worker = Process::start("senmon-worker", &args, &world.path("worker.log"))?;
    ensure!(!worker.wait(Duration::from_secs(30))?.success());
    ensure!(worker.log_tail().contains("insecure_http"), "{}", worker.log_tail());
    Ok(())
}
