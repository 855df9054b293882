//! What a batch of transactions does to the store: a pure function.
//!
//! Transactions of one batch become durable together but stay separate: each is
//! checked against the state the earlier ones left, takes a revision of its own,
//! and fails alone.

use std::collections::BTreeMap;

use crate::{Compare, Event, KEY_BYTES_MAX, Key, Op, Revision, StoreError, TXN_BYTES_MAX, TXN_OPS_MAX, Txn, Versioned};

/// What one key was before a batch and is after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The value before the batch; `None` if the key did not exist.
    pub before: Option<Versioned>,
    /// The value after the batch; `None` if the key no longer exists.
    pub after: Option<Versioned>,
}

/// The net effect of a batch: what a journal has to make durable, all of it or
/// nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The newest revision before the batch.
    pub from: Revision,
    /// The newest revision after the batch.
    pub to: Revision,
    /// Every key that was written, in key order.
    pub changes: BTreeMap<Key, Change>,
}

impl Batch {
    /// The batch that takes this one back.
    #[must_use]
    pub fn reversed(self) -> Self {
        let changes = self
            .changes
            .into_iter()
            .map(|(key, change)| {
                (
                    key,
                    Change {
                        before: change.after,
                        after: change.before,
                    },
                )
            })
            .collect();
        Self {
            from: self.to,
            to: self.from,
            changes,
        }
    }
}

/// A batch, its history, and what each client is told once it is durable.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) batch: Batch,
    /// Every change of every transaction, in revision order.
    pub(crate) events: Vec<Event>,
    /// One outcome per transaction, in the order they were given.
    pub(crate) outcomes: Vec<Result<Revision, StoreError>>,
}

/// Applies `txns` in order to `live`, as it is at revision `newest`.
pub(crate) fn plan(live: &BTreeMap<Key, Versioned>, newest: Revision, txns: impl IntoIterator<Item = Txn>) -> Plan {
    let mut plan = Plan {
        batch: Batch {
            from: newest,
            to: newest,
            changes: BTreeMap::new(),
        },
        ..Plan::default()
    };
    for txn in txns {
        let outcome = plan.add(live, txn);
        plan.outcomes.push(outcome);
    }
    plan
}

impl Plan {
    fn add(&mut self, live: &BTreeMap<Key, Versioned>, txn: Txn) -> Result<Revision, StoreError> {
        if let Some(failed) = txn.compare.iter().find(|compare| !self.holds(live, compare)) {
            return Err(StoreError::Conflict {
                key: compared_key(failed).to_owned(),
            });
        }
        let revision = Revision(self.batch.to.0 + 1);
        for op in txn.ops {
            self.change(live, op, revision);
        }
        Ok(self.batch.to)
    }

    /// The value of a key as the earlier transactions of the batch left it.
    fn current<'a>(&'a self, live: &'a BTreeMap<Key, Versioned>, key: &str) -> Option<&'a Versioned> {
        match self.batch.changes.get(key) {
            Some(change) => change.after.as_ref(),
            None => live.get(key),
        }
    }

    fn holds(&self, live: &BTreeMap<Key, Versioned>, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => self.current(live, key).is_none(),
            Compare::Present(key) => self.current(live, key).is_some(),
            Compare::ModifiedAt(key, revision) => self.current(live, key).is_some_and(|found| found.modified == *revision),
        }
    }

    fn change(&mut self, live: &BTreeMap<Key, Versioned>, op: Op, revision: Revision) {
        let (key, bytes) = match op {
            Op::Put(key, bytes) => (key, Some(bytes)),
            Op::Delete(key) => (key, None),
        };
        let previous = self.current(live, &key).cloned();
        if bytes.is_none() && previous.is_none() {
            return;
        }
        let value = bytes.map(|bytes| Versioned {
            value: bytes,
            created: previous.as_ref().map_or(revision, |previous| previous.created),
            modified: revision,
        });
        let change = self.batch.changes.entry(key.clone()).or_insert_with(|| Change {
            before: previous.clone(),
            after: None,
        });
        change.after.clone_from(&value);
        self.batch.to = revision;
        self.events.push(Event {
            revision,
            key,
            value,
            previous,
        });
    }
}

fn compared_key(compare: &Compare) -> &str {
    match compare {
        Compare::Absent(key) | Compare::Present(key) | Compare::ModifiedAt(key, _) => key,
    }
}

fn changed_key(op: &Op) -> &str {
    match op {
        Op::Put(key, _) | Op::Delete(key) => key,
    }
}

/// How many bytes a transaction brings: what the limits and the size of a batch
/// are counted in.
pub(crate) fn txn_bytes(txn: &Txn) -> usize {
    let compared: usize = txn.compare.iter().map(|compare| compared_key(compare).len()).sum();
    let written: usize = txn
        .ops
        .iter()
        .map(|op| match op {
            Op::Put(key, value) => key.len() + value.len(),
            Op::Delete(key) => key.len(),
        })
        .sum();
    compared + written
}

/// Refuses a transaction the store does not take, whatever its state.
pub(crate) fn check(txn: &Txn) -> Result<(), StoreError> {
    let refuse = |reason: String| Err(StoreError::Unstorable(reason));
    let longest = txn.compare.len().max(txn.ops.len());
    if longest > TXN_OPS_MAX {
        return refuse(format!(
            "it has {longest} comparisons or operations; at most {TXN_OPS_MAX} are taken"
        ));
    }
    let mut changed: Vec<&str> = txn.ops.iter().map(changed_key).collect();
    for key in txn.compare.iter().map(compared_key).chain(changed.iter().copied()) {
        if key.is_empty() {
            return refuse("a key is empty".to_owned());
        }
        if key.len() > KEY_BYTES_MAX {
            let start: String = key.chars().take(64).collect();
            return refuse(format!(
                "the key starting with {start} has {} bytes; at most {KEY_BYTES_MAX} are taken",
                key.len()
            ));
        }
    }
    changed.sort_unstable();
    if let Some(twice) = changed.windows(2).find(|pair| pair[0] == pair[1]) {
        return refuse(format!("key {} is changed twice", twice[0]));
    }
    let bytes = txn_bytes(txn);
    if bytes > TXN_BYTES_MAX {
        let key = changed.first().copied().unwrap_or("(none)");
        return refuse(format!(
            "its keys and values, the first key being {key}, have {bytes} bytes; at most {TXN_BYTES_MAX} are taken"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
