//! Carries out one action of a pod's state machine. No policy: what to do,
//! and what to make of the result, is decided there.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::Uid;
use api::node::Observation;
use api::typed::{Node, Pod, WireQuantity};
use lifecycle::{Action, ActionId, Download, Failure, FailureClass, Input, Outcome, Progress, PullPolicy, Pulled, Target, Verb};
use runtime::{Image, LogLimits, NetError, PullBytes, Runtime, RuntimeError};
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::config;
use crate::confirm;
use crate::create;
use crate::dns;
use crate::flight::FlightRecorder;
use crate::hook;
use crate::pods::{Pods, log_dir};
use crate::prober;
use crate::pull_secret;
use crate::resources::NodeLimits;
use crate::sources::Sources;
use crate::status_writer::StatusWriter;
use crate::volumes::{Scope, Volumes, image};

/// How often it is told how far a download is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Everything an action may act on.
#[derive(Clone)]
pub struct Ports {
    /// The API server, as this node.
    pub client: kube::Client,
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The pods of this node.
    pub pods: Arc<Pods>,
    /// What happened to them and why.
    pub flights: FlightRecorder,
    /// Directory of all pods' logs.
    pub log_root: PathBuf,
    /// Directory of the node's own seccomp profiles.
    pub seccomp_root: PathBuf,
    /// How much of a container's log is kept.
    pub log_limits: LogLimits,
    /// What the node sets on cgroups.
    pub limits: Arc<NodeLimits>,
    /// The node's `/etc/resolv.conf`.
    pub node_resolv_conf: Arc<str>,
    /// What pods take their content from.
    pub sources: Sources,
    /// Their volumes.
    pub volumes: Arc<Volumes>,
    /// The Node object, as last seen.
    pub node: watch::Receiver<Node>,
    /// The node's addresses, primary first.
    pub host_ips: Arc<[IpAddr]>,
}

/// The pod an action belongs to.
#[derive(Clone)]
pub struct Subject {
    /// Identity.
    pub uid: Uid,
    /// As last seen in the API; `None` for a pod the API never told us of.
    pub pod: Option<Arc<Pod>>,
}

impl Ports {
    /// Looks at a pod, and shares what was seen.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn observe(&self, uid: &Uid) -> Result<Observation, RuntimeError> {
        let observation = self.runtime.observe(uid).await?;
        self.pods.set_observed(uid, Arc::new(observation.clone()));
        Ok(observation)
    }

    /// What the node can give to pods.
    #[must_use]
    pub fn allocatable(&self) -> BTreeMap<String, WireQuantity> {
        let node = self.node.borrow();
        let status = node.status.as_ref();
        status.and_then(|status| status.allocatable.clone()).unwrap_or_default()
    }
}

/// Where an action tells how far it is.
pub(crate) struct Report<'a> {
    id: ActionId,
    to: &'a mpsc::Sender<Input>,
}

impl Report<'_> {
    pub(crate) async fn tell(&self, progress: Progress) {
        // The receiver is gone only when the worker has ended, and then nobody waits.
        let _ = self.to.send(Input::Progress { id: self.id, progress }).await;
    }
}

/// Does what `action` says, within its limit, then looks at the pod. Dropping
/// the future leaves the runtime to finish what it began.
pub async fn execute(ports: Ports, subject: Subject, action: Action, status: StatusWriter, progress: mpsc::Sender<Input>) -> Input {
    let started = ports.clock.now();
    let limit = action.verb.limit();
    let report = Report {
        id: action.id,
        to: &progress,
    };
    let result = match tokio::time::timeout(limit, perform(&ports, &subject, &action, &status, &report)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::new(
            FailureClass::Timeout,
            format!("{} did not end within {limit:?}", action.verb),
        )),
    };
    let elapsed_ms = ports.clock.now().since(started).as_millis();
    match &result {
        Ok(_) => {
            tracing::debug!(uid = %subject.uid, target = %action.target, action = %action.verb, because = %action.because, elapsed_ms, "done")
        }
        Err(error) => {
            tracing::warn!(uid = %subject.uid, target = %action.target, action = %action.verb, because = %action.because, elapsed_ms, error = %error, "action failed");
        }
    }
    let after = match action.target {
        Target::Volumes | Target::Api | Target::Probe(..) => None,
        Target::Sandbox | Target::Container(_) | Target::Attempt(_) => ports.observe(&subject.uid).await.ok(),
    };
    Input::Done {
        id: action.id,
        result,
        after,
    }
}

async fn perform(
    ports: &Ports,
    subject: &Subject,
    action: &Action,
    status: &StatusWriter,
    report: &Report<'_>,
) -> Result<Outcome, Failure> {
    let runtime = &ports.runtime;
    let uid = &subject.uid;
    let done = |result: Result<(), RuntimeError>, class| result.map(|()| Outcome::Done).map_err(|error| failure(&error, class));
    match &action.verb {
        Verb::Cancel(_) => Ok(Outcome::Done),
        Verb::MountVolumes => {
            let pod = subject.pod.as_ref().ok_or_else(unknown)?;
            let made = ports.volumes.make_directories(uid).await;
            made.map_err(|error| Failure::new(FailureClass::PodDirectory, error))?;
            let mounted = ports.volumes.set_up(ports, uid, pod, Scope::All).await;
            let unpulled = image::pull_all(ports, uid, pod, report).await;
            match mounted.err().unwrap_or_default().iter().chain(&unpulled).next() {
                None => Ok(Outcome::Done),
                Some(first) => Err(Failure::new(FailureClass::Mount, first.to_string())),
            }
        }
        Verb::UnmountVolumes => {
            let unmounted = ports.volumes.tear_down(uid).await;
            unmounted
                .map(|()| Outcome::Done)
                .map_err(|error| Failure::new(FailureClass::Mount, error))
        }
        Verb::RunSandbox { attempt } => {
            let pod = wanted(subject)?;
            let sandbox = config::sandbox(pod, uid, *attempt, &ports.log_root, &ports.node_resolv_conf, &ports.limits)
                .map_err(|error| Failure::new(FailureClass::Sandbox, error.to_string()))?;
            done(runtime.run_sandbox(&sandbox).await, FailureClass::Sandbox)?;
            let omitted = dns::form(pod, &ports.node_resolv_conf).omitted;
            Ok(if omitted.is_empty() {
                Outcome::Done
            } else {
                Outcome::DnsOmitted(omitted)
            })
        }
        Verb::StopSandbox => done(runtime.stop_sandbox(uid).await, FailureClass::Kill),
        Verb::RemoveSandbox => {
            done(runtime.remove_sandbox(uid).await, FailureClass::Kill)?;
            remove_logs(ports, subject)
                .await
                .map_err(|error| Failure::new(FailureClass::Kill, format!("removing the pod's logs: {error}")))?;
            Ok(Outcome::Done)
        }
        Verb::Pull { image, policy } => pull(ports, subject, image, *policy, report).await,
        Verb::Create { attempt } => {
            let name = container_name(&action.target)?;
            create::container(ports, uid, wanted(subject)?, name, *attempt).await
        }
        Verb::Start { id } => done(runtime.start(uid, id).await, FailureClass::RunContainerError),
        Verb::Note { id, key, value } => done(runtime.note(uid, id, key, value).await, FailureClass::Unavailable),
        Verb::NoteSandbox { key, value } => done(runtime.note_sandbox(uid, key, value).await, FailureClass::Unavailable),
        Verb::Probe { id, handler, timeout, .. } => {
            let name = container_name(&action.target)?;
            Ok(Outcome::Probed(prober::run(ports, subject, name, id, handler, *timeout).await))
        }
        Verb::RunHook {
            id, hook, handler, limit, ..
        } => {
            let name = container_name(&action.target)?;
            hook::run(ports, subject, name, id, (*hook, handler), *limit).await
        }
        Verb::Stop { id, signal, grace } => done(runtime.stop(uid, id, *signal, *grace).await, FailureClass::Kill),
        Verb::Resize { id } => create::resize(ports, uid, wanted(subject)?, id).await,
        Verb::Remove { id } => done(runtime.remove(uid, id).await, FailureClass::Kill),
        Verb::ConfirmDeletion => confirm::deletion(&ports.client, wanted(subject)?, uid, status).await,
    }
}

fn wanted(subject: &Subject) -> Result<&Pod, Failure> {
    subject.pod.as_deref().ok_or_else(unknown)
}

fn unknown() -> Failure {
    Failure::new(FailureClass::Api, "the API server has not told what this pod should be")
}

fn container_name(target: &Target) -> Result<&str, Failure> {
    match target {
        Target::Container(name) | Target::Probe(name, _) => Ok(name),
        other => Err(Failure::new(
            FailureClass::CreateContainerError,
            format!("{other} is not a container"),
        )),
    }
}

/// The runtime's own words, with the chain of causes.
pub(crate) fn failure(error: &RuntimeError, class: FailureClass) -> Failure {
    let class = match error {
        // Without "pod network" before it: it is the node's.
        RuntimeError::Network(gone @ NetError::NotReady { .. }) => return Failure::new(FailureClass::NetworkNotReady, gone.to_string()),
        RuntimeError::Network(_) => FailureClass::Network,
        RuntimeError::PodCgroup(_) => FailureClass::PodCgroup,
        RuntimeError::PodDirectory(_) => FailureClass::PodDirectory,
        RuntimeError::Shim { .. } => FailureClass::Unavailable,
        _ => class,
    };
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message += &format!(": {cause}");
        source = cause.source();
    }
    Failure::new(class, message)
}

async fn pull(ports: &Ports, subject: &Subject, image: &str, policy: PullPolicy, report: &Report<'_>) -> Result<Outcome, Failure> {
    let present = ports.runtime.image(image).await.map_err(|error| match error {
        RuntimeError::InvalidImageName(_) => Failure::new(
            FailureClass::InvalidImageName,
            format!("Failed to apply default image tag {image:?}: {error}"),
        ),
        other => failure(&other, FailureClass::ImageInspectError),
    })?;
    match (policy, present) {
        (PullPolicy::IfNotPresent | PullPolicy::Never, Some(_)) => return Ok(Outcome::Pulled(Pulled::Present)),
        (PullPolicy::Never, None) => {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            return Err(Failure::new(FailureClass::ErrImageNeverPull, message));
        }
        (PullPolicy::IfNotPresent, None) | (PullPolicy::Always, _) => {}
    }
    let pod = subject.pod.as_deref();
    let (took, image) = download(ports, &subject.uid, pod, image, |download| report.tell(Progress::Image(download)))
        .await
        .map_err(|error| failure(&error, FailureClass::ErrImagePull))?;
    Ok(Outcome::Pulled(Pulled::Fetched {
        took,
        waited: Duration::ZERO,
        size_bytes: image.size_bytes,
    }))
}

/// Fetches an image; tells that it began and, while it lasts, how far it is.
/// Gives how long it took.
pub(crate) async fn download<F: Future<Output = ()>>(
    ports: &Ports,
    uid: &Uid,
    pod: Option<&Pod>,
    image: &str,
    tell: impl Fn(Download) -> F,
) -> Result<(Duration, Image), RuntimeError> {
    tell(Download::Began).await;
    let started = ports.clock.now();
    let fetching = fetch(ports, uid, pod, image);
    tokio::pin!(fetching);
    let mut told = None;
    let fetched = loop {
        tokio::select! {
            fetched = &mut fetching => break fetched,
            () = ports.clock.sleep_until(ports.clock.now() + PROGRESS_EVERY) => {}
        }
        let far = ports.runtime.pulling(image);
        if let Some(PullBytes { done, total }) = far.filter(|_| far != told) {
            told = far;
            tell(Download::Has {
                done_bytes: done,
                total_bytes: total,
            })
            .await;
        }
    };
    Ok((ports.clock.now().since(started), fetched?))
}

/// Asks the registry, with each name and password the pod's secrets hold for
/// it in turn; without any where they hold none.
async fn fetch(ports: &Ports, uid: &Uid, pod: Option<&Pod>, image: &str) -> Result<Image, RuntimeError> {
    let mut secrets = Vec::new();
    if let Some(pod) = pod {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for (secret, found) in ports.sources.find(namespace, pull_secret::references(pod)).await {
            match found {
                Ok(content) => secrets.push(content),
                Err(error) => tracing::warn!(%uid, secret = secret.name, error = %error, "a pull secret is not there"),
            }
        }
    }
    let mut pulled = None;
    for auth in pull_secret::of(image, &secrets) {
        match ports.runtime.pull(image, Some(&auth)).await {
            Ok(image) => return Ok(image),
            refused => pulled = Some(refused),
        }
    }
    match pulled {
        Some(refused) => refused,
        None => ports.runtime.pull(image, None).await,
    }
}

async fn remove_logs(ports: &Ports, subject: &Subject) -> io::Result<()> {
    let Some(meta) = subject.pod.as_deref().map(|pod| &pod.metadata) else {
        return remove_orphaned_logs(ports, &subject.uid).await;
    };
    let (namespace, name) = (
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    );
    remove_dir(&log_dir(&ports.log_root, namespace, name, &subject.uid)).await
}

/// A pod that only the runtime knew: its log directory ends in its UID.
async fn remove_orphaned_logs(ports: &Ports, uid: &Uid) -> io::Result<()> {
    let mut entries = match tokio::fs::read_dir(&ports.log_root).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let suffix = format!("_{uid}");
    while let Some(entry) = entries.next_entry().await? {
        if entry.file_name().to_string_lossy().ends_with(&suffix) {
            remove_dir(&entry.path()).await?;
        }
    }
    Ok(())
}

async fn remove_dir(dir: &std::path::Path) -> io::Result<()> {
    match tokio::fs::remove_dir_all(dir).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
