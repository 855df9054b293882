//! The bridge network: the [`Network`] port over the kernel and the book of
//! addresses.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::Uid;
use async_trait::async_trait;
use runtime::{NetError, Network, PodNet};

use crate::host::{Host, refused};
use crate::ipam::{BookFile, Exhausted};
use crate::masquerade::NftError;
use crate::names::host_link;
use crate::rtnl::RouteSocket;
use crate::{BridgeName, Cidr, Redirect, netns, pod};

/// Locks that keep calls for one pod apart; pods share them by name's hash.
const TURNS: usize = 64;

/// What a node's pod network is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the bridge.
    pub bridge: BridgeName,
    /// The node's share of pod addresses; its first address is the bridge's.
    pub pod_cidr: Cidr,
    /// Largest packet on the pods' links, in bytes.
    pub mtu_bytes: u32,
    /// Directory of the address book; made if it is missing. Absolute: its
    /// path marks the bridge as this network's.
    pub state_dir: PathBuf,
    /// Translate addresses: the source of what leaves the range, and the
    /// target of what `redirect` names.
    pub masquerade: bool,
    /// The way to the API server.
    pub redirect: Option<Redirect>,
}

impl Options {
    /// The defaults: bridge `lifepod0`, 1500 bytes, masquerade on.
    #[must_use]
    pub fn new(pod_cidr: Cidr, state_dir: PathBuf) -> Self {
        Self {
            bridge: BridgeName::default(),
            pod_cidr,
            mtu_bytes: 1500,
            state_dir,
            masquerade: true,
            redirect: None,
        }
    }
}

/// One bridge, a veth pair per sandbox, host-local addresses.
///
/// Works in the network namespace of the thread that opened it, whichever
/// thread calls later.
pub struct BridgeNetwork {
    node: Arc<Node>,
    turns: Vec<Arc<tokio::sync::Mutex<()>>>,
    masquerading: bool,
}

struct Node {
    host: Host,
    bridge: u32,
    book: Mutex<BookFile>,
}

impl BridgeNetwork {
    /// Makes the bridge, or takes over what a former run left, switches IPv4
    /// forwarding on and sets masquerading. Blocks for some milliseconds.
    ///
    /// Without the `nft` program everything but masquerading works: that is
    /// logged, and [`masquerading`](Self::masquerading) says so.
    ///
    /// # Errors
    /// When the bridge's name is someone else's, the address book is damaged
    /// or of another range with pods in it, or the kernel refuses.
    pub fn open(options: Options) -> Result<Self, NetError> {
        let mut book = BookFile::open(&options.state_dir, options.pod_cidr)?;
        let host = Host::open(options)?;
        let bridge = host.ensure_bridge()?;
        if let Some(before) = host.enable_forwarding()? {
            book.change(|book| book.set_ip_forward_before(Some(before)))?;
        }
        let masquerading = set_masquerade(&host)?;
        let node = Arc::new(Node {
            host,
            bridge,
            book: Mutex::new(book),
        });
        Ok(Self {
            node,
            turns: (0..TURNS).map(|_| Arc::default()).collect(),
            masquerading,
        })
    }

    /// Whether what leaves the range has its source address translated.
    #[must_use]
    pub fn masquerading(&self) -> bool {
        self.masquerading
    }

    /// Frees what belongs to pods that are not in `live`: call it once after
    /// [`open`](Self::open), before the first attach. Gives how many pods and
    /// stray links were dropped.
    ///
    /// # Errors
    /// When the kernel refuses or the book cannot be written.
    pub async fn retain(&self, live: &BTreeSet<Uid>) -> Result<usize, NetError> {
        let (node, live) = (Arc::clone(&self.node), live.clone());
        blocking(move || node.retain(&live)).await
    }

    /// Removes bridge, links, rules and the address book, and restores IPv4
    /// forwarding. Pods lose their network; nothing can be attached any more.
    ///
    /// # Errors
    /// When the kernel refuses. May be repeated.
    pub async fn purge(&self) -> Result<(), NetError> {
        let node = Arc::clone(&self.node);
        blocking(move || purge_with(&node.host, Some(&mut node.book()))).await
    }

    /// How many links, tables and address book entries of this network exist.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn leftovers(&self) -> Result<usize, NetError> {
        let node = Arc::clone(&self.node);
        blocking(move || Ok(node.host.leftovers()? + node.book().book().len())).await
    }

    /// The pod's turn: calls for one pod follow one another.
    async fn turn(&self, pod: &Uid) -> tokio::sync::OwnedMutexGuard<()> {
        let index = pod
            .as_str()
            .bytes()
            .fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)))
            % self.turns.len();
        Arc::clone(&self.turns[index]).lock_owned().await
    }
}

/// Removes what a network with these options has left, without making it
/// first. Works in the calling thread's network namespace and blocks.
///
/// # Errors
/// When the kernel refuses. A damaged address book is removed all the same;
/// IPv4 forwarding then stays as it is.
pub fn purge(options: Options) -> Result<(), NetError> {
    let mut book = BookFile::open(&options.state_dir, options.pod_cidr).ok();
    let path = options.state_dir.clone();
    let host = Host::open(options)?;
    purge_with(&host, book.as_mut())?;
    if book.is_none() {
        BookFile::remove_at(&path)?;
    }
    Ok(())
}

fn purge_with(host: &Host, book: Option<&mut BookFile>) -> Result<(), NetError> {
    host.remove_all()?;
    if let Some(file) = book {
        if let Some(before) = file.book().ip_forward_before() {
            host.restore_forwarding(before)?;
        }
        file.remove()?;
    }
    Ok(())
}

fn set_masquerade(host: &Host) -> Result<bool, NetError> {
    let on = host.options().masquerade;
    match host.set_masquerade(on) {
        Ok(()) => Ok(on),
        Err(NftError::Missing) => {
            if on {
                tracing::warn!(bridge = %host.options().bridge, error = %NftError::Missing, "pods reach each other and this node, but nothing beyond it");
            }
            Ok(false)
        }
        Err(error) => Err(NetError::Kernel {
            doing: format!("setting masquerade rules for {}", host.options().pod_cidr),
            cause: error.to_string(),
        }),
    }
}

#[async_trait]
impl Network for BridgeNetwork {
    /// A call that is dropped half way still runs to its end; the pod's next
    /// call waits for that.
    async fn attach(&self, pod: &PodNet, netns: &Path) -> Result<Vec<IpAddr>, NetError> {
        let turn = self.turn(&pod.uid).await;
        let (node, pod, netns) = (Arc::clone(&self.node), pod.clone(), netns.to_owned());
        blocking(move || {
            let _turn = turn;
            node.attach(&pod, &netns)
        })
        .await
    }

    /// As for `attach`, a dropped call runs to its end.
    async fn detach(&self, pod: &Uid) -> Result<(), NetError> {
        let turn = self.turn(pod).await;
        let (node, pod) = (Arc::clone(&self.node), pod.clone());
        blocking(move || {
            let _turn = turn;
            node.detach(&pod)
        })
        .await
    }
}

impl Node {
    /// The book. One left by a panic is sound: it changes as a whole or not.
    fn book(&self) -> MutexGuard<'_, BookFile> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attach(&self, pod: &PodNet, path: &Path) -> Result<Vec<IpAddr>, NetError> {
        let doing = || format!("attaching pod {}/{} ({})", pod.namespace, pod.name, pod.uid);
        let opening = |source| NetError::Io {
            doing: format!("opening the network namespace {}", path.display()),
            source,
        };
        let netns = netns::open(path).map_err(opening)?;
        if self.host.is_own(&netns).map_err(opening)? {
            // Its eth0 would be taken for the pod's.
            return Err(NetError::Kernel {
                doing: doing(),
                cause: format!("{} is the node's own network namespace", path.display()),
            });
        }
        let range = self.host.options().pod_cidr;
        let address = self
            .book()
            .change(|book| book.assign(&pod.uid))?
            .map_err(|Exhausted| NetError::Exhausted(range.to_string()))?;
        let mut inside = netns::within(&netns, RouteSocket::open).map_err(refused(doing()))?;
        let link = host_link(&pod.uid);
        let connected = self.host.connect(&link, self.bridge, address, netns.as_fd(), &mut inside);
        let configured = connected.and_then(|()| pod::configure(&mut inside, address, range));
        if let Err(error) = configured.and_then(|()| self.host.await_carrier(&link, &mut inside)) {
            // Whose fault it is decides who can mend it.
            return Err(match self.host.has_bridge(self.bridge) {
                Ok(false) => NetError::NotReady {
                    bridge: self.host.options().bridge.to_string(),
                },
                Ok(true) | Err(_) => refused(doing())(error),
            });
        }
        Ok(vec![IpAddr::V4(address)])
    }

    /// The link goes before the address, so that nobody else is given an
    /// address that still answers.
    fn detach(&self, pod: &Uid) -> Result<(), NetError> {
        self.host
            .disconnect(&host_link(pod))
            .map_err(refused(format!("detaching pod {pod}")))?;
        self.book().change(|book| book.release(pod))?;
        Ok(())
    }

    fn retain(&self, live: &BTreeSet<Uid>) -> Result<usize, NetError> {
        let wanted: BTreeSet<String> = live.iter().map(host_link).collect();
        let mut dropped = BTreeSet::new();
        for link in self.host.host_links().map_err(refused("listing links"))? {
            if !wanted.contains(&link) {
                self.host.disconnect(&link).map_err(refused(format!("removing the link {link}")))?;
                dropped.insert(link);
            }
        }
        let dead: Vec<Uid> = self.book().book().pods().filter(|pod| !live.contains(*pod)).cloned().collect();
        dropped.extend(dead.iter().map(host_link));
        self.book().change(|book| {
            for pod in &dead {
                book.release(pod);
            }
        })?;
        Ok(dropped.len())
    }
}

/// Runs kernel and file work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, NetError> + Send + 'static) -> Result<T, NetError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(ended) => Err(NetError::Io {
            doing: "changing the pod network".to_owned(),
            source: io::Error::other(ended),
        }),
    }
}

#[cfg(test)]
mod tests;
