//! The way in: connections accepted, counted, encrypted, and served until the end. HTTP/1.1 alone, because one connection
//! is then one request at a time, and the limits on both mean what they say.

mod seats;
pub mod tls;

use crate::config::Config;
use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use seats::{Refused, Seats};
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tls::Tls;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tower::Service;

/// Connections that wait to be accepted; the system's own limit is often 4,096.
const LISTEN_QUEUE: u32 = 4096;
/// Time for a TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Time in which the other side must take what was sent to it; a connection that nobody reads is closed.
const UNREAD_MAX: Duration = Duration::from_secs(60);
/// Headers of a request; browsers and proxies send about thirty.
const HEADERS_MAX: usize = 100;
/// Bytes of a request's headers.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Pause when the system gives no connection: it has no file descriptors or no memory left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Seconds after which a connection that found no room may be tried again.
const RETRY_SECONDS: u64 = 5;

/// What is known of the connection that a request came by.
#[derive(Debug, Clone, Copy)]
pub struct Wire {
    /// The other end.
    pub from: SocketAddr,
    /// Whether it is encrypted.
    pub is_tls: bool,
}

/// An open door.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    tls: Option<Tls>,
    seats: Arc<Seats>,
    http: http1::Builder,
}

impl Door {
    /// Listens where the settings say.
    ///
    /// # Errors
    /// When the address is taken, or the certificate cannot be read.
    pub fn open(config: &Config) -> Result<Self> {
        raise_descriptors(config.connections_max);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(config.header_timeout_ms))
            .max_headers(HEADERS_MAX)
            .max_header_size(HEADER_BYTES_MAX);
        Ok(Self {
            tls: Tls::of(config)?,
            listener: listen(config.listen)
                .map_err(|error| anyhow::anyhow!("listen: cannot listen on {}: {error}", config.listen))?,
            seats: Arc::new(Seats::new(config)),
            http,
        })
    }

    /// Where it is.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The certificate, to read it again.
    #[must_use]
    pub fn tls(&self) -> Option<Tls> {
        self.tls.clone()
    }

    /// Serves until told to close, then until the last request is answered.
    pub async fn serve<S, B>(self, service: S, mut closing: watch::Receiver<bool>)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: hyper::body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = closing.wait_for(|closing| *closing) => break,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // The other end hung up meanwhile, or the system has nothing left to give.
                    tracing::debug!(%error, "no connection accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let seat = match self.seats.take(from.ip()) {
                Ok(seat) => Ok(seat),
                Err(Refused::Told(seat)) => Err(seat),
                Err(Refused::Dropped) => continue,
            };
            let (tls, http, service, watcher) =
                (self.tls.clone(), self.http.clone(), service.clone(), graceful.watcher());
            tokio::spawn(async move {
                let is_tls = tls.is_some();
                let wire = Wire { from, is_tls };
                let _ = prepare(&stream);
                match tls {
                    None => attend(http, stream, wire, service, seat, watcher).await,
                    Some(tls) => {
                        let shaken = TlsAcceptor::from(tls.now()).accept(stream);
                        match tokio::time::timeout(HANDSHAKE_MAX, shaken).await {
                            Ok(Ok(stream)) => attend(http, stream, wire, service, seat, watcher).await,
                            Ok(Err(error)) => tracing::debug!(%from, %error, "no TLS"),
                            Err(_) => tracing::debug!(%from, "no TLS in time"),
                        }
                    }
                }
            });
        }
        drop(self.listener);
        graceful.shutdown().await;
    }
}

/// Serves one connection; `seat` is an error where there is none for it but to be told so.
async fn attend<I, S, B>(
    http: http1::Builder,
    stream: I,
    wire: Wire,
    service: S,
    seat: Result<seats::Seat, seats::Seat>,
    watcher: Watcher,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let io = TokioIo::new(stream);
    let ended = match &seat {
        Ok(_) => {
            let answer = move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(wire);
                service.clone().call(request)
            };
            watcher.watch(http.serve_connection(io, service_fn(answer))).await
        }
        Err(_) => {
            let full = service_fn(|_| std::future::ready(Ok::<_, Infallible>(full())));
            watcher.watch(http.serve_connection(io, full)).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(from = %wire.from, %error, "a connection ended early");
    }
}

/// What a connection is told that finds no room.
fn full() -> Response<Full<Bytes>> {
    let problem = serde_json::json!({
        "type": "/problems/too_many_requests", "code": "too_many_requests", "title": "Too much at once", "status": 429,
        "detail": "there are too many connections, from this address or in all; ask again in a moment", "faults": [],
        "request_id": "",
    });
    let mut response = Response::new(Full::new(Bytes::from(problem.to_string())));
    *response.status_mut() = hyper::StatusCode::TOO_MANY_REQUESTS;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
    headers.insert(header::RETRY_AFTER, RETRY_SECONDS.into());
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}

/// A fleet that comes back at once after an outage finds room in the queue of connections.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_QUEUE)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let unread_ms = u32::try_from(UNREAD_MAX.as_millis()).unwrap_or(u32::MAX);
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, unread_ms)?)
}

/// Each connection is a file descriptor, and many systems begin with 1,024 of them.
fn raise_descriptors(connections_max: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = connections_max as u64 + 1024;
    let raised = limit.maximum.map_or(wanted, |most| wanted.min(most));
    if limit.current.is_some_and(|current| current < raised) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum });
    }
    if raised < wanted {
        tracing::warn!(raised, wanted, "connections_max is more than this process may open files (ulimit -n)");
    }
}
