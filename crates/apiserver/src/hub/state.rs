//! What a hub knows: objects, the ring of changes, and who watches.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound::{self, Unbounded};
use std::sync::{Arc, OnceLock};

use api::{Object, Selector};
use bytes::Bytes;
use store::{Event, Versioned};
use tokio::sync::mpsc;

use super::labels::ByLabel;
use super::written::Written;
use super::{Damage, Entry, From, Snapshot, Subscription};

/// One change of one object.
#[derive(Debug)]
pub(crate) struct Change {
    /// Its key.
    pub(crate) key: String,
    /// When it changed.
    pub(crate) revision: u64,
    /// As it was; `None` for a creation.
    pub(crate) old: Option<Arc<Entry>>,
    /// As it is; `None` for a removal.
    pub(crate) new: Option<Arc<Entry>>,
    /// What is, or was, stored cannot be decoded: whoever watches has to list
    /// again.
    pub(crate) damage: Option<Damage>,
}

impl Change {
    /// What it keeps in memory beyond the change before it.
    fn bytes(&self) -> usize {
        self.new.as_ref().or(self.old.as_ref()).map_or(0, |entry| entry.stored.len())
    }
}

/// A change on its way to the watchers. Its event is written once for all that
/// are sent the same one, and forgotten when the last of them has it.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) change: Arc<Change>,
    /// The event as JSON of the stored form: added, modified, deleted.
    pub(crate) events: [OnceLock<Bytes>; 3],
}

impl Delivery {
    pub(crate) fn new(change: Arc<Change>) -> Self {
        Self {
            change,
            events: [const { OnceLock::new() }; 3],
        }
    }
}

impl std::ops::Deref for Delivery {
    type Target = Change;

    fn deref(&self) -> &Change {
        &self.change
    }
}

/// What a watcher is sent.
#[derive(Debug)]
pub(crate) enum Message {
    /// A change under its prefix.
    Change(Arc<Delivery>),
    /// Nothing else changed up to this revision.
    Progress(u64),
}

/// Why a watch cannot begin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoStart {
    /// It asked for changes that are no longer kept.
    TooOld {
        /// What was asked for.
        asked: u64,
        /// The oldest revision that can be asked for.
        oldest: u64,
    },
    /// It asked for objects that cannot be decoded.
    Damaged(Vec<Damage>),
}

struct Watcher {
    prefix: String,
    bookmarks: bool,
    changes: mpsc::Sender<Message>,
}

/// What a hub knows at one revision.
pub(crate) struct State {
    revision: u64,
    objects: BTreeMap<String, Arc<Entry>>,
    /// By key, what is stored and cannot be decoded.
    damaged: BTreeMap<String, Damage>,
    /// Changes in order; all changes after `floor` are here.
    ring: VecDeque<Arc<Change>>,
    floor: u64,
    ring_bytes: usize,
    bounds: Bounds,
    watchers: Vec<Watcher>,
    /// Nothing will change any more: watchers end at once.
    ended: bool,
    index: Option<Index>,
    /// Keys by the value of the indexed field; the empty value is not kept.
    by_value: HashMap<String, BTreeSet<String>>,
    by_label: ByLabel,
}

/// A field that objects are looked up by, such as the node of a pod.
pub(crate) type Index = fn(&Object) -> &str;

/// How much a hub keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Changes in the ring.
    pub(crate) ring_changes: usize,
    /// Stored bytes of the objects in the ring. Decoded they take a few times
    /// as much.
    pub(crate) ring_bytes: usize,
    /// Changes a watcher may be behind.
    pub(crate) queue_changes: usize,
}

/// Decodes a stored value. What does not decode is logged, without what it
/// says: the words of the decoder may hold a part of it.
pub(crate) fn decode(key: &str, versioned: &Versioned) -> Result<Arc<Entry>, Damage> {
    match serde_json::from_slice::<Object>(&versioned.value) {
        Ok(object) => Ok(Entry::new(key, object, versioned.value.clone(), versioned.modified.0)),
        Err(error) => {
            tracing::error!(
                key,
                revision = versioned.modified.0,
                error = ?error.classify(),
                line = error.line(),
                column = error.column(),
                "a stored object cannot be decoded; requests that would show it fail until it is deleted with ignoreStoreReadErrorWithClusterBreakingPotential"
            );
            Err(Damage::of(key, versioned))
        }
    }
}

/// Where a page begins.
fn start<'k>(prefix: &'k str, after: Option<&'k str>) -> Bound<&'k str> {
    after
        .filter(|after| *after >= prefix)
        .map_or(Bound::Included(prefix), Bound::Excluded)
}

/// Whether an entry is what decoding what is stored would give.
fn is_what_is_stored(entry: &Entry, versioned: &Versioned) -> bool {
    decode(&entry.key, versioned).is_ok_and(|decoded| decoded.object == entry.object && decoded.revision == entry.revision)
}

impl State {
    pub(crate) fn new(bounds: Bounds, index: Option<Index>) -> Self {
        Self {
            revision: 0,
            objects: BTreeMap::new(),
            damaged: BTreeMap::new(),
            ring: VecDeque::new(),
            floor: 0,
            ring_bytes: 0,
            bounds,
            watchers: Vec::new(),
            ended: false,
            index,
            by_value: HashMap::new(),
            by_label: ByLabel::default(),
        }
    }

    /// Begins anew from a list.
    pub(crate) fn reset(&mut self, revision: u64, entries: Vec<Arc<Entry>>, damaged: Vec<Damage>) {
        self.by_value.clear();
        self.by_label = ByLabel::default();
        self.damaged = damaged.into_iter().map(|damage| (damage.key.clone(), damage)).collect();
        for entry in &entries {
            self.reindex(&entry.key, None, Some(&entry.object));
        }
        self.objects = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        self.ring.clear();
        self.ring_bytes = 0;
        self.floor = revision;
        self.revision = revision;
        self.drop_watchers();
    }

    /// Follows one object from what it was to what it is.
    fn reindex(&mut self, key: &str, old: Option<&Object>, new: Option<&Object>) {
        let Some(value_of) = self.index else { return };
        let (old, new) = (old.map_or("", value_of), new.map_or("", value_of));
        if old == new {
            return;
        }
        if let Some(keys) = self.by_value.get_mut(old) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_value.remove(old);
            }
        }
        if !new.is_empty() {
            self.by_value.entry(new.to_owned()).or_default().insert(key.to_owned());
        }
    }

    pub(crate) fn indexed(&self, value: &str) -> Vec<Arc<Entry>> {
        let keys = self.by_value.get(value).into_iter().flatten();
        keys.filter_map(|key| self.objects.get(key)).cloned().collect()
    }

    pub(crate) fn drop_watchers(&mut self) {
        self.watchers.clear();
    }

    /// Forgets everything: who still has the hub keeps no objects alive.
    pub(crate) fn end(&mut self) {
        let ended = Self::new(self.bounds, self.index);
        *self = Self {
            revision: self.revision,
            floor: u64::MAX,
            ended: true,
            ..ended
        };
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<Arc<Entry>>, Damage> {
        match self.objects.get(key) {
            Some(entry) => Ok(Some(Arc::clone(entry))),
            None => self.damaged.get(key).map_or(Ok(None), |damage| Err(damage.clone())),
        }
    }

    /// What cannot be decoded of the keys that start with `prefix`, come after
    /// `after`, and not after `last`.
    fn damaged(&self, prefix: &str, after: Option<&str>, last: Option<&str>) -> Vec<Damage> {
        let within = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after) && last.is_none_or(|last| key <= last);
        let damaged = self.damaged.iter().filter(|(key, _)| within(key));
        damaged.map(|(_, damage)| damage.clone()).collect()
    }

    pub(crate) fn page(&self, prefix: &str, after: Option<&str>, limit: Option<usize>, matches: impl Fn(&Entry) -> bool) -> Snapshot {
        let all = self
            .objects
            .range::<str, _>((start(prefix, after), Unbounded))
            .map(|(_, entry)| entry);
        self.gather(all, prefix, after, limit, matches)
    }

    /// A page of what `labels` selects; also a label that is worth following.
    pub(crate) fn chosen(
        &self,
        labels: &Selector,
        prefix: &str,
        after: Option<&str>,
        limit: Option<usize>,
        matches: impl Fn(&Entry) -> bool,
    ) -> (Snapshot, Option<String>) {
        let looked_at = Cell::new(0);
        let matches = |entry: &Entry| {
            looked_at.set(looked_at.get() + 1);
            matches(entry)
        };
        let snapshot = match self.by_label.candidates(labels, start(prefix, after)) {
            Some(candidates) => self.gather(candidates, prefix, after, limit, matches),
            None => self.page(prefix, after, limit, matches),
        };
        let lacking = self.by_label.lacking(labels, looked_at.get(), snapshot.entries.len());
        (snapshot, lacking)
    }

    /// Looks objects up by a label from now on.
    pub(crate) fn follow_label(&mut self, label: String) {
        self.by_label.add(label, &self.objects);
    }

    /// A page of those from its start on, in order.
    fn gather<'s>(
        &self,
        from_start: impl Iterator<Item = &'s Arc<Entry>>,
        prefix: &str,
        after: Option<&str>,
        limit: Option<usize>,
        matches: impl Fn(&Entry) -> bool,
    ) -> Snapshot {
        let mut rest = from_start.take_while(|entry| entry.key.starts_with(prefix));
        let limit = limit.unwrap_or(usize::MAX);
        let mut entries = Vec::new();
        while entries.len() < limit {
            match rest.next() {
                Some(entry) if matches(entry) => entries.push(Arc::clone(entry)),
                Some(_) => {}
                None => {
                    return Snapshot {
                        revision: self.revision,
                        entries,
                        remaining: 0,
                        damaged: self.damaged(prefix, after, None),
                    };
                }
            }
        }
        Snapshot {
            revision: self.revision,
            remaining: rest.count(),
            damaged: self.damaged(prefix, after, entries.last().map(|last| last.key.as_str())),
            entries,
        }
    }

    /// Applies changes of the store, in order, and hands them to watchers.
    pub(crate) fn apply(&mut self, events: Vec<Event>, written: &Written) {
        for event in events {
            let decoded = event.value.as_ref().map(|versioned| {
                let known = written.news(&event.key, &versioned.value, versioned.modified.0);
                debug_assert!(known.as_ref().is_none_or(|known| is_what_is_stored(known, versioned)), "{known:?}");
                known.map_or_else(|| decode(&event.key, versioned), Ok)
            });
            let decoded = decoded.transpose();
            let (new, damage) = match decoded {
                Ok(new) => (new, self.damaged.remove(&event.key)),
                Err(damage) => {
                    self.damaged.insert(event.key.clone(), damage.clone());
                    (None, Some(damage))
                }
            };
            let old = match &new {
                Some(entry) => self.objects.insert(event.key.clone(), Arc::clone(entry)),
                None => self.objects.remove(&event.key),
            };
            self.reindex(
                &event.key,
                old.as_ref().map(|entry| entry.object.as_ref()),
                new.as_ref().map(|entry| entry.object.as_ref()),
            );
            self.by_label.follow(old.as_ref(), new.as_ref());
            self.revision = self.revision.max(event.revision.0);
            if old.is_none() && new.is_none() && damage.is_none() {
                continue;
            }
            let change = Arc::new(Change {
                key: event.key,
                revision: event.revision.0,
                old,
                new,
                damage,
            });
            let delivery = Arc::new(Delivery::new(Arc::clone(&change)));
            self.watchers
                .retain(|watcher| !change.key.starts_with(&watcher.prefix) || watcher.send(Message::Change(Arc::clone(&delivery))));
            self.ring_bytes += change.bytes();
            self.ring.push_back(change);
        }
        written.reached(self.revision);
        while self.ring.len() > self.bounds.ring_changes || self.ring_bytes > self.bounds.ring_bytes {
            let Some(dropped) = self.ring.pop_front() else { break };
            self.ring_bytes -= dropped.bytes();
            self.floor = dropped.revision;
        }
    }

    /// Notes that nothing here changed up to `revision`.
    pub(crate) fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// Sends everybody who asked for it the revision reached. Also finds the
    /// watchers that have gone.
    pub(crate) fn bookmark(&mut self) {
        let revision = self.revision;
        self.watchers.retain(|watcher| {
            if watcher.bookmarks {
                watcher.send(Message::Progress(revision))
            } else {
                !watcher.changes.is_closed()
            }
        });
    }

    pub(crate) fn subscribe(&mut self, prefix: &str, from: &From, bookmarks: bool) -> Result<Subscription, NoStart> {
        let mut objects = Vec::new();
        let mut backlog = Vec::new();
        let mut revision = self.revision;
        match *from {
            From::Now => {
                let page = self.page(prefix, None, None, |_| true);
                // A prefix without a slash at its end is one object's key.
                let asked = |damage: &Damage| prefix.ends_with('/') || damage.key == prefix;
                let damaged: Vec<Damage> = page.damaged.into_iter().filter(asked).collect();
                if !damaged.is_empty() {
                    return Err(NoStart::Damaged(damaged));
                }
                objects = page.entries;
            }
            From::Later => {}
            From::After(asked) if asked < self.floor => return Err(NoStart::TooOld { asked, oldest: self.floor }),
            From::After(asked) => {
                // The ring is in order; what was asked for usually is near its end.
                let start = self.ring.partition_point(|change| change.revision <= asked);
                backlog = self
                    .ring
                    .range(start..)
                    .filter(|change| change.key.starts_with(prefix))
                    .cloned()
                    .collect();
                revision = asked;
            }
        }
        let (sender, changes) = mpsc::channel(self.bounds.queue_changes.max(1));
        if !self.ended {
            self.watchers.push(Watcher {
                prefix: prefix.to_owned(),
                bookmarks,
                changes: sender,
            });
        }
        Ok(Subscription {
            revision,
            objects,
            backlog,
            changes,
        })
    }
}

impl Watcher {
    /// False when the watcher is gone, or so far behind that it is let go; it
    /// alone has to start again.
    fn send(&self, message: Message) -> bool {
        match self.changes.try_send(message) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::info!(prefix = self.prefix, "a watcher fell behind and is dropped");
                false
            }
        }
    }
}
