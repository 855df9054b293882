//! Real links and real packets, all inside network namespaces made here.
//!
//! The node of a test is a thread in a namespace of its own; so is each pod.
//! A namespace goes when its last thread and file do, and every link with it,
//! so a test that fails leaves nothing behind.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own that does what it is given.
struct Namespace {
    path: PathBuf,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, path) = mpsc::channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            ready
                .send(PathBuf::from(format!("/proc/self/task/{}/ns/net", nix::unistd::gettid())))
                .unwrap();
            inbox.into_iter().for_each(|job| job());
        });
        Self {
            path: path.recv_timeout(PATIENCE).unwrap(),
            jobs: Some(jobs),
            thread: Some(thread),
        }
    }

    /// Does `work` inside and waits for it.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, outcome) = mpsc::channel();
        self.begin(move || drop(done.send(work())));
        outcome.recv_timeout(PATIENCE * 3).expect("the work inside a namespace panicked")
    }

    fn begin(&self, work: impl FnOnce() + Send + 'static) {
        self.jobs.as_ref().unwrap().send(Box::new(work)).unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs.take();
        if !thread::panicking() {
            // A failed test may have left it waiting for a connection.
            let _ = self.thread.take().unwrap().join();
        }
    }
}

/// A node with an open network.
struct Node {
    namespace: Namespace,
    network: Arc<BridgeNetwork>,
    runtime: tokio::runtime::Runtime,
    options: Options,
    _dir: tempfile::TempDir,
}

impl Node {
    fn new(range: &str) -> Self {
        let namespace = Namespace::new();
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new(range.parse().unwrap(), dir.path().join("net"));
        let network = open(&namespace, &options).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self {
            namespace,
            network,
            runtime,
            options,
            _dir: dir,
        }
    }

    fn attach(&self, pod: &PodNet, netns: &Path) -> Result<Ipv4Addr, NetError> {
        let addresses = self.runtime.block_on(self.network.attach(pod, netns))?;
        let [IpAddr::V4(address)] = addresses[..] else {
            panic!("one IPv4 address expected, not {addresses:?}")
        };
        Ok(address)
    }

    fn detach(&self, pod: &PodNet) {
        self.runtime.block_on(self.network.detach(&pod.uid)).unwrap();
    }

    fn leftovers(&self) -> usize {
        self.runtime.block_on(self.network.leftovers()).unwrap()
    }

    fn reopen(&mut self) {
        self.network = open(&self.namespace, &self.options).unwrap();
    }
}

fn open(node: &Namespace, options: &Options) -> Result<Arc<BridgeNetwork>, NetError> {
    let options = options.clone();
    node.run(move || BridgeNetwork::open(options).map(Arc::new))
}

fn pod(n: usize) -> PodNet {
    PodNet {
        uid: format!("{n:08}-0000-4000-8000-000000000000").parse().unwrap(),
        name: format!("pod-{n}"),
        namespace: "default".to_owned(),
    }
}

/// Serves one connection at `server`, asked for by `client`; gives what the
/// server saw as the client's address.
fn talk(client: &Namespace, server: &Namespace, address: Ipv4Addr) -> Ipv4Addr {
    let (ready, listening) = mpsc::channel();
    let (done, seen) = mpsc::channel();
    server.begin(move || {
        let listener = TcpListener::bind((address, 0)).unwrap();
        ready.send(listener.local_addr().unwrap()).unwrap();
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        done.send(peer).unwrap();
    });
    let target: SocketAddr = listening.recv_timeout(PATIENCE).unwrap();
    let read = client.run(move || {
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(read, "hello");
    match seen.recv_timeout(PATIENCE).unwrap().ip() {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("IPv4 expected, not {address}"),
    }
}

#[test]
fn root_pods_reach_each_other_the_node_and_themselves() {
    let node = Node::new("10.88.0.0/24");
    let (a, b) = (Namespace::new(), Namespace::new());
    let address_a = node.attach(&pod(1), &a.path).unwrap();
    let address_b = node.attach(&pod(2), &b.path).unwrap();
    assert_eq!([address_a, address_b].map(|address| address.octets()[3]), [2, 3]);
    let started = Instant::now();
    assert_eq!(talk(&a, &b, address_b), address_a, "pod to pod keeps its address");
    println!("first connection between new pods: {:.2} ms", started.elapsed().as_secs_f64() * 1e3);
    assert_eq!(talk(&node.namespace, &a, address_a), Ipv4Addr::new(10, 88, 0, 1));
    assert_eq!(talk(&b, &node.namespace, Ipv4Addr::new(10, 88, 0, 1)), address_b);
    a.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect_timeout(&listener.local_addr().unwrap(), PATIENCE).unwrap();
    });
}

#[test]
fn root_what_leaves_the_range_bears_the_nodes_address() {
    let node = Node::new("10.88.0.0/24");
    assert!(node.network.masquerading(), "this test needs the package nftables");
    let (outside, inside) = (Namespace::new(), Namespace::new());
    let outside_path = outside.path.clone();
    let (uplink, far) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    node.namespace.run(move || {
        let netns = netns::open(&outside_path).unwrap();
        let mut socket = RouteSocket::open().unwrap();
        let bridge = socket.link("lifepod0").unwrap().unwrap().index;
        socket
            .add_veth(crate::rtnl::Veth {
                host_name: "uplink",
                group: 1,
                bridge,
                mtu_bytes: 1500,
                pod_name: "uplink",
                pod_hardware_address: crate::names::hardware_address(far),
                pod_netns: netns.as_fd(),
            })
            .unwrap();
        let link = socket.link("uplink").unwrap().unwrap();
        socket.set_controller(link.index, 0).unwrap();
        socket.add_address(link.index, uplink, 24).unwrap();
    });
    outside.run(move || {
        let mut socket = RouteSocket::open().unwrap();
        let link = socket.link("uplink").unwrap().unwrap();
        socket.set_up(link.index).unwrap();
        socket.add_address(link.index, far, 24).unwrap();
    });
    node.attach(&pod(1), &inside.path).unwrap();
    assert_eq!(talk(&inside, &outside, far), uplink);
}

#[test]
fn root_attaching_again_changes_nothing() {
    let mut node = Node::new("10.88.0.0/24");
    let (a, b) = (Namespace::new(), Namespace::new());
    let first = node.attach(&pod(1), &a.path).unwrap();
    let before = a.run(|| RouteSocket::open().unwrap().links().unwrap());
    assert_eq!(node.attach(&pod(1), &a.path).unwrap(), first);
    node.reopen();
    assert_eq!(node.attach(&pod(1), &a.path).unwrap(), first, "also after a restart");
    assert_eq!(a.run(|| RouteSocket::open().unwrap().links().unwrap()), before);
    // A new sandbox of the same pod takes the address over.
    assert_eq!(node.attach(&pod(1), &b.path).unwrap(), first);
    assert_eq!(talk(&node.namespace, &b, first), Ipv4Addr::new(10, 88, 0, 1));
    assert!(a.run(|| RouteSocket::open().unwrap().link("eth0").unwrap()).is_none());
    assert_eq!(node.leftovers(), 4, "a link, an address, the bridge and the table");
}

#[test]
fn root_an_attach_cut_short_is_completed() {
    let node = Node::new("10.88.0.0/24");
    let a = Namespace::new();
    let first = node.attach(&pod(1), &a.path).unwrap();
    // As if it had ended before the addresses, and the bridge port, were set.
    a.run(move || {
        let mut socket = RouteSocket::open().unwrap();
        let link = socket.link("eth0").unwrap().unwrap();
        socket.set_down(link.index).unwrap();
        socket.delete_address(link.index, first, 24).unwrap();
    });
    let link = host_link(&pod(1).uid);
    node.namespace.run(move || {
        let mut socket = RouteSocket::open().unwrap();
        let link = socket.link(&link).unwrap().unwrap();
        socket.set_controller(link.index, 0).unwrap();
    });
    assert_eq!(node.attach(&pod(1), &a.path).unwrap(), first);
    assert_eq!(talk(&node.namespace, &a, first), Ipv4Addr::new(10, 88, 0, 1));
}

#[test]
fn root_a_full_range_is_refused_until_a_pod_goes() {
    let node = Node::new("10.88.0.0/30");
    let (a, b) = (Namespace::new(), Namespace::new());
    let first = node.attach(&pod(1), &a.path).unwrap();
    let error = node.attach(&pod(2), &b.path).unwrap_err();
    assert!(matches!(error, NetError::Exhausted(_)), "{error}");
    assert_eq!(error.to_string(), "no free address is left in 10.88.0.0/30");
    node.detach(&pod(1));
    node.detach(&pod(1));
    node.detach(&pod(7));
    assert_eq!(node.attach(&pod(2), &b.path).unwrap(), first);
    assert_eq!(talk(&node.namespace, &b, first), Ipv4Addr::new(10, 88, 0, 1));
}

#[test]
fn root_the_nodes_own_namespace_is_never_touched() {
    let node = Node::new("10.88.0.0/24");
    let error = node.attach(&pod(1), &node.namespace.path).unwrap_err();
    assert!(error.to_string().contains("node's own network namespace"), "{error}");
    assert_eq!(node.leftovers(), 2, "the bridge and the table");
    let error = node.attach(&pod(1), Path::new("/proc/self/ns/no-such")).unwrap_err();
    assert!(error.to_string().contains("no-such"), "{error}");
}

#[test]
fn root_twenty_pods_at_once_and_nothing_left_behind() {
    let node = Node::new("10.88.0.0/24");
    let namespaces: Vec<Namespace> = (0..20).map(|_| Namespace::new()).collect();
    let one = Namespace::new();
    let started = Instant::now();
    node.attach(&pod(100), &one.path).unwrap();
    println!("attach, alone: {:.2} ms", started.elapsed().as_secs_f64() * 1e3);
    let started = Instant::now();
    let addresses = node.runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for (n, namespace) in namespaces.iter().enumerate() {
            let (network, path) = (Arc::clone(&node.network), namespace.path.clone());
            tasks.spawn(async move { network.attach(&pod(n), &path).await.unwrap() });
        }
        tasks.join_all().await
    });
    println!("20 attaches at once: {:.2} ms", started.elapsed().as_secs_f64() * 1e3);
    assert_eq!(addresses.iter().flatten().collect::<BTreeSet<_>>().len(), 20);
    let IpAddr::V4(last) = addresses[19][0] else {
        panic!("{addresses:?}")
    };
    let server = namespaces
        .iter()
        .find(|namespace| namespace.run(move || TcpListener::bind((last, 0)).is_ok()))
        .unwrap();
    talk(&one, server, last);
    let started = Instant::now();
    node.detach(&pod(0));
    println!("detach: {:.2} ms", started.elapsed().as_secs_f64() * 1e3);
    assert_eq!(node.leftovers(), 20 + 20 + 2);

    let started = Instant::now();
    node.runtime.block_on(node.network.purge()).unwrap();
    println!("purge of 20 pods: {:.2} ms", started.elapsed().as_secs_f64() * 1e3);
    assert_eq!(node.leftovers(), 0);
    let (links, table) = node.namespace.run(|| {
        (
            RouteSocket::open().unwrap().links().unwrap(),
            crate::masquerade::exists(&BridgeName::default()).unwrap(),
        )
    });
    assert_eq!(links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo"]);
    assert!(!table);
    node.runtime.block_on(node.network.purge()).unwrap();
    assert!(node.attach(&pod(1), &one.path).is_err(), "a purged network attaches nothing");
}

#[test]
fn root_forwarding_is_restored_even_by_a_later_process() {
    const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
    for before in ["0", "1"] {
        let namespace = Namespace::new();
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new("10.88.0.0/24".parse().unwrap(), dir.path().join("net"));
        namespace.run(move || std::fs::write(IP_FORWARD, before).unwrap());
        drop(open(&namespace, &options).unwrap());
        drop(open(&namespace, &options).unwrap()); // a restart must not take our own setting for the former one
        assert_eq!(namespace.run(|| std::fs::read_to_string(IP_FORWARD).unwrap()).trim(), "1");
        namespace.run(move || purge(options).unwrap());
        assert_eq!(namespace.run(|| std::fs::read_to_string(IP_FORWARD).unwrap()).trim(), before);
        assert_eq!(namespace.run(|| RouteSocket::open().unwrap().links().unwrap().len()), 1);
        assert!(std::fs::read_dir(dir.path().join("net")).unwrap().next().is_none());
    }
}

#[test]
fn root_what_dead_pods_held_is_freed_at_start() {
    let mut node = Node::new("10.88.0.0/24");
    let (a, b) = (Namespace::new(), Namespace::new());
    let kept = node.attach(&pod(1), &a.path).unwrap();
    node.attach(&pod(2), &b.path).unwrap();
    node.reopen();
    let live = BTreeSet::from([pod(1).uid]);
    assert_eq!(node.runtime.block_on(node.network.retain(&live)).unwrap(), 1);
    assert_eq!(node.leftovers(), 4, "a link, an address, the bridge and the table");
    assert_eq!(talk(&node.namespace, &a, kept), Ipv4Addr::new(10, 88, 0, 1));
}

#[test]
fn root_a_bridge_of_someone_else_is_left_alone() {
    let node = Node::new("10.88.0.0/24");
    let elsewhere = tempfile::tempdir().unwrap();
    let options = Options {
        state_dir: elsewhere.path().to_owned(),
        ..node.options.clone()
    };
    let Err(error) = open(&node.namespace, &options) else {
        panic!("it was taken over")
    };
    assert!(error.to_string().contains("another network's"), "{error}");
    let namespace = &node.namespace;
    namespace.run(move || purge(options).unwrap());
    assert_eq!(
        namespace
            .run(|| RouteSocket::open().unwrap().link("lifepod0").unwrap())
            .map(|link| link.up),
        Some(true)
    );
}

#[test]
fn root_without_the_bridge_the_node_is_to_blame() {
    let mut node = Node::new("10.88.0.0/24");
    let inside = Namespace::new();
    let bridge = node.options.bridge.clone();
    let deleted = bridge.clone();
    node.namespace.run(move || {
        let mut socket = RouteSocket::open().unwrap();
        socket.delete_link(deleted.as_str()).unwrap();
    });
    let error = node.attach(&pod(1), &inside.path).unwrap_err();
    assert!(matches!(error, NetError::NotReady { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        format!("the bridge {bridge} of the pods is gone: start Lifepod anew, which makes it again")
    );
    node.reopen();
    node.attach(&pod(1), &inside.path).unwrap();
}
