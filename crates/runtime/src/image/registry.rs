//! One registry endpoint during one pull: what it is asked, and what its
//! failures mean. A thin layer over `oci-client`.

use std::error::Error;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use oci_client::Client;
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;

use super::reference::{Digest, Reference, Version};
use super::registries::{Endpoint, is_loopback};
use crate::Auth;

const USER_AGENT: &str = concat!("lifepod/", env!("CARGO_PKG_VERSION"));
/// In the order in which they are preferred.
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// How a request to a registry failed, worded as containerd words it.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It has no such image or blob.
    #[error("{0}: not found")]
    NotFound(String),
    /// It wants other credentials, or hides that there is nothing.
    #[error("pull access denied, repository does not exist or may require authorization: authorization failed: {0}")]
    Denied(String),
    /// No answer was had.
    #[error("failed to do request: Get {url:?}: {cause}")]
    Request {
        /// What was asked.
        url: String,
        /// Why not, as Go words it where it is a common one.
        cause: String,
        /// Asking again soon may help.
        transient: bool,
    },
    /// It answered with an error.
    #[error("unexpected status from GET request to {url}: {code}{}", if message.is_empty() { String::new() } else { format!(": {message}") })]
    Status {
        /// What was asked.
        url: String,
        /// HTTP status.
        code: u16,
        /// Its words, shortened.
        message: String,
    },
    /// It answered with something else than was asked for.
    #[error("{0}")]
    Protocol(String),
}

impl RegistryError {
    /// Whether asking again soon may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Request { transient, .. } => *transient,
            Self::Status { code, .. } => *code >= 500 || *code == 429 || *code == 408,
            Self::NotFound(_) | Self::Denied(_) | Self::Protocol(_) => false,
        }
    }
}

/// Time limits of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    /// Between two pieces of an answer.
    pub(crate) idle: Duration,
}

/// One repository at one endpoint.
pub(crate) struct Session {
    client: Client,
    image: oci_client::Reference,
    auth: RegistryAuth,
    reference: Reference,
    idle: Duration,
}

/// Content of a blob from some offset on.
pub(crate) struct Content {
    /// Where it begins; 0 when the registry does not do ranges.
    pub(crate) offset: u64,
    pub(crate) stream: BoxStream<'static, io::Result<Bytes>>,
}

impl Session {
    pub(crate) fn new(endpoint: &Endpoint, reference: &Reference, auth: Option<&Auth>, timeouts: Timeouts) -> Result<Self, RegistryError> {
        install_crypto();
        let mut config = ClientConfig {
            protocol: if endpoint.plain {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            // Without TLS there is nothing to check, and a machine without
            // root certificates can use its local registry.
            accept_invalid_certificates: endpoint.plain,
            read_timeout: Some(timeouts.idle),
            connect_timeout: Some(timeouts.connect),
            user_agent: USER_AGENT,
            platform_resolver: None,
            ..ClientConfig::default()
        };
        if is_loopback(&endpoint.host) {
            // As in Go, a proxy named in the environment is not for this
            // machine. The client reads the environment only when no proxy is
            // set, so one is, for no host at all.
            config.http_proxy = Some("http://127.0.0.1:9".to_owned());
            config.no_proxy = Some("*,0.0.0.0/0,::/0".to_owned());
        }
        let client =
            Client::try_from(config).map_err(|error| RegistryError::Protocol(format!("set up HTTP client: {}", root_cause(&error))))?;
        let (registry, repository) = (reference.registry().to_owned(), reference.repository().to_owned());
        let mut image = match reference.version() {
            Version::Tag(tag) => oci_client::Reference::with_tag(registry, repository, tag.clone()),
            Version::Digest(digest) => oci_client::Reference::with_digest(registry, repository, digest.to_string()),
        };
        // Credentials are for the registry the image names, not for mirrors of it.
        let mut credentials = RegistryAuth::Anonymous;
        if endpoint.mirror {
            image.set_mirror_registry(endpoint.host.clone());
        } else if let Some(auth) = auth {
            credentials = RegistryAuth::Basic(auth.username.clone(), auth.password.clone());
        }
        Ok(Self {
            client,
            image,
            auth: credentials,
            reference: reference.clone(),
            idle: timeouts.idle,
        })
    }

    /// Gets a token if the registry wants one.
    pub(crate) async fn authenticate(&self) -> Result<(), RegistryError> {
        let ask = self.client.auth(&self.image, &self.auth, oci_client::RegistryOperation::Pull);
        self.bounded(ask, &self.reference.to_string()).await.map(|_| ())
    }

    /// The manifest or index the reference names, or the one of `digest`.
    pub(crate) async fn manifest(&self, digest: Option<&Digest>) -> Result<Bytes, RegistryError> {
        let (image, name) = match digest {
            Some(digest) => (
                self.image.clone_with_digest(digest.to_string()),
                self.reference.at(digest.clone()).to_string(),
            ),
            None => (self.image.clone(), self.reference.to_string()),
        };
        let ask = self.client.pull_manifest_raw(&image, &self.auth, &MANIFEST_TYPES);
        self.bounded(ask, &name).await.map(|(bytes, _)| bytes)
    }

    /// A small request, which may take no longer than two silences: an answer
    /// that trickles in would never be one.
    async fn bounded<T>(&self, ask: impl Future<Output = Result<T, OciDistributionError>>, name: &str) -> Result<T, RegistryError> {
        let host = self.image.resolve_registry();
        match tokio::time::timeout(self.idle * 2, ask).await {
            Ok(answer) => answer.map_err(|error| self.classify(error, name)),
            Err(_) => Err(RegistryError::Request {
                url: host.to_owned(),
                cause: format!("dial tcp {host}: i/o timeout"),
                transient: true,
            }),
        }
    }

    /// A blob, from `offset` if the registry can.
    pub(crate) async fn blob(&self, digest: &Digest, offset: u64) -> Result<Content, RegistryError> {
        let answer = if offset == 0 {
            self.client
                .pull_blob_stream(&self.image, digest.as_str())
                .await
                .map(BlobResponse::Full)
        } else {
            self.client
                .pull_blob_stream_partial(&self.image, digest.as_str(), offset, None)
                .await
        };
        let (offset, sized) = match answer.map_err(|error| self.classify(error, digest.as_str()))? {
            BlobResponse::Full(sized) => (0, sized),
            BlobResponse::Partial(sized) => (offset, sized),
        };
        Ok(Content {
            offset,
            stream: sized.stream.boxed(),
        })
    }

    /// A small blob as a whole, its digest checked.
    pub(crate) async fn small_blob(&self, digest: &Digest, size_max: u64) -> Result<Vec<u8>, RegistryError> {
        let mut stream = self.blob(digest, 0).await?.stream;
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece(&mut stream, digest).await? {
            if bytes.len() as u64 + piece.len() as u64 > size_max {
                return Err(RegistryError::Protocol(format!("blob {digest} has more than {size_max} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(RegistryError::Protocol(format!(
                "blob {digest} has content of digest {found}; the registry is damaged or was tampered with"
            )));
        }
        Ok(bytes)
    }

    /// The next piece of a blob, waiting no longer than the idle limit.
    pub(crate) async fn piece(
        &self,
        stream: &mut BoxStream<'static, io::Result<Bytes>>,
        digest: &Digest,
    ) -> Result<Option<Bytes>, RegistryError> {
        let failed = |cause: String, transient: bool| RegistryError::Request {
            url: format!("{} blob {digest}", self.image.resolve_registry()),
            cause,
            transient,
        };
        match tokio::time::timeout(self.idle, stream.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => Ok(Some(piece)),
            // oci-client ends a full stream with this when the content is wrong.
            Ok(Some(Err(error))) if is_digest_error(&error) => Err(RegistryError::Protocol(format!(
                "blob {digest}: {}; the registry is damaged or was tampered with",
                root_cause(&error)
            ))),
            Ok(Some(Err(error))) => Err(failed(root_cause(&error), true)),
            Err(_) => Err(failed(format!("no data for {} s", self.idle.as_secs()), true)),
        }
    }

    fn classify(&self, error: OciDistributionError, name: &str) -> RegistryError {
        let no_credentials = || match self.auth {
            RegistryAuth::Anonymous => "no basic auth credentials".to_owned(),
            _ => "the registry does not accept the credentials".to_owned(),
        };
        match error {
            OciDistributionError::RequestError(error) => {
                let url = error
                    .url()
                    .map_or_else(|| self.image.resolve_registry().to_owned(), ToString::to_string);
                let (cause, transient) = request_cause(&error, self.image.resolve_registry(), error.is_timeout());
                RegistryError::Request { url, cause, transient }
            }
            OciDistributionError::UnauthorizedError { .. } => RegistryError::Denied(no_credentials()),
            OciDistributionError::AuthenticationFailure(reason) => {
                let reason = shorten(&reason);
                RegistryError::Denied(if reason.is_empty() { no_credentials() } else { reason })
            }
            OciDistributionError::RegistryError { envelope, url } => {
                let missing = |code: &OciErrorCode| {
                    matches!(
                        code,
                        OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::BlobUnknown | OciErrorCode::NotFound
                    )
                };
                let denied = |code: &OciErrorCode| matches!(code, OciErrorCode::Denied | OciErrorCode::Unauthorized);
                let words = || {
                    shorten(
                        &envelope
                            .errors
                            .iter()
                            .map(|error| error.message.as_str())
                            .collect::<Vec<_>>()
                            .join("; "),
                    )
                };
                if envelope.errors.iter().any(|error| missing(&error.code)) {
                    RegistryError::NotFound(name.to_owned())
                } else if envelope.errors.iter().any(|error| denied(&error.code)) {
                    RegistryError::Denied(format!("server message: {}", words()))
                } else if envelope.errors.iter().any(|error| error.code == OciErrorCode::Toomanyrequests) {
                    RegistryError::Status {
                        url,
                        code: 429,
                        message: words(),
                    }
                } else {
                    RegistryError::Protocol(format!("{url}: {}", words()))
                }
            }
            OciDistributionError::ServerError { code: 404, .. } => RegistryError::NotFound(name.to_owned()),
            OciDistributionError::ServerError { code: 401 | 403, .. } => RegistryError::Denied(no_credentials()),
            OciDistributionError::ServerError { code, url, message } => RegistryError::Status {
                url,
                code,
                message: shorten(&message),
            },
            other => RegistryError::Protocol(format!("{name}: {}", root_cause(&other))),
        }
    }
}

/// The registry client needs a process-wide TLS implementation; the first to
/// come installs it.
fn install_crypto() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        // An error means that another part of the process was first, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// The reason of a failed request in Go's words, and whether it may pass.
fn request_cause(error: &(dyn Error + 'static), host: &str, timed_out: bool) -> (String, bool) {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut last = String::new();
    let mut unresolved = false;
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            match io.kind() {
                io::ErrorKind::ConnectionRefused => return (format!("dial tcp {host}: connect: connection refused"), false),
                io::ErrorKind::NetworkUnreachable => return (format!("dial tcp {host}: connect: network is unreachable"), false),
                io::ErrorKind::HostUnreachable => return (format!("dial tcp {host}: connect: no route to host"), false),
                io::ErrorKind::ConnectionReset => return (format!("read tcp {host}: connection reset by peer"), true),
                _ => {}
            }
        }
        last = error.to_string();
        unresolved |= last == "dns error";
        cause = error.source();
    }
    if unresolved {
        (
            format!("dial tcp: lookup {}: {last}", host.split(':').next().unwrap_or(host)),
            false,
        )
    } else if timed_out {
        (format!("dial tcp {host}: i/o timeout"), true)
    } else {
        (last, true)
    }
}

fn is_digest_error(error: &io::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
    while let Some(error) = cause {
        if error.is::<oci_client::errors::DigestError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// A registry's words, short enough for an event.
fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 256;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}
