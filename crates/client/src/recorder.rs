//! Records core/v1 Events the way upstream's recorder does: repeats are
//! counted, floods are folded together, spam is dropped.
//!
//! [`Correlator`] decides and is pure; [`Recorder`] is the queue and the task
//! around it.

use std::time::Duration;

use api::Time;
use api::typed::{Event, EventSource, ObjectMeta, ObjectReference};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

mod correlator;
pub use correlator::{Correlator, Verdict};

/// Events waiting to be sent; further ones are dropped and counted in the log.
const QUEUE_EVENTS: usize = 1_000;
/// An event that the API server does not take in this time is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries for an event while the API server is away.
const SEND_TRIES: u32 = 5;

/// Something that happened to an object, to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedEvent {
    /// What it happened to.
    pub involved: ObjectReference,
    /// `Normal` or `Warning`.
    pub kind: &'static str,
    /// Upstream's reason word.
    pub reason: String,
    /// Upstream's wording.
    pub message: String,
    /// When it happened.
    pub at: Time,
}

/// Who reports events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reporter {
    /// `kubelet`.
    pub component: String,
    /// Name of the node, or empty.
    pub host: String,
}

/// Accepts events and sends them in order from a task of its own.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<RecordedEvent>,
}

impl Recorder {
    /// A recorder and the task that must be run for it to do anything. The
    /// task ends on `shutdown`, after a last attempt to send what is queued.
    pub fn new(client: kube::Client, reporter: Reporter, shutdown: CancellationToken) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, events) = mpsc::channel(QUEUE_EVENTS);
        (Self { queue }, run(client, Correlator::new(reporter), events, shutdown))
    }

    /// Queues an event. Never blocks; a full queue drops the event, since
    /// events are best effort and must not hold up a pod.
    pub fn record(&self, event: RecordedEvent) {
        if let Err(error) = self.queue.try_send(event) {
            tracing::warn!(error = %error, "event dropped");
        }
    }
}

async fn run(client: kube::Client, mut correlator: Correlator, mut events: mpsc::Receiver<RecordedEvent>, shutdown: CancellationToken) {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = shutdown.cancelled() => break,
        };
        let Some(event) = event else { return };
        deliver(&client, &mut correlator, &event).await;
    }
    while let Ok(event) = events.try_recv() {
        let verdict = correlator.correlate(&event);
        if send(&client, &verdict).await.is_err() {
            return;
        }
    }
}

async fn deliver(client: &kube::Client, correlator: &mut Correlator, event: &RecordedEvent) {
    let mut verdict = correlator.correlate(event);
    for attempt in 1..=SEND_TRIES {
        match send(client, &verdict).await {
            Ok(()) => return,
            // Its TTL passed or its namespace was emptied: start a new one.
            Err(kube::Error::Api(status)) if status.code == 404 && matches!(verdict, Verdict::Repeat { .. }) => {
                verdict = correlator.anew(event);
            }
            Err(kube::Error::Api(status)) => {
                tracing::debug!(reason = event.reason, error = %status, "event refused");
                return;
            }
            Err(error) => {
                tracing::debug!(reason = event.reason, attempt, error = %error, "event not sent");
                tokio::time::sleep(Duration::from_millis(200) * attempt).await;
            }
        }
    }
    tracing::warn!(reason = event.reason, "event given up: the API server does not answer");
}

async fn send(client: &kube::Client, verdict: &Verdict) -> Result<(), kube::Error> {
    let sending = async {
        match verdict {
            Verdict::Spam => Ok(()),
            Verdict::New(event) => {
                let namespace = event.metadata.namespace.clone().unwrap_or_default();
                Api::<Event>::namespaced(client.clone(), &namespace)
                    .create(&PostParams::default(), event)
                    .await
                    .map(|_| ())
            }
            Verdict::Repeat {
                namespace,
                name,
                count,
                message,
                last,
            } => {
                let patch = json!({ "count": count, "message": message, "lastTimestamp": last.wire() });
                let api = Api::<Event>::namespaced(client.clone(), namespace);
                api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(|_| ())
            }
        }
    };
    match tokio::time::timeout(SEND_TIMEOUT, sending).await {
        Ok(result) => result,
        Err(elapsed) => Err(kube::Error::Service(Box::new(elapsed))),
    }
}

/// The first Event object of a kind of happening.
fn first_event(reporter: &Reporter, event: &RecordedEvent, message: &str) -> Event {
    let namespace = event
        .involved
        .namespace
        .clone()
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| "default".to_owned());
    let object = event.involved.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{object}.{:x}", event.at.0)),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: event.involved.clone(),
        type_: Some(event.kind.to_owned()),
        reason: Some(event.reason.clone()),
        message: Some(message.to_owned()),
        count: Some(1),
        first_timestamp: Some(event.at.wire()),
        last_timestamp: Some(event.at.wire()),
        source: Some(EventSource {
            component: Some(reporter.component.clone()),
            host: Some(reporter.host.clone()).filter(|h| !h.is_empty()),
        }),
        reporting_component: Some(reporter.component.clone()),
        reporting_instance: Some(reporter.host.clone()),
        ..Event::default()
    }
}
