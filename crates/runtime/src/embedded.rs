//! The embedded backend: one shim per pod, adopted by whichever agent runs.
//!
//! Reading order: `embedded/files.rs` (what is on disk), `embedded/pod.rs`
//! (what is known), `embedded/sandbox.rs` and `embedded/container.rs` (what is
//! done), `embedded/spec.rs` (a container's OCI configuration, pure),
//! `embedded/seccomp.rs` and `embedded/app_armor.rs` (what holds it in),
//! `embedded/client.rs` (the connection to a shim).
//!
//! Nothing here is remembered only in memory: an agent that is killed at any
//! moment is followed by one that reads the same directories, connects to the
//! same shims, and carries on.

mod adopt;
mod app_armor;
mod client;
mod container;
mod dial;
mod files;
mod hosts;
mod ids;
mod images;
mod pod;
mod resize;
mod sandbox;
mod seccomp;
mod session;
mod shim_exe;
mod spec;
mod usage;

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::node::{ContainerId, NodeUsage, Observation, PodUsage, Uid};
use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use shim::protocol::Limits;
use tokio::sync::broadcast;
use tokio::task::JoinSet;

pub use adopt::Purged;
pub use ids::UserIds;
pub use images::{Images, NodeImages};
pub use shim_exe::ShimExe;

use crate::{
    AttachRequest, Auth, CgroupParent, ContainerConfig, ExecOutput, ExecRequest, Features, Image, Network, NodeImage, PullBytes, Resize,
    Resources, Runtime, RuntimeError, SandboxConfig, Session, StreamRequest,
};
use files::PodDir;
use ids::Ranges;
use pod::Pod;
use spec::Host;

/// Hints nobody has read yet; older ones are dropped.
const HINTS_MAX: usize = 4096;

/// What the backend works with.
pub struct Options {
    /// Records, sockets and writable layers: one directory per pod.
    pub state_dir: PathBuf,
    /// Path of all pods' cgroups in the cgroup trees: `/lifepod`.
    pub cgroup_root: PathBuf,
    /// The program shims run.
    pub shim_exe: Arc<ShimExe>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// Attaches sandboxes.
    pub network: Arc<dyn Network>,
    /// Addresses of pods on the node's own network.
    pub node_ips: Vec<IpAddr>,
    /// For pods that have users of their own.
    pub user_ids: UserIds,
}

/// The backend. Dropping it leaves every pod running.
pub struct Embedded {
    options: Options,
    host: Host,
    /// Why pods cannot have users of their own here, if they cannot.
    no_users: Option<String>,
    ranges: Mutex<Ranges>,
    pods: Mutex<HashMap<Uid, Arc<Pod>>>,
    hints: broadcast::Sender<Uid>,
    background: Mutex<JoinSet<()>>,
}

impl Embedded {
    fn pods(&self) -> MutexGuard<'_, HashMap<Uid, Arc<Pod>>> {
        // Each change under it is a single insertion or removal.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ranges(&self) -> MutexGuard<'_, Ranges> {
        // As above.
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pod(&self, uid: &Uid) -> Result<Arc<Pod>, RuntimeError> {
        self.pods().get(uid).cloned().ok_or_else(|| RuntimeError::NotFound {
            what: "sandbox",
            name: uid.to_string(),
        })
    }

    fn pod_or_new(&self, uid: &Uid) -> Arc<Pod> {
        self.pods()
            .entry(uid.clone())
            .or_insert_with(|| Arc::new(self.new_pod(uid)))
            .clone()
    }

    fn new_pod(&self, uid: &Uid) -> Pod {
        let root = self.options.cgroup_root.clone();
        // Numbers of a later agent, or of a pod made anew, are higher.
        let first_sequence = u64::try_from(shim::record::now_ns()).unwrap_or_default();
        Pod::new(uid.clone(), PodDir::new(&self.options.state_dir, uid), root, first_sequence)
    }

    fn forget(&self, pod: &Arc<Pod>) {
        self.pods().remove(&pod.uid);
        // It may have some although it was never written down.
        self.ranges().give_back(&pod.uid);
        let _ = self.hints.send(pod.uid.clone());
    }

    /// Runs something short to its end unless the backend is dropped.
    fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut background = self.background.lock().unwrap_or_else(PoisonError::into_inner);
        while background.try_join_next().is_some() {}
        background.spawn(work);
    }
}

/// Runs file and process work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(ended) => Err(RuntimeError::Io {
            doing: "running a blocking task".to_owned(),
            source: std::io::Error::other(ended),
        }),
    }
}

#[async_trait]
impl Runtime for Embedded {
    async fn observe(&self, uid: &Uid) -> Result<Observation, RuntimeError> {
        let Ok(pod) = self.pod(uid) else {
            return Ok(Observation {
                sequence: u64::try_from(shim::record::now_ns()).unwrap_or_default(),
                ..Observation::default()
            });
        };
        loop {
            let seen = pod.observe().await?;
            if let Some(seen) = seen.as_ref().filter(|_| pod.known().unsettled.is_empty()) {
                return Ok(seen.clone());
            }
            let _gate = pod.gate.lock().await;
            if let Some(seen) = seen {
                // The shim was late when this agent began, and answers now.
                self.settle(&pod, &seen).await?;
                continue;
            }
            // A connection may be lost while its shim lives.
            if pod.has_lost_shim() && !self.reconnect(&pod).await {
                tracing::warn!(uid = %pod.uid, action = "end", "the pod's shim has died; its containers are lost");
                self.end_sandbox(&pod).await?;
            }
        }
    }

    fn features(&self) -> Features {
        Features {
            user_namespaces: self.no_users.is_none(),
            app_armor: self.host.app_armor.enabled,
        }
    }

    async fn list(&self) -> Result<Vec<Uid>, RuntimeError> {
        Ok(self.pods().keys().cloned().collect())
    }

    fn hints(&self) -> BoxStream<'static, Uid> {
        let hints = self.hints.subscribe();
        Box::pin(stream::unfold(hints, |mut hints| async move {
            loop {
                match hints.recv().await {
                    Ok(uid) => return Some((uid, hints)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        }))
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>, RuntimeError> {
        let found = self.options.images.lookup(reference).map_err(|error| images::trouble(&error))?;
        Ok(found.map(|stored| stored.image))
    }

    async fn pull(&self, reference: &str, auth: Option<&Auth>) -> Result<Image, RuntimeError> {
        self.options.images.pull(reference, auth).await
    }

    fn pulling(&self, reference: &str) -> Option<PullBytes> {
        self.options.images.pulling(reference)
    }

    async fn images(&self) -> Result<Vec<NodeImage>, RuntimeError> {
        self.all_images().await
    }

    async fn remove_image(&self, id: &str) -> Result<u64, RuntimeError> {
        self.drop_image(id).await
    }

    async fn run_sandbox(&self, sandbox: &SandboxConfig) -> Result<(), RuntimeError> {
        self.make_sandbox(sandbox).await
    }

    async fn weigh(&self, parent: CgroupParent, cpu_shares: u64) -> Result<(), RuntimeError> {
        let Some(name) = parent.name() else { return Ok(()) };
        let (trees, group) = (self.host.trees.clone(), self.options.cgroup_root.join(name));
        let limits = Limits {
            cpu_shares: Some(cpu_shares),
            ..Limits::default()
        };
        let doing = format!("weighing the pods in cgroup {}", group.display());
        blocking(move || {
            trees.make(&group, &limits).map_err(|cause| RuntimeError::Io {
                doing,
                source: std::io::Error::other(cause),
            })
        })
        .await
    }

    async fn resize(&self, uid: &Uid, whole: &Resources, one: Option<&Resize>) -> Result<(), RuntimeError> {
        self.set_limits(&self.pod(uid)?, whole, one).await
    }

    async fn create(&self, uid: &Uid, container: &ContainerConfig) -> Result<ContainerId, RuntimeError> {
        self.make_container(&self.pod(uid)?, container).await
    }

    async fn start(&self, uid: &Uid, id: &ContainerId) -> Result<(), RuntimeError> {
        self.start_container(&self.pod(uid)?, &id.0).await
    }

    async fn stop(&self, uid: &Uid, id: &ContainerId, signal: Option<i32>, grace: Duration) -> Result<(), RuntimeError> {
        match self.pod(uid) {
            Ok(pod) => self.stop_container(&pod, &id.0, signal, grace).await,
            Err(_) => Ok(()),
        }
    }

    async fn remove(&self, uid: &Uid, id: &ContainerId) -> Result<(), RuntimeError> {
        match self.pod(uid) {
            Ok(pod) => self.remove_container(&pod, &id.0).await,
            Err(_) => Ok(()),
        }
    }

    async fn stop_sandbox(&self, uid: &Uid) -> Result<(), RuntimeError> {
        let Ok(pod) = self.pod(uid) else { return Ok(()) };
        let _gate = pod.gate.lock().await;
        let stopped = pod.known().sandbox.as_ref().is_none_or(|s| s.phase == files::Phase::Stopped);
        if stopped { Ok(()) } else { self.end_sandbox(&pod).await }
    }

    async fn remove_sandbox(&self, uid: &Uid) -> Result<(), RuntimeError> {
        let Ok(pod) = self.pod(uid) else { return Ok(()) };
        let _gate = pod.gate.lock().await;
        self.erase(&pod).await
    }

    async fn exec(&self, uid: &Uid, id: &ContainerId, request: ExecRequest) -> Result<ExecOutput, RuntimeError> {
        self.exec_in(&self.pod(uid)?, &id.0, request).await
    }

    async fn exec_stream(&self, uid: &Uid, id: &ContainerId, request: StreamRequest) -> Result<Session, RuntimeError> {
        self.stream_in(&self.pod(uid)?, &id.0, request).await
    }

    async fn attach(&self, uid: &Uid, id: &ContainerId, request: AttachRequest) -> Result<Session, RuntimeError> {
        self.attach_to(&self.pod(uid)?, &id.0, request).await
    }

    async fn dial(&self, uid: &Uid, port: u16) -> Result<tokio::net::TcpStream, RuntimeError> {
        self.dial_in(&*self.pod(uid)?, port).await
    }

    async fn usage(&self, disk: bool) -> Result<NodeUsage, RuntimeError> {
        self.measure(disk).await
    }

    async fn usage_of(&self, uid: &Uid) -> Result<PodUsage, RuntimeError> {
        let pod = self.pod(uid)?;
        self.measure_pod(&pod).await
    }

    async fn reclaim(&self) -> Result<u64, RuntimeError> {
        self.free_ended().await
    }

    async fn note_sandbox(&self, uid: &Uid, key: &str, value: &str) -> Result<(), RuntimeError> {
        self.note_on_sandbox(&self.pod(uid)?, key, value).await
    }

    async fn note(&self, uid: &Uid, id: &ContainerId, key: &str, value: &str) -> Result<(), RuntimeError> {
        self.note_attempt(&self.pod(uid)?, &id.0, key, value).await
    }
}
