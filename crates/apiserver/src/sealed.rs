//! Values that are not on disk as they are: a store that encrypts those of
//! some keys, whoever reads or writes them.
//!
//! A sealed value is `k8s:enc:aesgcm:v1:<key name>:`, a nonce of 12 bytes, and
//! AES-256-GCM with the store's key as additional data: a value put under
//! another name does not open. Values from before stay readable, and are sealed
//! at the next start ([`Sealed::reseal`]).
//!
//! Source: Kubernetes "Encrypting confidential data at rest"; the form is that
//! of upstream's `aesgcm` provider
//! (`apiserver/pkg/storage/value/encrypt/aes/aes.go`).

mod keys;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use store::{Compare, Event, Op, Page, Range, Revision, Store, StoreError, Txn, Versioned, Watch, WatchMessage};

pub use self::keys::{Keys, KeysError};

/// Storage prefixes that are sealed: those of Secrets.
///
/// Source: what upstream's documentation encrypts.
pub const PREFIXES: &[&str] = &["/registry/secrets/"];

/// Values of one transaction while everything is sealed anew.
const BATCH: usize = 48;

/// A store some of whose values are sealed.
pub struct Sealed {
    inner: Arc<dyn Store>,
    keys: Keys,
}

/// Whether values of a key are sealed.
fn is_sealed(key: &str) -> bool {
    PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

impl Sealed {
    /// Over another store.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, keys: Keys) -> Self {
        Self { inner, keys }
    }

    /// Seals every value that is plain, or sealed with another key than the
    /// first one. One that does not open stays as it is.
    ///
    /// # Errors
    /// When the store fails; what was done by then is done.
    pub async fn reseal(&self) -> Result<Resealed, StoreError> {
        let mut resealed = Resealed::default();
        for prefix in PREFIXES {
            let range = self.inner.range(prefix, None, Page::default()).await?;
            let mut txn = Txn::default();
            for (key, versioned) in &range.entries {
                let opened = match self.keys.open(key, &versioned.value) {
                    Ok(opened) => opened,
                    Err(source) => {
                        resealed.unreadable.push((key.clone(), source));
                        continue;
                    }
                };
                if opened.newest {
                    continue;
                }
                txn.compare.push(Compare::ModifiedAt(key.clone(), versioned.modified));
                txn.ops.push(Op::Put(key.clone(), self.keys.seal(key, &opened.plain)));
                resealed.count += 1;
                if txn.ops.len() >= BATCH {
                    self.inner.commit(std::mem::take(&mut txn)).await?;
                }
            }
            if !txn.ops.is_empty() {
                self.inner.commit(txn).await?;
            }
        }
        Ok(resealed)
    }

    fn opened(&self, key: &str, mut versioned: Versioned) -> Versioned {
        if is_sealed(key) {
            match self.keys.open(key, &versioned.value) {
                Ok(opened) => versioned.value = opened.plain,
                // Left as it is, it does not decode: one value that does not
                // open must not take the others with it.
                Err(error) => tracing::error!(key, %error, "a stored value cannot be decrypted"),
            }
        }
        versioned
    }
}

/// What came of sealing everything anew.
#[derive(Debug, Default)]
pub struct Resealed {
    /// Values that are sealed with the first key now, and were not.
    pub count: usize,
    /// Keys of values that do not open, and why.
    pub unreadable: Vec<(String, KeysError)>,
}

#[async_trait]
impl Store for Sealed {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let found = self.inner.get(key).await?;
        Ok(found.map(|versioned| self.opened(key, versioned)))
    }

    async fn range(&self, prefix: &str, at: Option<Revision>, page: Page) -> Result<Range, StoreError> {
        let mut range = self.inner.range(prefix, at, page).await?;
        for (key, versioned) in &mut range.entries {
            if is_sealed(key) {
                *versioned = self.opened(key, versioned.clone());
            }
        }
        Ok(range)
    }

    async fn commit(&self, mut txn: Txn) -> Result<Revision, StoreError> {
        for op in &mut txn.ops {
            if let Op::Put(key, value) = op
                && is_sealed(key)
            {
                *value = self.keys.seal(key, value);
            }
        }
        self.inner.commit(txn).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let watch = self.inner.watch(prefix, after).await?;
        if !PREFIXES
            .iter()
            .any(|sealed| sealed.starts_with(prefix) || prefix.starts_with(sealed))
        {
            return Ok(watch);
        }
        let opener = Self {
            inner: Arc::clone(&self.inner),
            keys: self.keys.clone(),
        };
        let open = move |message: Result<WatchMessage, StoreError>| {
            message.map(|message| match message {
                WatchMessage::Events(events) => WatchMessage::Events(events.into_iter().map(|event| opener.event(event)).collect()),
                progress @ WatchMessage::Progress(_) => progress,
            })
        };
        Ok(watch.map(open).boxed())
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.inner.compact(through).await
    }

    fn revision(&self) -> Revision {
        self.inner.revision()
    }
}

impl Sealed {
    fn event(&self, mut event: Event) -> Event {
        event.value = event.value.map(|versioned| self.opened(&event.key, versioned));
        event.previous = event.previous.map(|versioned| self.opened(&event.key, versioned));
        event
    }
}

/// A value in the clear.
pub(crate) struct Opened {
    plain: Bytes,
    /// It was sealed with the first key.
    newest: bool,
}

#[cfg(test)]
mod tests;
