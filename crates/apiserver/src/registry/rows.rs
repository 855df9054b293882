//! The rows that are there at one moment.

use std::cmp::Ordering;
use std::ops::Deref;
use std::sync::Arc;

use api::ResourceId;
use tokio_util::sync::CancellationToken;

use super::Resource;
use crate::hub::Hub;

/// A row of a registry: a resource, and the reader of its storage while it is
/// served. Whoever holds a row can read it to the end, also after it was
/// removed.
pub struct Row {
    resource: Resource,
    /// `None` where nobody serves, and where nothing is stored.
    hub: Option<Arc<Hub>>,
    /// The row is not served any more.
    ends: CancellationToken,
}

impl Deref for Row {
    type Target = Resource;

    fn deref(&self) -> &Resource {
        &self.resource
    }
}

impl Row {
    /// A row that is served, until `ends` is cancelled.
    pub(crate) const fn served(resource: Resource, hub: Option<Arc<Hub>>, ends: CancellationToken) -> Self {
        Self { resource, hub, ends }
    }

    /// The reader of its storage.
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        self.hub
            .as_ref()
            .expect("requests find only rows that a server has added, with the hub it opened, and rows that store nothing are not read")
    }

    /// Cancelled when the row is removed, and when the server is closed.
    pub(crate) const fn ends(&self) -> &CancellationToken {
        &self.ends
    }
}

/// Resources by group, version and plural. A change makes another registry;
/// they share the rows that stay.
#[derive(Clone, Default)]
pub struct Registry {
    /// In order.
    rows: Vec<Arc<Row>>,
}

impl Registry {
    /// The rows of these resources, for looking things up: nobody serves them.
    /// Of two under the same path the first counts.
    #[must_use]
    pub fn of(resources: impl IntoIterator<Item = Resource>) -> Self {
        resources.into_iter().fold(Self::default(), |registry, resource| {
            registry.with(Row::served(resource, None, CancellationToken::new()))
        })
    }

    /// The same, and a row; unless its path is taken.
    pub(crate) fn with(&self, row: Row) -> Self {
        let mut rows = self.rows.clone();
        if let Err(at) = self.position(&row.id.group, &row.id.version, &row.id.plural) {
            rows.insert(at, Arc::new(row));
        }
        Self { rows }
    }

    /// The same without a row.
    pub(crate) fn without(&self, row: &Arc<Row>) -> Self {
        let others = self.rows.iter().filter(|other| !Arc::ptr_eq(other, row));
        Self {
            rows: others.cloned().collect(),
        }
    }

    fn position(&self, group: &str, version: &str, plural: &str) -> Result<usize, usize> {
        let order =
            |id: &ResourceId| -> Ordering { (id.group.as_str(), id.version.as_str(), id.plural.as_str()).cmp(&(group, version, plural)) };
        self.rows.binary_search_by(|row| order(&row.id))
    }

    /// The row of a path's group, version and plural.
    #[must_use]
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Row>> {
        self.position(group, version, plural).ok().map(|at| &self.rows[at])
    }

    /// All rows, by group, version and plural.
    pub fn rows(&self) -> impl Iterator<Item = &Arc<Row>> {
        self.rows.iter()
    }

    /// The rows whose objects are stored.
    pub fn stored(&self) -> impl Iterator<Item = &Arc<Row>> {
        self.rows().filter(|row| row.is_stored())
    }
}
