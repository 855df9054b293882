//! The node API, with upstream's paths: what the API server asks a node.
//!
//! `GET /healthz`, `GET /pods`, `GET /containerLogs/NAMESPACE/POD/CONTAINER`;
//! `/exec`, `/attach`, `/portForward` and `/run` of the same form; `/stats`,
//! `/metrics` and `/configz`; and of our own `GET /flightRecorder/NAMESPACE/POD`:
//! a [`FlightList`].
//!
//! [`FlightList`]: crate::flight::FlightList
//!
//! Who may ask is decided before a request gets here.

pub mod access;
mod stats;
mod streams;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::node::{ContainerView, RunState};
use api::{Status, Time, Uid};
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use percent_encoding::percent_decode_str;
use runtime::{LogLimits, Runtime};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::flight::FlightRecorder;
use crate::logs::{LogFile, LogOptions, LogWatch, Renderer};
use crate::pods::{Known, Pods, log_dir};
use crate::usage::Samples;

/// The body of an answer.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A followed log is looked at at least this often, should news be lost.
const FOLLOW_POLL: Duration = Duration::from_secs(5);
/// How much of a log is read before it is sent on.
const CHUNK_BYTES: usize = 64 * 1024;

/// What a node API is made of.
pub struct Parts {
    /// The pods of this node, shared with the kubelet.
    pub pods: Arc<Pods>,
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// What happened to pods.
    pub flights: FlightRecorder,
    /// Directory of all pods' logs.
    pub log_root: PathBuf,
    /// How the names of the node's ends of the pods' links begin.
    pub pod_links: &'static str,
    /// How much of a container's log is kept.
    pub log_limits: LogLimits,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Name of the node.
    pub node: String,
}

/// Answers the node API.
#[derive(Clone)]
pub struct NodeApi {
    pods: Arc<Pods>,
    runtime: Arc<dyn Runtime>,
    flights: FlightRecorder,
    log_root: PathBuf,
    log_limits: LogLimits,
    pod_links: &'static str,
    clock: Arc<dyn Clock>,
    node: String,
    started: Time,
    samples: Arc<Samples>,
    shutdown: CancellationToken,
    /// Streams that run; they end with the last clone.
    sessions: Arc<Mutex<JoinSet<()>>>,
}

impl NodeApi {
    /// A node API over the pods of this node. Followed logs and streams end on
    /// `shutdown`.
    #[must_use]
    pub fn new(parts: Parts, shutdown: CancellationToken) -> Self {
        Self {
            started: parts.clock.now(),
            pods: parts.pods,
            runtime: parts.runtime,
            log_root: parts.log_root,
            log_limits: parts.log_limits,
            pod_links: parts.pod_links,
            clock: parts.clock,
            node: parts.node,
            samples: Arc::default(),
            flights: parts.flights,
            shutdown,
            sessions: Arc::default(),
        }
    }

    /// Reads the counters that rates are made of, until the shutdown.
    pub async fn sample(&self) {
        self.samples.collect(&self.runtime, &self.clock, self.shutdown.clone()).await;
    }

    /// `/configz`: the settings in force, under upstream's names.
    fn configuration(&self) -> serde_json::Value {
        let limits = self.log_limits;
        serde_json::json!({ "kubeletconfig": {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "authentication": { "anonymous": { "enabled": false }, "webhook": { "enabled": true } },
            "authorization": { "mode": "Webhook" },
            "containerLogMaxSize": limits.file_bytes_max.to_string(),
            "containerLogMaxFiles": limits.files_max,
            "streamingConnectionIdleTimeout": format!("{}h0m0s", crate::streams::IDLE.as_secs() / 3600),
        }})
    }

    /// Waits until every stream has told its client the end. For after
    /// `shutdown`; bounded by what a stream may take to say farewell.
    pub async fn drain(&self) {
        let mut sessions = std::mem::take(&mut *self.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        while sessions.join_next().await.is_some() {}
    }

    /// Answers one request. Errors are `metav1.Status` bodies, but text where
    /// a request would have become a stream, as upstream.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Body> {
        // Nothing here is asked with a body.
        let request = Request::from_parts(request.into_parts().0, ());
        let mut path = Vec::new();
        for segment in request.uri().path().trim_matches('/').split('/') {
            match percent_decode_str(segment).decode_utf8() {
                Ok(text) => path.push(text.into_owned()),
                Err(_) => return refused(&Status::bad_request("the path is not UTF-8")),
            }
        }
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if !matches!(path.as_slice(), ["healthz" | "metrics" | "configz" | "flightRecorder", ..]) {
            self.pods.settled().await;
        }
        let streamed = match path.as_slice() {
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
                self.remote(request, [namespace, pod, container], true)
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                self.remote(request, [namespace, pod, container], false)
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => self.forward(request, namespace, pod),
            ["run", namespace, pod, container] | ["run", namespace, pod, _, container] => {
                self.run(request, [namespace, pod, container]).await
            }
            _ => {
                let answer = self.answer(&request, &path).await;
                return answer.unwrap_or_else(|status| refused(&status));
            }
        };
        streamed.unwrap_or_else(|refusal| text(refusal.code, refusal.message))
    }

    async fn answer(&self, request: &Request<()>, path: &[&str]) -> Result<Response<Body>, Box<Status>> {
        if request.method() != Method::GET {
            return Err(Box::new(Status::method_not_allowed(format!(
                "the node API does not take {} here",
                request.method()
            ))));
        }
        match path {
            ["stats", "summary"] => Ok(self.summary(request.uri().query().unwrap_or_default()).await),
            ["stats", "usage"] => Ok(self.usage().await),
            ["metrics"] => Ok(self.metrics()),
            ["metrics", "resource"] => Ok(self.resource_metrics().await),
            ["configz"] => Ok(json(StatusCode::OK, &self.configuration())),
            ["healthz"] => Ok(text(StatusCode::OK, "ok".to_owned())),
            ["pods"] => {
                let items: Vec<_> = self.pods.all().into_iter().map(|(_, known)| known.pod).collect();
                let items: Vec<_> = items.iter().map(AsRef::as_ref).collect();
                Ok(json(
                    StatusCode::OK,
                    &serde_json::json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }),
                ))
            }
            ["flightRecorder", namespace, pod] => Ok(json(StatusCode::OK, &self.flights.find(namespace, pod).await)),
            ["containerLogs", namespace, pod, container] => {
                let options = LogOptions::parse(request.uri().query().unwrap_or_default(), self.clock.now())
                    .map_err(|error| Box::new(Status::bad_request(error.to_string())))?;
                self.logs(namespace, pod, container, options).await
            }
            _ => Err(Box::new(Status::no_such_path())),
        }
    }

    async fn logs(&self, namespace: &str, pod: &str, container: &str, options: LogOptions) -> Result<Response<Body>, Box<Status>> {
        let (uid, known) = self
            .pods
            .find(namespace, pod)
            .ok_or_else(|| Box::new(Status::bad_request(format!("pod {namespace}/{pod} is not on this node"))))?;
        let attempt = choose_attempt(&known, pod, container, options.previous).map_err(|message| Box::new(Status::bad_request(message)))?;
        let path = log_dir(&self.log_root, namespace, pod, &uid)
            .join(container)
            .join(format!("{attempt}.log"));
        // Finding the tail of a long log takes long.
        let (tail_lines, follow) = (options.tail_lines, options.follow);
        // Before it is read: what is written from now on is news.
        let watch = follow.then(|| LogWatch::new(path.parent().unwrap_or(&path)));
        let opening = tokio::task::spawn_blocking(move || LogFile::open(&path, tail_lines, follow));
        let file = match opening.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked))) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Box::new(Status::bad_request(format!(
                    "container {container:?} in pod {pod:?} is not available"
                ))));
            }
            Err(error) => {
                return Err(Box::new(Status::internal(&format!(
                    "reading the log of container {container:?}: {error}"
                ))));
            }
        };
        let follower = Follower {
            file: Some(file),
            renderer: Renderer::new(options.clone()),
            pods: self.pods.clone(),
            uid,
            container: container.to_owned(),
            attempt,
            follow,
            watch,
            changes: self.pods.changes(),
            shutdown: self.shutdown.clone(),
        };
        let frames = futures::stream::unfold(follower, |mut follower| async {
            let chunk = follower.next().await?;
            Some((chunk.map(|bytes| Frame::data(Bytes::from(bytes))), follower))
        });
        let body = StreamBody::new(frames.map(|frame| frame.map_err(Into::into))).boxed_unsync();
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
        Ok(response)
    }
}

/// Which attempt's log is meant. The error is upstream's text.
fn choose_attempt(known: &Known, pod: &str, container: &str, previous: bool) -> Result<u32, String> {
    let mut attempts: Vec<&ContainerView> = known.observed.containers.iter().filter(|c| c.name == container).collect();
    attempts.sort_by_key(|view| view.attempt);
    let newest = attempts.last();
    if previous {
        let before = newest
            .and_then(|newest| newest.attempt.checked_sub(1))
            .filter(|_| known_previous(known, container));
        return before.ok_or_else(|| format!("previous terminated container {container:?} in pod {pod:?} not found"));
    }
    match newest {
        Some(view) => Ok(view.attempt),
        None => Err(waiting_text(known, pod, container)),
    }
}

/// Whether the API status shows an earlier termination of the container.
fn known_previous(known: &Known, container: &str) -> bool {
    statuses(known).any(|status| {
        status.name == container && (status.restart_count > 0 || status.last_state.as_ref().is_some_and(|s| s.terminated.is_some()))
    })
}

fn statuses(known: &Known) -> impl Iterator<Item = &api::typed::ContainerStatus> {
    let status = known.pod.status.as_ref();
    let lists = [
        status.and_then(|s| s.container_statuses.as_deref()),
        status.and_then(|s| s.init_container_statuses.as_deref()),
        status.and_then(|s| s.ephemeral_container_statuses.as_deref()),
    ];
    lists.into_iter().flatten().flatten()
}

/// Why a container without any attempt has no log. Source of the texts:
/// upstream `kubelet_pods.go`, `validateContainerLogStatus`.
fn waiting_text(known: &Known, pod: &str, container: &str) -> String {
    let waiting = statuses(known)
        .find(|status| status.name == container)
        .and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone());
    match waiting.as_deref() {
        Some("ErrImagePull") => format!("container {container:?} in pod {pod:?} is waiting to start: image can't be pulled"),
        Some("ImagePullBackOff") => format!("container {container:?} in pod {pod:?} is waiting to start: trying and failing to pull image"),
        Some(reason) => format!("container {container:?} in pod {pod:?} is waiting to start: {reason}"),
        None => format!("container {container:?} in pod {pod:?} is not available"),
    }
}

/// One answer that reads a log, and goes on reading while its container runs.
struct Follower {
    file: Option<LogFile>,
    renderer: Renderer,
    pods: Arc<Pods>,
    uid: Uid,
    container: String,
    attempt: u32,
    follow: bool,
    watch: Option<LogWatch>,
    /// Tells that a pod was observed anew: its container may have ended.
    changes: tokio::sync::watch::Receiver<u64>,
    shutdown: CancellationToken,
}

impl Follower {
    /// The next piece of output; `None` at the end. The file is read on a
    /// blocking thread.
    async fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        loop {
            // Looked at before the read: what a process wrote before it ended
            // is in the log when its end is known.
            self.changes.mark_unchanged();
            let may_grow = self.follow && self.may_grow() && !self.shutdown.is_cancelled();
            match self.read().await {
                Ok(chunk) if !chunk.is_empty() => return Some(Ok(chunk)),
                Ok(_) if !may_grow || self.renderer.is_full() => return None,
                Ok(_) => self.news().await,
                Err(error) => {
                    self.follow = false;
                    return Some(Err(error));
                }
            }
        }
    }

    /// Waits until there may be more, or nothing more to wait for.
    async fn news(&mut self) {
        let written = async {
            match &mut self.watch {
                Some(watch) => watch.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = written => {}
            _ = self.changes.changed() => {}
            () = self.shutdown.cancelled() => {}
            () = tokio::time::sleep(FOLLOW_POLL) => {}
        }
    }

    fn may_grow(&self) -> bool {
        self.pods.get(&self.uid).is_some_and(|known| {
            let attempt = known
                .observed
                .containers
                .iter()
                .find(|view| view.name == self.container && view.attempt == self.attempt);
            attempt.is_some_and(|view| !matches!(view.state, RunState::Exited(_)))
        })
    }

    async fn read(&mut self) -> io::Result<Vec<u8>> {
        let Some(mut file) = self.file.take() else { return Ok(Vec::new()) };
        if self.renderer.is_full() {
            return Ok(Vec::new());
        }
        let mut renderer = std::mem::replace(&mut self.renderer, Renderer::new(LogOptions::default()));
        let work = tokio::task::spawn_blocking(move || {
            let mut out = Vec::new();
            let mut result = Ok(true);
            while out.is_empty() && matches!(result, Ok(true)) {
                result = file.read_lines(CHUNK_BYTES, |line| renderer.line(line, &mut out));
            }
            (file, renderer, result.map(|_| out))
        });
        let (file, renderer, result) = work.await.map_err(io::Error::other)?;
        self.file = Some(file);
        self.renderer = renderer;
        result
    }
}

/// A request that does not become a stream: a code and a text.
#[derive(Debug)]
struct Refusal {
    code: StatusCode,
    message: String,
}

impl Refusal {
    fn new(code: StatusCode, message: &str) -> Self {
        Self {
            code,
            message: message.to_owned(),
        }
    }
}

fn refused(status: &Status) -> Response<Body> {
    json(
        StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        status,
    )
}

fn text(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json<T: serde::Serialize>(code: StatusCode, value: &T) -> Response<Body> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
