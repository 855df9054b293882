//! What must be unique among all objects of a row, such as the addresses of
//! Services.
//!
//! Whoever gives something away reads what is taken, chooses (the row's
//! [`Strategy`](crate::registry::Strategy), pure), and commits the choice
//! together with a marker key of the storage, compared with what it was before
//! the reading. Of two that chose at the same time, in this process or another
//! over the same store, one commits and the other chooses again. Deletes do not
//! touch the marker: what they free may be missed, never given twice.

use std::sync::Arc;

use api::{Object, Status};
use bytes::Bytes;
use store::{Compare, Key, Op, Revision};
use tokio::sync::SemaphorePermit;

use crate::hub::Damage;
use crate::registry::{Resource, Row, Unallocated};
use crate::server::Core;
use crate::write::store_failed;

/// How often a write is tried again because another server gave something away
/// meanwhile. Within this server they take turns.
pub(crate) const ATTEMPTS: u32 = 32;

/// What was chosen, to be committed or dropped. Nobody else in this process
/// chooses while it is held.
pub(crate) struct Claim<'a> {
    /// The object with what it was given.
    pub(crate) object: Object,
    marker: Key,
    marked: Option<Revision>,
    turn: SemaphorePermit<'a>,
}

impl<'a> Claim<'a> {
    /// The object, and the turn, which is held until that is stored.
    pub(crate) fn into_parts(self) -> (Object, SemaphorePermit<'a>) {
        (self.object, self.turn)
    }

    /// Holds while nothing was given away since the choice.
    pub(crate) fn compare(&self) -> Compare {
        match self.marked {
            None => Compare::Absent(self.marker.clone()),
            Some(revision) => Compare::ModifiedAt(self.marker.clone(), revision),
        }
    }

    /// Tells everybody else that something was given away. The value, the key
    /// of the object that got it, is for people.
    pub(crate) fn op(&self, key: &str) -> Op {
        Op::Put(self.marker.clone(), Bytes::copy_from_slice(key.as_bytes()))
    }
}

impl Core {
    /// Chooses what the object is to be given; `None` when that is nothing.
    pub(crate) async fn allocate(&self, row: &Row, new: &Object, old: Option<&Object>) -> Result<Option<Claim<'_>>, Status> {
        if !row.strategy.allocates(new, old) {
            return Ok(None);
        }
        let closed = |_| Status::unavailable("the server is shutting down");
        let turn = self.allocating.acquire().await.map_err(closed)?;
        let marker = format!("/registry/allocations/{}", row.storage);
        // Before the objects: whatever is given away after this changes it.
        let marked = self.store.get(&marker).await.map_err(|error| store_failed(&error))?;
        let marked = marked.map(|marked| marked.modified);
        let newest = marked.unwrap_or_default().max(self.store.revision());
        let hub = row.hub();
        if !hub.reach(newest.0, self.limits.fresh_timeout).await {
            return Err(Status::unavailable(format!(
                "the server is behind its store: what {} have taken up to revision {newest} is not read yet; try again",
                row.id.plural
            )));
        }
        // What a damaged object has taken nobody knows.
        let existing = hub.page(&row.prefix(None), None, None, |_| true).whole();
        let existing = existing.map_err(|damaged| Damage::of_list(&row.id, &damaged))?;
        let existing: Vec<Arc<Object>> = existing.iter().map(|entry| Arc::clone(&entry.object)).collect();
        let mut object = new.clone();
        row.strategy
            .allocate(&mut object, &existing, &self.ranges)
            .map_err(|why| match why {
                Unallocated::Refused(violation) => Status::invalid(&row.id, new.name(), &[violation]),
                Unallocated::Exhausted(what) => Status::internal(&what),
            })?;
        Ok(Some(Claim {
            object,
            marker,
            marked,
            turn,
        }))
    }
}

/// 429 for a write that lost to others every time.
pub(crate) fn contended(row: &Resource, name: &str) -> Status {
    Status::too_many_requests(
        format!(
            "{} {name:?} was not stored: what it depends on keeps changing; try again",
            row.id.qualified()
        ),
        1,
    )
}

#[cfg(test)]
mod tests;
