//! The API server as a value: one entry for every request, whoever sends it.
//!
//! [`ApiServer::handle`] is the request chain: what is asked
//! ([`crate::request`]), by whom, whether they may ([`crate::authz`]), then
//! one file of [`crate::verbs`] or [`crate::subresources`].

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::{Status, Time};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::{Method, Request, Response, header};
use serde_json::{Value, json};
use store::Store;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::audit::Seen;
use crate::authn::Identity;
use crate::authz::{bootstrap, rules};
use crate::body::{self, Body};
use crate::call::Call;
use crate::metrics::{Labels, Metrics};
use crate::nodes::NodeAddress;
use crate::registry::{Ranges, Registry, Resource, Subresource};
use crate::request::{self, Query, ResourceRequest, Target, Verb};
use crate::serving::{AddError, Served};
use crate::tokens::{self, Tokens};
use crate::wish::Wish;
use crate::{allow, audit, authn, discovery, health, kinds, openapi, respond, reviews, subresources, usage, verbs};

/// Tells the time. Only the edge of the server asks; everything below is
/// handed a [`Time`].
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// The way to the API of a node, for what only the node knows: logs, streams,
/// usage.
#[async_trait]
pub trait NodeProxy: Send + Sync {
    /// Sends a request to the API of `node`; its path is the kubelet's, such
    /// as `/containerLogs/NAMESPACE/POD/CONTAINER?follow=true`. The answer's
    /// body may be a stream without end.
    ///
    /// # Errors
    /// When the node is not known or not reached, as a status for the client.
    async fn call(&self, node: &NodeAddress, request: Request<Body>) -> Result<Response<Body>, Status>;
}

/// What one request, watcher or hub may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of a request body.
    pub body_bytes: usize,
    /// Nesting of a request body.
    pub body_depth: usize,
    /// Requests that read, at a time, without watches; more get 429.
    pub reads: usize,
    /// Requests that write, at a time; more get 429.
    pub writes: usize,
    /// Watches and followed logs at a time; more get 429.
    pub streams: usize,
    /// Of [`reads`](Self::reads), those of one caller who is no master.
    pub user_reads: usize,
    /// Of [`writes`](Self::writes), those of one caller who is no master.
    pub user_writes: usize,
    /// Of [`streams`](Self::streams), those of one caller who is no master.
    pub user_streams: usize,
    /// Events a watcher may be behind before it is dropped.
    pub watcher_events: usize,
    /// Events a hub keeps for watches that resume.
    pub hub_events: usize,
    /// Stored bytes of the objects in these events.
    pub hub_bytes: usize,
    /// How long a read waits for the hub to catch up with the store.
    pub fresh_timeout: Duration,
    /// How long a request other than a stream may take.
    pub request_timeout: Duration,
    /// How long a node or a pod may take to begin its answer to a proxied
    /// request. Upstream waits without end.
    pub proxy_timeout: Duration,
    /// Between bookmarks of a watch.
    pub bookmark_interval: Duration,
    /// Least time after which a watch without `timeoutSeconds` ends; the most
    /// is twice that.
    pub watch_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 3 << 20,
            body_depth: 100,
            reads: 400,
            writes: 200,
            streams: 4_096,
            user_reads: 200,
            user_writes: 100,
            user_streams: 2_048,
            watcher_events: 1_024,
            hub_events: 1_024,
            hub_bytes: 1 << 20,
            fresh_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(60),
            proxy_timeout: Duration::from_secs(3_600),
            bookmark_interval: Duration::from_secs(60),
            watch_timeout: Duration::from_secs(1_800),
        }
    }
}

/// What `/version` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Semantic version of the served API, such as `v1.33.0+lifepod.0.1.0`.
    pub git_version: String,
    /// Commit this was built from; may be empty.
    pub git_commit: String,
    /// When it was built, RFC 3339; may be empty.
    pub build_date: String,
}

impl Default for Version {
    fn default() -> Self {
        Self {
            git_version: concat!("v1.33.0+lifepod.", env!("CARGO_PKG_VERSION")).to_owned(),
            git_commit: String::new(),
            build_date: String::new(),
        }
    }
}

/// What an API server is made of.
pub struct Config {
    /// Where objects live. This server must be the only one that writes there,
    /// or the store must be one that several servers share.
    pub store: Arc<dyn Store>,
    /// What is served at first; see [`ApiServer::add`].
    pub rows: Vec<Resource>,
    /// The way to the nodes.
    pub nodes: Arc<dyn NodeProxy>,
    /// ServiceAccount tokens.
    pub tokens: Arc<Tokens>,
    /// Where requests are recorded; `None` for nowhere.
    pub audit: Option<audit::Log>,
    /// What requests may cost.
    pub limits: Limits,
    /// What objects are given, such as the addresses of Services. Servers over
    /// one store state the same.
    pub ranges: Ranges,
    /// New namespaces enforce the Pod Security Standard `baseline`, unless their
    /// labels say otherwise.
    pub baseline_namespaces: bool,
    /// What `/version` says.
    pub version: Version,
    /// Tells the time.
    pub clock: Clock,
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A row could not be served.
    #[error("adding {resource}")]
    Row {
        /// `plural.group` of the row.
        resource: String,
        /// Why.
        #[source]
        source: AddError,
    },
    /// An object every cluster has could not be made.
    #[error("making {name} under {path}: {message}")]
    Bootstrap {
        /// Of its collection.
        path: &'static str,
        /// Its name.
        name: String,
        /// What the server said to its own request.
        message: String,
    },
    /// The roles every cluster has could not be made.
    #[error("making the roles every cluster has: {message}")]
    Roles {
        /// Why.
        message: String,
    },
}

/// What every part of the request chain shares.
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) serving: ArcSwap<Served>,
    /// The turn to add or remove a row.
    pub(crate) changing: tokio::sync::Mutex<()>,
    pub(crate) nodes: Arc<dyn NodeProxy>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) audit: Option<audit::Log>,
    pub(crate) limits: Limits,
    pub(crate) version: Version,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) closing: CancellationToken,
    pub(crate) ranges: Ranges,
    pub(crate) baseline_namespaces: bool,
    /// The turn to give away what must be unique. One for all rows: it is
    /// rarely asked for, and held for one commit.
    pub(crate) allocating: Semaphore,
    /// The turn to charge quotas: taken after that to give away, and held for
    /// one commit.
    pub(crate) charging: Semaphore,
    /// The server's own tasks; they end with it.
    tasks: Mutex<JoinSet<()>>,
}

impl Core {
    /// Runs something to its end, unless the server ends before.
    pub(crate) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }
}

/// What is noted of a request while it is answered.
struct Notes {
    labels: Labels,
    seen: Option<Seen>,
    /// Of the row that is asked for.
    deprecation: Option<std::borrow::Cow<'static, str>>,
}

/// A running API server. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct ApiServer {
    core: Arc<Core>,
}

/// Namespaces every cluster has. Source: upstream
/// `pkg/controlplane/controller/systemnamespaces`.
const SYSTEM_NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

impl ApiServer {
    /// Adds the rows, which reads the store, and makes what every cluster has:
    /// namespaces and priority classes.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let server = Self {
            core: Arc::new(Core {
                store: config.store,
                serving: ArcSwap::from_pointee(Served::of(Registry::default())),
                changing: tokio::sync::Mutex::new(()),
                nodes: config.nodes,
                tokens: config.tokens,
                audit: config.audit,
                limits: config.limits,
                version: config.version,
                clock: config.clock,
                metrics: Metrics::default(),
                closing: CancellationToken::new(),
                ranges: config.ranges,
                baseline_namespaces: config.baseline_namespaces,
                allocating: Semaphore::new(1),
                charging: Semaphore::new(1),
                tasks: Mutex::default(),
            }),
        };
        for row in config.rows {
            let resource = row.id.qualified();
            let added = server.add(row).await;
            added.map_err(|source| StartError::Row { resource, source })?;
        }
        server.bootstrap().await?;
        Ok(server)
    }

    /// The server of a core.
    pub(crate) const fn of(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Runs a task of the server's own; it ends with the server.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.core.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Makes what every cluster has and nobody is asked to make.
    async fn bootstrap(&self) -> Result<(), StartError> {
        let namespaces = SYSTEM_NAMESPACES.map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        let classes = kinds::system_priority_classes();
        for (path, objects) in [
            ("/api/v1/namespaces", namespaces.as_slice()),
            ("/apis/scheduling.k8s.io/v1/priorityclasses", classes.as_slice()),
        ] {
            for object in objects {
                self.make(path, object).await?;
            }
        }
        bootstrap::drive(&self.core)
            .await
            .map_err(|status| StartError::Roles { message: status.message })
    }

    /// Makes one object, if its resource is served and it is not there.
    async fn make(&self, path: &'static str, object: &Value) -> Result<(), StartError> {
        let failed = |message: String| StartError::Bootstrap {
            path,
            name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            message,
        };
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body::full(object.to_string()));
        let request = request.map_err(|error| failed(error.to_string()))?;
        let response = self
            .handle(Some(Identity::new("system:apiserver", &["system:masters"])), request)
            .await;
        // 409: it is there since an earlier start. 404: there is no such row.
        if response.status().is_success() || matches!(response.status(), http::StatusCode::CONFLICT | http::StatusCode::NOT_FOUND) {
            return Ok(());
        }
        let why = body::read(response.into_body(), 1 << 16).await;
        Err(failed(why.map_or_else(
            |status| status.message,
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )))
    }

    /// Ends all watches and followed logs and stops following the store. For a
    /// clean end, before the store is closed; requests are refused afterwards.
    pub async fn close(&self) {
        self.core.closing.cancel();
        let mut tasks = self.core.tasks.lock().map_or_else(
            |poisoned| std::mem::take(&mut *poisoned.into_inner()),
            |mut tasks| std::mem::take(&mut *tasks),
        );
        tasks.shutdown().await;
    }

    /// Whether a caller may do something; for parts that serve on their own
    /// and leave that decision here, as a SubjectAccessReview does.
    ///
    /// # Errors
    /// 403, with upstream's words.
    pub fn allows(&self, identity: &Identity, asked: &ResourceRequest) -> Result<(), Status> {
        self.core.served().authorizer.resource(identity, asked)
    }

    /// Who shows the bearer token in an `Authorization` header, if it counts;
    /// for parts that serve on their own, as a TokenReview does.
    pub async fn bearer(&self, shown: Option<&http::HeaderValue>) -> Option<Identity> {
        authn::bearer::of_request(&self.core, shown).await
    }

    /// Answers one request of a caller, who may be nobody. A streamed answer
    /// also ends when a [`CancellationToken`] in the request's extensions is
    /// cancelled: that is how a front takes its streams down with it.
    ///
    /// Dropping the future leaves a write either made or not made, never half.
    pub async fn handle(&self, identity: Option<Identity>, request: Request<Body>) -> Response<Body> {
        let core = &self.core;
        let started = Instant::now();
        let head = request.method() == Method::HEAD;
        let wish = Wish::of(&request);
        let path = request.uri().path().to_owned();
        let mut notes = Notes {
            labels: Labels::default(),
            deprecation: None,
            seen: core.audit.as_ref().map(|_| Seen::of(&request, (core.clock)())),
        };
        let answer = if core.closing.is_cancelled() {
            Err(Status::unavailable("the server is shutting down"))
        } else {
            // Boxed: the state of the largest verb would be part of every
            // caller's future.
            let limit = match request::proxied(request.uri().path()) {
                Some(_) => core.limits.proxy_timeout,
                None => core.limits.request_timeout,
            };
            let answering = Box::pin(self.answer(identity, request, &mut notes));
            tokio::time::timeout(limit, answering).await.unwrap_or_else(|_| {
                Err(Status::timeout(format!(
                    "the request was not finished within {} seconds",
                    limit.as_secs()
                )))
            })
        };
        if let Some(seen) = &mut notes.seen {
            seen.answered(&answer);
        }
        let mut response = wish.fulfil(answer.unwrap_or_else(|status| respond::status(&status))).await;
        if response.status() == http::StatusCode::METHOD_NOT_ALLOWED
            && let Some(allowed) = allow::methods(&core.served().registry, &path)
        {
            response.headers_mut().entry(header::ALLOW).or_insert(allowed);
        }
        if let Some(deprecation) = notes.deprecation {
            respond::warn(&mut response, &[deprecation.into_owned()]);
        }
        core.metrics.observe(notes.labels, response.status(), started.elapsed());
        if let (Some(log), Some(seen)) = (&core.audit, notes.seen) {
            response = audit::finish(log, seen, &path, response, &core.clock);
        }
        if head { response.map(|_| body::empty()) } else { response }
    }

    async fn answer(&self, identity: Option<Identity>, mut request: Request<Body>, notes: &mut Notes) -> Result<Response<Body>, Status> {
        let asked = Query::parse(request.uri().query().unwrap_or_default())
            .and_then(|query| Ok((request::target(request.method(), request.uri().path(), &query)?, query)));
        if let Ok((Target::Resource(asked), query)) = &asked {
            notes.labels.set(asked, query.get("dryRun").is_some());
            if let Some(seen) = &mut notes.seen {
                seen.asked = Some(asked.clone());
            }
        }
        if let Ok((Target::Path(path), query)) = &asked
            && let Some(response) = health::answer(&self.core, path, query)
        {
            return Ok(response);
        }
        // Credentials end here: nothing behind this may pass them on.
        let shown = request.headers_mut().remove(header::AUTHORIZATION);
        let identity = match identity {
            Some(identity) => Some(identity),
            None => authn::bearer::of_request(&self.core, shown.as_ref()).await,
        };
        // Nobody learns from us what is served here, or what is wrong with
        // their request.
        let identity = identity.ok_or_else(Status::unauthorized)?;
        if let Some(seen) = &mut notes.seen {
            seen.user = Some(identity.clone());
        }
        let identity = match authn::impersonation::apply(&self.core.served().authorizer, &identity, request.headers_mut())? {
            Some(other) => {
                if let Some(seen) = &mut notes.seen {
                    seen.impersonated = Some(other.clone());
                }
                other
            }
            None => identity,
        };
        match asked? {
            (Target::Path(path), query) => self.path(&identity, &path, &query, &request),
            (Target::Resource(asked), query) => self.resource(identity, asked, query, request, notes).await,
        }
    }

    fn path(&self, identity: &Identity, path: &str, query: &Query, request: &Request<Body>) -> Result<Response<Body>, Status> {
        let core = &self.core;
        let served = core.served();
        served.authorizer.path(identity, path, request.method())?;
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Status::method_not_allowed(
                "the server does not allow this method on the requested resource",
            ));
        }
        let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
        match path {
            "/metrics" => Ok(core.metrics.render(core)),
            "/openapi/v2" => openapi::v2::document(core, &served, request.headers()),
            "/openapi/v3" => Ok(openapi::index(core, &served, request.headers())),
            tokens::DISCOVERY_PATH => Ok(respond::public_json(&core.tokens.discovery(), "application/json")),
            tokens::JWKS_PATH => Ok(respond::public_json(&core.tokens.jwks(), "application/jwk-set+json")),
            _ => match path.strip_prefix("/openapi/v3/") {
                Some(group_version) => openapi::document(core, &served, group_version, query, request.headers()),
                None => discovery::answer(&served.registry, path, accept),
            },
        }
    }

    async fn resource(
        &self,
        identity: Identity,
        asked: ResourceRequest,
        query: Query,
        request: Request<Body>,
        notes: &mut Notes,
    ) -> Result<Response<Body>, Status> {
        let core = &self.core;
        let binding = asked.group.is_empty() && asked.version == "v1" && asked.resource == "bindings";
        let plural = if binding { "pods" } else { asked.resource.as_str() };
        let row = {
            let served = core.served();
            let row = served.registry.find(&asked.group, &asked.version, plural);
            notes.deprecation = row.filter(|_| !binding).and_then(|row| row.deprecation.clone());
            served.authorizer.resource(&identity, &asked)?;
            Arc::clone(row.ok_or_else(Status::no_such_path)?)
        };
        let follows = match asked.subresource.as_str() {
            "log" => query.boolean("follow").unwrap_or(false),
            "proxy" | "exec" | "attach" | "portforward" => true,
            _ => asked.verb == Verb::Watch,
        };
        let permit = core.metrics.admit(&core.limits, &identity, asked.verb, follows)?;
        // Whoever changed a role sees what came of it with the next request.
        let settles = asked.group == rules::GROUP && !asked.verb.reads();
        let mut call = Call::new(Arc::clone(core), identity, Arc::clone(&row), asked, query, request)?;
        call.permit = Some(permit);
        if binding {
            return subresources::binding::create_named_in_body(call).await;
        }
        let answer = dispatch(call).await;
        if settles {
            row.hub().reach(core.store.revision().0, core.limits.fresh_timeout).await;
        }
        answer
    }
}

async fn dispatch(call: Call) -> Result<Response<Body>, Status> {
    if let Some(computed) = call.row.computed {
        return match call.asked.subresource.is_empty() {
            true => usage::answer(call, computed).await,
            false => Err(Status::no_such_path()),
        };
    }
    if let Some(review) = call.row.review {
        return match (call.asked.verb, call.asked.name.is_empty()) {
            (Verb::Create, true) => reviews::create(call, review).await,
            (_, true) => Err(call.wrong_method()),
            (_, false) => Err(Status::no_such_path()),
        };
    }
    if call.asked.subresource.is_empty() {
        if !discovery::row_verbs(&call.row).contains(&call.asked.verb.name()) {
            return Err(call.wrong_method());
        }
        return match (call.asked.verb, call.asked.name.is_empty()) {
            (Verb::Get, false) => verbs::get::get(call).await,
            (Verb::List, true) => verbs::list::list(call).await,
            (Verb::Watch, _) => verbs::watch::watch(call).await,
            (Verb::Create, true) => verbs::create::create(call).await,
            (Verb::Update, false) => verbs::update::update(call).await,
            (Verb::Patch, false) => verbs::patch::patch(call).await,
            (Verb::Delete, false) => verbs::delete::delete(call).await,
            (Verb::DeleteCollection, true) => verbs::delete_collection::delete_collection(call).await,
            _ => Err(call.wrong_method()),
        };
    }
    let subresource = call
        .row
        .subresources
        .iter()
        .copied()
        .find(|subresource| subresource.name() == call.asked.subresource);
    match (subresource.ok_or_else(Status::no_such_path)?, call.asked.verb) {
        (part, Verb::Get) if part.is_part() => verbs::get::get(call).await,
        (Subresource::Finalize, Verb::Update) => verbs::update::update(call).await,
        (part, Verb::Update) if part.is_part() => verbs::update::update(call).await,
        (part, Verb::Patch) if part.is_part() => verbs::patch::patch(call).await,
        (Subresource::Scale, Verb::Get) => subresources::scale::get(call).await,
        (Subresource::Scale, Verb::Update) => subresources::scale::update(call).await,
        (Subresource::Scale, Verb::Patch) => subresources::scale::patch(call).await,
        (Subresource::Eviction, Verb::Create) => subresources::eviction::create(call).await,
        (Subresource::Binding, Verb::Create) => subresources::binding::create(call).await,
        (Subresource::Log, Verb::Get) => subresources::log::get(call).await,
        (stream, Verb::Get | Verb::Create) if stream.is_stream() => subresources::connect::connect(call, stream).await,
        (Subresource::Proxy, _) => subresources::proxy::connect(call).await,
        (Subresource::Token, Verb::Create) => subresources::token::create(call).await,
        _ => Err(call.wrong_method()),
    }
}

#[cfg(test)]
mod tests;
