//! What is served: rows that come and go while requests are answered.
//!
//! There is one way to add a row, [`ApiServer::add`]: the built-in ones take it
//! when the server starts. A row is found by requests only once its hub has
//! read what is stored; everything that tells what is served (discovery,
//! OpenAPI, `Allow`) is read from the same rows, so all of it changes at once.
//!
//! A request looks a row up once and keeps it. Changes make another list of
//! rows and put it in place of the old one: no request waits for a change, and
//! no change for a request.
//!
//! [`ApiServer::remove`] ends the watches of the row and the hub of its
//! storage, unless another row shares it. What is stored stays there, and is
//! served again when the row is.

use std::sync::Arc;

use arc_swap::Guard;
use store::StoreError;

use crate::authz::Authorizer;
use crate::hub::Hub;
use crate::registry::{Registry, Resource, Row};
use crate::server::{ApiServer, Core};
use crate::{expiry, openapi};

/// What is served at one moment, and what is made of it.
pub(crate) struct Served {
    /// The rows.
    pub(crate) registry: Registry,
    /// Decides by what the hubs of some rows hold.
    pub(crate) authorizer: Authorizer,
    /// Hashes of the OpenAPI documents of the rows.
    pub(crate) openapi: openapi::Hashes,
}

impl Served {
    pub(crate) fn of(registry: Registry) -> Self {
        Self {
            authorizer: Authorizer::new(&registry),
            openapi: openapi::Hashes::default(),
            registry,
        }
    }
}

/// Why a row was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Another row has its path or its kind.
    #[error("{resource} is not served: {taken} of {api_version} is served already")]
    Taken {
        /// `plural.group` of the row.
        resource: String,
        /// The plural or the kind.
        taken: String,
        /// Its group and version.
        api_version: String,
    },
    /// Another row stores its objects in the same place, on other terms.
    #[error("{resource} is not served: {other} keeps its objects in {storage} too, with another time to live or index")]
    Storage {
        /// `plural.group` of the row.
        resource: String,
        /// The other row.
        other: String,
        /// The place.
        storage: String,
    },
    /// What is stored could not be read.
    #[error("reading {prefix} from the store")]
    Read {
        /// Which keys.
        prefix: String,
        /// Why.
        #[source]
        source: StoreError,
    },
}

impl Core {
    /// What is served now. For one look; what is kept for longer is a row.
    pub(crate) fn served(&self) -> Guard<Arc<Served>> {
        self.serving.load()
    }

    /// A row that is served now.
    pub(crate) fn row(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Row>> {
        self.served().registry.find(group, version, plural).cloned()
    }

    /// The hub of a row's storage: one that is open, or a new one.
    async fn open(&self, row: &Resource, registry: &Registry) -> Result<Arc<Hub>, AddError> {
        if let Some(other) = registry.stored().find(|other| other.storage == row.storage) {
            let same = other.ttl == row.ttl && other.indexed.is_some() == row.indexed.is_some();
            return same.then(|| Arc::clone(other.hub())).ok_or_else(|| AddError::Storage {
                resource: row.id.qualified(),
                other: other.id.qualified(),
                storage: row.storage.clone().into_owned(),
            });
        }
        let prefix = row.prefix(None);
        let ends = self.closing.child_token();
        let (hub, follow) = Hub::open(Arc::clone(&self.store), &prefix, row.indexed, &self.limits, ends)
            .await
            .map_err(|source| AddError::Read { prefix, source })?;
        self.in_background(follow);
        Ok(hub)
    }
}

impl ApiServer {
    /// Serves a row from now on. When this returns, requests find it and
    /// discovery tells of it.
    ///
    /// # Errors
    /// When its path, kind or storage is another row's, or the store cannot be
    /// read. Nothing has changed then.
    pub async fn add(&self, resource: Resource) -> Result<(), AddError> {
        let core = self.core();
        let _turn = core.changing.lock().await;
        let registry = &core.serving.load_full().registry;
        if let Some(taken) = taken(registry, &resource) {
            return Err(AddError::Taken {
                resource: resource.id.qualified(),
                taken,
                api_version: resource.id.api_version(),
            });
        }
        let shares = registry.stored().any(|other| other.storage == resource.storage);
        let hub = match resource.is_stored() {
            true => Some(core.open(&resource, registry).await?),
            false => None,
        };
        let ends = hub.as_ref().map_or(&core.closing, |hub| hub.ends()).child_token();
        let (group, version, plural) = (resource.id.group.clone(), resource.id.version.clone(), resource.id.plural.clone());
        let with = registry.with(Row::served(resource, hub, ends));
        let added = with.find(&group, &version, &plural).cloned();
        core.serving.store(Arc::new(Served::of(with)));
        // One for all rows of a storage.
        if let Some((row, ttl)) = added.filter(|_| !shares).and_then(|row| Some((Arc::clone(&row), row.ttl?))) {
            // Weak: the task ends with the server, which it must not keep.
            core.in_background(expiry::run(Arc::downgrade(core), row, ttl));
        }
        Ok(())
    }

    /// Serves a row no longer: its path is not found, and its watches end. Its
    /// objects stay in the store. False when it was not served.
    ///
    /// A write that was on its way when the row was removed is made or not
    /// made; its client is told which.
    pub async fn remove(&self, group: &str, version: &str, plural: &str) -> bool {
        let core = self.core();
        let _turn = core.changing.lock().await;
        let registry = &core.serving.load_full().registry;
        let Some(row) = registry.find(group, version, plural) else {
            return false;
        };
        let without = registry.without(row);
        let shared = without.stored().any(|other| other.storage == row.storage);
        core.serving.store(Arc::new(Served::of(without)));
        row.ends().cancel();
        if row.is_stored() && !shared {
            row.hub().ends().cancel();
        }
        true
    }
}

/// What of a resource another row has already: the plural or the kind.
fn taken(registry: &Registry, new: &Resource) -> Option<String> {
    let same = |row: &&Arc<Row>| row.id.group == new.id.group && row.id.version == new.id.version;
    registry.rows().filter(same).find_map(|row| {
        let plural = (row.id.plural == new.id.plural).then(|| format!("the resource {}", row.id.plural));
        plural.or_else(|| (row.id.kind == new.id.kind).then(|| format!("the kind {}", row.id.kind)))
    })
}

#[cfg(test)]
mod tests;
