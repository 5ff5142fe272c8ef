//! From settings to a serving process, and back down in order.

use crate::{
    api::{self, auth},
    app::{App, Polls, Wake},
    config::Config,
    db,
    domain::lease::Listening,
    heavy::Heavy,
    ingest::Ingest,
    postgres::{Cluster, lock_folder},
    storage::Storage,
    tasks::{self, pace::Paces, supervise::Loops},
    usage::Counter,
};
use anyhow::{Context, Result};
use senmon_protocol::view::Role;
use std::{
    fs::OpenOptions,
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    sync::{broadcast, watch},
};

/// Messages that a slow dashboard may lag behind.
const STREAM_MESSAGES: usize = 1024;
/// Connections that wait to be accepted; the system's own limit is often 4,096.
const LISTEN_QUEUE: u32 = 4096;
/// Time that open requests get when the server stops.
const STOP_SECONDS: u64 = 5;

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the data folder is in use, Postgres does not start, or the address cannot be listened on.
pub async fn serve(config: Config) -> Result<()> {
    let _lock = lock_folder(&config.data_dir)?;
    let mut cluster = None;
    let options = match &config.database_url {
        Some(url) => url.parse().context("database_url")?,
        None => cluster.insert(Cluster::start(&config.data_dir, config.postgres_bin.as_deref())?).options(),
    };
    // The schema belongs to the leader: a newer server that waits does not change it under an older one that serves.
    let leader = db::leader::Leader::wait(options.clone()).await?;
    let pool = db::connect(options).await?;
    let (stop, stopped) = watch::channel(false);
    let app = App {
        heavy: Heavy::default(),
        loops: Loops::default(),
        storage: Storage::open(&config.store()?, &config.s3, config.data_dir.join("scratch")).await?,
        usage: Counter::default(),
        listening: Arc::new(Mutex::new(Listening::begun(db::workers::now(&pool).await?))),
        wake: Wake::default(),
        polls: Polls::default(),
        ingest: Ingest::start(&pool, config.lease_ttl_ms),
        known: auth::Known::default(),
        keys: api::idempotency::Keys::default(),
        paces: Paces::default(),
        db: pool,
        stream: broadcast::channel(STREAM_MESSAGES).0,
        stopping: stopped.clone(),
        config: Arc::new(config),
    };
    let listener =
        listen(app.config.listen).with_context(|| format!("listen: cannot listen on {}", app.config.listen))?;
    let address = listener.local_addr()?;
    first_start(&app).await?;
    if address.ip().is_loopback() {
        print_sign_in(&app, &address.to_string()).await?;
    }
    // Before any loop asks: of a new store this makes the identity.
    if let Err(error) = tasks::identity::is_seen(&app).await {
        tracing::error!(error = format!("{error:#}"), "the store cannot be read now");
    }
    let mut loops = tasks::start(&app, &stopped);
    tracing::info!(%address, data_dir = %app.config.data_dir.display(), version = env!("CARGO_PKG_VERSION"), "serving");

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut closing = stopped.clone();
    // As a make-service: every connection would clone the routes of a bare router.
    let server =
        axum::serve(listener, api::router(app.clone()).into_make_service()).with_graceful_shutdown(async move {
            let _ = closing.wait_for(|stop| *stop).await;
        });
    let mut server = tokio::spawn(server.into_future());
    // Held to the end: the next leader starts when the last loop here is over.
    let mut lead = pin!(leader.keep());
    let mut led = Ok(());
    tokio::select! {
        lost = &mut lead => led = lost,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        result = &mut server => return result.context("the server panicked")?.context("serve"),
    }
    tracing::info!("stopping");
    let _ = stop.send(true);
    // Streams and polls end at once; a reader that does not hang up keeps the door open for a moment only.
    let _ = tokio::time::timeout(Duration::from_secs(STOP_SECONDS), server).await;
    while tokio::time::timeout(Duration::from_secs(STOP_SECONDS), loops.join_next())
        .await
        .is_ok_and(|next| next.is_some())
    {}
    loops.abort_all();
    app.db.close().await;
    if let Some(mut cluster) = cluster {
        tokio::task::spawn_blocking(move || cluster.stop()).await?;
    }
    tracing::info!("stopped");
    led
}

/// A fleet that comes back at once after an outage finds room in the queue of connections.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_QUEUE)
}

/// Makes the first tokens and puts them into files that only the owner reads.
async fn first_start(app: &App) -> Result<()> {
    if db::tokens::any(&app.db).await? {
        return Ok(());
    }
    for (name, role, file) in [("admin", Role::Admin, "admin-token"), ("worker", Role::Worker, "worker-token")] {
        let secret = auth::new_secret(role)?;
        write_secret(&app.config.data_dir.join(file), &secret)?;
        db::tokens::insert(&app.db, name, role, &secret[..10], &auth::hash(&secret)).await?;
    }
    Ok(())
}

fn write_secret(path: &Path, secret: &str) -> Result<()> {
    let _ = std::fs::remove_file(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("create {}", path.display()))?;
    writeln!(file, "{secret}")?;
    file.sync_all().with_context(|| format!("sync {}", path.display()))
}

/// On loopback, prints a link that signs a browser in once.
async fn print_sign_in(app: &App, address: &str) -> Result<()> {
    let tokens = db::tokens::list(&app.db).await?;
    let Some(admin) = tokens.iter().find(|token| token.role == Role::Admin) else { return Ok(()) };
    let code = auth::new_secret(Role::Viewer)?;
    db::tokens::insert_session(&app.db, &auth::hash(&code), admin.id, 1, true).await?;
    let link = format!("http://{address}/sign-in?code={code}");
    write_secret(&app.config.data_dir.join("sign-in-link"), &link)?;
    println!("Dashboard, signed in once within the hour: {link}");
    Ok(())
}
