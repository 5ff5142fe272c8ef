//! A proxy in the way of two processes: TCP or a Unix socket, with faults that are switched while bytes flow.
//!
//! Never looks into the bytes, but for the one word that says which answer shall be lost.

use anyhow::{Context, Result};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};

/// What the proxy does to the bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Every piece waits so long.
    Delay(Duration),
    /// Everything waits until the fault is over, and goes on then.
    Stall,
    /// Connections are cut, new ones too once they have said something.
    Cut,
    /// Requests arrive, answers do not: a partition in one direction.
    Deaf,
    /// One piece in so many makes its connection go dead without a word, as lost packets do.
    Drop(u64),
    /// Answers to what contains this word are lost, and their connections with them: this many.
    Swallow(&'static str),
}

/// A running proxy; it ends with its value.
#[derive(Debug)]
pub struct Proxy {
    fault: watch::Sender<Fault>,
    shared: Arc<Shared>,
    url: String,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: Address,
    fault: watch::Receiver<Fault>,
    /// Answers that are still to be swallowed.
    to_swallow: AtomicU64,
    swallowed: AtomicU64,
    /// Pieces so far, to choose which to drop.
    pieces: AtomicU64,
    /// When something with this word was last said by a client.
    watched: Mutex<(&'static str, Option<Instant>)>,
}

#[derive(Debug, Clone)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Proxy {
    /// A proxy on a free port of `host`, before a server on this machine.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn tcp(host: &str, port: u16) -> Result<Self> {
        let listener = TcpListener::bind((host, 0)).await.with_context(|| format!("listen on {host}"))?;
        let url = format!("http://{}", listener.local_addr()?);
        Ok(Self::start(url, Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port))), Listener::Tcp(listener)))
    }

    /// A proxy before the Postgres whose socket lies in `upstream`; its own socket lies in `folder`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn postgres(folder: &Path, upstream: &Path) -> Result<Self> {
        const SOCKET: &str = ".s.PGSQL.5432";
        std::fs::create_dir_all(folder)?;
        let listener = UnixListener::bind(folder.join(SOCKET)).context("make the proxy's socket")?;
        let url = format!("postgres://senmon@localhost/postgres?host={}", folder.display());
        Ok(Self::start(url, Address::Unix(upstream.join(SOCKET)), Listener::Unix(listener)))
    }

    fn start(url: String, upstream: Address, listener: Listener) -> Self {
        let (fault, seen) = watch::channel(Fault::None);
        let shared = Arc::new(Shared {
            upstream,
            fault: seen,
            to_swallow: AtomicU64::new(0),
            swallowed: AtomicU64::new(0),
            pieces: AtomicU64::new(0),
            watched: Mutex::new(("", None)),
        });
        let passing = shared.clone();
        let accepting = tokio::spawn(async move {
            while let Ok(client) = listener.accept().await {
                tokio::spawn(connection(client, passing.clone()));
            }
        });
        Self { fault, shared, url, accepting }
    }

    /// Where to reach it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Switches to a fault.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// From now on, this many answers to what contains `word` are lost.
    pub fn swallow(&self, word: &'static str, count: u64) {
        self.shared.to_swallow.store(count, Ordering::SeqCst);
        self.set(Fault::Swallow(word));
    }

    /// Answers swallowed so far.
    #[must_use]
    pub fn swallowed(&self) -> u64 {
        self.shared.swallowed.load(Ordering::SeqCst)
    }

    /// Begins to note when clients say something that contains `word`.
    pub fn watch(&self, word: &'static str) {
        *self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner) = (word, None);
    }

    /// When a client last said the word.
    #[must_use]
    pub fn last_said(&self) -> Option<Instant> {
        self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        // Connections that still flow end with the fault's sender.
        self.fault.send_replace(Fault::Cut);
    }
}

async fn connection(mut client: Box<dyn Stream>, shared: Arc<Shared>) {
    if *shared.fault.borrow() == Fault::Cut {
        // There may be nobody to connect to; what the client says is noted all the same.
        let mut piece = vec![0; 1 << 16];
        if let Ok(n @ 1..) = client.read(&mut piece).await {
            note(&shared, &piece[..n]);
        }
        return;
    }
    let server: Box<dyn Stream> = match &shared.upstream {
        Address::Tcp(address) => match TcpStream::connect(address).await {
            Ok(stream) => Box::new(stream),
            Err(_) => return,
        },
        Address::Unix(path) => match UnixStream::connect(path).await {
            Ok(stream) => Box::new(stream),
            Err(_) => return,
        },
    };
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    // Set while an answer is to be lost.
    let doomed = AtomicBool::new(false);
    // Set once the connection says nothing any more.
    let dead = AtomicBool::new(false);
    tokio::select! {
        () = requests(&mut from_client, &mut to_server, &shared, (&doomed, &dead)) => {}
        () = answers(&mut from_server, &mut to_client, &shared, (&doomed, &dead)) => {}
        () = cut(&shared) => {}
    }
}

/// Comes back when the connection is to be cut. One that begins during the fault is cut by its first words, so that
/// they are noted.
async fn cut(shared: &Shared) {
    let mut fault = shared.fault.clone();
    if fault.wait_for(|fault| *fault != Fault::Cut).await.is_ok() {
        let _ = fault.wait_for(|fault| *fault == Fault::Cut).await;
    }
}

async fn requests(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
    (doomed, dead): (&AtomicBool, &AtomicBool),
) {
    let mut piece = vec![0; 1 << 16];
    loop {
        let Ok(n @ 1..) = from.read(&mut piece).await else { return };
        note(shared, &piece[..n]);
        let fault = wait(shared).await;
        if fault == Fault::Cut {
            return;
        }
        if let Fault::Swallow(word) = fault
            && contains(&piece[..n], word)
        {
            let take = |left: u64| left.checked_sub(1);
            let taken = shared.to_swallow.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
            doomed.fetch_or(taken, Ordering::SeqCst);
        }
        if is_dropped(fault, shared) {
            dead.store(true, Ordering::SeqCst);
        }
        if !dead.load(Ordering::SeqCst) && to.write_all(&piece[..n]).await.is_err() {
            return;
        }
    }
}

async fn answers(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
    (doomed, dead): (&AtomicBool, &AtomicBool),
) {
    let mut piece = vec![0; 1 << 16];
    loop {
        let Ok(n @ 1..) = from.read(&mut piece).await else { return };
        if doomed.load(Ordering::SeqCst) {
            shared.swallowed.fetch_add(1, Ordering::SeqCst);
            return;
        }
        let fault = wait(shared).await;
        if fault == Fault::Cut {
            return;
        }
        if fault == Fault::Deaf || is_dropped(fault, shared) {
            dead.store(true, Ordering::SeqCst);
        }
        if !dead.load(Ordering::SeqCst) && to.write_all(&piece[..n]).await.is_err() {
            return;
        }
    }
}

/// Waits as the fault says; the fault then.
async fn wait(shared: &Shared) -> Fault {
    let mut fault = shared.fault.clone();
    let now = *fault.borrow_and_update();
    match now {
        Fault::Delay(pause) => tokio::time::sleep(pause).await,
        Fault::Stall => {
            return fault.wait_for(|fault| *fault != Fault::Stall).await.map_or(Fault::Cut, |fault| *fault);
        }
        _ => {}
    }
    now
}

fn is_dropped(fault: Fault, shared: &Shared) -> bool {
    let Fault::Drop(one_in) = fault else { return false };
    shared.pieces.fetch_add(1, Ordering::SeqCst) % one_in.max(1) == one_in.max(1) - 1
}

fn note(shared: &Shared, piece: &[u8]) {
    let mut watched = shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
    if !watched.0.is_empty() && contains(piece, watched.0) {
        watched.1 = Some(Instant::now());
    }
}

fn contains(piece: &[u8], word: &str) -> bool {
    piece.windows(word.len()).any(|window| window == word.as_bytes())
}
