//! Watches in, bindings and reports out. No policy.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::Time;
use api::typed::{Node, Pod};
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use kube::Api;
use kube_runtime::watcher::{self, Event};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::bind::{BindError, bind, provide};
use super::report::{Outcome, Report, Reporter};
use super::snapshot::{self, PodFacts};
use super::{Decision, Options, Scheduler, volumes};
use crate::storage;
use crate::watch::watch;

/// Bindings under way at a time; further pods wait in the queue.
const BINDINGS_MAX: usize = 64;

/// How long what is under way may take to end after `shutdown`.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// A binding has ended so.
type Bound = (Arc<PodFacts>, String, Result<(), BindError>);

/// Schedules pods until `shutdown`.
///
/// A call that is dropped leaves bindings that are under way to the API
/// server: each is either written or not, and the next run sees which.
pub async fn run(client: kube::Client, options: Options, shutdown: CancellationToken) {
    let (reporter, reporting) = Reporter::new(client.clone(), &options);
    let mut reports = JoinSet::new();
    reports.spawn(reporting);
    let pods = watch(Api::<Pod>::all(client.clone()), watcher::Config::default());
    let nodes = watch(Api::<Node>::all(client.clone()), watcher::Config::default());
    let storage = storage::follow(client.clone());
    let mut driver = Driver {
        client,
        scheduler: Scheduler::new(&options),
        reporter,
        bindings: JoinSet::new(),
        pods_seen: None,
        nodes_seen: None,
        synced: (false, false),
        listings: storage::Listings::default(),
    };
    driver.run(pods, nodes, storage, &shutdown).await;
    // Dropping the driver ends the reporter once it has sent what it holds.
    drop(driver);
    let _ = tokio::time::timeout(DRAIN_MAX, reports.join_next()).await;
}

struct Driver {
    client: kube::Client,
    scheduler: Scheduler,
    reporter: Reporter,
    bindings: JoinSet<Bound>,
    /// UIDs seen in a list that is under way.
    pods_seen: Option<BTreeSet<api::Uid>>,
    /// Names seen in a list that is under way.
    nodes_seen: Option<BTreeSet<String>>,
    /// Whether pods and nodes were listed: nothing is decided before.
    synced: (bool, bool),
    /// How far claims, volumes and classes are listed.
    listings: storage::Listings,
}

impl Driver {
    async fn run(
        &mut self,
        pods: impl Stream<Item = Event<Pod>>,
        nodes: impl Stream<Item = Event<Node>>,
        storage: impl Stream<Item = storage::Change>,
        shutdown: &CancellationToken,
    ) {
        let mut pods = std::pin::pin!(pods);
        let mut nodes = std::pin::pin!(nodes);
        let mut storage = std::pin::pin!(storage);
        loop {
            self.decide();
            let full = self.bindings.len() >= BINDINGS_MAX; // then an ended binding wakes us
            let wake = delay(self.scheduler.wake_at().filter(|_| !full), now());
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(event) = pods.next() => self.pod_event(event),
                Some(event) = nodes.next() => self.node_event(event),
                Some(change) = storage.next() => {
                    let listings = &mut self.listings;
                    let apply = |storage: &mut storage::Storage| {
                        listings.apply(storage, change);
                    };
                    self.scheduler.storage_changed(apply, now());
                }
                Some(ended) = self.bindings.join_next() => self.binding_ended(ended),
                () = tokio::time::sleep(wake) => {}
            }
        }
        let drain = async { while self.bindings.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(DRAIN_MAX, drain).await;
    }

    fn decide(&mut self) {
        if self.synced != (true, true) || !self.listings.synced() {
            return;
        }
        while self.bindings.len() < BINDINGS_MAX {
            let at = now();
            match self.scheduler.next(at) {
                None => return,
                Some(Decision::Bind { pod, node }) => {
                    let client = self.client.clone();
                    let wanted = volumes::wanted(&pod, &node, self.scheduler.cache());
                    self.bindings.spawn(async move {
                        let outcome = match provide(&client, &pod, &wanted).await {
                            Ok(()) => bind(&client, &pod, &node).await,
                            Err(error) => Err(error),
                        };
                        (pod, node, outcome)
                    });
                }
                Some(Decision::Refuse { pod, refusal }) => {
                    tracing::debug!(pod = %pod.key(), uid = %pod.uid, because = refusal.message, "no node takes the pod");
                    self.reporter.report(Report {
                        pod,
                        outcome: Outcome::Unschedulable(refusal.message),
                        at,
                    });
                }
            }
        }
    }

    fn binding_ended(&mut self, ended: Result<Bound, tokio::task::JoinError>) {
        let (pod, node, outcome) = match ended {
            Ok(bound) => bound,
            Err(error) => std::panic::resume_unwind(error.into_panic()), // nobody aborts them
        };
        let at = now();
        match outcome {
            Ok(()) => {
                tracing::info!(pod = %pod.key(), uid = %pod.uid, node, "pod bound");
                self.scheduler.bound(&pod.uid);
                self.reporter.report(Report {
                    pod,
                    outcome: Outcome::Scheduled(node),
                    at,
                });
            }
            Err(error) => {
                self.scheduler.bind_failed(&pod.uid, at);
                if error.is_outdated() {
                    tracing::debug!(pod = %pod.key(), uid = %pod.uid, node, error = %error, "pod changed before it was bound");
                } else {
                    tracing::warn!(pod = %pod.key(), uid = %pod.uid, node, error = %error, "pod not bound");
                    self.reporter.report(Report {
                        pod,
                        outcome: Outcome::Failed(error.to_string()),
                        at,
                    });
                }
            }
        }
    }

    fn pod_event(&mut self, event: Event<Pod>) {
        match event {
            Event::Apply(pod) => self.scheduler.pod_changed(&pod, now()),
            Event::Delete(pod) => {
                if let Some(uid) = snapshot::uid(&pod) {
                    self.scheduler.pod_gone(&uid, now());
                }
            }
            Event::Init => self.pods_seen = Some(BTreeSet::new()),
            Event::InitApply(pod) => {
                if let Some(seen) = &mut self.pods_seen {
                    seen.extend(snapshot::uid(&pod));
                }
                self.scheduler.pod_changed(&pod, now());
            }
            Event::InitDone => {
                if let Some(seen) = self.pods_seen.take() {
                    self.scheduler.pods_listed(&seen, now());
                }
                self.synced.0 = true;
            }
        }
    }

    fn node_event(&mut self, event: Event<Node>) {
        match event {
            Event::Apply(node) => self.scheduler.node_changed(&node, now()),
            Event::Delete(node) => self.scheduler.node_gone(&node.metadata.name.unwrap_or_default()),
            Event::Init => self.nodes_seen = Some(BTreeSet::new()),
            Event::InitApply(node) => {
                if let Some(seen) = &mut self.nodes_seen {
                    seen.extend(node.metadata.name.clone());
                }
                self.scheduler.node_changed(&node, now());
            }
            Event::InitDone => {
                if let Some(seen) = self.nodes_seen.take() {
                    self.scheduler.nodes_listed(&seen);
                }
                self.synced.1 = true;
            }
        }
    }
}

fn now() -> Time {
    Timestamp::now().into()
}

/// How long to wait for `wake`. A clock that is set back costs an hour at most.
fn delay(wake: Option<Time>, now: Time) -> Duration {
    const LONGEST: Duration = Duration::from_secs(3600);
    wake.map_or(LONGEST, |wake| wake.since(now).min(LONGEST))
}
