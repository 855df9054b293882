//! A node for one test: its own directories, cgroups, image and addresses.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::node::{ContainerId, ContainerView, Exit, Observation, RunState, Uid};
use async_trait::async_trait;
use futures::StreamExt;
use runtime::embedded::{Embedded, Images, Options, ShimExe, UserIds};
use runtime::image::{ImageConfig, ImageError, StoredImage};
use runtime::{Auth, ContainerConfig, Image, NetError, Network, PodNet, PullBytes, Resources, Runtime, RuntimeError, SandboxConfig};

/// Applets the test image has.
const APPLETS: [&str; 18] = [
    "sh", "sleep", "cat", "tail", "echo", "ls", "id", "hostname", "kill", "ps", "yes", "head", "dd", "env", "touch", "mount", "true", "nc",
];

/// The one image, called `busybox`.
pub(crate) struct OneImage {
    pub(crate) image: Mutex<StoredImage>,
}

#[async_trait]
impl Images for OneImage {
    fn lookup(&self, reference: &str) -> Result<Option<StoredImage>, ImageError> {
        Ok((reference == "busybox").then(|| self.image.lock().unwrap().clone()))
    }

    fn list(&self) -> Result<Vec<StoredImage>, ImageError> {
        Ok(vec![self.image.lock().unwrap().clone()])
    }

    fn remove(&self, id: &str) -> Result<u64, ImageError> {
        Err(ImageError::NotFound(id.to_owned()))
    }

    async fn pull(&self, reference: &str, _auth: Option<&Auth>) -> Result<Image, RuntimeError> {
        Err(RuntimeError::Pull(format!("{reference}: there is no registry here")))
    }

    fn pulling(&self, _reference: &str) -> Option<PullBytes> {
        None
    }
}

/// Hands out addresses and remembers who has one; makes no interface.
#[derive(Default)]
pub(crate) struct AddressBook {
    next: AtomicU32,
    pub(crate) attached: Mutex<HashSet<Uid>>,
}

#[async_trait]
impl Network for AddressBook {
    async fn attach(&self, pod: &PodNet, netns: &Path) -> Result<Vec<IpAddr>, NetError> {
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = std::fs::read_link(netns).map_err(|source| NetError::Io {
            doing: format!("reading {}", netns.display()),
            source,
        })?;
        assert_ne!(own, theirs, "a pod has a network namespace of its own");
        self.attached.lock().unwrap().insert(pod.uid.clone());
        let n = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        Ok(vec![Ipv4Addr::new(10, 99, n[2], n[3]).into()])
    }

    async fn detach(&self, pod: &Uid) -> Result<(), NetError> {
        self.attached.lock().unwrap().remove(pod);
        Ok(())
    }
}

/// Where a test's things are.
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    pub(crate) cgroup_root: PathBuf,
}

impl Place {
    pub(crate) fn options(&self, images: Arc<OneImage>, network: Arc<AddressBook>) -> Options {
        Options {
            state_dir: self.root.join("pods"),
            cgroup_root: self.cgroup_root.clone(),
            shim_exe: Arc::new(ShimExe::from_file(Path::new(crate::PROGRAM)).unwrap()),
            images,
            network,
            node_ips: vec![Ipv4Addr::LOCALHOST.into()],
            user_ids: UserIds::for_pods(16),
        }
    }

    pub(crate) fn image(&self) -> OneImage {
        let layer = self.root.join("layer");
        if !layer.exists() {
            for dir in ["bin", "etc", "tmp", "root"] {
                std::fs::create_dir_all(layer.join(dir)).unwrap();
            }
            std::fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
            for applet in APPLETS {
                symlink("busybox", layer.join("bin").join(applet)).unwrap();
            }
            std::fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n").unwrap();
            std::fs::write(layer.join("etc/group"), "root:x:0:\nweb:x:102:\nlogs:x:7:web\n").unwrap();
        }
        let top = self.root.join("top");
        std::fs::create_dir_all(&top).unwrap();
        std::fs::write(top.join("top-file"), "from the upper layer\n").unwrap();
        let config = ImageConfig {
            entrypoint: Vec::new(),
            cmd: vec!["sh".into()],
            env: vec!["FROM_IMAGE=1".into()],
            working_dir: String::new(),
            user: String::new(),
            stop_signal: None,
        };
        let image = Image {
            id: "sha256:aa".into(),
            tags: vec!["busybox".into()],
            digests: vec!["busybox@sha256:bb".into()],
            size_bytes: 1,
        };
        OneImage {
            image: Mutex::new(StoredImage {
                fetched: false,
                image,
                layers: vec![layer, top],
                config,
            }),
        }
    }
}

/// A node; what is left of it is removed when it is dropped.
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) images: Arc<OneImage>,
    pub(crate) network: Arc<AddressBook>,
    pub(crate) runtime: Embedded,
}

impl Node {
    pub(crate) async fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("lifepod-{}-{name}", std::process::id()));
        std::fs::create_dir(&root).unwrap();
        let cgroup_root = PathBuf::from(format!("/lifepod-test-{}-{name}", std::process::id()));
        let place = Place { root, cgroup_root };
        let (images, network) = (Arc::new(place.image()), Arc::new(AddressBook::default()));
        let runtime = Embedded::open(place.options(images.clone(), network.clone())).await.unwrap();
        Self {
            place,
            images,
            network,
            runtime,
        }
    }

    /// A new agent over what the old one left, as after `kill -9`.
    pub(crate) async fn replace_agent(&mut self) {
        let options = self.place.options(self.images.clone(), self.network.clone());
        self.runtime = Embedded::open(options).await.unwrap();
    }

    pub(crate) fn uid(n: u32) -> Uid {
        format!("00000000-0000-4000-8000-{n:012}").parse().unwrap()
    }

    pub(crate) fn sandbox(&self, n: u32) -> SandboxConfig {
        sandbox(&self.place.root, n)
    }

    /// With what rotation has put aside.
    pub(crate) fn log(&self, n: u32, container: &str, attempt: u32) -> String {
        let path = self.sandbox(n).log_dir.join(container).join(format!("{attempt}.log"));
        let files = runtime::log_files(&path).unwrap();
        assert!(!files.is_empty(), "no log {}", path.display());
        files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
    }

    /// Output without times: `stdout F text`.
    pub(crate) fn lines(&self, n: u32, container: &str) -> Vec<String> {
        self.log(n, container, 0)
            .lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    pub(crate) async fn start(&self, n: u32, config: &ContainerConfig) -> ContainerId {
        let id = self.runtime.create(&Self::uid(n), config).await.unwrap();
        self.runtime.start(&Self::uid(n), &id).await.unwrap();
        id
    }

    /// Runs one container in a pod of its own until it ends.
    pub(crate) async fn run(&self, n: u32, config: &ContainerConfig) -> Exit {
        self.runtime.run_sandbox(&self.sandbox(n)).await.unwrap();
        let id = self.start(n, config).await;
        self.exit(n, &id).await
    }

    pub(crate) async fn exit(&self, n: u32, id: &ContainerId) -> Exit {
        let seen = self
            .until(n, |seen| view(seen, id).is_some_and(|c| matches!(c.state, RunState::Exited(_))))
            .await;
        match view(&seen, id).unwrap().state.clone() {
            RunState::Exited(exit) => exit,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for a line of output.
    pub(crate) async fn until_log(&self, n: u32, container: &str, text: &str) {
        let path = self.sandbox(n).log_dir.join(container).join("0.log");
        let waiting = async {
            while !std::fs::read_to_string(&path).unwrap_or_default().contains(text) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting)
            .await
            .expect("the line never came");
    }

    /// Observes at every hint until `wanted`.
    pub(crate) async fn until(&self, n: u32, wanted: impl Fn(&Observation) -> bool) -> Observation {
        let uid = Self::uid(n);
        let mut hints = self.runtime.hints();
        let waiting = async {
            loop {
                let seen = self.runtime.observe(&uid).await.unwrap();
                if wanted(&seen) {
                    return seen;
                }
                // Hints may be lost, so look now and then without one.
                let _ = tokio::time::timeout(Duration::from_secs(1), hints.next()).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting)
            .await
            .expect("it never came to that")
    }

    /// Everything a node must not leave behind.
    pub(crate) fn assert_nothing_left(&self) {
        assert_nothing_left(&self.place);
        assert!(self.network.attached.lock().unwrap().is_empty(), "networks left");
    }
}

pub(crate) fn assert_nothing_left(place: &Place) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = place.root.to_str().unwrap();
    assert!(!mounts.contains(root), "mounts left");
    let trees = shim::cgroup::Trees::detect().unwrap();
    assert!(!trees.exists(&place.cgroup_root), "cgroups left");
    assert_eq!(std::fs::read_dir(place.root.join("pods")).unwrap().count(), 0, "directories left");
    let processes = std::fs::read_dir("/proc").unwrap().flatten().filter(|p| {
        let command = std::fs::read(p.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        command.contains(root) && command.starts_with("lifepod")
    });
    assert_eq!(processes.count(), 0, "shims left");
}

impl Drop for Node {
    fn drop(&mut self) {
        let options = self.place.options(self.images.clone(), self.network.clone());
        let purging = std::thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio.block_on(async { Embedded::open(options).await.unwrap().purge().await.unwrap() });
        });
        let purged = purging.join();
        let left = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.assert_nothing_left()));
        let _ = std::fs::remove_dir_all(&self.place.root);
        if !std::thread::panicking() {
            purged.unwrap();
            left.unwrap();
        }
    }
}

pub(crate) fn view<'a>(seen: &'a Observation, id: &ContainerId) -> Option<&'a ContainerView> {
    seen.containers.iter().find(|c| c.id == *id)
}

pub(crate) fn sandbox(root: &Path, n: u32) -> SandboxConfig {
    SandboxConfig {
        pod: Node::uid(n),
        name: format!("pod-{n}"),
        namespace: "default".into(),
        attempt: 0,
        hostname: format!("pod-{n}"),
        domain: String::new(),
        host_network: false,
        host_pid: false,
        host_ipc: false,
        share_process_namespace: false,
        own_users: false,
        resolv_conf: "nameserver 10.0.0.10\n".into(),
        host_aliases: Vec::new(),
        sysctls: Vec::new(),
        log_dir: root.join("logs").join(n.to_string()),
        resources: Resources::default(),
        cgroup_parent: Default::default(),
    }
}

/// A container that runs a shell script.
pub(crate) fn script(name: &str, text: &str) -> ContainerConfig {
    ContainerConfig {
        name: name.into(),
        image: "busybox".into(),
        command: vec!["sh".into(), "-c".into(), text.into()],
        termination_message_path: "/dev/termination-log".into(),
        ..ContainerConfig::default()
    }
}
