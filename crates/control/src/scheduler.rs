//! The scheduler: gives every pending pod a node.
//!
//! Reading order: `snapshot.rs` (nodes and what occupies them), `filter.rs`
//! and `score.rs` (which nodes would do, and which is best), `queue.rs` (who
//! is next), this file ([`Scheduler`], which joins them and is pure), then
//! `drive.rs` (watches in, bindings out) with `bind.rs` and `report.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::typed::{Node, Pod};
use api::{Time, Uid};

pub mod affinity;
mod bind;
mod drive;
pub mod filter;
pub mod queue;
mod report;
pub mod score;
pub mod snapshot;
pub mod volumes;

pub use drive::run;
use filter::Refusal;
use queue::Queue;
use score::Chance;
use snapshot::{Cache, NodeFacts, PodFacts, Relief, Standing};

use crate::storage::Storage;

/// How a scheduler behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Schedules the pods whose `spec.schedulerName` this is.
    pub name: String,
    /// `<name>-<host>` is the `reportingInstance` of its events.
    pub host: String,
    /// Decides between equally good nodes; any number will do.
    pub seed: u64,
}

impl Options {
    /// The scheduler of pods that name none.
    #[must_use]
    pub fn new(host: &str, seed: u64) -> Self {
        Self {
            name: "default-scheduler".to_owned(),
            host: host.to_owned(),
            seed,
        }
    }
}

/// What is to be done with a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Bind it to that node, then report with [`Scheduler::bound`] or
    /// [`Scheduler::bind_failed`]. Until then it is assumed to be there.
    Bind {
        /// The pod.
        pod: Arc<PodFacts>,
        /// Name of the node.
        node: String,
    },
    /// Tell why no node takes it; it waits for a change.
    Refuse {
        /// The pod.
        pod: Arc<PodFacts>,
        /// Why.
        refusal: Refusal,
    },
}

/// Everything the scheduler knows, and what it decides from it. No I/O, no
/// clock: the driver tells it what happened, and when.
#[derive(Debug)]
pub struct Scheduler {
    name: String,
    cache: Cache,
    queue: Queue,
    /// Pods whose binding is under way or not yet seen.
    assumed: BTreeSet<Uid>,
    chance: Chance,
}

impl Scheduler {
    /// An empty cluster.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self {
            name: options.name.clone(),
            cache: Cache::default(),
            queue: Queue::default(),
            assumed: BTreeSet::new(),
            chance: Chance::new(options.seed),
        }
    }

    /// Nodes and the pods that occupy them, assumed ones included.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// A pod was created or changed.
    pub fn pod_changed(&mut self, pod: &Pod, now: Time) {
        match snapshot::standing(pod, &self.name) {
            Standing::Pending(facts) => {
                // Seen late: this is from before its binding.
                let bound = self.cache.place(&facts.uid).is_some() && !self.queue.contains(&facts.uid);
                if !bound {
                    self.queue.upsert(facts, now);
                }
            }
            Standing::Placed(node, facts) => {
                self.assumed.remove(&facts.uid);
                self.queue.remove(&facts.uid);
                let relief = self.cache.place_pod(&node, Arc::new(facts));
                self.queue.relieve(relief, now);
            }
            Standing::Neither => {
                if let Some(uid) = snapshot::uid(pod) {
                    self.pod_gone(&uid, now);
                }
            }
        }
    }

    /// A pod was deleted, or ended.
    pub fn pod_gone(&mut self, uid: &Uid, now: Time) {
        self.assumed.remove(uid);
        self.queue.remove(uid);
        let relief = self.cache.remove_pod(uid);
        self.queue.relieve(relief, now);
    }

    /// All pods were listed: those not among them are gone.
    pub fn pods_listed(&mut self, seen: &BTreeSet<Uid>, now: Time) {
        let known = self.queue.uids().chain(self.cache.pods());
        let gone: BTreeSet<Uid> = known.filter(|uid| !seen.contains(*uid)).cloned().collect();
        for uid in gone {
            self.pod_gone(&uid, now);
        }
    }

    /// A node was created or changed.
    pub fn node_changed(&mut self, node: &Node, now: Time) {
        let relief = self.cache.set_node(NodeFacts::from(node));
        self.queue.relieve(relief, now);
    }

    /// A node was deleted.
    pub fn node_gone(&mut self, name: &str) {
        self.cache.remove_node(name);
    }

    /// All nodes were listed: those not among them are gone.
    pub fn nodes_listed(&mut self, seen: &BTreeSet<String>) {
        let gone: Vec<String> = self
            .cache
            .node_names()
            .filter(|name| !seen.contains(*name))
            .map(str::to_owned)
            .collect();
        for name in gone {
            self.node_gone(&name);
        }
    }

    /// Decides on the next pod; `None` when none is to be tried now.
    pub fn next(&mut self, now: Time) -> Option<Decision> {
        let pod = self.queue.pop(now)?;
        let placement = filter::feasible(&pod, &self.cache)
            .map(|nodes| score::best(&pod, &nodes, &mut self.chance).map(|node| node.facts.name.clone()));
        match placement {
            Ok(Some(node)) => {
                self.cache.place_pod(&node, Arc::clone(&pod));
                self.assumed.insert(pod.uid.clone());
                Some(Decision::Bind { pod, node })
            }
            Ok(None) => None, // feasible nodes are never none
            Err(refusal) => {
                self.queue.unschedulable(&pod.uid, refusal.plugins.clone(), now);
                Some(Decision::Refuse { pod, refusal })
            }
        }
    }

    /// Claims, volumes or classes changed.
    pub fn storage_changed(&mut self, change: impl FnOnce(&mut Storage), now: Time) {
        change(&mut self.cache.storage);
        let relief = Relief {
            volumes: true,
            ..Relief::default()
        };
        self.queue.relieve(relief, now);
    }

    /// When to ask [`next`](Self::next) again if nothing happens until then.
    #[must_use]
    pub fn wake_at(&self) -> Option<Time> {
        self.queue.wake_at()
    }

    /// The binding is written. The pod stays assumed until it is seen so.
    pub fn bound(&mut self, uid: &Uid) {
        self.queue.remove(uid);
    }

    /// The binding was refused: the room is free again and the pod is tried
    /// once more after its back-off. Nothing happens to a pod that was seen
    /// bound, or deleted, meanwhile.
    pub fn bind_failed(&mut self, uid: &Uid, now: Time) {
        if self.assumed.remove(uid) {
            let relief = self.cache.remove_pod(uid);
            self.queue.retry(uid, now);
            self.queue.relieve(relief, now);
        }
    }
}

#[cfg(test)]
mod tests;
