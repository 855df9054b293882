//! An image from a registry into the store.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::StoredImage;
use super::download::download;
use super::error::ImageError;
use super::layer::{LayerId, Section, add_layer};
use super::manifest::{Configuration, Descriptor, Document, Manifest, Platform, chain_ids, check_layer_type};
use super::reference::{Digest, Reference, Version};
use super::registries::Registries;
use super::registry::{RegistryError, Session, Timeouts};
use super::store::{ImageStore, parse_reference};
use crate::{Auth, PullBytes};

/// Layers fetched at once, as containerd's default.
const LAYERS_AT_ONCE: usize = 3;
/// Progress messages kept for a slow reader.
const PROGRESS_QUEUE: usize = 256;
/// A layer reports again after this many bytes.
const PROGRESS_STEP_BYTES: u64 = 256 * 1024;
/// Largest manifest accepted, as most registries limit them.
const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Largest configuration accepted.
pub(crate) const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// An index may name indexes, this deep.
pub(crate) const INDEX_DEPTH_MAX: usize = 3;
/// Requests for a manifest before giving up on an unsteady registry.
const RESOLVE_ATTEMPTS: u32 = 3;
const RESOLVE_RETRY: Duration = Duration::from_millis(300);

/// Why a pull failed; the part after "failed to pull and unpack image".
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The reference could not be looked up.
    #[error("failed to resolve reference \"{reference}\": {source}")]
    Resolve {
        /// The normalized reference.
        reference: String,
        /// Why not.
        #[source]
        source: RegistryError,
    },
    /// A part of the image could not be fetched.
    #[error("failed to copy {what}: {source}")]
    Registry {
        /// Which part.
        what: String,
        /// Why not.
        #[source]
        source: RegistryError,
    },
    /// Not the registry's doing.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Where and how patiently images are pulled.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// Mirrors and plain-HTTP registries.
    pub registries: Registries,
    /// What images must run on.
    pub platform: Platform,
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Longest silence in the middle of an answer.
    pub idle_timeout: Duration,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            registries: Registries::default(),
            platform: Platform::host(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// How far a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// It was here before.
    Present,
    /// Being fetched, or waiting to be.
    Downloading,
    /// Being unpacked.
    Unpacking,
    /// Done.
    Ready,
}

/// News of one layer of a pull. Sent at every change of state and about every
/// 256 KiB between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The normalized reference being pulled.
    pub reference: Arc<str>,
    /// Digest of the layer's blob.
    pub layer: Arc<str>,
    /// What is happening to it.
    pub state: LayerState,
    /// Compressed bytes that are here.
    pub done_bytes: u64,
    /// Compressed bytes in all.
    pub total_bytes: u64,
}

/// Bytes of each layer that are here and in all, of every image that is pulled.
type UnderWay = Arc<Mutex<HashMap<Arc<str>, BTreeMap<Arc<str>, PullBytes>>>>;

/// Takes a pull off the list of those under way, however it ends.
struct Landing {
    reference: Arc<str>,
    under_way: UnderWay,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.reference);
    }
}

type Outcome = Result<StoredImage, Arc<ImageError>>;
type Flight = Shared<BoxFuture<'static, Outcome>>;
/// Credentials are part of what makes two pulls the same: a pod without them
/// must not get an image through one that has them.
type FlightKey = (String, Option<(String, String)>);

/// Pulls images into a store. Cheap to clone; clones share downloads.
#[derive(Clone)]
pub struct Puller {
    inner: Arc<Inner>,
}

struct Inner {
    store: ImageStore,
    options: PullOptions,
    flights: Mutex<HashMap<FlightKey, WeakShared<BoxFuture<'static, Outcome>>>>,
    progress: broadcast::Sender<Progress>,
    under_way: UnderWay,
}

impl Puller {
    /// A puller into `store`.
    #[must_use]
    pub fn new(store: ImageStore, options: PullOptions) -> Self {
        let (progress, _) = broadcast::channel(PROGRESS_QUEUE);
        Self {
            inner: Arc::new(Inner {
                store,
                options,
                flights: Mutex::default(),
                progress,
                under_way: UnderWay::default(),
            }),
        }
    }

    /// How far the pull of an image is; `None` while there is none, or its
    /// layers are not known yet.
    #[must_use]
    pub fn under_way(&self, reference: &str) -> Option<PullBytes> {
        let reference = parse_reference(reference).ok()?.to_string();
        let under_way = self.inner.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let layers = under_way.get(reference.as_str())?.values();
        Some(layers.fold(PullBytes::default(), |sum, layer| PullBytes {
            done: sum.done + layer.done,
            total: sum.total + layer.total,
        }))
    }

    /// News of all pulls. A reader that falls behind misses some.
    #[must_use]
    pub fn progress(&self) -> broadcast::Receiver<Progress> {
        self.inner.progress.subscribe()
    }

    /// Fetches what `reference` now means, always asking the registry. Calls
    /// for the same reference at the same time share one download, which ends
    /// early when the last of them is dropped; what was fetched is kept for
    /// the next.
    pub async fn pull(&self, reference: &str, auth: Option<&Auth>) -> Outcome {
        let reference = parse_reference(reference)?;
        let key = (
            reference.to_string(),
            auth.map(|auth| (auth.username.clone(), auth.password.clone())),
        );
        let flight = {
            let mut flights = self.inner.flights.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, flight| flight.upgrade().is_some_and(|flight| flight.peek().is_none()));
            match flights.get(&key).and_then(WeakShared::upgrade) {
                Some(flight) => flight,
                None => {
                    let flight = self.take_off(reference, auth.cloned());
                    if let Some(weak) = flight.downgrade() {
                        flights.insert(key, weak);
                    }
                    flight
                }
            }
        };
        flight.await
    }

    fn take_off(&self, reference: Reference, auth: Option<Auth>) -> Flight {
        let inner = Arc::clone(&self.inner);
        let pull = async move {
            let outcome = inner.pull(&reference, auth.as_ref()).await;
            outcome.map_err(|source| {
                Arc::new(ImageError::Pull {
                    reference: reference.to_string(),
                    source: Box::new(source),
                })
            })
        };
        pull.boxed().shared()
    }
}

/// An image as found in a registry.
struct Found {
    session: Arc<Session>,
    /// What the reference itself names: an index or the manifest.
    digest: Digest,
    documents: Vec<Bytes>,
    manifest: Manifest,
}

impl Inner {
    async fn pull(&self, reference: &Reference, auth: Option<&Auth>) -> Result<StoredImage, PullError> {
        let found = self.resolve(reference, auth).await?;
        let config_id = &found.manifest.config.digest;
        let config = found.session.small_blob(config_id, CONFIG_BYTES_MAX).await;
        let config = config.map_err(|source| PullError::Registry {
            what: format!("config {config_id}"),
            source,
        })?;
        let configuration = self.check(reference, &found.manifest, &config)?;
        let chain: Arc<[Digest]> = chain_ids(&configuration.diff_ids).into();
        let store = self.store.clone();
        let leased = Arc::clone(&chain);
        let lease = blocking("lease layers", move || store.lease(&leased)).await?;
        self.fetch_layers(reference, &found, &configuration.diff_ids, &chain).await?;
        let mut names = vec![reference.at(found.digest.clone())];
        if matches!(reference.version(), Version::Tag(_)) {
            names.push(reference.clone());
        }
        let (store, documents, layers) = (self.store.clone(), found.documents, chain.to_vec());
        let image = blocking("record the image", move || {
            let documents: Vec<&[u8]> = documents.iter().map(AsRef::as_ref).collect();
            store.add_image(&config, &documents, layers, &names, true)
        });
        let image = image.await?;
        drop(lease);
        for layer in &found.manifest.layers {
            // Unpacked and recorded; a failure leaves litter that ages out.
            let _ = tokio::fs::remove_file(self.store.download_path(&layer.digest)).await;
        }
        Ok(image)
    }

    /// Asks the mirrors and then the registry for the manifest.
    async fn resolve(&self, reference: &Reference, auth: Option<&Auth>) -> Result<Found, PullError> {
        let timeouts = Timeouts {
            connect: self.options.connect_timeout,
            idle: self.options.idle_timeout,
        };
        let endpoints = self.options.registries.endpoints(reference.registry());
        let mut last = None;
        for endpoint in endpoints {
            let ask = async {
                let session = Session::new(&endpoint, reference, auth, timeouts)?;
                let bytes = first_manifest(&session).await?;
                Ok((session, bytes))
            };
            match ask.await {
                Ok((session, bytes)) => return self.choose(reference, Arc::new(session), bytes).await,
                Err(error) => {
                    tracing::debug!(%reference, host = endpoint.host, %error, "registry endpoint failed");
                    last = Some(error);
                }
            }
        }
        let source = last.unwrap_or_else(|| RegistryError::NotFound(reference.to_string()));
        Err(PullError::Resolve {
            reference: reference.to_string(),
            source,
        })
    }

    /// Follows indexes to the manifest for this platform.
    async fn choose(&self, reference: &Reference, session: Arc<Session>, first: Bytes) -> Result<Found, PullError> {
        let digest = Digest::of(&first);
        if let Version::Digest(wanted) = reference.version()
            && *wanted != digest
        {
            return Err(mismatch("manifest", wanted, &digest).into());
        }
        let mut documents = vec![first];
        let mut name = reference.at(digest.clone()).to_string();
        for _ in 0..=INDEX_DEPTH_MAX {
            let bytes = &documents[documents.len() - 1];
            if bytes.len() > MANIFEST_BYTES_MAX {
                return Err(ImageError::Manifest {
                    what: format!("manifest {name}"),
                    reason: format!("has {} bytes, at most {MANIFEST_BYTES_MAX} are accepted", bytes.len()),
                }
                .into());
            }
            match Document::parse(bytes).map_err(|reason| ImageError::Manifest {
                what: format!("manifest {name}"),
                reason,
            })? {
                Document::Manifest(manifest) => {
                    return Ok(Found {
                        session,
                        digest,
                        documents,
                        manifest,
                    });
                }
                Document::Index(index) => {
                    let wanted = &self.options.platform;
                    let entry = index.choose(wanted).map_err(|offered| platform_error(reference, wanted, offered))?;
                    let bytes = session.manifest(Some(&entry.digest)).await;
                    let bytes = bytes.map_err(|source| PullError::Registry {
                        what: format!("manifest {}", entry.digest),
                        source,
                    })?;
                    let got = Digest::of(&bytes);
                    if got != entry.digest {
                        return Err(mismatch("manifest", &entry.digest, &got).into());
                    }
                    name = reference.at(entry.digest.clone()).to_string();
                    documents.push(bytes);
                }
            }
        }
        Err(ImageError::Manifest {
            what: format!("manifest {name}"),
            reason: format!("is an index more than {INDEX_DEPTH_MAX} deep"),
        }
        .into())
    }

    /// Whether the image can be had and run here, before its layers are fetched.
    fn check(&self, reference: &Reference, manifest: &Manifest, config: &[u8]) -> Result<Configuration, ImageError> {
        let what = || format!("config {} of {reference}", manifest.config.digest);
        let configuration = Configuration::parse(config).map_err(|reason| ImageError::Manifest { what: what(), reason })?;
        if !configuration.suits(&self.options.platform) {
            return Err(platform_error(
                reference,
                &self.options.platform,
                configuration.platform.to_string(),
            ));
        }
        if configuration.diff_ids.len() != manifest.layers.len() {
            let reason = format!(
                "lists {} layers, the manifest {}",
                configuration.diff_ids.len(),
                manifest.layers.len()
            );
            return Err(ImageError::Manifest { what: what(), reason });
        }
        for layer in &manifest.layers {
            let size_max = self.store.limits().archive_bytes;
            let size = if layer.size > size_max {
                Err(format!("has {} bytes, at most {size_max} are accepted", layer.size))
            } else {
                Ok(())
            };
            size.and_then(|()| check_layer_type(&layer.media_type))
                .map_err(|reason| ImageError::Manifest {
                    what: format!("layer {}", layer.digest),
                    reason,
                })?;
        }
        Ok(configuration)
    }

    /// Fetches layers, some at once, and unpacks each once those below it are.
    async fn fetch_layers(
        &self,
        reference: &Reference,
        found: &Found,
        diff_ids: &[Digest],
        chain: &Arc<[Digest]>,
    ) -> Result<(), PullError> {
        let slots = Arc::new(Semaphore::new(LAYERS_AT_ONCE));
        let name: Arc<str> = reference.to_string().into();
        let _landing = Landing {
            reference: Arc::clone(&name),
            under_way: Arc::clone(&self.under_way),
        };
        // A blob that occurs twice (empty layers do) is one download.
        let mut downloads: BTreeMap<&Digest, AbortOnDropHandle<Result<std::fs::File, PullError>>> = BTreeMap::new();
        for (layer, chain_id) in found.manifest.layers.iter().zip(chain.iter()) {
            let news = self.news(&name, layer);
            if self.store.has_layer(chain_id) {
                news(LayerState::Present, layer.size);
            } else if !downloads.contains_key(&layer.digest) {
                news(LayerState::Downloading, 0);
                let (slots, session, layer_copy) = (Arc::clone(&slots), Arc::clone(&found.session), layer.clone());
                let (path, idle) = (self.store.download_path(&layer.digest), self.options.idle_timeout);
                let task = tokio::spawn(async move {
                    // Never closed, so never an error; without a slot it would only be one more at once.
                    let _slot = slots.acquire().await;
                    download(&session, &path, &layer_copy, idle, |done| news(LayerState::Downloading, done)).await
                });
                downloads.insert(&layer.digest, AbortOnDropHandle::new(task));
            }
        }
        let mut files: BTreeMap<&Digest, std::fs::File> = BTreeMap::new();
        for (at, layer) in found.manifest.layers.iter().enumerate() {
            if self.store.has_layer(&chain[at]) {
                continue;
            }
            if let Some(task) = downloads.remove(&layer.digest) {
                let file = task.await.map_err(|error| interrupted("fetching a layer", &error))??;
                files.insert(&layer.digest, file);
            }
            let Some(file) = files.get(&layer.digest) else { continue };
            let news = self.news(&name, layer);
            news(LayerState::Unpacking, layer.size);
            let file = file
                .try_clone()
                .map_err(|error| ImageError::io("open a fetched layer again", error))?;
            let (store, chain, diff_id, digest) = (self.store.clone(), Arc::clone(chain), diff_ids[at].clone(), layer.digest.clone());
            blocking("unpack a layer", move || {
                let id = LayerId {
                    name: digest.as_str(),
                    diff_id: &diff_id,
                    chain: &chain[..=at],
                };
                add_layer(&store, &id, Section::new(&file, 0, u64::MAX))
            })
            .await
            .inspect_err(|_| {
                // Whole and verified, yet not usable: it must not be taken up again.
                let _ = std::fs::remove_file(self.store.download_path(&layer.digest));
            })?;
            news(LayerState::Ready, layer.size);
        }
        Ok(())
    }

    /// Reports of one layer; steps smaller than [`PROGRESS_STEP_BYTES`] are left out.
    fn news(&self, reference: &Arc<str>, layer: &Descriptor) -> impl Fn(LayerState, u64) + Send + Sync + use<> {
        let (progress, under_way) = (self.progress.clone(), Arc::clone(&self.under_way));
        let (reference, total_bytes) = (Arc::clone(reference), layer.size);
        let layer: Arc<str> = layer.digest.as_str().into();
        let last = Mutex::new((None, 0_u64));
        move |state, done_bytes| {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            let same = last.0 == Some(state);
            if same && done_bytes.abs_diff(last.1) < PROGRESS_STEP_BYTES && done_bytes != total_bytes {
                return;
            }
            *last = (Some(state), done_bytes);
            let far = PullBytes {
                done: done_bytes,
                total: total_bytes,
            };
            let mut pulls = under_way.lock().unwrap_or_else(PoisonError::into_inner);
            pulls.entry(Arc::clone(&reference)).or_default().insert(Arc::clone(&layer), far);
            drop(pulls);
            // No receiver is no error: nobody is watching.
            let _ = progress.send(Progress {
                reference: Arc::clone(&reference),
                layer: Arc::clone(&layer),
                state,
                done_bytes,
                total_bytes,
            });
        }
    }
}

/// The manifest a reference names, trying again while the registry is unsteady.
async fn first_manifest(session: &Session) -> Result<Bytes, RegistryError> {
    let mut attempt = 1;
    loop {
        let ask = async {
            session.authenticate().await?;
            session.manifest(None).await
        };
        match ask.await {
            Err(error) if error.is_transient() && attempt < RESOLVE_ATTEMPTS => {
                tokio::time::sleep(RESOLVE_RETRY * attempt).await;
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

async fn blocking<T: Send + 'static>(doing: &str, work: impl FnOnce() -> Result<T, ImageError> + Send + 'static) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| interrupted(doing, &error))?
}

pub(crate) fn interrupted(doing: &str, error: &JoinError) -> ImageError {
    ImageError::Interrupted {
        doing: doing.to_owned(),
        reason: error.to_string(),
    }
}

fn mismatch(what: &str, expected: &Digest, found: &Digest) -> ImageError {
    ImageError::DigestMismatch {
        what: what.to_owned(),
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

fn platform_error(reference: &Reference, wanted: &Platform, offered: String) -> ImageError {
    ImageError::Platform {
        what: reference.to_string(),
        wanted: wanted.to_string(),
        offered,
    }
}

#[cfg(test)]
mod tests;
