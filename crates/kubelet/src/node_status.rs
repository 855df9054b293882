//! What the node is and how it is: registration, status, heartbeat.
//!
//! Source: Kubernetes docs "Nodes" and "Node Status"; upstream
//! `kubelet_node_status.go` and `component-helpers/apimachinery/lease`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use api::typed::{
    DaemonEndpoint, Lease, LeaseSpec, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo, ObjectMeta, OwnerReference, WireQuantity,
};
use api::{Quantity, Time};
use futures::StreamExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube_runtime::WatchStreamExt;
use kube_runtime::watcher::{self, Event};
use lifecycle::evict::Pressure;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::hugepages::{self, HugePages};

/// How often the Lease is renewed.
const LEASE_RENEW: Duration = Duration::from_secs(10);
/// How long a Lease holds without renewal.
const LEASE_DURATION_S: i32 = 40;
/// How often the status is recomputed.
const STATUS_CHECK: Duration = Duration::from_secs(10);
/// How often an unchanged status is written all the same.
const STATUS_WRITE: Duration = Duration::from_secs(300);
/// Pods a node takes unless it is told otherwise, as upstream's default.
pub const MAX_PODS: u32 = 110;

/// What this machine is. Read once at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Logical processors.
    pub cpus: u32,
    /// Installed memory.
    pub memory_bytes: u64,
    /// Of that, kept from pods: the hard eviction threshold.
    pub reserved_memory_bytes: u64,
    /// Size of the file system that holds the data directory.
    pub storage_bytes: u64,
    /// Of that, kept from pods.
    pub reserved_storage_bytes: u64,
    /// Its huge pages, by size.
    pub huge_pages: Vec<HugePages>,
    /// Pods it takes.
    pub max_pods: u32,
    /// Pods can have users of their own here.
    pub user_namespaces: bool,
    /// Kernel release.
    pub kernel: String,
    /// `PRETTY_NAME` of the distribution.
    pub os_image: String,
    /// Stable identity of the installation.
    pub machine_id: String,
    /// Changes with every boot.
    pub boot_id: String,
}

/// How the node is doing, as its parts share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// What it is short of.
    pub pressures: BTreeSet<Pressure>,
    /// It is being shut down.
    pub shutting_down: bool,
}

impl Machine {
    /// Reads what the kernel and the distribution say of this machine.
    ///
    /// # Errors
    /// When memory or storage cannot be read: without them nothing can be
    /// scheduled here.
    pub fn read(data_dir: &std::path::Path) -> std::io::Result<Self> {
        let text = |path: &str| std::fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default();
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let memory_kib: u64 = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok())
            .ok_or_else(|| std::io::Error::other("/proc/meminfo has no MemTotal"))?;
        let disk = rustix::fs::statvfs(data_dir)?;
        let release = text("/etc/os-release");
        let os_image = release
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="))
            .unwrap_or("Linux")
            .trim_matches('"')
            .to_owned();
        Ok(Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            memory_bytes: memory_kib * 1024,
            reserved_memory_bytes: 0,
            storage_bytes: disk.f_blocks * disk.f_frsize,
            reserved_storage_bytes: 0,
            huge_pages: HugePages::read(std::path::Path::new(hugepages::KERNEL_DIR)),
            max_pods: MAX_PODS,
            user_namespaces: false,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            os_image,
            machine_id: text("/etc/machine-id"),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
        })
    }
}

/// How a node presents itself.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    /// Name of the Node object.
    pub name: String,
    /// `InternalIP`; the host IP of its pods.
    pub ip: IpAddr,
    /// Where its API listens.
    pub port: u16,
    /// Addresses its pods get.
    pub pod_cidr: String,
    /// Kubernetes version it speaks: `v1.33.x`.
    pub version: String,
    /// `lifepod://<version>`.
    pub runtime_version: String,
}

/// The Node object for registration: labels and spec.
#[must_use]
pub fn registration(node: &NodeIdentity) -> Node {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let labels = [
        ("beta.kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/hostname", node.name.as_str()),
        ("kubernetes.io/os", "linux"),
    ];
    Node {
        metadata: ObjectMeta {
            name: Some(node.name.clone()),
            labels: Some(labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: Some(node.pod_cidr.clone()),
            pod_cidrs: Some(vec![node.pod_cidr.clone()]),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

/// Resources of the machine, and what of them pods may request.
#[must_use]
pub fn resources(machine: &Machine) -> (BTreeMap<String, WireQuantity>, BTreeMap<String, WireQuantity>) {
    // Bytes that the kernel has put aside for huge pages are no memory for others.
    // Source: upstream `nodestatus/setters.go`, `MachineInfo`.
    let set_aside: u64 = machine.huge_pages.iter().map(|pages| pages.bytes()).sum();
    let huge_pages = machine.huge_pages.iter().map(|pages| {
        let quantity = Quantity::from_bytes(i64::try_from(pages.bytes()).unwrap_or(i64::MAX));
        (pages.resource(), WireQuantity(quantity.to_string()))
    });
    let of = |memory_bytes: u64, storage_bytes: u64| {
        [
            ("cpu", machine.cpus.to_string()),
            ("ephemeral-storage", format!("{}Ki", storage_bytes / 1024)),
            ("memory", format!("{}Ki", memory_bytes / 1024)),
            ("pods", machine.max_pods.to_string()),
        ]
        .into_iter()
        .map(|(name, quantity)| (name.to_owned(), WireQuantity(quantity)))
        .chain(huge_pages.clone())
        .collect()
    };
    (
        of(machine.memory_bytes, machine.storage_bytes),
        of(
            machine
                .memory_bytes
                .saturating_sub(machine.reserved_memory_bytes)
                .saturating_sub(set_aside),
            machine.storage_bytes.saturating_sub(machine.reserved_storage_bytes),
        ),
    )
}

/// Type, status, reason and message of each condition.
///
/// Source: upstream `pkg/kubelet/nodestatus/setters.go`.
fn verdicts(state: &NodeState) -> [(&'static str, &'static str, &'static str, &'static str); 4] {
    let pressure = |pressure: Pressure| {
        let (bad, good) = match pressure {
            Pressure::Memory => (
                ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ),
            Pressure::Disk => (
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ),
            Pressure::Pid => (
                ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ),
        };
        let under = state.pressures.contains(&pressure);
        let (reason, message) = if under { bad } else { good };
        (pressure.as_str(), if under { "True" } else { "False" }, reason, message)
    };
    let [memory, disk, pid] = Pressure::ALL.map(pressure);
    let ready = if state.shutting_down {
        ("Ready", "False", "KubeletNotReady", "node is shutting down")
    } else {
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status")
    };
    [memory, disk, pid, ready]
}

/// The status of the node. Transition times are kept from `last` where
/// a condition has not changed.
#[must_use]
pub fn status(node: &NodeIdentity, machine: &Machine, state: &NodeState, last: Option<&NodeStatus>, now: Time) -> NodeStatus {
    let (capacity, allocatable) = resources(machine);
    let known = last.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let conditions = verdicts(state).map(|(type_, value, reason, message)| {
        let since = known
            .iter()
            .find(|c| c.type_ == type_ && c.status == value)
            .and_then(|c| c.last_transition_time.clone());
        NodeCondition {
            type_: type_.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(now.wire()),
            last_transition_time: since.or_else(|| Some(now.wire())),
        }
    });
    let address = |type_: &str, address: String| NodeAddress {
        type_: type_.to_owned(),
        address,
    };
    NodeStatus {
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        conditions: Some(conditions.to_vec()),
        addresses: Some(vec![
            address("InternalIP", node.ip.to_string()),
            address("Hostname", node.name.clone()),
        ]),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(node.port),
            }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }.to_owned(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: node.runtime_version.clone(),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: node.version.clone(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.machine_id.clone(),
            ..NodeSystemInfo::default()
        }),
        // One runtime by three names; that of the default has no letters.
        runtime_handlers: Some(
            ["", "lifepod", "runc"]
                .map(|name| NodeRuntimeHandler {
                    name: Some(name.to_owned()),
                    features: Some(NodeRuntimeHandlerFeatures {
                        recursive_read_only_mounts: Some(true),
                        user_namespaces: Some(machine.user_namespaces),
                    }),
                })
                .to_vec(),
        ),
        features: Some(NodeFeatures {
            supplemental_groups_policy: Some(true),
        }),
        ..NodeStatus::default()
    }
}

/// A node that has told of itself.
pub struct Registered {
    /// The Node, as the API server holds it.
    pub node: Node,
    /// The machine was started anew since the node told of itself before.
    pub rebooted: bool,
}

/// Creates the Node if it is missing, else brings its labels up to date, and
/// reports it Ready.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn register(
    client: &kube::Client,
    node: &NodeIdentity,
    machine: &Machine,
    state: &NodeState,
    now: Time,
) -> Result<Registered, kube::Error> {
    let nodes = Api::<Node>::all(client.clone());
    let wanted = registration(node);
    let stored = match nodes.create(&PostParams::default(), &wanted).await {
        Ok(created) => created,
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let labels = json!({ "metadata": { "labels": wanted.metadata.labels } });
            nodes.patch(&node.name, &PatchParams::default(), &Patch::Strategic(labels)).await?
        }
        Err(error) => return Err(error),
    };
    let before = stored.status.as_ref().and_then(|status| status.node_info.as_ref());
    let rebooted = before.is_some_and(|before| !before.boot_id.is_empty() && before.boot_id != machine.boot_id);
    let node = write_status(&nodes, node, &status(node, machine, state, stored.status.as_ref(), now)).await?;
    Ok(Registered { node, rebooted })
}

async fn write_status(nodes: &Api<Node>, node: &NodeIdentity, status: &NodeStatus) -> Result<Node, kube::Error> {
    let patch = json!({ "status": status });
    nodes
        .patch_status(&node.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
}

/// Keeps `seen` at the Node object as the API server holds it.
pub async fn follow(client: kube::Client, name: String, seen: watch::Sender<Node>, shutdown: CancellationToken) {
    let own = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut changes = watcher::watcher(Api::<Node>::all(client), own).default_backoff().boxed();
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            () = shutdown.cancelled() => return,
        };
        match change {
            Some(Ok(Event::Apply(node) | Event::InitApply(node))) => {
                seen.send_replace(node);
            }
            Some(Ok(Event::Init | Event::InitDone | Event::Delete(_))) => {}
            Some(Err(error)) => tracing::warn!(node = name, error = %error, "the watch of this node is interrupted"),
            None => return,
        }
    }
}

/// Renews the Lease and refreshes the status until `shutdown`.
pub async fn heartbeat(
    client: kube::Client,
    node: NodeIdentity,
    machine: Machine,
    registered: Node,
    clock: std::sync::Arc<dyn Clock>,
    mut state: watch::Receiver<NodeState>,
    shutdown: CancellationToken,
) {
    let nodes = Api::<Node>::all(client.clone());
    let leases = Api::<Lease>::namespaced(client, "kube-node-lease");
    let mut lease_timer = tokio::time::interval(LEASE_RENEW);
    let mut status_timer = tokio::time::interval_at(tokio::time::Instant::now() + STATUS_CHECK, STATUS_CHECK);
    let mut written_at = clock.now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = lease_timer.tick() => {
                if let Err(error) = renew(&leases, &registered, clock.now()).await {
                    tracing::warn!(node = node.name, error = %error, "the node's Lease was not renewed");
                }
                continue;
            }
            Ok(()) = state.changed() => {}
            _ = status_timer.tick() => {}
        }
        let (now, current) = (clock.now(), state.borrow_and_update().clone());
        match refresh(&nodes, &node, &machine, &current, now, now.since(written_at) >= STATUS_WRITE).await {
            Ok(true) => written_at = now,
            Ok(false) => {}
            Err(error) => tracing::warn!(node = node.name, error = %error, "the node's status was not written"),
        }
    }
}

/// Writes the status if it differs from the stored one or `due`. An object
/// that was deleted is registered again.
async fn refresh(
    nodes: &Api<Node>,
    node: &NodeIdentity,
    machine: &Machine,
    state: &NodeState,
    now: Time,
    due: bool,
) -> Result<bool, kube::Error> {
    let Some(stored) = nodes.get_opt(&node.name).await? else {
        nodes.create(&PostParams::default(), &registration(node)).await?;
        write_status(nodes, node, &status(node, machine, state, None, now)).await?;
        return Ok(true);
    };
    let fresh = status(node, machine, state, stored.status.as_ref(), now);
    let same = stored.status.as_ref().is_some_and(|old| unchanged(old, &fresh));
    if same && !due {
        return Ok(false);
    }
    write_status(nodes, node, &fresh).await.map(|_| true)
}

/// Whether two statuses differ in nothing but heartbeat times.
fn unchanged(old: &NodeStatus, new: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        (
            status.capacity,
            status.allocatable,
            status.conditions,
            status.addresses,
            status.daemon_endpoints,
            status.node_info,
        )
    };
    still(old) == still(new)
}

async fn renew(leases: &Api<Lease>, node: &Node, now: Time) -> Result<(), kube::Error> {
    let name = node.metadata.name.clone().unwrap_or_default();
    let renewal = json!({ "spec": { "renewTime": now.wire_micro() } });
    match leases.patch(&name, &PatchParams::default(), &Patch::Merge(renewal)).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error),
    }
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name),
            lease_duration_seconds: Some(LEASE_DURATION_S),
            renew_time: Some(now.wire_micro()),
            ..LeaseSpec::default()
        }),
    };
    leases.create(&PostParams::default(), &lease).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeIdentity {
        NodeIdentity {
            name: "node1".into(),
            ip: IpAddr::from([127, 0, 0, 1]),
            port: 10_250,
            pod_cidr: "10.244.0.0/24".into(),
            version: "v1.33.0".into(),
            runtime_version: "lifepod://0.1.0".into(),
        }
    }

    #[test]
    fn a_heartbeat_alone_is_no_change_and_keeps_transition_times() {
        let machine = Machine::read(std::path::Path::new("/")).unwrap();
        let first = status(&node(), &machine, &NodeState::default(), None, Time::from_secs(100));
        let later = status(&node(), &machine, &NodeState::default(), Some(&first), Time::from_secs(200));
        assert!(unchanged(&first, &later));
        let since = |s: &NodeStatus| s.conditions.as_ref().unwrap()[3].last_transition_time.clone();
        assert_eq!(since(&first), since(&later));
        let mut smaller = later.clone();
        smaller.capacity.as_mut().unwrap().insert("cpu".into(), WireQuantity("1000".into()));
        assert!(!unchanged(&first, &smaller));
    }

    #[test]
    fn pods_may_not_request_what_the_node_needs_itself() {
        let machine = Machine {
            memory_bytes: 1 << 30,
            reserved_memory_bytes: 100 << 20,
            max_pods: 300,
            user_namespaces: true,
            ..Machine::read(std::path::Path::new("/")).unwrap()
        };
        let (capacity, allocatable) = resources(&machine);
        assert_eq!(capacity["memory"].0, "1048576Ki");
        assert_eq!(allocatable["memory"].0, "946176Ki");
        assert_eq!((capacity["pods"].0.as_str(), allocatable["pods"].0.as_str()), ("300", "300"));
    }

    #[test]
    fn a_node_that_is_short_or_ends_says_so() {
        let machine = Machine::read(std::path::Path::new("/")).unwrap();
        let state = NodeState {
            pressures: BTreeSet::from([Pressure::Disk]),
            shutting_down: true,
        };
        let conditions = status(&node(), &machine, &state, None, Time::from_secs(1)).conditions.unwrap();
        let told: Vec<_> = conditions
            .iter()
            .map(|c| (c.type_.as_str(), c.status.as_str(), c.message.as_deref().unwrap()))
            .collect();
        let expected = [
            ("MemoryPressure", "False", "kubelet has sufficient memory available"),
            ("DiskPressure", "True", "kubelet has disk pressure"),
            ("PIDPressure", "False", "kubelet has sufficient PID available"),
            ("Ready", "False", "node is shutting down"),
        ];
        assert_eq!(told, expected);
    }
}
