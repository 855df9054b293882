//! Scheduler and controllers: loops that need only the API.
//!
//! Reading order: [`scheduler`]; [`namespace`], [`namespace_content`];
//! [`backend`], [`endpoint_slice`], [`endpoints`], [`publish`]; here is what
//! joins them.
//!
//! This crate deliberately does not know the store, the node, its runtime or
//! its network: it is handed clients of the API server, which may be in this
//! process or elsewhere.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub mod backend;
pub mod endpoint_slice;
pub mod endpoints;
pub mod namespace;
pub mod namespace_content;
pub mod publish;
pub mod scheduler;

/// What the scheduler and the controllers are to do.
#[derive(Clone)]
pub struct Options {
    /// Client with the identity `system:kube-scheduler`.
    pub scheduler_client: kube::Client,
    /// Client with the identity `system:kube-controller-manager`.
    pub controllers_client: kube::Client,
    /// The scheduler.
    pub scheduler: scheduler::Options,
    /// The cluster's CA certificate for the ConfigMap `kube-root-ca.crt` of
    /// every namespace; `None` for no such ConfigMaps.
    pub root_ca_pem: Option<String>,
}

/// Runs the scheduler and all controllers until `shutdown`.
///
/// # Panics
/// When one of them does: the process is to start over rather than go on with
/// a part missing.
pub async fn run_all(options: Options, shutdown: CancellationToken) {
    let Options {
        scheduler_client,
        controllers_client,
        scheduler,
        root_ca_pem,
    } = options;
    let mut tasks = JoinSet::new();
    tasks.spawn(scheduler::run(scheduler_client, scheduler, shutdown.clone()));
    tasks.spawn(namespace::run(controllers_client.clone(), shutdown.clone()));
    tasks.spawn(namespace_content::service_accounts(controllers_client.clone(), shutdown.clone()));
    tasks.spawn(publish::run(controllers_client.clone(), shutdown.clone()));
    if let Some(ca_pem) = root_ca_pem {
        tasks.spawn(namespace_content::root_certificates(controllers_client, ca_pem, shutdown));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic()); // nobody aborts them
        }
    }
}
