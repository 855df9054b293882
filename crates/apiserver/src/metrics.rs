//! What the server counts, under upstream's names.
//!
//! Source: Kubernetes "Metrics reference".

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use api::Status;
use http::{Response, StatusCode};
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::authn::Identity;
use crate::body::Body;
use crate::fairness::{Callers, Class, Turn, is_own};
use crate::request::{ResourceRequest, Verb};
use crate::respond;
use crate::server::{Core, Limits};

/// What a finished request was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Labels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
    code: String,
    dry_run: String,
}

impl Labels {
    /// Takes the labels of a resource request.
    pub(crate) fn set(&mut self, asked: &ResourceRequest, dry_run: bool) {
        let scope = match (asked.namespace.is_empty(), asked.name.is_empty()) {
            (_, false) => "resource",
            (false, true) => "namespace",
            (true, true) => "cluster",
        };
        *self = Self {
            verb: asked.verb.metric().to_owned(),
            group: asked.group.clone(),
            version: asked.version.clone(),
            resource: asked.resource.clone(),
            subresource: asked.subresource.clone(),
            scope: scope.to_owned(),
            code: String::new(),
            dry_run: if dry_run { "All" } else { "" }.to_owned(),
        };
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Timed {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InFlight {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WatchLabels {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stored {
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuditLabels {
    outcome: &'static str,
}

/// Source: upstream `requestLatencies` buckets, thinned.
const BUCKETS_S: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0,
];

/// All counters of one server.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    durations: Family<Timed, Histogram, fn() -> Histogram>,
    in_flight: Family<InFlight, Gauge>,
    rejected: Family<InFlight, Counter>,
    pub(crate) watch_events: Family<WatchLabels, Counter>,
    objects: Family<Stored, Gauge>,
    reads: Arc<AtomicU64>,
    writes: Arc<AtomicU64>,
    streams: Arc<AtomicU64>,
    callers: Callers,
    audited: Family<AuditLabels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations: Family<Timed, Histogram, fn() -> Histogram> = Family::new_with_constructor(|| Histogram::new(BUCKETS_S));
        let (in_flight, rejected, watch_events, objects) = (Family::default(), Family::default(), Family::default(), Family::default());
        // The encoder adds `_total` to counters.
        registry.register(
            "apiserver_request",
            "Requests by verb, resource and response code",
            Family::clone(&requests),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Time to the answer, without streaming",
            durations.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests being answered",
            Family::clone(&in_flight),
        );
        registry.register("apiserver_dropped_requests", "Requests refused with 429", Family::clone(&rejected));
        registry.register("apiserver_watch_events", "Events sent to watchers", Family::clone(&watch_events));
        let audited: Family<AuditLabels, Gauge> = Family::default();
        registry.register(
            "apiserver_audit_records",
            "Records of the audit log, by what became of them",
            audited.clone(),
        );
        registry.register("apiserver_storage_objects", "Objects stored", Family::clone(&objects));
        let count = || Arc::new(AtomicU64::new(0));
        Self {
            registry,
            requests,
            durations,
            in_flight,
            rejected,
            watch_events,
            objects,
            reads: count(),
            writes: count(),
            streams: count(),
            callers: Callers::default(),
            audited,
        }
    }
}

/// A request being answered; it counts until dropped.
pub(crate) struct Permit {
    count: Arc<AtomicU64>,
    gauge: Gauge,
    /// The caller's own count.
    turn: Option<Turn>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.count.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        self.gauge.dec();
    }
}

impl Metrics {
    /// Takes a request in, unless too many of its kind are being answered.
    pub(crate) fn admit(&self, limits: &Limits, identity: &Identity, verb: Verb, stream: bool) -> Result<Permit, Status> {
        let (count, limit, request_kind, class) = match (stream, verb.reads()) {
            (true, _) => (&self.streams, limits.streams, "longRunning", Class::Stream),
            (false, true) => (&self.reads, limits.reads, "readOnly", Class::Read),
            (false, false) => (&self.writes, limits.writes, "mutating", Class::Write),
        };
        let turn = self.callers.take(identity, class, limits);
        let labels = InFlight { request_kind };
        let before = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let gauge = self.in_flight.get_or_create(&labels).clone();
        gauge.inc();
        let permit = Permit {
            count: Arc::clone(count),
            gauge,
            turn,
        };
        // A flood of others' must not keep the cluster's own parts out.
        if permit.turn.is_none() || before >= limit as u64 && !is_own(identity) {
            self.rejected.get_or_create(&labels).inc();
            drop(permit);
            return Err(Status::too_many_requests("Too many requests, please try again later.", 1));
        }
        Ok(permit)
    }

    /// Counts an answered request. Paths that are no resources are not told
    /// apart: anybody could invent more.
    pub(crate) fn observe(&self, mut labels: Labels, code: StatusCode, elapsed: Duration) {
        if labels.verb.is_empty() || code == StatusCode::NOT_FOUND && labels.resource.is_empty() {
            return;
        }
        // Names of resources that are not served come from the client.
        if code == StatusCode::NOT_FOUND || code == StatusCode::FORBIDDEN || code == StatusCode::UNAUTHORIZED {
            labels.group.clear();
            labels.version.clear();
            labels.resource.clear();
            labels.subresource.clear();
        }
        let timed = Timed {
            verb: labels.verb.clone(),
            group: labels.group.clone(),
            version: labels.version.clone(),
            resource: labels.resource.clone(),
            subresource: labels.subresource.clone(),
            scope: labels.scope.clone(),
        };
        self.durations.get_or_create(&timed).observe(elapsed.as_secs_f64());
        code.as_str().clone_into(&mut labels.code);
        self.requests.get_or_create(&labels).inc();
    }

    /// The text exposition.
    pub(crate) fn render(&self, core: &Core) -> Response<Body> {
        // Rows that were removed are not told any more.
        self.objects.clear();
        for row in core.served().registry.stored() {
            let count = i64::try_from(row.hub().len()).unwrap_or(i64::MAX);
            self.objects
                .get_or_create(&Stored {
                    resource: row.id.qualified(),
                })
                .set(count);
        }
        if let Some(log) = &core.audit {
            let counts = log.counts();
            for (outcome, count) in [("written", &counts.written), ("dropped", &counts.dropped)] {
                let count = i64::try_from(count.load(std::sync::atomic::Ordering::Relaxed)).unwrap_or(i64::MAX);
                self.audited.get_or_create(&AuditLabels { outcome }).set(count);
            }
        }
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => respond::text(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
            Err(_) => respond::status(&Status::internal("the metrics could not be encoded")),
        }
    }
}
