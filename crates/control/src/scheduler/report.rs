//! Tells people what became of a pod: events, and the condition `PodScheduled`.
//!
//! Events are `events.k8s.io/v1`, as upstream's scheduler writes them; repeats
//! within six minutes lengthen a series. Source: client-go `tools/events`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::typed::events::{Event, EventSeries};
use api::typed::{ObjectMeta, ObjectReference, Pod};
use api::{Time, Uid};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Options;
use super::snapshot::PodFacts;

/// A repeat after this long begins a new event.
const SERIES_MAX: Duration = Duration::from_secs(6 * 60);
/// Series that are remembered; the oldest are forgotten first.
const SERIES_COUNT: usize = 1024;
/// Reports that wait to be sent; more are dropped.
const BACKLOG: usize = 4096;
const TIMEOUT: Duration = Duration::from_secs(10);

/// What became of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// It is bound to that node.
    Scheduled(String),
    /// No node takes it, for that reason.
    Unschedulable(String),
    /// It could not be bound, for that reason.
    Failed(String),
}

#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) pod: Arc<PodFacts>,
    pub(super) outcome: Outcome,
    pub(super) at: Time,
}

/// Sends reports from a task of its own, so that no pod waits for them.
pub(super) struct Reporter(mpsc::Sender<Report>);

impl Reporter {
    /// The reporter, and its work: it ends when the reporter is dropped and
    /// all is sent.
    pub(super) fn new(client: kube::Client, options: &Options) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (sender, inbox) = mpsc::channel(BACKLOG);
        (Self(sender), send_all(client, Series::new(options), inbox))
    }

    pub(super) fn report(&self, report: Report) {
        if let Err(error) = self.0.try_send(report) {
            tracing::warn!(error = %error, "scheduling report dropped");
        }
    }
}

async fn send_all(client: kube::Client, mut series: Series, mut inbox: mpsc::Receiver<Report>) {
    while let Some(report) = inbox.recv().await {
        let sent = tokio::time::timeout(TIMEOUT, send(&client, &mut series, &report)).await;
        let error: Option<String> = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {} s", TIMEOUT.as_secs())),
        };
        if let Some(error) = error {
            tracing::warn!(pod = %report.pod.key(), uid = %report.pod.uid, error, "scheduling report not sent");
        }
    }
}

async fn send(client: &kube::Client, series: &mut Series, report: &Report) -> Result<(), kube::Error> {
    if let Some(patch) = condition(report) {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &report.pod.namespace);
        match pods
            .patch_status(&report.pod.name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
        {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()), // it is gone
            other => other.map(drop)?,
        }
    }
    let events: Api<Event> = Api::namespaced(client.clone(), &report.pod.namespace);
    match series.record(report) {
        Write::Create(event) => events.create(&PostParams::default(), &event).await.map(drop),
        Write::Repeat { name, patch } => match events.patch(&name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            // Its time to live has passed.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                series.forget(report);
                match series.record(report) {
                    Write::Create(event) => events.create(&PostParams::default(), &event).await.map(drop),
                    Write::Repeat { .. } => Ok(()), // what was just forgotten is no repeat
                }
            }
            other => other.map(drop),
        },
    }
}

/// The patch that sets `PodScheduled` to false, unless it says so already.
/// The UID guards against a new pod of the same name.
fn condition(report: &Report) -> Option<Value> {
    let (reason, message) = match &report.outcome {
        Outcome::Scheduled(_) => return None, // the binding sets it
        Outcome::Unschedulable(message) => ("Unschedulable", message),
        Outcome::Failed(message) => ("SchedulerError", message),
    };
    let old = report.pod.pod_scheduled.as_ref();
    let same_status = old.is_some_and(|old| old.status == "False");
    let same_spec = old.is_some_and(|old| old.observed_generation == report.pod.generation);
    if same_status && same_spec && old.is_some_and(|old| old.reason.as_deref() == Some(reason) && old.message.as_ref() == Some(message)) {
        return None;
    }
    let mut condition = json!({ "type": "PodScheduled", "status": "False", "reason": reason, "message": message, "lastProbeTime": null,
        "observedGeneration": report.pod.generation });
    if !same_status {
        condition["lastTransitionTime"] = json!(report.at.wire());
    }
    Some(json!({ "metadata": { "uid": report.pod.uid.as_str() }, "status": { "conditions": [condition] } }))
}

/// What is to be written for a report.
#[derive(Debug, PartialEq)]
enum Write {
    Create(Box<Event>),
    Repeat { name: String, patch: Value },
}

/// Which events were written lately.
struct Series {
    scheduler: String,
    instance: String,
    known: BTreeMap<(Uid, String), Known>,
}

struct Known {
    event: String,
    count: i32,
    last: Time,
}

impl Series {
    fn new(options: &Options) -> Self {
        Self {
            scheduler: options.name.clone(),
            instance: format!("{}-{}", options.name, options.host),
            known: BTreeMap::new(),
        }
    }

    fn record(&mut self, report: &Report) -> Write {
        let event = self.event(report);
        let name = event.metadata.name.clone().unwrap_or_default();
        let key = (report.pod.uid.clone(), event.note.clone().unwrap_or_default());
        if let Some(known) = self.known.get_mut(&key).filter(|known| report.at.since(known.last) <= SERIES_MAX) {
            known.count = known.count.saturating_add(1);
            known.last = report.at;
            let series = EventSeries {
                count: known.count,
                last_observed_time: report.at.wire_micro(),
            };
            return Write::Repeat {
                name: known.event.clone(),
                patch: json!({ "series": series }),
            };
        }
        if self.known.len() >= SERIES_COUNT
            && let Some(oldest) = self.known.iter().min_by_key(|(_, known)| known.last).map(|(key, _)| key.clone())
        {
            self.known.remove(&oldest);
        }
        if !matches!(report.outcome, Outcome::Scheduled(_)) {
            self.known.insert(
                key,
                Known {
                    event: name,
                    count: 1,
                    last: report.at,
                },
            );
        }
        Write::Create(Box::new(event))
    }

    fn forget(&mut self, report: &Report) {
        self.known
            .remove(&(report.pod.uid.clone(), self.event(report).note.unwrap_or_default()));
    }

    fn event(&self, report: &Report) -> Event {
        let pod = &report.pod;
        let (reason, action, kind, note) = match &report.outcome {
            Outcome::Scheduled(node) => (
                "Scheduled",
                "Binding",
                "Normal",
                format!("Successfully assigned {} to {node}", pod.key()),
            ),
            Outcome::Unschedulable(message) | Outcome::Failed(message) => ("FailedScheduling", "Scheduling", "Warning", message.clone()),
        };
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", pod.name, report.at.0)),
                namespace: Some(pod.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(report.at.wire_micro()),
            reporting_controller: Some(self.scheduler.clone()),
            reporting_instance: Some(self.instance.clone()),
            action: Some(action.to_owned()),
            reason: Some(reason.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.name.clone()),
                namespace: Some(pod.namespace.clone()),
                uid: Some(pod.uid.to_string()),
                resource_version: Some(pod.resource_version.clone()),
                ..ObjectReference::default()
            }),
            note: Some(note),
            type_: Some(kind.to_owned()),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests;
