//! Scheduler and controllers: loops that need only the API.
//!
//! Reading order: `watch.rs`; [`scheduler`]; [`namespace`], [`namespace_content`];
//! [`node_lifecycle`], [`pod_gc`]; [`backend`], [`endpoint_slice`], [`endpoints`], [`publish`];
//! [`garbage`]; [`disruption`], [`quota`]; [`storage`], [`persistent_volume`]; here is what
//! joins them.
//!
//! This crate deliberately does not know the store, the node, its runtime or
//! its network: it is handed clients of the API server, which may be in this
//! process or elsewhere.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub mod backend;
pub mod cluster_role_aggregation;
pub mod csr;
mod discover;
pub mod disruption;
pub mod endpoint_slice;
pub mod endpoints;
pub mod garbage;
pub mod namespace;
pub mod namespace_content;
pub mod node_lifecycle;
pub mod persistent_volume;
pub mod pod_gc;
pub mod publish;
mod queue;
pub mod quota;
pub mod scheduler;
pub mod storage;
mod watch;
mod work;

/// What the scheduler and the controllers are to do.
#[derive(Clone)]
pub struct Options {
    /// Client with the identity `system:kube-scheduler`.
    pub scheduler_client: kube::Client,
    /// Clients of the controllers, each with an identity of its own.
    pub controllers: Controllers,
    /// Which pods nobody will look after any more.
    pub pod_gc: pod_gc::Options,
    /// The scheduler.
    pub scheduler: scheduler::Options,
    /// The cluster's CA certificate for the ConfigMap `kube-root-ca.crt` of
    /// every namespace; `None` for no such ConfigMaps.
    pub root_ca_pem: Option<String>,
    /// Who signs requests for certificates; `None` leaves them alone.
    pub signer: Option<Arc<dyn csr::Signer>>,
}

/// Makes the clients of controllers.
#[derive(Clone)]
pub struct Controllers(Arc<dyn Fn(client::Identity) -> kube::Client + Send + Sync>);

impl Controllers {
    /// From what makes a client of an identity.
    pub fn new(client_as: impl Fn(client::Identity) -> kube::Client + Send + Sync + 'static) -> Self {
        Self(Arc::new(client_as))
    }

    /// The client of a controller, by the name of its ServiceAccount in
    /// `kube-system`. What it may do is its role's to say: add one to the API
    /// server's bootstrap policy for a controller upstream does not have.
    fn client(&self, controller: &str) -> kube::Client {
        (self.0)(client::Identity::controller(controller))
    }
}

/// Runs the scheduler and all controllers until `shutdown`.
///
/// # Panics
/// When one of them does: the process is to start over rather than go on with
/// a part missing.
pub async fn run_all(options: Options, shutdown: CancellationToken) {
    let Options {
        scheduler_client,
        controllers,
        pod_gc,
        scheduler,
        root_ca_pem,
        signer,
    } = options;
    let mut tasks = JoinSet::new();
    tasks.spawn(scheduler::run(scheduler_client, scheduler, shutdown.clone()));
    tasks.spawn(namespace::run(controllers.client("namespace-controller"), shutdown.clone()));
    tasks.spawn(namespace_content::service_accounts(
        controllers.client("service-account-controller"),
        shutdown.clone(),
    ));
    tasks.spawn(publish::run(controllers.client("endpoint-controller"), shutdown.clone()));
    tasks.spawn(disruption::run(controllers.client("disruption-controller"), shutdown.clone()));
    tasks.spawn(quota::run(controllers.client("resourcequota-controller"), shutdown.clone()));
    tasks.spawn(garbage::run(controllers.client("generic-garbage-collector"), shutdown.clone()));
    tasks.spawn(node_lifecycle::run(controllers.client("node-controller"), shutdown.clone()));
    tasks.spawn(persistent_volume::run(
        controllers.client("persistent-volume-binder"),
        shutdown.clone(),
    ));
    tasks.spawn(pod_gc::run(controllers.client("pod-garbage-collector"), pod_gc, shutdown.clone()));
    tasks.spawn(cluster_role_aggregation::run(
        controllers.client("clusterrole-aggregation-controller"),
        shutdown.clone(),
    ));
    if let Some(signer) = signer {
        tasks.spawn(csr::run(controllers.client("certificate-controller"), signer, shutdown.clone()));
    }
    if let Some(ca_pem) = root_ca_pem {
        tasks.spawn(namespace_content::root_certificates(
            controllers.client("root-ca-cert-publisher"),
            ca_pem,
            shutdown,
        ));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic()); // nobody aborts them
        }
    }
}
