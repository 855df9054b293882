//! Who owns what, as far as it was seen, and what follows from it. Pure.
//!
//! Kept are objects that have owners, and objects that wait for what they own;
//! of all others nothing, but for owners known to exist their UID.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::PropagationPolicy;

/// Which of all that were ever called so an object is.
pub(super) type Uid = String;

/// A kind, whatever its version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    /// Empty for the core group.
    pub(super) group: String,
    /// Such as `Pod`.
    pub(super) name: String,
}

/// An owner as an object names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) uid: Uid,
    /// An owner deleted in the foreground waits for the object.
    pub(super) blocks: bool,
}

/// What matters of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) owners: Vec<Owner>,
    /// Deletion was asked for.
    pub(super) deleting: bool,
    /// It waits for its dependents to go.
    pub(super) foreground: bool,
    /// It waits for its dependents to be detached.
    pub(super) orphan: bool,
}

impl Seen {
    /// Whether it waits for its dependents to go.
    fn waits(&self) -> bool {
        self.deleting && self.foreground
    }
}

/// What is to be done about an object.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// It goes.
    Delete { object: Box<Seen>, policy: PropagationPolicy },
    /// Objects lose owners.
    Detach { objects: Vec<Seen>, owners: BTreeSet<Uid> },
    /// Objects hold up an owner no more.
    Unblock { objects: Vec<Seen>, owner: Uid },
    /// Its dependents lose it as an owner; then it goes.
    Orphan { object: Box<Seen>, dependents: Vec<Seen> },
    /// Nothing holds it any more.
    LetGo { object: Box<Seen>, finalizer: &'static str },
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: BTreeMap<Uid, Seen>,
    /// By owner.
    dependents: BTreeMap<Uid, BTreeSet<Uid>>,
    /// Owners known to have existed, with their kind, and not known to be gone.
    alive: BTreeMap<Uid, Kind>,
    /// Owners that are being asked for, and were not seen to go meanwhile.
    asked_for: BTreeSet<Uid>,
    /// What a list that is under way has shown, by kind.
    relisting: BTreeMap<Kind, BTreeSet<Uid>>,
}

impl Graph {
    /// An object came or changed. Returns whom to look at.
    pub(super) fn see(&mut self, object: Seen) -> Vec<Uid> {
        let uid = object.uid.clone();
        let before = self.unlink(&uid);
        if object.owners.is_empty() && !(object.deleting && (object.foreground || object.orphan)) {
            // One that waited may have been let go of: what depends on it is
            // looked at when it is gone.
            self.forget(&before);
            return Vec::new();
        }
        for owner in &object.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        self.forget(&before);
        let mut asked = vec![uid.clone()];
        // An owner in the foreground may wait for this one no more, and what
        // depends on one that begins to wait is now to go.
        asked.extend(object.owners.iter().map(|owner| owner.uid.clone()));
        if object.waits() {
            asked.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        self.nodes.insert(uid, object);
        asked.retain(|uid| self.nodes.contains_key(uid));
        asked
    }

    /// An object is gone. Returns whom to look at: those it owned, and those it
    /// held up.
    pub(super) fn gone(&mut self, uid: &str) -> Vec<Uid> {
        self.alive.remove(uid);
        self.asked_for.remove(uid);
        let owners = self.unlink(uid);
        self.forget(&owners);
        let mut asked: Vec<Uid> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        asked.extend(owners.into_iter().filter(|owner| self.nodes.contains_key(owner)));
        asked
    }

    /// Owners nobody names any more are nothing to know about.
    fn forget(&mut self, owners: &[Uid]) {
        for owner in owners {
            if !self.dependents.contains_key(owner) {
                self.alive.remove(owner);
            }
        }
    }

    /// Takes an object out; returns its owners.
    fn unlink(&mut self, uid: &str) -> Vec<Uid> {
        let Some(old) = self.nodes.remove(uid) else { return Vec::new() };
        let owners: Vec<Uid> = old.owners.into_iter().map(|owner| owner.uid).collect();
        for owner in &owners {
            if let Some(dependents) = self.dependents.get_mut(owner) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
        owners
    }

    /// All objects of a kind are about to be seen again.
    pub(super) fn relist_begins(&mut self, kind: &Kind) -> Vec<Uid> {
        self.relisting.insert(kind.clone(), BTreeSet::new());
        Vec::new()
    }

    /// One of them.
    pub(super) fn relist_item(&mut self, object: Seen) -> Vec<Uid> {
        if let Some(shown) = self.relisting.get_mut(&object.kind) {
            shown.insert(object.uid.clone());
        }
        self.see(object)
    }

    /// They all were: what was not among them is gone.
    pub(super) fn relist_ends(&mut self, kind: &Kind) -> Vec<Uid> {
        let shown = self.relisting.remove(kind).unwrap_or_default();
        let nodes = self.nodes.values().filter(|node| node.kind == *kind).map(|node| node.uid.clone());
        let owners = self.alive.iter().filter(|(_, of)| *of == kind).map(|(uid, _)| uid.clone());
        let lost: BTreeSet<Uid> = nodes.chain(owners).filter(|uid| !shown.contains(uid)).collect();
        lost.iter().flat_map(|uid| self.gone(uid)).collect()
    }

    /// The owners of an object of which it is not known whether they exist,
    /// and the namespace to look in. The answer is for [`Self::answer`].
    pub(super) fn unknown_owners(&mut self, uid: &str) -> Vec<(Owner, String)> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        let unknown: Vec<Owner> = node
            .owners
            .iter()
            .filter(|owner| !self.alive.contains_key(&owner.uid) && !self.nodes.contains_key(&owner.uid))
            .cloned()
            .collect();
        let namespace = node.namespace.clone();
        self.asked_for.extend(unknown.iter().map(|owner| owner.uid.clone()));
        unknown.into_iter().map(|owner| (owner, namespace.clone())).collect()
    }

    /// Whether an owner that was asked for exists, now that the answer is here:
    /// one that was found and seen to go meanwhile does not. From now on its
    /// going will be seen.
    pub(super) fn answer(&mut self, owner: &Owner, found: bool) -> bool {
        let exists = found && (self.asked_for.remove(&owner.uid) || self.alive.contains_key(&owner.uid));
        if exists && self.dependents.contains_key(&owner.uid) {
            self.alive.insert(owner.uid.clone(), owner.kind.clone());
        } else {
            self.alive.remove(&owner.uid);
        }
        exists
    }

    /// What is to be done about an object, if the owners in `absent` do not
    /// exist.
    pub(super) fn decide(&self, uid: &str, absent: &BTreeSet<Uid>) -> Option<Action> {
        let node = self.nodes.get(uid)?;
        let dependents = || self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.nodes.get(uid));
        if node.deleting && node.orphan {
            return Some(Action::Orphan {
                object: Box::new(node.clone()),
                dependents: dependents().cloned().collect(),
            });
        }
        if node.waits() {
            let blocks = |dependent: &&Seen| dependent.owners.iter().any(|owner| owner.uid == uid && owner.blocks);
            return (!dependents().any(|dependent| blocks(&dependent))).then(|| Action::LetGo {
                object: Box::new(node.clone()),
                finalizer: "foregroundDeletion",
            });
        }
        if node.deleting || node.owners.is_empty() {
            return None;
        }
        self.decide_by_owners(node, absent)
    }

    /// Source: upstream `attemptToDeleteItem`.
    fn decide_by_owners(&self, node: &Seen, absent: &BTreeSet<Uid>) -> Option<Action> {
        let exists =
            |owner: &&Owner| !absent.contains(&owner.uid) && (self.alive.contains_key(&owner.uid) || self.nodes.contains_key(&owner.uid));
        let waits = |owner: &&Owner| self.nodes.get(&owner.uid).is_some_and(Seen::waits);
        let solid = node.owners.iter().filter(exists).any(|owner| !waits(&owner));
        let lost: BTreeSet<Uid> = node
            .owners
            .iter()
            .filter(|owner| !exists(owner) || waits(owner))
            .map(|owner| owner.uid.clone())
            .collect();
        if solid {
            return (!lost.is_empty()).then(|| Action::Detach {
                objects: vec![node.clone()],
                owners: lost,
            });
        }
        let waited_for = node.owners.iter().filter(exists).any(|owner| waits(&owner));
        let dependents: Vec<&Seen> = self
            .dependents
            .get(&node.uid)
            .into_iter()
            .flatten()
            .filter_map(|uid| self.nodes.get(uid))
            .collect();
        if waited_for && !dependents.is_empty() {
            // A dependent that waits itself would wait for this one in turn.
            let circle: Vec<Seen> = dependents
                .iter()
                .filter(|dependent| dependent.waits() && dependent.owners.iter().any(|owner| owner.uid == node.uid && owner.blocks))
                .map(|dependent| (*dependent).clone())
                .collect();
            if !circle.is_empty() {
                return Some(Action::Unblock {
                    objects: circle,
                    owner: node.uid.clone(),
                });
            }
        }
        let policy = match (node.orphan, node.foreground || (waited_for && !dependents.is_empty())) {
            (true, _) => PropagationPolicy::Orphan,
            (false, true) => PropagationPolicy::Foreground,
            (false, false) => PropagationPolicy::Background,
        };
        Some(Action::Delete {
            object: Box::new(node.clone()),
            policy,
        })
    }
}

#[cfg(test)]
mod tests;
