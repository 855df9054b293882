//! Which pods there are: follows the API and the runtime, and keeps one
//! worker per pod.

mod drain;
mod preempt;
mod resize;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use api::Uid;
use api::typed::{Node, Pod, PodStatus};
use client::recorder::Reporter;
use client::{RecordedEvent, Recorder};
use futures::StreamExt;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube_runtime::WatchStreamExt;
use kube_runtime::watcher::{self, Event};
use lifecycle::{Desired, Eviction, NodeFacts, Rejection};
use runtime::{LogLimits, Runtime, RuntimeError};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::drain::Drain;
use self::drain::Draining;
use self::resize::Resizes;
use crate::clock::Clock;
use crate::eviction::{self, Findings};
use crate::execute::Ports;
use crate::flight::FlightRecorder;
use crate::image_gc;
use crate::node_events::NodeEvents;
use crate::node_status::{self, Machine, NodeIdentity, NodeState};
use crate::pod_worker::{Mailbox, PodWorker, Wanted, reference};
use crate::pods::Pods;
use crate::pull_secret;
use crate::qos;
use crate::resources::NodeLimits;
use crate::sources::{self, Sources};
use crate::system_oom;
use crate::volumes::{self, Volumes};

/// What a kubelet needs.
pub struct Options {
    /// The API server, as this node.
    pub client: kube::Client,
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How the node presents itself.
    pub node: NodeIdentity,
    /// What the node is made of.
    pub machine: Machine,
    /// The pods of this node, shared with the node API.
    pub pods: Arc<Pods>,
    /// The flight recorder, shared with the node API.
    pub flights: FlightRecorder,
    /// Directory of all pods' logs.
    pub log_root: PathBuf,
    /// The pods' volumes.
    pub volumes: Arc<Volumes>,
    /// Directory of the node's own seccomp profiles.
    pub seccomp_root: PathBuf,
    /// How much of a container's log is kept.
    pub log_limits: LogLimits,
    /// Most processes of a pod; `None` for as many as the node has.
    pub pod_processes_max: Option<u64>,
    /// The node's `/etc/resolv.conf`.
    pub node_resolv_conf: String,
    /// When the node counts as short of something.
    pub eviction: eviction::Config,
    /// When images nobody uses are removed.
    pub image_gc: image_gc::Settings,
    /// The node is being shut down: pods are stopped, none is started, and
    /// [`Kubelet::run`] ends once none runs.
    pub drain: Option<Drain>,
}

/// Why a kubelet could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// The node could not be registered.
    #[error("registering node {node}")]
    Register {
        /// Name of the node.
        node: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The runtime does not say which pods it has.
    #[error("asking the runtime for its pods")]
    Runtime(#[source] RuntimeError),
    /// The stream of pods ended.
    #[error("the watch of this node's pods ended")]
    WatchEnded,
}

impl KubeletError {
    fn registering(node: &NodeIdentity, error: kube::Error) -> Self {
        Self::Register {
            node: node.name.clone(),
            source: Box::new(error),
        }
    }
}

struct Worker {
    wanted: watch::Sender<Wanted>,
    hints: watch::Sender<u64>,
    /// Counts changes of what the pod takes its content from.
    sources: watch::Sender<u64>,
}

/// The node agent.
pub struct Kubelet {
    ports: Ports,
    facts: NodeFacts,
    name: String,
    /// The Node object, as last seen: labels and taints may change.
    node: watch::Receiver<Node>,
    recorder: Recorder,
    workers: BTreeMap<Uid, Worker>,
    tasks: JoinSet<Uid>,
    /// Critical pods that others make room for.
    held: BTreeMap<Uid, Wanted>,
    rooms: JoinSet<Uid>,
    state: watch::Receiver<NodeState>,
    evictions: mpsc::Receiver<(Uid, Eviction)>,
    draining: Option<Draining>,
    resizes: Resizes,
    shutdown: CancellationToken,
}

/// Evictions chosen and not yet begun: one at a time is chosen.
const EVICTIONS_MAX: usize = 1;

/// Who events are from.
fn reporter(node: &NodeIdentity) -> Reporter {
    Reporter {
        component: "kubelet".to_owned(),
        host: node.name.clone(),
    }
}

/// What is known of the node before anything was looked at.
fn first_state(shutting_down: bool) -> NodeState {
    NodeState {
        shutting_down,
        ..NodeState::default()
    }
}

impl Kubelet {
    /// Registers the node, then runs its pods until `shutdown`. Containers go
    /// on running afterwards; the next kubelet adopts them.
    ///
    /// # Errors
    /// When the node cannot be registered or the runtime cannot be asked.
    pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), KubeletError> {
        let Options {
            client,
            runtime,
            clock,
            node,
            machine,
            pods,
            flights,
            log_root,
            volumes,
            seccomp_root,
            log_limits,
            pod_processes_max,
            node_resolv_conf,
            eviction,
            image_gc,
            drain,
        } = options;
        // Its own end is not everybody's.
        let shutdown = shutdown.child_token();
        let mut side = JoinSet::new();
        let (recorder, recording) = Recorder::new(client.clone(), reporter(&node), shutdown.clone());
        side.spawn(recording);

        let first = first_state(drain.is_some());
        let (state, state_seen) = watch::channel(first.clone());
        let registered = node_status::register(&client, &node, &machine, &first, clock.now())
            .await
            .map_err(|error| KubeletError::registering(&node, error))?;
        let events = NodeEvents::new(recorder.clone(), clock.clone(), node.name.clone());
        events.started(registered.rebooted.then_some(machine.boot_id.as_str()), drain.is_some());
        let limits = NodeLimits {
            pod_processes_max,
            huge_pages: machine.huge_pages.clone(),
        };
        let (seen, node_object) = watch::channel(registered.node.clone());
        side.spawn(events.clone().follow_cordons(node_object.clone(), shutdown.clone()));
        side.spawn(node_status::follow(client.clone(), node.name.clone(), seen, shutdown.clone()));
        side.spawn(node_status::heartbeat(
            client.clone(),
            node.clone(),
            machine,
            registered.node,
            clock.clone(),
            state_seen.clone(),
            shutdown.clone(),
        ));

        let ports = Ports {
            runtime,
            clock,
            pods,
            flights,
            log_root,
            seccomp_root,
            log_limits,
            limits: Arc::new(limits),
            node_resolv_conf: node_resolv_conf.into(),
            sources: Sources::new(client.clone()),
            volumes,
            node: node_object.clone(),
            host_ips: Arc::from([node.ip]),
            client,
        };
        side.spawn(ports.sources.clone().run(shutdown.clone()));
        side.spawn(qos::follow(ports.clone(), shutdown.clone()));
        side.spawn(system_oom::watch(ports.clone(), events.clone(), shutdown.clone()));
        let image_fs = eviction.image_fs.clone();
        side.spawn(image_gc::run(ports.clone(), image_gc, image_fs, events.clone(), shutdown.clone()));
        let (evictions, to_evict) = mpsc::channel(EVICTIONS_MAX);
        let findings = Findings {
            state,
            evictions,
            recorder: recorder.clone(),
            node: events,
        };
        side.spawn(eviction::run(ports.clone(), eviction, findings, shutdown.clone()));
        let kubelet = Self {
            ports,
            facts: NodeFacts { host_ips: vec![node.ip] },
            name: node.name.clone(),
            node: node_object,
            recorder,
            workers: BTreeMap::new(),
            tasks: JoinSet::new(),
            held: BTreeMap::new(),
            rooms: JoinSet::new(),
            state: state_seen,
            evictions: to_evict,
            draining: drain.map(Draining::new),
            resizes: Resizes::default(),
            shutdown: shutdown.clone(),
        };
        let result = kubelet.follow_pods().await;
        if drain.is_some() {
            // The node's own tasks have nothing left to do.
            shutdown.cancel();
        }
        while side.join_next().await.is_some() {}
        result
    }

    async fn follow_pods(mut self) -> Result<(), KubeletError> {
        let pods = Api::<Pod>::all(self.ports.client.clone());
        let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", self.name));
        // Who wrote which field is nothing to a node, and as long as the rest.
        let pods = watcher::watcher(pods, mine).default_backoff();
        let mut changes = pods.modify(|pod| pod.metadata.managed_fields = None).boxed();
        let mut hints = self.ports.runtime.hints();
        let mut listed: Option<BTreeSet<Uid>> = None;
        let mut first_list = true;
        loop {
            tokio::select! {
                change = changes.next() => match change {
                    Some(Ok(Event::Init)) => listed = Some(BTreeSet::new()),
                    Some(Ok(Event::InitApply(pod))) => {
                        let uid = self.apply(pod).await;
                        if let (Some(listed), Some(uid)) = (&mut listed, uid) {
                            listed.insert(uid);
                        }
                    }
                    Some(Ok(Event::InitDone)) => {
                        self.forget_unlisted(&listed.take().unwrap_or_default());
                        if std::mem::take(&mut first_list) {
                            let pods = self.ports.pods.clone();
                            // It ends by itself, soon.
                            tokio::spawn(async move { pods.settle().await });
                            self.adopt_orphans().await?;
                            if self.drain_on() { break }
                        }
                    }
                    Some(Ok(Event::Apply(pod))) => {
                        self.apply(pod).await;
                    }
                    Some(Ok(Event::Delete(pod))) => {
                        if let Some(uid) = pod.metadata.uid.as_deref().and_then(|uid| uid.parse::<Uid>().ok()) {
                            self.vanish(&uid);
                        }
                    }
                    Some(Err(error)) => tracing::warn!(node = self.name, error = %error, "the watch of this node's pods is interrupted"),
                    None => return Err(KubeletError::WatchEnded),
                },
                Some(uid) = hints.next() => {
                    if let Some(worker) = self.workers.get(&uid) {
                        worker.hints.send_modify(|count| *count = count.wrapping_add(1));
                    }
                }
                Some(ended) = self.tasks.join_next() => {
                    self.worker_ended(ended);
                    if !first_list && self.drain_on() { break }
                }
                Some((uid, eviction)) = self.evictions.recv() => self.evict(&uid, eviction),
                Some(made) = self.rooms.join_next() => self.room_made(made),
                () = late(self.resizes.again_at()) => for pod in self.resizes.due() {
                    self.apply(pod).await;
                },
                () = late(self.draining.as_ref().and_then(Draining::until)) => if self.drain_on() { break },
                () = self.shutdown.cancelled() => break,
            }
        }
        self.rooms.abort_all();
        self.workers.clear();
        while self.tasks.join_next().await.is_some() {}
        Ok(())
    }

    /// A pod as the API server holds it now.
    async fn apply(&mut self, pod: Pod) -> Option<Uid> {
        let uid = pod.metadata.uid.as_deref()?.parse::<Uid>().ok()?;
        let (pod, resize_pending) = self.grant(&uid, pod);
        let desired = match Desired::parse(&pod, &self.facts).map(|desired| Desired { resize_pending, ..desired }) {
            Ok(desired) => desired,
            Err(error) => {
                self.refuse(&pod, &uid, &error.rejection()).await;
                return Some(uid);
            }
        };
        let pod = Arc::new(pod);
        self.ports.pods.set_desired(&uid, pod.clone());
        if let Some(held) = self.held.get_mut(&uid) {
            *held = Wanted { desired, pod: Some(pod) };
            return Some(uid);
        }
        match self.workers.get(&uid) {
            Some(worker) => {
                self.hold_sources(&uid, &pod, &worker.sources);
                worker.wanted.send_modify(|wanted| {
                    // What the node has decided stands, whatever changes about the pod.
                    let desired = Desired {
                        rejection: wanted.desired.rejection.take(),
                        eviction: wanted.desired.eviction.take(),
                        drain: wanted.desired.drain,
                        ..desired
                    };
                    *wanted = Wanted { desired, pod: Some(pod) };
                });
            }
            None if self.draining.is_some() && !self.runs(&uid).await => {}
            None => {
                let (desired, victims) = self.admit(desired, &pod).await;
                let wanted = Wanted { desired, pod: Some(pod) };
                if victims.is_empty() {
                    self.start(uid.clone(), wanted);
                } else {
                    self.make_room(uid.clone(), wanted, &victims);
                }
            }
        }
        Some(uid)
    }

    /// Whether there is anything of a pod to be stopped.
    async fn runs(&self, uid: &Uid) -> bool {
        let seen = self.ports.observe(uid).await;
        seen.is_ok_and(|seen| seen.sandbox.is_some_and(|sandbox| sandbox.ready))
    }

    /// The node gives a pod up.
    fn evict(&mut self, uid: &Uid, eviction: Eviction) {
        if let Some(worker) = self.workers.get(uid) {
            worker.wanted.send_modify(|wanted| wanted.desired.eviction = Some(eviction));
        }
    }

    /// Asks whether a pod that has just come to this node may run here. Pods
    /// the runtime already has were admitted before the last restart. Who has
    /// to stop first is given with it.
    async fn admit(&self, mut desired: Desired, pod: &Pod) -> (Desired, Vec<Uid>) {
        let has_ended = pod
            .status
            .as_ref()
            .is_some_and(|status| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")));
        if has_ended || desired.deletion.is_some() {
            return (desired, Vec::new());
        }
        match self.ports.observe(&desired.uid).await {
            Ok(known) if known.sandbox.is_some() => return (desired, Vec::new()),
            Ok(_) => {}
            // The worker will ask again and again, and see what there is.
            Err(error) => tracing::warn!(uid = %desired.uid, error = %error, "the runtime cannot be asked"),
        }
        match self.verdict(&desired.uid, pod) {
            Ok(victims) => (desired, victims),
            Err(rejection) => {
                desired.rejection = Some(rejection);
                (desired, Vec::new())
            }
        }
    }

    fn start(&mut self, uid: Uid, wanted: Wanted) {
        let (wanted, wanted_rx) = watch::channel(wanted);
        let (hints, hints_rx) = watch::channel(0);
        let (sources, sources_rx) = watch::channel(0);
        let mailbox = Mailbox {
            wanted: wanted_rx,
            hints: hints_rx,
            sources: sources_rx,
        };
        if let Some(pod) = &wanted.borrow().pod {
            self.hold_sources(&uid, pod, &sources);
        }
        self.tasks.spawn(PodWorker::run(
            uid.clone(),
            self.ports.clone(),
            self.recorder.clone(),
            mailbox,
            self.shutdown.clone(),
        ));
        self.workers.insert(uid, Worker { wanted, hints, sources });
    }

    /// What the pod refers to is watched from now on.
    fn hold_sources(&self, uid: &Uid, pod: &Pod, tell: &watch::Sender<u64>) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut references = sources::of_environment(pod);
        references.extend(volumes::references(pod));
        references.extend(pull_secret::references(pod));
        self.ports.sources.hold(uid, namespace, &references, tell);
    }

    /// The API no longer knows a pod: its worker stops and forgets it.
    fn vanish(&mut self, uid: &Uid) {
        if self.held.remove(uid).is_some() {
            self.ports.pods.remove(uid);
        }
        if let Some(worker) = self.workers.get(uid) {
            worker.wanted.send_if_modified(|wanted| {
                let news = !wanted.desired.gone;
                wanted.desired.gone = true;
                news
            });
        }
    }

    fn forget_unlisted(&mut self, listed: &BTreeSet<Uid>) {
        let known = self.workers.keys().chain(self.held.keys());
        let unlisted: Vec<Uid> = known.filter(|uid| !listed.contains(uid)).cloned().collect();
        for uid in unlisted {
            self.vanish(&uid);
        }
    }

    /// Pods of which the runtime or a volume is left and the API knows nothing:
    /// deleted while we were away.
    async fn adopt_orphans(&mut self) -> Result<(), KubeletError> {
        let mut left: BTreeSet<Uid> = self
            .ports
            .runtime
            .list()
            .await
            .map_err(KubeletError::Runtime)?
            .into_iter()
            .collect();
        match self.ports.volumes.pods() {
            Ok(pods) => left.extend(pods),
            Err(error) => tracing::warn!(error = %error, "the directory of volumes cannot be read"),
        }
        for uid in left {
            if !self.workers.contains_key(&uid) {
                tracing::info!(uid = %uid, "removing a pod that the API server does not know");
                self.start(
                    uid.clone(),
                    Wanted {
                        desired: Desired::orphan(uid),
                        pod: None,
                    },
                );
            }
        }
        Ok(())
    }

    fn worker_ended(&mut self, ended: Result<Uid, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                self.workers.remove(&uid);
                self.ports.pods.remove(&uid);
                self.resizes.forget(&uid);
                self.ports.flights.gone(&uid, self.ports.clock.now());
                self.ports.sources.release(&uid);
                self.ports.volumes.forget(&uid);
            }
            // Its pod stays as it is until the next start of the agent.
            Err(error) => tracing::error!(node = self.name, error = %error, "a pod's worker failed"),
        }
    }

    /// A pod that cannot even be read is Failed, with the reason.
    async fn refuse(&self, pod: &Pod, uid: &Uid, rejection: &Rejection) {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Failed" | "Succeeded")) {
            return;
        }
        self.recorder.record(RecordedEvent {
            involved: reference(pod, None),
            kind: "Warning",
            reason: rejection.reason.clone(),
            message: rejection.message.clone(),
            at: self.ports.clock.now(),
        });
        let status = PodStatus {
            phase: Some("Failed".to_owned()),
            reason: Some(rejection.reason.clone()),
            message: Some(format!("Pod was rejected: {}", rejection.message)),
            start_time: Some(self.ports.clock.now().wire()),
            ..PodStatus::default()
        };
        let api = Api::<Pod>::namespaced(self.ports.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
        let patch = json!({ "metadata": { "uid": uid.as_str() }, "status": status });
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        if let Err(error) = api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            tracing::warn!(uid = %uid, error = %error, "a refused pod's status was not written");
        }
    }

    /// The node's verdict on a new pod, given the pods it already has: who has
    /// to make room for it.
    fn verdict(&self, uid: &Uid, pod: &Pod) -> Result<Vec<Uid>, Rejection> {
        lifecycle::evict::admit(pod, &self.state.borrow().pressures)?;
        let others = self.others(uid);
        let pods: Vec<&Pod> = others.iter().map(|(_, pod)| pod.as_ref()).collect();
        let victims = lifecycle::admit(pod, &pods, &self.node.borrow())?;
        lifecycle::app_armor(pod, self.ports.runtime.features().app_armor)?;
        Ok(victims
            .into_iter()
            .filter_map(|place| others.get(place))
            .map(|(uid, _)| uid.clone())
            .collect())
    }

    /// The other pods that this node has admitted and that are not over.
    fn others(&self, uid: &Uid) -> Vec<(Uid, Arc<Pod>)> {
        let counts = |other: &Uid| {
            let admitted = |worker: &Worker| worker.wanted.borrow().desired.rejection.is_none();
            self.held.contains_key(other) || self.workers.get(other).is_some_and(admitted)
        };
        let known = self.ports.pods.all().into_iter().map(|(other, known)| (other, known.pod));
        known
            .filter(|(other, pod)| other != uid && counts(other) && !api::pods::is_terminal(pod))
            .collect()
    }
}

/// Waits until `at`; without one, for ever.
async fn late(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
