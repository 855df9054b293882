//! This machine as a node: its identity, network and runtime.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use api::Uid;
use kubelet::node_status::{Machine, NodeIdentity};
use kubelet::volumes::Volumes;
use lifecycle::evict::{self, Signal};
use net::{BridgeName, BridgeNetwork, Cidr, Redirect};
use runtime::Runtime;
use runtime::embedded::{self, Embedded, NodeImages, ShimExe, UserIds};
use runtime::image::{ImageStore, PullOptions, Puller};

use crate::flags::Up;
use crate::layout::Layout;
use crate::preflight;
use crate::settings::Settings;

/// Checks settings before anything is made.
pub(crate) fn check(settings: &Settings, layout: &Layout) -> Result<()> {
    cgroup_root(&settings.cgroup_root)?;
    network_options(settings, layout).map(|_| ())
}

/// The cgroup of all pods, in the trees' own terms: never the host's root.
fn cgroup_root(root: &str) -> Result<PathBuf> {
    let path = Path::new("/").join(root.trim_matches('/'));
    let mut parts = path.components().skip(1).peekable();
    ensure!(
        parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_))),
        "--cgroup-root {root:?} must name a cgroup below the host's root, without \"..\", for example \"lifepod\""
    );
    Ok(path)
}

/// Who the node is, from flags and host.
/// Its node API listens on `port`; not known yet when that is 0.
pub(crate) fn identity(up: &Up) -> Result<NodeIdentity> {
    let name = match &up.node_name {
        Some(name) => name.clone(),
        None => preflight::host_name()?,
    };
    Ok(NodeIdentity {
        name,
        ip: up.node_ip.unwrap_or_else(preflight::host_ip),
        port: up.kubelet_port,
        pod_cidr: up.pod_cidr.clone(),
        version: apiserver::server::Version::default().git_version,
        runtime_version: concat!("lifepod://", env!("CARGO_PKG_VERSION")).to_owned(),
    })
}

/// What the pod network is to be.
fn network_options(settings: &Settings, layout: &Layout) -> Result<net::Options> {
    let cidr: Cidr = settings
        .pod_cidr
        .parse()
        .with_context(|| format!("--pod-cidr {}", settings.pod_cidr))?;
    let bridge: BridgeName = settings.bridge.parse().with_context(|| format!("--bridge {}", settings.bridge))?;
    Ok(net::Options {
        bridge,
        ..net::Options::new(cidr, layout.network())
    })
}

/// The parts of a node that hold kernel objects.
pub(crate) struct Parts {
    /// Attaches pods.
    pub network: Arc<BridgeNetwork>,
    /// Runs containers.
    pub runtime: Arc<Embedded>,
    /// The pods' volumes.
    pub volumes: Arc<Volumes>,
    /// News of image pulls.
    pub puller: Puller,
}

/// Opens network and runtime; adopts the pods of a former run.
pub(crate) async fn open(
    settings: &Settings,
    node_ip: IpAddr,
    redirect: Option<Redirect>,
    pulls: PullOptions,
    user_ids: UserIds,
    layout: &Layout,
) -> Result<Parts> {
    let options = net::Options {
        redirect,
        ..network_options(settings, layout)?
    };
    let network = tokio::task::spawn_blocking(move || BridgeNetwork::open(options))
        .await?
        .context("setting up the pod network")?;
    let network = Arc::new(network);
    let store = ImageStore::open(layout.images())?;
    let puller = Puller::new(store.clone(), pulls);
    let options = embedded::Options {
        state_dir: layout.pods(),
        cgroup_root: cgroup_root(&settings.cgroup_root)?,
        shim_exe: Arc::new(ShimExe::of_this_process()?),
        images: Arc::new(NodeImages {
            store: store.clone(),
            puller: puller.clone(),
        }),
        network: network.clone(),
        node_ips: vec![node_ip],
        user_ids,
    };
    let runtime = Arc::new(Embedded::open(options).await.context("opening the container runtime")?);
    let freed = tokio::task::spawn_blocking(move || anyhow::Ok(store.collect(&runtime::image::layers_in_use()?)?)).await??;
    if freed > 0 {
        tracing::info!(freed_bytes = freed, "layers that nothing needs any more were removed");
    }
    let live: BTreeSet<Uid> = runtime.list().await?.into_iter().collect();
    let dropped = network.retain(&live).await.context("tidying the pod network")?;
    if dropped > 0 {
        tracing::info!(dropped, "network leftovers of pods that are gone were removed");
    }
    let of_volumes = layout.clone();
    let volumes = tokio::task::spawn_blocking(move || Volumes::open(of_volumes.volumes(), of_volumes.root(), &of_volumes.local_path()))
        .await?
        .context("opening the directory of volumes")?;
    Ok(Parts {
        network,
        runtime,
        volumes: Arc::new(volumes),
        puller,
    })
}

/// The ids for pods with users of their own.
pub(crate) fn user_ids(max_pods: u32) -> Result<UserIds> {
    let [subuid, subgid] = ["/etc/subuid", "/etc/subgid"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    UserIds::of_kubelet(&subuid, &subgid, max_pods)
        .map_err(anyhow::Error::msg)
        .context("reading /etc/subuid and /etc/subgid")
}

/// What the node has for pods: no more than their cgroup may have, and less
/// what is kept from them.
pub(crate) async fn settle(machine: &mut Machine, thresholds: &evict::Settings, parts: &Parts) -> Result<()> {
    if let Some(limit) = parts.runtime.usage(false).await?.memory_limit_bytes {
        machine.memory_bytes = machine.memory_bytes.min(limit);
    }
    machine.user_namespaces = parts.runtime.features().user_namespaces;
    machine.reserved_memory_bytes = thresholds.reserved(Signal::MemoryAvailable, machine.memory_bytes);
    machine.reserved_storage_bytes = thresholds.reserved(Signal::NodeFsAvailable, machine.storage_bytes);
    Ok(())
}

/// Removes every pod, then the network. Gives the number of pods.
pub(crate) async fn purge(parts: &Parts, layout: &Layout) -> Result<usize> {
    let purged = parts.runtime.purge().await.context("removing the pods")?;
    parts.network.purge().await.context("removing the pod network")?;
    let volumes = layout.volumes();
    tokio::task::spawn_blocking(move || Volumes::purge(&volumes))
        .await?
        .context("removing the pods' volumes")?;
    Settings::forget(layout)?;
    Ok(purged.pods)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_cgroup_is_nobodys_to_remove() {
        assert_eq!(cgroup_root("lifepod").unwrap(), Path::new("/lifepod"));
        assert_eq!(cgroup_root("/a/b/").unwrap(), Path::new("/a/b"));
        for bad in ["", "/", "//", "..", "a/../..", "/../a"] {
            assert!(cgroup_root(bad).unwrap_err().to_string().contains("--cgroup-root"), "{bad}");
        }
    }
}
