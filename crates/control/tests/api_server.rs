//! Scheduler and controllers against the real API server, in this process.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::Status;
use api::typed::events::Event;
use api::typed::{ConfigMap, Namespace, Node, Pod, ServiceAccount};
use apiserver::{ApiServer, Body, Config, Identity, Limits, NodeAddress, NodeProxy, Version, kinds};
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use kube_runtime::WatchStreamExt;
use kube_runtime::watcher::{self, watcher};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[path = "api_server/admission.rs"]
mod admission;
#[path = "api_server/pod_gc.rs"]
mod pod_gc;
#[path = "api_server/publish.rs"]
mod publish;

const PATIENCE: Duration = Duration::from_secs(20);

struct NoNodes;

#[async_trait::async_trait]
impl NodeProxy for NoNodes {
    async fn call(&self, node: &NodeAddress, _: Request<Body>) -> Result<Response<Body>, Status> {
        Err(Status::unavailable(format!("node {} does not exist", node.node)))
    }
}

/// A write of a controller that goes wrong: before it is done, or after.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Refused(u16),
    AnswerLost,
}

/// What goes wrong next, in this order.
type Faults = Arc<Mutex<VecDeque<Fault>>>;

/// An API server with the scheduler and all controllers at work.
struct Cluster {
    admin: Client,
    options: control::Options,
    faults: Faults,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
    _dir: tempfile::TempDir,
}

fn tokens() -> Arc<apiserver::tokens::Tokens> {
    use apiserver::tokens::{DEFAULT_ISSUER, Tokens, key::SigningKey};
    Arc::new(Tokens::new(DEFAULT_ISSUER, "", SigningKey::ephemeral().unwrap()))
}

impl Cluster {
    async fn start() -> Self {
        Self::start_with(control::pod_gc::Options::default()).await
    }

    async fn start_with(pod_gc: control::pod_gc::Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            store: Arc::new(store::Embedded::open(dir.path(), store::Options::default()).unwrap()),
            rows: kinds::rows(),
            nodes: Arc::new(NoNodes),
            tokens: tokens(),
            audit: None,
            ranges: apiserver::Ranges::default(),
            limits: Limits::default(),
            baseline_namespaces: false,
            version: Version::default(),
            clock: Arc::new(|| jiff::Timestamp::now().into()),
        };
        let server = ApiServer::start(config).await.unwrap();
        let faults = Faults::default();
        let (shared, server) = (faults.clone(), server.clone());
        let client = move |identity: client::Identity| {
            let server = server.clone();
            let faults = if identity.user.starts_with("system:serviceaccount:kube-system:") {
                shared.clone()
            } else {
                Faults::default()
            };
            let groups: Vec<&str> = identity.groups.iter().map(String::as_str).collect();
            let identity = Identity::new(&identity.user, &groups);
            client::in_process(move |request: Request<kube::client::Body>| {
                let (server, identity) = (server.clone(), identity.clone());
                let writes = matches!(*request.method(), Method::POST | Method::PUT | Method::DELETE);
                let fault = if writes { faults.lock().unwrap().pop_front() } else { None };
                async move {
                    if let Some(Fault::Refused(code)) = fault {
                        return refusal(code);
                    }
                    let answer = server
                        .handle(Some(identity), request.map(|body| body.map_err(Into::into).boxed_unsync()))
                        .await;
                    if fault.is_some() { refusal(500) } else { answer }
                }
            })
        };
        let options = control::Options {
            scheduler_client: client(client::Identity::scheduler()),
            controllers: control::Controllers::new(client.clone()),
            pod_gc,
            scheduler: control::scheduler::Options::new("host-1", 1),
            root_ca_pem: Some("PEM".to_owned()),
            signer: None,
        };
        let mut cluster = Self {
            admin: client(client::Identity::admin("admin")),
            options,
            faults,
            shutdown: CancellationToken::new(),
            tasks: JoinSet::new(),
            _dir: dir,
        };
        cluster.resume();
        cluster
    }

    /// Objects of a kind in `default`, as an administrator sees them.
    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.admin.clone(), "default")
    }

    async fn create<K>(&self, object: Value) -> K
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + serde::Serialize
            + Debug,
    {
        let object = serde_json::from_value(object).unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await.unwrap()
    }

    /// Starts scheduler and controllers again, which know nothing.
    fn resume(&mut self) {
        self.shutdown = CancellationToken::new();
        self.tasks.spawn(control::run_all(self.options.clone(), self.shutdown.clone()));
    }

    /// Stops scheduler and controllers.
    async fn pause(&mut self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.tasks.join_next())
            .await
            .expect("everything ends on shutdown")
            .unwrap()
            .unwrap();
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), namespace)
    }

    async fn node(&self, name: &str, cpu: &str) {
        let node: Node = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        Api::<Node>::all(self.admin.clone())
            .create(&PostParams::default(), &node)
            .await
            .unwrap();
        self.allocatable(name, cpu).await;
    }

    async fn allocatable(&self, name: &str, cpu: &str) {
        let resources = json!({ "cpu": cpu, "memory": "4Gi", "pods": "110" });
        let patch = json!({ "status": { "capacity": resources, "allocatable": resources } });
        Api::<Node>::all(self.admin.clone())
            .patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    async fn pod(&self, namespace: &str, name: &str, cpu: &str) -> Pod {
        let pod = json!({
            "metadata": { "name": name },
            "spec": { "containers": [{ "name": "c", "image": "busybox", "resources": { "requests": { "cpu": cpu } } }] },
        });
        self.pods(namespace)
            .create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
            .await
            .unwrap()
    }

    /// Waits until an object of that name is as wanted.
    async fn until<K>(&self, api: Api<K>, name: &str, wanted: impl Fn(&K) -> bool) -> K
    where
        K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let stream = watcher(api, watcher::Config::default().fields(&format!("metadata.name={name}"))).applied_objects();
        let mut stream = std::pin::pin!(stream);
        let search = async {
            loop {
                let found = stream.next().await.unwrap().unwrap();
                if wanted(&found) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .unwrap_or_else(|_| panic!("{name} is not as wanted"))
    }

    async fn until_gone<K>(&self, api: Api<K>, name: &str)
    where
        K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut stream = std::pin::pin!(kube_runtime::watcher::watch_object(api, name));
        let search = async { while stream.next().await.unwrap().unwrap().is_some() {} };
        tokio::time::timeout(PATIENCE, search)
            .await
            .unwrap_or_else(|_| panic!("{name} is still there"));
    }

    /// Waits for the event of a pod with that reason.
    async fn event(&self, pod: &Pod, reason: &str) -> Event {
        let api: Api<Event> = Api::namespaced(self.admin.clone(), pod.metadata.namespace.as_deref().unwrap());
        let stream = watcher(api, watcher::Config::default()).applied_objects();
        let mut stream = std::pin::pin!(stream);
        let search = async {
            loop {
                let found = stream.next().await.unwrap().unwrap();
                if found.reason.as_deref() == Some(reason)
                    && found.regarding.as_ref().and_then(|regarding| regarding.uid.clone()) == pod.metadata.uid
                {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .unwrap_or_else(|_| panic!("no event {reason}"))
    }

    async fn stop(mut self) {
        self.pause().await;
    }
}

fn refusal(code: u16) -> Response<Body> {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "a fault", "code": code });
    let body = Full::from(status.to_string()).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

fn bound(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_some()
}

fn pod_scheduled(pod: &Pod) -> Value {
    api::pods::condition(pod, "PodScheduled").map_or(Value::Null, |condition| serde_json::to_value(condition).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_a_node_and_an_event() {
    let cluster = Cluster::start().await;
    cluster.node("n1", "2").await;
    let pod = cluster.pod("default", "web", "100m").await;
    let placed = cluster.until(cluster.pods("default"), "web", bound).await;
    assert_eq!(placed.spec.as_ref().unwrap().node_name.as_deref(), Some("n1"));
    assert_eq!(pod_scheduled(&placed)["status"], "True");
    let event = cluster.event(&pod, "Scheduled").await;
    assert_eq!(event.note.as_deref(), Some("Successfully assigned default/web to n1"));
    assert_eq!(
        (event.reporting_controller.as_deref(), event.reporting_instance.as_deref()),
        (Some("default-scheduler"), Some("default-scheduler-host-1"))
    );

    let started = Instant::now();
    for n in 0..50 {
        cluster.pod("default", &format!("p{n}"), "1m").await;
    }
    println!("50 pods created: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    for n in 0..50 {
        cluster.until(cluster.pods("default"), &format!("p{n}"), bound).await;
    }
    println!(
        "50 pods created, bound and read back: {:.1} ms",
        started.elapsed().as_secs_f64() * 1e3
    );
    let started = Instant::now();
    cluster.pod("default", "last", "1m").await;
    let created = started.elapsed();
    cluster.until(cluster.pods("default"), "last", bound).await;
    println!(
        "one pod: created {:.2} ms, seen bound {:.2} ms",
        created.as_secs_f64() * 1e3,
        started.elapsed().as_secs_f64() * 1e3
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_room_says_so_and_is_bound_once_there_is_some() {
    let cluster = Cluster::start().await;
    let pod = cluster.pod("default", "big", "3").await;
    let text = "no nodes available to schedule pods";
    let refused = cluster
        .until(cluster.pods("default"), "big", |pod| pod_scheduled(pod)["message"] == text)
        .await;
    assert_eq!(
        (&pod_scheduled(&refused)["status"], &pod_scheduled(&refused)["reason"]),
        (&json!("False"), &json!("Unschedulable"))
    );
    assert_eq!(cluster.event(&pod, "FailedScheduling").await.note.as_deref(), Some(text));
    cluster.node("n1", "2").await;
    let text =
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    cluster
        .until(cluster.pods("default"), "big", |pod| pod_scheduled(pod)["message"] == text)
        .await;
    cluster.allocatable("n1", "4").await;
    let placed = cluster.until(cluster.pods("default"), "big", bound).await;
    assert_eq!(pod_scheduled(&placed)["status"], "True");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_namespace_is_emptied_and_waits_for_its_pods() {
    let cluster = Cluster::start().await;
    cluster.node("n1", "2").await;
    let namespaces: Api<Namespace> = Api::all(cluster.admin.clone());
    let shop: Namespace = serde_json::from_value(json!({ "metadata": { "name": "shop" } })).unwrap();
    namespaces.create(&PostParams::default(), &shop).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.admin.clone(), "shop");
    let map: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "m" } })).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    cluster.pod("shop", "web", "100m").await;
    cluster.until(cluster.pods("shop"), "web", bound).await;

    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    cluster
        .until(cluster.pods("shop"), "web", |pod| pod.metadata.deletion_timestamp.is_some())
        .await;
    cluster.until_gone(maps, "m").await;
    let phase = namespaces.get("shop").await.unwrap().status.and_then(|status| status.phase);
    assert_eq!(phase.as_deref(), Some("Terminating"), "the pod still runs on its node");
    // The node is done with it.
    cluster
        .pods("shop")
        .delete("web", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    cluster.until_gone(namespaces, "shop").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_namespace_has_its_account_and_the_clusters_certificate() {
    let cluster = Cluster::start().await;
    let namespaces: Api<Namespace> = Api::all(cluster.admin.clone());
    let shop: Namespace = serde_json::from_value(json!({ "metadata": { "name": "shop" } })).unwrap();
    namespaces.create(&PostParams::default(), &shop).await.unwrap();
    for namespace in namespaces
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
        .iter()
        .filter_map(|namespace| namespace.metadata.name.as_deref())
    {
        let accounts: Api<ServiceAccount> = Api::namespaced(cluster.admin.clone(), namespace);
        let maps: Api<ConfigMap> = Api::namespaced(cluster.admin.clone(), namespace);
        cluster.until(accounts, "default", |_| true).await;
        cluster
            .until(maps, "kube-root-ca.crt", |map| {
                map.data.as_ref().is_some_and(|data| data["ca.crt"] == "PEM")
            })
            .await;
    }
    let maps: Api<ConfigMap> = Api::namespaced(cluster.admin.clone(), "shop");
    maps.patch(
        "kube-root-ca.crt",
        &PatchParams::default(),
        &Patch::Merge(json!({ "data": { "ca.crt": "forged" } })),
    )
    .await
    .unwrap();
    cluster
        .until(maps, "kube-root-ca.crt", |map| {
            map.data.as_ref().is_some_and(|data| data["ca.crt"] == "PEM")
        })
        .await;
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.admin.clone(), "shop");
    let first = accounts.get("default").await.unwrap().metadata.uid;
    accounts.delete("default", &DeleteParams::default()).await.unwrap();
    cluster.until(accounts, "default", |account| account.metadata.uid != first).await;
    cluster.stop().await;
}
