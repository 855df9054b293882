//! `/exec`, `/attach` and `/portForward`: requests that become streams.
//!
//! Source: upstream `pkg/kubelet/server/server.go`, `getExec`, `getAttach`,
//! `getPortForward`; `kubelet/pkg/cri/streaming/remotecommand`, `NewOptions`.

use api::Uid;
use api::node::{ContainerId, RunState};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;

use super::{Body, NodeApi, Refusal, text};
use crate::pods::Known;
use crate::streams::{Forward, Purpose, Remote, Wanted, negotiate};

/// Sessions at a time on this node.
const SESSIONS_MAX: usize = 512;
/// Ports of one session over numbered channels, two each.
const PORTS_MAX: usize = 127;

/// The decoded query, in order.
fn query(request: &Request<()>) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn flag(query: &[(String, String)], name: &str) -> bool {
    query.iter().any(|(key, value)| key == name && (value == "1" || value == "true"))
}

/// Which streams are asked for.
fn wanted(query: &[(String, String)]) -> Result<Wanted, Refusal> {
    let tty = flag(query, "tty");
    let wanted = Wanted {
        stdin: flag(query, "input"),
        stdout: flag(query, "output"),
        stderr: flag(query, "error") && !tty,
        tty,
    };
    if wanted.stdin || wanted.stdout || wanted.stderr {
        Ok(wanted)
    } else {
        Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 of stdin, stdout, stderr",
        ))
    }
}

/// The running attempt of a container.
pub(super) fn running(known: &Known, container: &str) -> Result<ContainerId, Refusal> {
    let attempts = known.observed.containers.iter().filter(|view| view.name == container);
    let newest = attempts.max_by_key(|view| view.attempt);
    let newest = newest.filter(|view| matches!(view.state, RunState::Running { .. }));
    newest
        .map(|view| view.id.clone())
        .ok_or_else(|| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, &format!("container not found ({container:?})")))
}

impl NodeApi {
    /// Runs a command in a container, or with none joins its streams.
    pub(super) fn remote(&self, request: Request<()>, place: [&str; 3], exec: bool) -> Result<Response<Body>, Refusal> {
        let [namespace, pod, container] = place;
        let (uid, known) = self.find(namespace, pod)?;
        let query = query(&request);
        let wanted = wanted(&query)?;
        let command = exec.then(|| {
            let words = query.iter().filter(|(name, _)| name == "command");
            words.map(|(_, word)| word.clone()).collect::<Vec<_>>()
        });
        if command.as_ref().is_some_and(Vec::is_empty) {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "you must specify at least 1 command"));
        }
        let id = running(&known, container)?;
        self.switch(request, Purpose::Remote, |api, upgrade| {
            let remote = Remote {
                runtime: api.runtime.clone(),
                pod: uid,
                id,
                command,
                wanted,
                upgrade,
            };
            Box::new(move |io, shutdown| Box::pin(remote.run(io, shutdown)))
        })
    }

    /// Forwards ports of a pod.
    pub(super) fn forward(&self, request: Request<()>, namespace: &str, pod: &str) -> Result<Response<Body>, Refusal> {
        let (uid, known) = self.find(namespace, pod)?;
        if !known.observed.sandbox.as_ref().is_some_and(|sandbox| sandbox.ready) {
            let message = format!("pod {pod}_{namespace}({uid}) is not running; its ports cannot be forwarded");
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, &message));
        }
        let ports = ports(&query(&request))?;
        let name = pod.to_owned();
        self.switch(request, Purpose::Forward, |api, upgrade| {
            let forward = Forward {
                runtime: api.runtime.clone(),
                pod: uid,
                name,
                ports,
                upgrade,
            };
            Box::new(move |io, shutdown| Box::pin(forward.run(io, shutdown)))
        })
    }

    /// Agrees on a protocol, and begins the session once the connection is its.
    fn switch(
        &self,
        mut request: Request<()>,
        purpose: Purpose,
        session: impl FnOnce(&Self, crate::streams::Upgrade) -> Begin,
    ) -> Result<Response<Body>, Refusal> {
        if !matches!(*request.method(), Method::GET | Method::POST) {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST become streams"));
        }
        let (upgrade, answer) = negotiate(request.headers(), purpose).map_err(|(code, text)| Refusal::new(code, &text))?;
        let begin = session(self, upgrade);
        let shutdown = self.shutdown.clone();
        let mut sessions = self.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while sessions.try_join_next().is_some() {}
        if sessions.len() >= SESSIONS_MAX {
            let message = format!("{SESSIONS_MAX} streams are open on this node; close one");
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, &message));
        }
        let switched = hyper::upgrade::on(&mut request);
        sessions.spawn(async move {
            match switched.await {
                Ok(connection) => begin(TokioIo::new(connection), shutdown).await,
                Err(error) => tracing::debug!(error = %error, "a connection was not handed over"),
            }
        });
        let empty = Full::new(bytes::Bytes::new()).map_err(|never| match never {}).boxed_unsync();
        answer
            .body(empty)
            .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))
    }

    /// `POST /run`: runs a command without a stream, and gives what it wrote.
    /// Source: upstream `getRun`.
    pub(super) async fn run(&self, request: Request<()>, place: [&str; 3]) -> Result<Response<Body>, Refusal> {
        let [namespace, pod, container] = place;
        if request.method() != Method::POST {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "a command is run by POST"));
        }
        let (uid, known) = self.find(namespace, pod)?;
        let query = query(&request);
        let line = query.iter().find(|(name, _)| name == "cmd").map(|(_, line)| line.clone());
        let command = line
            .unwrap_or_default()
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        let id = running(&known, container)?;
        let request = runtime::ExecRequest { command, timeout: None };
        let output = self.runtime.exec(&uid, &id, request).await;
        let output = output.map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
        if output.code == 0 {
            return Ok(text(StatusCode::OK, String::from_utf8_lossy(&output.output).into_owned()));
        }
        let said = String::from_utf8_lossy(&output.output);
        let message = format!("command terminated with exit code {}: {said}", output.code);
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, &message))
    }

    pub(super) fn find(&self, namespace: &str, pod: &str) -> Result<(Uid, Known), Refusal> {
        self.pods
            .find(namespace, pod)
            .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "pod does not exist"))
    }
}

/// A session, to be begun on a connection.
type Begin = Box<
    dyn FnOnce(TokioIo<hyper::upgrade::Upgraded>, tokio_util::sync::CancellationToken) -> futures::future::BoxFuture<'static, ()> + Send,
>;

/// Ports named by the query, in order.
fn ports(query: &[(String, String)]) -> Result<Vec<u16>, Refusal> {
    let mut ports = Vec::new();
    for word in query
        .iter()
        .filter(|(name, _)| name == "ports" || name == "port")
        .flat_map(|(_, list)| list.split(','))
    {
        match word.trim().parse::<u16>() {
            Ok(port @ 1..) if ports.len() < PORTS_MAX => ports.push(port),
            _ => {
                let message = format!("invalid port {word:?}: a number from 1 to 65535, at most {PORTS_MAX} of them");
                return Err(Refusal::new(StatusCode::BAD_REQUEST, &message));
            }
        }
    }
    Ok(ports)
}
