//! The HTTPS front: accept, TLS, HTTP/2 or 1.1, and one call of
//! [`ApiServer::handle`] per request.

mod cork;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::audit::Peer;
use crate::authn::{self, Identity};
use crate::body::{Body, BodyError};
use crate::server::ApiServer;

/// What a connection may cost.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Connections at a time; more wait in the kernel's queue.
    pub connections: usize,
    /// Of these, those of clients that show no certificate; more are closed.
    /// Whoever cannot say who they are must not keep the others out.
    pub strangers: usize,
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// For the headers of an HTTP/1.1 request, and so for idle connections;
    /// and for the first request, whatever is spoken.
    pub header_timeout: Duration,
    /// Between pings that find out whether an HTTP/2 client is still there.
    pub ping_interval: Duration,
    /// For the answer to such a ping.
    pub ping_timeout: Duration,
    /// Requests at a time on one HTTP/2 connection.
    pub streams: u32,
    /// Of the headers of one request.
    pub header_bytes: u32,
    /// For running requests to end after shutdown began; watches are cut.
    pub drain_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 2_048,
            strangers: 1_024,
            handshake_timeout: Duration::from_secs(10),
            // Source: upstream `ReadHeaderTimeout`.
            header_timeout: Duration::from_secs(32),
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(15),
            streams: 250,
            header_bytes: 64 << 10,
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Whoever answers the requests that come in by a front.
pub trait Answer: Clone + Send + Sync + 'static {
    /// Answers one request of a caller, who may be nobody.
    fn answer(&self, identity: Option<Identity>, request: http::Request<Body>) -> impl Future<Output = http::Response<Body>> + Send;
}

impl Answer for ApiServer {
    fn answer(&self, identity: Option<Identity>, request: http::Request<Body>) -> impl Future<Output = http::Response<Body>> + Send {
        self.handle(identity, request)
    }
}

/// Serves until `shutdown`, then drains. Dropping the future cuts every
/// connection.
pub async fn serve<A: Answer>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    api: A,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) {
    let front = Arc::new(Front {
        acceptor: TlsAcceptor::from(tls),
        api,
        http1: http(&limits).http1_only(),
        http2: http(&limits).http2_only(),
        strangers: Semaphore::new(limits.strangers),
        limits,
        shutdown,
    });
    let slots = Arc::new(Semaphore::new(front.limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.ok()?;
            Some((slot, listener.accept().await))
        };
        tokio::select! {
            () = front.shutdown.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = next => match accepted {
                Some((slot, Ok((stream, peer)))) => {
                    let front = Arc::clone(&front);
                    connections.spawn(async move {
                        front.connection(stream, peer).await;
                        drop(slot);
                    });
                }
                Some((_, Err(error))) => accept_failed(&error).await,
                None => break,
            },
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(front.limits.drain_timeout, drained).await.is_err() {
        tracing::info!(connections = connections.len(), "connections cut at shutdown");
        connections.shutdown().await;
    }
}

/// A peer that is gone already is its own affair; anything else (no more file
/// descriptors) needs a pause, or the loop would spin.
async fn accept_failed(error: &io::Error) {
    let peer_gone = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    );
    if !peer_gone {
        tracing::warn!(%error, "accepting a connection failed; is the limit of open files too low?");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn http(limits: &ConnectionLimits) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes as usize);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.header_bytes);
    http
}

struct Front<A> {
    acceptor: TlsAcceptor,
    api: A,
    http1: auto::Builder<TokioExecutor>,
    http2: auto::Builder<TokioExecutor>,
    strangers: Semaphore,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
}

impl<A: Answer> Front<A> {
    async fn connection(&self, stream: TcpStream, peer: SocketAddr) {
        // Small frames of a watch must not wait for an acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "TCP_NODELAY refused");
        }
        let handshake = tokio::time::timeout(self.limits.handshake_timeout, self.acceptor.accept(stream));
        let tls = tokio::select! {
            () = self.shutdown.cancelled() => return,
            done = handshake => match done {
                Ok(Ok(tls)) => tls,
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "TLS handshake failed");
                    return;
                }
                Err(_) => {
                    tracing::debug!(%peer, "TLS handshake took too long");
                    return;
                }
            },
        };
        let identity = tls
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first())
            .and_then(|leaf| match authn::from_certificate(leaf) {
                Ok(identity) => Some(identity),
                Err(error) => {
                    tracing::debug!(%peer, %error, "client certificate identifies nobody");
                    None
                }
            });
        let stranger = if identity.is_none() {
            self.strangers.try_acquire().ok()
        } else {
            None
        };
        if identity.is_none() && stranger.is_none() {
            tracing::debug!(%peer, "too many connections without a client certificate");
            return;
        }
        let asked = AtomicBool::new(false);
        let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
            asked.store(true, Ordering::Relaxed);
            let (api, identity) = (self.api.clone(), identity.clone());
            let mut request = request.map(|body| body.map_err(BodyError::from).boxed_unsync());
            request.extensions_mut().insert(Peer(peer.ip()));
            // Watches would keep a connection from draining.
            request.extensions_mut().insert(self.shutdown.clone());
            async move { Ok::<_, Infallible>(contained(&api, identity, request).await) }
        });
        // What TLS agreed on, not what the first bytes look like: nobody waits
        // for those.
        let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let http = if is_http2 { &self.http2 } else { &self.http1 };
        let (stream, cork) = cork::cork(tls, is_http2);
        let mut connection = pin!(http.serve_connection_with_upgrades(TokioIo::new(stream), service));
        let silent = async {
            tokio::time::sleep(self.limits.header_timeout).await;
            if asked.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        let ended = tokio::select! {
            ended = cork.drive(connection.as_mut()) => ended,
            () = silent => {
                tracing::debug!(%peer, "no request came");
                return;
            }
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                cork.drive(connection.as_mut()).await
            }
        };
        cork.finish().await;
        if let Err(error) = ended {
            tracing::debug!(%peer, error, "connection ended");
        }
    }
}

/// A panic ends its request with a 500, never its connection's other requests.
async fn contained<A: Answer>(api: &A, identity: Option<Identity>, request: http::Request<Body>) -> http::Response<Body> {
    let path = request.uri().path().to_owned();
    match AssertUnwindSafe(api.answer(identity, request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            let why = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown");
            tracing::error!(path, why, "a request handler panicked");
            crate::respond::status(&api::Status::internal("the request handler failed; the server's log says where"))
        }
    }
}

#[cfg(test)]
mod tests;
