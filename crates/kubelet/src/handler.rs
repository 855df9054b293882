//! What hooks and probes do, once: run a command, GET a page, open a
//! connection. Errors are in the words of upstream's, which users search for.
//!
//! Source: upstream `pkg/probe/{exec,http,tcp}`, `lifecycle/handlers.go`; Go's
//! `net` and `net/http` for the texts.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::Uid;
use api::node::ContainerId;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use runtime::{ExecOutput, ExecRequest, RuntimeError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::config;
use crate::execute::{Ports, Subject};

/// Most of an answer's body, or of a command's output, that is looked at.
/// Source: upstream `maxRespBodyLength`, `maxReadLength`.
pub(crate) const OUTPUT_MAX_BYTES: usize = 10 * 1024;

/// What Go says when a TLS client meets a plain server.
const PLAIN: &str = "http: server gave HTTP response to HTTPS client";

/// A page to GET.
#[derive(Clone, Debug)]
pub(crate) struct Page<'a> {
    /// Host name or address.
    pub(crate) host: &'a str,
    /// Port.
    pub(crate) port: u16,
    /// Path, with query.
    pub(crate) path: &'a str,
    /// Over TLS, whoever answers.
    pub(crate) https: bool,
    /// Headers of the spec, in order.
    pub(crate) headers: &'a [(String, String)],
    /// `User-Agent` unless a header says otherwise.
    pub(crate) user_agent: &'a str,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) location: Option<String>,
    pub(crate) body: String,
}

/// A page that could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    /// HTTPS was asked and HTTP answered.
    #[error("{}", PLAIN)]
    Plain,
    /// Anything else, in Go's words.
    #[error("{0}")]
    Other(String),
}

impl Page<'_> {
    /// `host:port`, an IPv6 address in brackets.
    pub(crate) fn address(&self) -> String {
        address(self.host, self.port)
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.address(), self.path)
    }

    /// The defaults, and the spec's over them; an empty `Accept` removes it.
    fn headers(&self) -> Result<HeaderMap, PageError> {
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers {
            let unusable = || PageError::Other(format!("invalid header {name:?}"));
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unusable())?;
            headers.append(name, HeaderValue::from_str(value).map_err(|_| unusable())?);
        }
        if !headers.contains_key(header::USER_AGENT) {
            headers.insert(
                header::USER_AGENT,
                HeaderValue::from_str(self.user_agent).map_err(|error| PageError::Other(error.to_string()))?,
            );
        }
        match headers.get(header::ACCEPT) {
            None => drop(headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"))),
            Some(accept) if accept.is_empty() => drop(headers.remove(header::ACCEPT)),
            Some(_) => {}
        }
        if !headers.contains_key(header::HOST) {
            headers.insert(
                header::HOST,
                HeaderValue::from_str(&self.address()).map_err(|error| PageError::Other(error.to_string()))?,
            );
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        Ok(headers)
    }
}

/// `host:port`, an IPv6 address in brackets.
pub(crate) fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Opens a connection.
///
/// # Errors
/// In Go's words: `dial tcp 10.0.0.5:80: connect: connection refused`.
pub(crate) async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("dial tcp {}: {}", address(host, port), dial_error(&error, host)))
}

fn dial_error(error: &io::Error, host: &str) -> String {
    if error.raw_os_error().is_none() && host.parse::<IpAddr>().is_err() {
        return format!("lookup {host}: no such host");
    }
    match error.kind() {
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => format!("connect: {}", errno_words(error)),
    }
}

/// The system's words without the number, in lower case as Go has them.
fn errno_words(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    words.to_lowercase()
}

/// GETs a page over a connection of its own.
///
/// # Errors
/// In Go's words, without `Get "<url>": `.
pub(crate) async fn get(page: &Page<'_>) -> Result<Answer, PageError> {
    let stream = dial(page.host, page.port).await.map_err(PageError::Other)?;
    if !page.https {
        return ask(page, stream).await;
    }
    let name = ServerName::try_from(page.host.to_owned()).map_err(|error| PageError::Other(error.to_string()))?;
    match TlsConnector::from(tls()).connect(name, stream).await {
        Ok(stream) => ask(page, stream).await,
        Err(error) => {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            Err(match inner {
                Some(rustls::Error::InvalidMessage(_)) => PageError::Plain,
                Some(other) => PageError::Other(format!("tls: {other}")),
                None => PageError::Other(io_words(&error)),
            })
        }
    }
}

fn io_words(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        "EOF".to_owned()
    } else {
        errno_words(error)
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(page: &Page<'_>, stream: S) -> Result<Answer, PageError> {
    let uri: Uri = page
        .path
        .parse()
        .map_err(|error: http::uri::InvalidUri| PageError::Other(error.to_string()))?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    *request.headers_mut() = page.headers()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| said(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| said(&error))?;
        let (head, mut body) = response.into_parts();
        let mut start = BytesMut::new();
        while start.len() < OUTPUT_MAX_BYTES {
            match body.frame().await {
                Some(Ok(frame)) => start.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(error)) => return Err(said(&error)),
                None => break,
            }
        }
        start.truncate(OUTPUT_MAX_BYTES);
        Ok(Answer {
            status: head.status,
            location: head
                .headers
                .get(header::LOCATION)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned),
            body: String::from_utf8_lossy(&start).into_owned(),
        })
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await, // what is left is in the buffer
    }
}

fn said(error: &hyper::Error) -> PageError {
    if error.is_incomplete_message() {
        return PageError::Other("EOF".to_owned());
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return PageError::Other(io_words(io));
        }
        cause = inner.source();
    }
    PageError::Other(error.to_string())
}

/// TLS that asks nobody for a name, as upstream's probes and hooks.
fn tls() -> Arc<ClientConfig> {
    static CONFIG: std::sync::OnceLock<Arc<ClientConfig>> = std::sync::OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .expect("ring has cipher suites for TLS 1.2 and 1.3")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
                .with_no_client_auth();
            Arc::new(config)
        })
        .clone()
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

/// Runs a command in a container, `$(NAME)` in it expanded.
///
/// # Errors
/// When it could not be run.
pub(crate) async fn exec(
    ports: &Ports,
    subject: &Subject,
    container: &str,
    id: &ContainerId,
    command: &[String],
    timeout: Duration,
) -> Result<ExecOutput, RuntimeError> {
    let command = subject
        .pod
        .as_deref()
        .map_or_else(|| command.to_vec(), |pod| config::expand_in(pod, container, command));
    let request = ExecRequest {
        command,
        timeout: Some(timeout),
    };
    ports.runtime.exec(&subject.uid, id, request).await
}

/// The host to ask: the one named, else the pod's address.
///
/// # Errors
/// When the pod has none.
pub(crate) fn host(ports: &Ports, uid: &Uid, named: Option<&str>) -> Result<String, String> {
    if let Some(host) = named {
        return Ok(host.to_owned());
    }
    let known = ports.pods.get(uid);
    let sandbox = known.as_ref().and_then(|known| known.observed.sandbox.as_ref());
    let ip = sandbox.and_then(|sandbox| sandbox.ips.first());
    ip.map(ToString::to_string).ok_or_else(|| "the pod has no address".to_owned())
}
