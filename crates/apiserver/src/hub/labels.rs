//! Objects by the value of a label, for labels that lists are asked by.
//!
//! A label is followed once a list by it has looked at many objects to find
//! few: writes of a hub nobody asks so cost nothing. Sets hold the entries the
//! hub holds, so a followed label costs a pointer for each object that has it.

use std::borrow::Borrow;
use std::cmp::Ordering as Order;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::Selector;
use api::selector::{Operator, Requirement};

use super::Entry;

/// Labels followed at a time.
const FOLLOWED: usize = 8;
/// A label that none of this many lists was asked by makes room for another.
const UNUSED: u64 = 1_000;
/// Looking at fewer objects than this is not worth following a label.
const MANY: usize = 1_000;
/// Nor is it when at least one in this many was found.
const FEW: usize = 4;

/// An entry, ordered by its key.
struct ByKey(Arc<Entry>);

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        &self.0.key
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Order {
        self.0.key.cmp(&other.0.key)
    }
}

struct Followed {
    label: String,
    by_value: HashMap<String, BTreeSet<ByKey>>,
    /// Which list was the last by it.
    used_at: AtomicU64,
}

/// The labels that are followed.
#[derive(Default)]
pub(super) struct ByLabel {
    followed: Vec<Followed>,
    /// Lists by labels so far.
    lists: AtomicU64,
}

/// The value of a label.
fn value<'e>(entry: &'e Entry, label: &str) -> Option<&'e str> {
    entry.object.meta.labels.as_ref()?.get(label).map(String::as_str)
}

/// Whether a requirement names the values it wants.
fn is_lookup(requirement: &Requirement) -> bool {
    matches!(requirement.operator(), Operator::Equals | Operator::DoubleEquals | Operator::In)
}

impl ByLabel {
    /// Follows one object from what it was to what it is.
    pub(super) fn follow(&mut self, old: Option<&Arc<Entry>>, new: Option<&Arc<Entry>>) {
        for Followed { label, by_value, .. } in &mut self.followed {
            let before = old.and_then(|entry| value(entry, label));
            let now = new.and_then(|entry| value(entry, label));
            if let Some(value) = before.filter(|_| before != now)
                && let (Some(entries), Some(old)) = (by_value.get_mut(value), old)
            {
                entries.remove(old.key.as_str());
                if entries.is_empty() {
                    by_value.remove(value);
                }
            }
            if let (Some(value), Some(new)) = (now, new) {
                let entry = ByKey(Arc::clone(new));
                match by_value.get_mut(value) {
                    Some(entries) => drop(entries.replace(entry)),
                    None => drop(by_value.insert(value.to_owned(), BTreeSet::from([entry]))),
                }
            }
        }
    }

    /// The objects that may match, as few as is known, from `start` on, in
    /// order; `None` when no label of the selector is followed.
    pub(super) fn candidates<'s>(
        &'s self,
        selector: &Selector,
        start: Bound<&str>,
    ) -> Option<Box<dyn Iterator<Item = &'s Arc<Entry>> + 's>> {
        let list = self.lists.fetch_add(1, Ordering::Relaxed);
        let sets = |requirement: &Requirement| {
            let followed = self.followed.iter().find(|followed| followed.label == requirement.key())?;
            followed.used_at.store(list, Ordering::Relaxed);
            let sets = requirement.values().filter_map(|value| followed.by_value.get(value));
            Some(sets.collect::<Vec<&BTreeSet<ByKey>>>())
        };
        let lookups = selector.requirements().iter().filter(|requirement| is_lookup(requirement));
        let narrowest = lookups
            .filter_map(sets)
            .min_by_key(|sets| sets.iter().map(|set| set.len()).sum::<usize>())?;
        let ranges = narrowest.into_iter().map(|set| set.range::<str, _>((start, Bound::Unbounded)));
        let mut ranges = ranges.map(|range| range.map(|ByKey(entry)| entry)).collect::<Vec<_>>();
        if ranges.len() == 1 {
            return ranges.pop().map(|only| Box::new(only) as Box<dyn Iterator<Item = _>>);
        }
        let mut entries: Vec<&Arc<Entry>> = ranges.into_iter().flatten().collect();
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Some(Box::new(entries.into_iter()))
    }

    /// The label to follow after a list has looked at so many objects and found
    /// so many.
    pub(super) fn lacking(&self, selector: &Selector, looked_at: usize, found: usize) -> Option<String> {
        if looked_at < MANY || found > looked_at / FEW || !self.has_room() {
            return None;
        }
        let mut lookups = selector.requirements().iter().filter(|requirement| is_lookup(requirement));
        let lacks = |requirement: &&Requirement| !self.followed.iter().any(|followed| followed.label == requirement.key());
        lookups.find(lacks).map(|requirement| requirement.key().to_owned())
    }

    fn unused(&self) -> Option<usize> {
        let used_at = |at: &usize| self.followed[*at].used_at.load(Ordering::Relaxed);
        let oldest = (0..self.followed.len()).min_by_key(used_at)?;
        let lists = self.lists.load(Ordering::Relaxed);
        (lists.saturating_sub(used_at(&oldest)) > UNUSED).then_some(oldest)
    }

    fn has_room(&self) -> bool {
        self.followed.len() < FOLLOWED || self.unused().is_some()
    }

    /// Follows a label of these objects from now on, if there is room.
    pub(super) fn add(&mut self, label: String, objects: &BTreeMap<String, Arc<Entry>>) {
        if !self.has_room() || self.followed.iter().any(|followed| followed.label == label) {
            return;
        }
        if self.followed.len() >= FOLLOWED
            && let Some(unused) = self.unused()
        {
            self.followed.swap_remove(unused);
        }
        let mut by_value: HashMap<String, Vec<ByKey>> = HashMap::new();
        for entry in objects.values() {
            let Some(value) = value(entry, &label) else { continue };
            let entry = ByKey(Arc::clone(entry));
            match by_value.get_mut(value) {
                Some(entries) => entries.push(entry),
                None => drop(by_value.insert(value.to_owned(), vec![entry])),
            }
        }
        self.followed.push(Followed {
            label,
            by_value: by_value
                .into_iter()
                .map(|(value, entries)| (value, entries.into_iter().collect()))
                .collect(),
            used_at: AtomicU64::new(self.lists.load(Ordering::Relaxed)),
        });
    }
}

#[cfg(test)]
mod tests;
