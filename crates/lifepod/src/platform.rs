//! Wires every part together in one process: the roles of `lifepod up`.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use apiserver::Kubelets;
use apiserver::audit;
use apiserver::authn::Identity;
use apiserver::pki::Authority;
use apiserver::sealed::{Keys, Sealed};
use apiserver::serve::{ConnectionLimits, serve};
use apiserver::server::{ApiServer, Config, Limits, Version};
use apiserver::tokens::Tokens;
use apiserver::tokens::key::SigningKey;
use http::{HeaderValue, Request, header};
use http_body_util::BodyExt;
use kubelet::flight::FlightRecorder;
use kubelet::node_status::{Machine, NodeIdentity};
use kubelet::pods::Pods;
use kubelet::{Clock, Drain, Kubelet, NodeApi, SystemClock};
use runtime::Runtime;
use tokio::net::TcpListener;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::flags::{KubeletSettings, Up};
use crate::in_cluster::InCluster;
use crate::layout::{Layout, Lock};
use crate::node::Parts;
use crate::node_api::{self, NodeFront};
use crate::settings::Settings;
use crate::{images, node, preflight};

/// How long the parts may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// A running platform. Ends when its [`stop`](Platform::stop) is called; its
/// containers go on running.
pub(crate) struct Platform {
    /// The API server, for clients in this process.
    pub api: ApiServer,
    /// Where it keeps everything.
    pub layout: Layout,
    /// What the platform runs as.
    pub report: Report,
    /// Network and runtime.
    pub parts: Parts,
    store: Arc<store::embedded::Embedded>,
    tasks: JoinSet<Result<()>>,
    /// The task of the node agent.
    agent: Option<Id>,
    shutdown: CancellationToken,
    _lock: Lock,
}

/// What `lifepod up` tells when it is ready.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub server: String,
    pub node: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub pod_cidr: String,
    pub version: String,
}

/// A client of the API server in this process, as `identity`.
pub(crate) fn client_as(api: &ApiServer, identity: client::Identity) -> kube::Client {
    let api = api.clone();
    client::in_process(move |request: Request<kube::client::Body>| {
        let (api, identity) = (api.clone(), identity.clone());
        async move {
            let agent = HeaderValue::from_str(&identity.agent);
            let identity = Identity {
                user: identity.user,
                groups: identity.groups,
                ..Identity::default()
            };
            let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            if let Ok(agent) = agent {
                request.headers_mut().insert(header::USER_AGENT, agent);
            }
            api.handle(Some(identity), request).await
        }
    })
}

/// The cluster's authority, as the controller of requests for certificates
/// knows it.
struct CertificateSigner(Authority);

impl control::csr::Signer for CertificateSigner {
    fn read(&self, request_pem: &str) -> std::result::Result<control::csr::Subject, String> {
        let subject = apiserver::pki::request::read(request_pem).map_err(|error| error.to_string())?;
        Ok(control::csr::Subject {
            common_name: subject.common_name,
            organizations: subject.organizations,
            dns_names: subject.dns_names,
            ip_addresses: subject.ip_addresses,
            emails: subject.emails,
            uris: subject.uris,
        })
    }

    fn sign(&self, request_pem: &str, usages: &[String], lifetime: Duration, now: api::Time) -> std::result::Result<String, String> {
        let signed = self.0.sign_request(request_pem, usages, lifetime, now);
        signed.map_err(|error| error.to_string())
    }
}

impl Platform {
    /// Starts every role and returns once `/readyz` would answer. The node
    /// registers in the background.
    pub(crate) async fn start(up: &Up) -> Result<Self> {
        Self::start_with(up, None).await
    }

    /// The same; with `drain` to stop its pods, see [`drained`](Self::drained).
    pub(crate) async fn start_with(up: &Up, drain: Option<Drain>) -> Result<Self> {
        preflight::check()?;
        let told = up.kubelet_settings()?;
        let clock = Arc::new(SystemClock::new());
        let layout = Layout::new(&up.data.data_dir)?;
        let settings = Settings::from(up);
        node::check(&settings, &layout)?;
        let user_ids = node::user_ids(up.max_pods)?;
        let pulls = images::pull_options(up.registries.as_deref())?;
        layout.create()?;
        let lock = Lock::take(&layout)?;
        let listener = TcpListener::bind(up.listen)
            .await
            .with_context(|| format!("cannot listen on {}; choose another address with --listen", up.listen))?;
        let listen = listener.local_addr().context("the listening socket has no address")?;
        let mut identity = node::identity(up)?;
        let (node_listener, node_listen) = node_api::listen(identity.ip, identity.port).await?;
        identity.port = node_listen.port();
        let mut machine = Machine::read(layout.root()).context("cannot read what this machine has")?;
        machine.max_pods = up.max_pods;
        let shutdown = CancellationToken::new();

        // Not bound to `shutdown`: the store must outlive the API server.
        let directory = layout.store();
        let store =
            tokio::task::spawn_blocking(move || store::embedded::Embedded::open(&directory, store::embedded::Options::default())).await??;
        let store = Arc::new(store);
        let pods = Arc::new(Pods::default());
        let (flights, flight_log) = FlightRecorder::open(layout.flights(), clock.clone(), shutdown.clone());
        let version = Version::default();
        let guard = Guard {
            store: seal(store.clone(), &layout).await?,
            tokens: tokens(&layout, listen)?,
            audit: audit::Log::open(layout.audit_log(), &audit::Limits::default())?,
        };
        let authority = Authority::open_or_create(&layout.pki(), clock.now())?;
        let api = start_api(guard, &authority, &version, clock.clone(), up).await?;

        let in_cluster = InCluster::new(up, listen, identity.ip)?;
        if let Err(error) = api.publish_own_service(in_cluster.target).await {
            // Pods then lack the way to the API server, and nothing else.
            tracing::warn!(error = %error, "the Service of the API server is not as it should be");
        }

        let tls = front(&authority, &layout, &identity, (listen, &in_cluster), clock.now())?;
        let mut tasks = JoinSet::new();
        let door = |listener| {
            let serving = serve(listener, tls.clone(), api.clone(), ConnectionLimits::default(), shutdown.clone());
            async move {
                serving.await;
                Ok(())
            }
        };
        tasks.spawn(door(listener));

        tasks.spawn(async move {
            flight_log.await;
            Ok(())
        });

        settings.keep(&layout)?;
        up.keep(&layout)?;
        let parts = node::open(&settings, identity.ip, in_cluster.redirect(), pulls, user_ids, &layout).await?;
        if let Some(listener) = in_cluster.listen().await? {
            tasks.spawn(door(listener));
        }
        let node_parts = kubelet::server::Parts {
            pods: pods.clone(),
            runtime: parts.runtime.clone() as Arc<dyn Runtime>,
            flights: flights.clone(),
            log_root: layout.pod_logs(),
            pod_links: net::HOST_LINK_PREFIX,
            log_limits: told.log_limits,
            clock: clock.clone(),
            node: identity.name.clone(),
        };
        let node_api = NodeApi::new(node_parts, shutdown.clone());
        node::settle(&mut machine, &told.thresholds, &parts).await?;
        let report = Report {
            server: server_url(listen),
            node: identity.name.clone(),
            cpus: machine.cpus,
            memory_bytes: machine.memory_bytes,
            pod_cidr: identity.pod_cidr.clone(),
            version: version.git_version,
        };
        let mut platform = Self {
            api,
            layout,
            report,
            parts,
            store,
            tasks,
            agent: None,
            shutdown,
            _lock: lock,
        };
        platform.start_node_api(node_listener, node_api, &authority, &identity, clock.now())?;
        platform.start_control(authority, up, clock.now().0.unsigned_abs());
        platform.start_kubelet((identity, machine), pods, flights, clock, (told, drain));
        Ok(platform)
    }

    /// Serves the node API; its streams are told when the node agent ends.
    fn start_node_api(
        &mut self,
        listener: TcpListener,
        node_api: NodeApi,
        authority: &Authority,
        node: &NodeIdentity,
        now: api::Time,
    ) -> Result<()> {
        let names = [node.name.clone(), node.ip.to_string()];
        let serving = authority.serving(&format!("system:node:{}", node.name), &names, now)?;
        let front = NodeFront {
            node: node.name.clone(),
            node_api: node_api.clone(),
            api: self.api.clone(),
        };
        let serving = serve(
            listener,
            authority.tls(&serving)?,
            front,
            ConnectionLimits::default(),
            self.shutdown.clone(),
        );
        self.tasks.spawn(async move {
            tokio::join!(serving, node_api.sample());
            node_api.drain().await;
            Ok(())
        });
        Ok(())
    }

    fn start_control(&mut self, authority: Authority, up: &Up, seed: u64) {
        let options = control::Options {
            scheduler_client: client_as(&self.api, client::Identity::scheduler()),
            controllers: control::Controllers::new({
                let api = self.api.clone();
                move |identity| client_as(&api, identity)
            }),
            pod_gc: control::pod_gc::Options {
                ended_max: up.terminated_pod_gc_threshold,
                ..control::pod_gc::Options::default()
            },
            scheduler: control::scheduler::Options::new(&self.report.node, seed),
            root_ca_pem: Some(authority.certificate_pem().to_owned()),
            signer: Some(Arc::new(CertificateSigner(authority))),
        };
        let running = control::run_all(options, self.shutdown.clone());
        self.tasks.spawn(async move {
            running.await;
            Ok(())
        });
    }

    fn start_kubelet(
        &mut self,
        (node, machine): (NodeIdentity, Machine),
        pods: Arc<Pods>,
        flights: FlightRecorder,
        clock: Arc<SystemClock>,
        (told, drain): (KubeletSettings, Option<Drain>),
    ) {
        let provisioner = kubelet::local_path::Options {
            client: client_as(&self.api, client::Identity::controller("local-path-provisioner")),
            root: self.layout.local_path(),
            node: node.name.clone(),
        };
        let provisioning = kubelet::local_path::run(provisioner, clock.clone(), self.shutdown.clone());
        self.tasks.spawn(async move {
            provisioning.await;
            Ok(())
        });
        let options = kubelet::Options {
            client: client_as(&self.api, client::Identity::node(&node.name)),
            runtime: self.parts.runtime.clone() as Arc<dyn Runtime>,
            clock,
            node,
            machine,
            pods,
            flights,
            log_root: self.layout.pod_logs(),
            volumes: self.parts.volumes.clone(),
            seccomp_root: self.layout.seccomp(),
            log_limits: told.log_limits,
            pod_processes_max: told.pod_processes_max,
            node_resolv_conf: told.resolv_conf,
            eviction: kubelet::eviction::Config {
                settings: told.thresholds,
                node_fs: self.layout.root().to_owned(),
                image_fs: self.layout.images(),
            },
            image_gc: told.image_gc,
            drain,
        };
        self.agent = Some(self.spawn("the node agent", Kubelet::run(options, self.shutdown.clone())));
    }

    /// Waits until the pods have stopped; of a platform started to stop them.
    pub(crate) async fn drained(&mut self) -> Result<()> {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            match ended {
                Ok((id, Ok(()))) if self.agent == Some(id) => return Ok(()),
                Ok((_, result)) => result?,
                Err(error) => return Err(error).context("a part of the platform panicked"),
            }
        }
        anyhow::bail!("no part of the platform runs")
    }

    fn spawn<E: std::error::Error + Send + Sync + 'static>(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> Id {
        self.tasks
            .spawn(async move { part.await.with_context(|| format!("{name} ended")) })
            .id()
    }

    /// Waits until a part ends by itself, which is a fault.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Ok(Ok(()))) => anyhow::anyhow!("a part of the platform ended"),
            Some(Err(error)) => anyhow::anyhow!("a part of the platform panicked: {error}"),
            None => anyhow::anyhow!("no part of the platform runs"),
        }
    }

    /// Ends the platform; its containers go on running.
    pub(crate) async fn stop(&mut self) {
        self.shutdown.cancel();
        let tasks = &mut self.tasks;
        let ending = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_LIMIT, ending).await.is_err() {
            tracing::warn!("some parts did not end within {STOP_LIMIT:?} and are cut off");
        }
        self.tasks.shutdown().await;
        self.api.close().await;
        if let Err(error) = self.store.close().await {
            tracing::warn!(error = %error, "the store was not closed cleanly; nothing acknowledged is lost");
        }
    }

    /// Removes every container, mount, cgroup, link and rule. Objects and
    /// images stay. Call it after [`stop`](Self::stop).
    pub(crate) async fn purge(&self) -> Result<usize> {
        node::purge(&self.parts, &self.layout).await
    }
}

/// What keeps the API server's secrets.
struct Guard {
    store: Arc<dyn store::Store>,
    tokens: Arc<Tokens>,
    audit: audit::Log,
}

/// The store, with Secrets encrypted. Those from before are encrypted now.
async fn seal(store: Arc<store::embedded::Embedded>, layout: &Layout) -> Result<Arc<dyn store::Store>> {
    let keys = Keys::open_or_create(&layout.encryption_keys())?;
    let sealed = Sealed::new(store, keys);
    let resealed = sealed.reseal().await.context("encrypting the stored Secrets")?;
    if resealed.count > 0 {
        tracing::info!(count = resealed.count, "stored Secrets were encrypted");
    }
    for (key, error) in &resealed.unreadable {
        // Served as what it is: an object that cannot be read, and can be deleted.
        tracing::error!(key, %error, "a stored Secret cannot be decrypted");
    }
    Ok(Arc::new(sealed))
}

async fn start_api(guard: Guard, authority: &Authority, version: &Version, clock: Arc<SystemClock>, up: &Up) -> Result<ApiServer> {
    let ranges = up.service_cidr.parse().context("--service-cidr")?;
    // As kubeadm's `apiserver-kubelet-client`.
    let own = authority.client("kube-apiserver-kubelet-client", &["system:masters"], clock.now())?;
    let Guard { store, tokens, audit } = guard;
    let config = Config {
        store,
        rows: apiserver::kinds::rows(),
        nodes: Arc::new(Kubelets::new(authority, &own)?),
        tokens,
        audit: Some(audit),
        limits: Limits::default(),
        ranges,
        baseline_namespaces: up.baseline_namespaces,
        version: version.clone(),
        clock: Arc::new(move || clock.now()),
    };
    ApiServer::start(config).await.context("starting the API server")
}

/// ServiceAccount tokens, signed with the key in the data directory.
fn tokens(layout: &Layout, listen: std::net::SocketAddr) -> Result<Arc<Tokens>> {
    std::fs::create_dir_all(layout.pki()).with_context(|| format!("cannot make {}", layout.pki().display()))?;
    let key = SigningKey::open_or_create(&layout.service_account_key())?;
    let jwks_uri = format!("{}{}", server_url(listen), apiserver::tokens::JWKS_PATH);
    Ok(Arc::new(Tokens::new(apiserver::tokens::DEFAULT_ISSUER, &jwks_uri, key)))
}

fn server_url(listen: std::net::SocketAddr) -> String {
    let host = if listen.ip().is_unspecified() {
        std::net::IpAddr::from([127, 0, 0, 1])
    } else {
        listen.ip()
    };
    format!("https://{}", std::net::SocketAddr::new(host, listen.port()))
}

/// The serving certificate and the administrator's kubeconfig, made anew at
/// every start so that neither can be out of date.
fn front(
    authority: &Authority,
    layout: &Layout,
    node: &NodeIdentity,
    (listen, in_cluster): (SocketAddr, &InCluster),
    now: api::Time,
) -> Result<Arc<rustls::ServerConfig>> {
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "127.0.0.1",
        "::1",
    ];
    let mut names: Vec<String> = names.map(str::to_owned).to_vec();
    names.extend([node.name.clone(), node.ip.to_string(), listen.ip().to_string()]);
    names.extend(in_cluster.names());
    let serving = authority.serving("kube-apiserver", &names, now)?;
    let admin = authority.client("kubernetes-admin", &["system:masters"], now)?;
    let kubeconfig = apiserver::pki::kubeconfig(&server_url(listen), authority.certificate_pem(), "kubernetes-admin", &admin);
    apiserver::pki::write_file(&layout.admin_kubeconfig(), kubeconfig.as_bytes(), 0o600)?;
    Ok(authority.tls(&serving)?)
}
