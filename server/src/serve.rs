//! From settings to a serving process, and back down in order.

use crate::{
    api::{self, auth},
    app::App,
    config::Config,
    db::{self, PgPool},
    disk::Disk,
    door::{Door, tls::Tls},
    postgres::{Cluster, lock_folder, place},
    restore, tasks,
    telemetry::say,
};
use anyhow::{Context, Result};
use senmon_protocol::view::Role;
use std::{
    fs::OpenOptions, io::Write, net::SocketAddr, os::unix::fs::OpenOptionsExt, path::Path, pin::pin, time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// Time that open requests get when the server stops.
const STOP_SECONDS: u64 = 5;

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the data folder is in use, Postgres does not start, or the address cannot be listened on.
pub async fn serve(config: Config) -> Result<()> {
    let _lock = lock_folder(&config.data_dir)?;
    restore::mark::check_whole(&config.data_dir)?;
    let mut cluster = None;
    let (disk, options) = match &config.database_url {
        // Its disk is somebody else's.
        Some(url) => (Disk::watch(&config.data_dir, 0)?, url.parse().context("database_url")?),
        None => {
            let owner = place::owner()?;
            let home = place::home(&config.data_dir, owner)?;
            // Before Postgres: on a full disk it does not start without the reserve's room.
            let disk = Disk::watch(&home, config.disk_reserve.0)?;
            (disk, cluster.insert(Cluster::start_in(home, owner, config.postgres_bin.as_deref())?).options())
        }
    };
    // The schema belongs to the leader: a newer server that waits does not change it under an older one that serves.
    let leader = db::leader::Leader::wait(options.clone()).await?;
    let pool = db::connect(options).await?;
    let (stop, stopped) = watch::channel(false);
    let app = App::open(config, pool, disk, stopped.clone()).await?;
    let door = Door::open(&app.config)?;
    let (address, tls) = (door.address()?, door.tls());
    first_start(&app).await?;
    if address.ip().is_loopback() {
        print_sign_in(&app, address).await?;
    }
    // Before any loop asks: of a new store this makes the identity.
    if let Err(error) = tasks::identity::is_seen(&app).await {
        tracing::error!(error = format!("{error:#}"), "the store cannot be read now");
    }
    let mut loops = tasks::start(&app, &stopped);
    tracing::info!(%address, data_dir = %app.config.data_dir.display(), version = env!("CARGO_PKG_VERSION"), "serving");

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut server = tokio::spawn(door.serve(api::service(app.clone()), stopped.clone()));
    let renewing = tokio::spawn(renew(tls, signal(SignalKind::hangup())?));
    // Held to the end: the next leader starts when the last loop here is over.
    let mut lead = pin!(leader.keep());
    let mut led = Ok(());
    tokio::select! {
        lost = &mut lead => led = lost,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        result = &mut server => return result.context("the server panicked"),
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
    renewing.abort();
    app.db.close().await;
    if let Some(mut cluster) = cluster {
        tokio::task::spawn_blocking(move || cluster.stop()).await?;
    }
    tracing::info!("stopped");
    led
}

/// Reads the certificate again at each SIGHUP; without one the signal does nothing.
async fn renew(tls: Option<Tls>, mut asked: Signal) {
    while asked.recv().await.is_some() {
        let Some(tls) = tls.clone() else { continue };
        let read = tokio::task::spawn_blocking(move || tls.read_again()).await;
        match read.map_err(anyhow::Error::from).flatten() {
            Ok(()) => tracing::info!("the certificate was read again"),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the new certificate cannot be used; the old one stays");
            }
        }
    }
}

/// Makes the first tokens and puts them into files that only the owner reads.
async fn first_start(app: &App) -> Result<()> {
    if db::tokens::any(&app.db).await? {
        return Ok(());
    }
    let file = |name: &str| app.config.data_dir.join(name);
    new_token(&app.db, ("admin", Role::Admin), &file("admin-token"), None).await?;
    new_token(&app.db, ("first workers", Role::Enrol), &file("worker-token"), Some((FIRST_DAYS, FIRST_USES))).await
}

/// Writes a new admin's token into the data folder of a server that is stopped: the way back for whoever owns the machine.
///
/// # Errors
/// When the data folder is in use, or the database does not start.
pub async fn new_admin_token(config: Config) -> Result<()> {
    let _lock = lock_folder(&config.data_dir)?;
    let mut cluster = None;
    let options = match &config.database_url {
        Some(url) => url.parse().context("database_url")?,
        None => cluster.insert(Cluster::start(&config.data_dir, config.postgres_bin.as_deref())?).options(),
    };
    let pool = db::connect(options).await?;
    let path = config.data_dir.join("admin-token");
    let made = new_token(&pool, ("admin by the data folder", Role::Admin), &path, None).await;
    pool.close().await;
    if let Some(mut cluster) = cluster {
        tokio::task::spawn_blocking(move || cluster.stop()).await?;
    }
    made?;
    say(format_args!("A new admin's token is in {}", path.display()));
    Ok(())
}

/// How long, and for how many workers, the enrolment token of the first start is good.
const FIRST_DAYS: u16 = 90;
const FIRST_USES: u32 = 1000;

async fn new_token(pool: &PgPool, (name, role): (&str, Role), path: &Path, ends: Option<(u16, u32)>) -> Result<()> {
    let secret = auth::new_secret(role)?;
    write_secret(path, &secret)?;
    let new = db::tokens::New {
        name,
        role,
        prefix: &secret[..10],
        secret_sha256: &auth::hash(&secret),
        days: ends.map(|(days, _)| days),
        uses: ends.map(|(_, uses)| uses),
    };
    db::tokens::insert(pool, &new).await?;
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
async fn print_sign_in(app: &App, address: SocketAddr) -> Result<()> {
    let tokens = db::tokens::list(&app.db).await?;
    let Some(admin) = tokens.iter().find(|token| token.role == Role::Admin) else { return Ok(()) };
    let code = auth::new_secret(Role::Viewer)?;
    db::tokens::insert_session(&app.db, &auth::hash(&code), admin.id, 1, true).await?;
    let scheme = if app.config.is_tls() { "https" } else { "http" };
    let link = format!("{scheme}://{address}{}/sign-in?code={code}", app.config.base());
    write_secret(&app.config.data_dir.join("sign-in-link"), &link)?;
    say(format_args!("Dashboard, signed in once within the hour: {link}"));
    Ok(())
}
