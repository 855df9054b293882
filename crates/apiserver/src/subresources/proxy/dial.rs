//! One HTTP/1.1 exchange over a connection of its own, both bodies streamed.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::{Body, BodyError};

/// For a connection to come about. Source: upstream `proxyTransport`'s dialer.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// For TLS over it. Source: Go's `DefaultTransport`.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the other side gave no answer, in the words of Go's `net/http`, which
/// users search for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// No connection.
    #[error("dial tcp {address}: {}", dial_words(source))]
    Dial {
        /// Whom.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// No TLS over it.
    #[error("{}", tls_words(source))]
    Tls {
        /// Why not.
        source: io::Error,
    },
    /// No HTTP over that.
    #[error("{}", http_words(source))]
    Http {
        /// Why not.
        source: hyper::Error,
    },
}

/// The system's words without the number, in lower case as Go has them.
fn errno_words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn dial_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => format!("connect: {}", errno_words(error)),
    }
}

fn tls_words(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => "http: server gave HTTP response to HTTPS client".to_owned(),
        Some(other) => format!("tls: {other}"),
        None if error.kind() == io::ErrorKind::TimedOut => "net/http: TLS handshake timeout".to_owned(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        None => errno_words(error),
    }
}

fn http_words(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        return "EOF".to_owned();
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return errno_words(io);
        }
        cause = inner.source();
    }
    error.to_string()
}

/// Sends a request and gives the answer once its headers are there. The
/// connection lives in the answer's body and ends with it; dropping the future
/// or the body closes it.
///
/// # Errors
/// When nobody listens, TLS fails, or what is answered is not HTTP.
pub(super) async fn exchange(https: bool, address: SocketAddr, request: Request<Body>) -> Result<Response<Body>, ExchangeError> {
    let stream = dial(&address.ip().to_string(), address.port()).await?;
    if https {
        secured(tls(), ServerName::from(address.ip()), stream, request).await
    } else {
        over(stream, request).await
    }
}

/// The same over TLS of one's own, to a host by name or address.
///
/// # Errors
/// As [`exchange`].
pub(crate) async fn exchange_with(
    tls: Arc<ClientConfig>,
    host: &str,
    port: u16,
    request: Request<Body>,
) -> Result<Response<Body>, ExchangeError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| ExchangeError::Tls {
        source: io::Error::other(error),
    })?;
    let stream = dial(host, port).await?;
    secured(tls, name, stream, request).await
}

fn late() -> io::Error {
    io::Error::from(io::ErrorKind::TimedOut)
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, ExchangeError> {
    let failed = |source| ExchangeError::Dial {
        address: format!("{host}:{port}"),
        source,
    };
    let dialled = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect((host, port))).await;
    let stream = dialled.unwrap_or_else(|_| Err(late())).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

async fn secured(
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: TcpStream,
    request: Request<Body>,
) -> Result<Response<Body>, ExchangeError> {
    let connecting = TlsConnector::from(tls).connect(name, stream);
    let secured = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await;
    let stream = secured
        .unwrap_or_else(|_| Err(late()))
        .map_err(|source| ExchangeError::Tls { source })?;
    over(stream, request).await
}

async fn over<S>(stream: S, request: Request<Body>) -> Result<Response<Body>, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |source| ExchangeError::Http { source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let mut connection: Driver = Box::pin(async move {
        // What went wrong is said by the request or the body.
        let _ = connection.with_upgrades().await;
    });
    let mut driven = true;
    let mut sending = pin!(sender.send_request(request));
    let response = loop {
        tokio::select! {
            biased;
            response = &mut sending => break response.map_err(failed)?,
            () = &mut connection, if driven => driven = false,
        }
    };
    if driven && response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // It ends by handing the connection over.
        connection.as_mut().await;
        driven = false;
    }
    Ok(response.map(|body| {
        let body = Driven {
            body,
            connection: driven.then_some(connection),
        };
        body.boxed_unsync()
    }))
}

type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A body that drives the connection it comes over.
struct Driven {
    body: Incoming,
    connection: Option<Driver>,
}

impl http_body::Body for Driven {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(connection) = &mut self.connection
            && connection.as_mut().poll(context).is_ready()
        {
            self.connection = None;
        }
        Pin::new(&mut self.body).poll_frame(context).map_err(BodyError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// TLS that asks a pod for no name, as upstream's proxy transport.
fn tls() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let provider = crate::pki::provider();
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        Arc::new(config)
    });
    Arc::clone(config)
}

/// Takes every certificate, but not a broken handshake.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
