//! An API server over a real store in a directory of its own, and requests to
//! it in one line each.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use api::{Status, Time};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use store::Store;
use tempfile::TempDir;

use crate::body::{self, Body};
use crate::registry::Ranges;
use crate::{ApiServer, Config, Identity, Limits, NodeAddress, NodeProxy, Version, kinds};

/// A node whose API echoes the request's path and query.
pub(crate) struct EchoNode;

#[async_trait::async_trait]
impl NodeProxy for EchoNode {
    async fn call(&self, node: &NodeAddress, request: Request<Body>) -> Result<Response<Body>, Status> {
        let node = node.node.as_str();
        assert!(node != "panics", "as the test asked for");
        if node == "gone" {
            return Err(Status::unavailable("node gone cannot be reached"));
        }
        if request.uri().path().ends_with("/failing") {
            let mut response = Response::new(body::full(
                "container \"failing\" in pod \"p\" is waiting to start: ContainerCreating\n",
            ));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            return Ok(response);
        }
        Ok(Response::new(body::full(format!("{node} {}", request.uri()))))
    }
}

pub(crate) struct Rig {
    pub(crate) server: ApiServer,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) now_s: Arc<AtomicI64>,
    limits: Limits,
    directory: TempDir,
}

pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }

    /// `code message`, or `code` and the object's name.
    pub(crate) fn brief(&self) -> String {
        let value = self.json();
        let what = value["message"]
            .as_str()
            .or_else(|| value["metadata"]["name"].as_str())
            .unwrap_or_default();
        format!("{} {what}", self.code)
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.headers
            .get_all(header::WARNING)
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }
}

/// The events of a watch, one at a time.
pub(crate) struct Watching {
    body: Body,
    buffer: Vec<u8>,
}

impl Watching {
    /// The next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame())
                .await
                .expect("an event within 20 s");
            self.buffer.extend_from_slice(&frame?.unwrap().into_data().unwrap());
        }
    }

    /// `TYPE name revision` of the next event.
    pub(crate) async fn brief(&mut self) -> String {
        self.next().await.map_or_else(
            || "END".to_owned(),
            |event| {
                format!(
                    "{} {}",
                    event["type"].as_str().unwrap(),
                    event["object"]["metadata"]["name"].as_str().unwrap_or_default()
                )
            },
        )
    }
}

/// Tokens signed with a key of their own.
pub(crate) fn tokens() -> Arc<crate::tokens::Tokens> {
    let key = crate::tokens::key::SigningKey::ephemeral().unwrap();
    Arc::new(crate::tokens::Tokens::new(
        crate::tokens::DEFAULT_ISSUER,
        "https://127.0.0.1/openid/v1/jwks",
        key,
    ))
}

pub(crate) const NOW_S: i64 = 1_800_000_000;

/// A server over a store, with the clock of a rig.
fn config(store: &Arc<dyn Store>, now_s: &Arc<AtomicI64>) -> Config {
    let clock = Arc::clone(now_s);
    Config {
        store: Arc::clone(store),
        rows: kinds::rows(),
        nodes: Arc::new(EchoNode),
        tokens: tokens(),
        audit: None,
        limits: Limits::default(),
        ranges: Ranges::default(),
        baseline_namespaces: false,
        version: Version::default(),
        clock: Arc::new(move || Time::from_secs(clock.load(Ordering::Relaxed))),
    }
}

impl Rig {
    /// Takes away the name of its files, which stay while they are open: for a
    /// server that is never dropped.
    pub(crate) fn unlink(&self) {
        std::fs::remove_dir_all(self.directory.path()).unwrap();
    }

    pub(crate) async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        Self::with_ranges(limits, Ranges::default()).await
    }

    pub(crate) async fn with_ranges(limits: Limits, ranges: Ranges) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(store::Embedded::open(directory.path(), store::Options::default()).unwrap());
        Self::made(store, directory, |config| Config { limits, ranges, ..config }).await
    }

    /// Over a store of the caller's.
    pub(crate) async fn over(store: Arc<dyn Store>) -> Self {
        Self::made(store, tempfile::tempdir().unwrap(), |config| config).await
    }

    /// With an audit log.
    pub(crate) async fn audited(log: crate::audit::Log) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(store::Embedded::open(directory.path(), store::Options::default()).unwrap());
        Self::made(store, directory, |config| Config {
            audit: Some(log),
            ..config
        })
        .await
    }

    async fn made(store: Arc<dyn Store>, directory: TempDir, change: impl FnOnce(Config) -> Config) -> Self {
        let now_s = Arc::new(AtomicI64::new(NOW_S));
        let config = change(config(&store, &now_s));
        let limits = config.limits.clone();
        let server = ApiServer::start(config).await.unwrap();
        let rig = Self {
            server,
            store,
            now_s,
            limits,
            directory,
        };
        // What a controller does in every namespace.
        let account = json!({"metadata": {"name": "default"}});
        let made = rig.post("/api/v1/namespaces/default/serviceaccounts", &account).await;
        assert!(matches!(made.code, 201 | 409), "{:?}", made.text);
        rig
    }

    /// The same after a restart: the server and the store are closed, and
    /// opened again from the same files.
    pub(crate) async fn restarted(self) -> Self {
        let Self {
            server,
            store,
            now_s,
            limits,
            directory,
        } = self;
        server.close().await;
        drop((server, store));
        // The store's own thread lets go of its files a moment later.
        let open = async {
            loop {
                match store::Embedded::open(directory.path(), store::Options::default()) {
                    Ok(store) => break store,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let opened = tokio::time::timeout(Duration::from_secs(20), open).await;
        let store: Arc<dyn Store> = Arc::new(opened.expect("the store opens again within 20 s"));
        let config = Config {
            limits: limits.clone(),
            ..config(&store, &now_s)
        };
        Self {
            server: ApiServer::start(config).await.unwrap(),
            store,
            now_s,
            limits,
            directory,
        }
    }

    /// Another server over the same store.
    pub(crate) async fn sibling(&self, ranges: Ranges) -> ApiServer {
        self.sibling_with(|config| config.ranges = ranges).await
    }

    /// The same, with a configuration of its own.
    pub(crate) async fn sibling_with(&self, configure: impl FnOnce(&mut Config)) -> ApiServer {
        let mut config = config(&self.store, &self.now_s);
        configure(&mut config);
        ApiServer::start(config).await.unwrap()
    }

    pub(crate) fn admin() -> Identity {
        Identity::new("admin", &["system:masters"])
    }

    pub(crate) async fn request(&self, identity: Option<Identity>, request: Request<Body>) -> Answer {
        let response = self.server.handle(identity, request).await;
        let (head, body) = response.into_parts();
        let text = body::read(body, 64 << 20).await.unwrap();
        Answer {
            code: head.status.as_u16(),
            headers: head.headers,
            text,
        }
    }

    pub(crate) async fn send(&self, method: Method, path: &str, content_type: &str, body: String) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, content_type)
            .body(body::full(body))
            .unwrap();
        self.request(Some(Self::admin()), request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "", String::new()).await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.get_with(path, &[("accept", accept)]).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = headers
            .iter()
            .fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
        self.request(Some(Self::admin()), request.body(body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, "application/json", body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, "application/json", body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str, options: Option<Value>) -> Answer {
        self.send(
            Method::DELETE,
            path,
            "application/json",
            options.map(|options| options.to_string()).unwrap_or_default(),
        )
        .await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, &format!("application/{kind}+json"), body.to_string())
            .await
    }

    /// Server-side apply; the body is YAML.
    pub(crate) async fn apply(&self, path: &str, manager: &str, config: &str) -> Answer {
        let and = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{and}fieldManager={manager}");
        self.send(Method::PATCH, &path, "application/apply-patch+yaml", config.to_owned())
            .await
    }

    /// A request of a program that names itself.
    pub(crate) async fn send_as(&self, agent: &str, method: Method, path: &str, content_type: &str, body: &Value) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::USER_AGENT, agent)
            .body(body::full(body.to_string()))
            .unwrap();
        self.request(Some(Self::admin()), request).await
    }

    pub(crate) async fn watch(&self, path: &str) -> Watching {
        self.watch_as(path, "application/json").await
    }

    pub(crate) async fn watch_as(&self, path: &str, accept: &str) -> Watching {
        let request = Request::get(path).header(header::ACCEPT, accept).body(body::empty()).unwrap();
        let response = self.server.handle(Some(Self::admin()), request).await;
        let code = response.status();
        let body = response.into_body();
        if !code.is_success() {
            panic!("{code}: {:?}", body::read(body, 1 << 20).await);
        }
        Watching { body, buffer: Vec::new() }
    }

    /// Creates a ConfigMap in `default`.
    pub(crate) async fn config_map(&self, name: &str, labels: &Value) -> Value {
        let answer = self
            .post(
                "/api/v1/namespaces/default/configmaps",
                &json!({"metadata": {"name": name, "labels": labels}, "data": {"k": "v"}}),
            )
            .await;
        assert_eq!(answer.code, 201, "{:?}", answer.text);
        answer.json()
    }

    /// Creates a pod in `default`, on a node if one is named.
    pub(crate) async fn pod(&self, name: &str, node: Option<&str>) -> Value {
        let mut pod = pod(name);
        if let Some(node) = node {
            pod["spec"]["nodeName"] = json!(node);
        }
        let answer = self.post("/api/v1/namespaces/default/pods", &pod).await;
        assert_eq!(answer.code, 201, "{:?}", answer.text);
        answer.json()
    }
}

pub(crate) fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "nginx:1.17.1"}]}})
}
