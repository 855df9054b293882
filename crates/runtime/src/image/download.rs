//! A compressed layer from a registry into a file, in as many attempts as it
//! takes and a limit allows.
//!
//! The file stays when an attempt, a pull or the process ends early; the next
//! one hashes what is there and asks for the rest. It is locked (flock) while
//! written, so two pulls, in whatever processes, fetch a shared layer once.
//! Content counts only once the whole of it has the right digest.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use sha2::Digest as _;
use tokio::sync::mpsc;

use super::error::ImageError;
use super::manifest::Descriptor;
use super::pull::{PullError, interrupted};
use super::reference::Digest;
use super::registry::{RegistryError, Session};

/// Attempts without any new byte in a row before a layer is given up.
const ATTEMPTS_MAX: u32 = 4;
/// Interruptions of one download before it is left to the next pull.
const INTERRUPTIONS_MAX: u32 = 16;
const RETRY_BASE: Duration = Duration::from_millis(200);
/// Pieces (of some 16 KiB) between the network and the disk.
const QUEUE: usize = 32;
const LOCK_POLL: Duration = Duration::from_millis(50);

/// A layer's file while it is written.
struct Partial {
    path: PathBuf,
    file: File,
    hasher: sha2::Sha256,
    have: u64,
    size: u64,
}

/// Fetches a layer, and returns its file, whole, verified and rewound.
/// `progress` is told how many bytes are there.
pub(crate) async fn download(
    session: &Session,
    path: &Path,
    layer: &Descriptor,
    idle: Duration,
    progress: impl Fn(u64),
) -> Result<File, PullError> {
    let failed = |source| PullError::Registry {
        what: format!("layer {}", layer.digest),
        source,
    };
    let mut partial = open(path, layer, idle).await?;
    let mut resumed = partial.have > 0;
    let mut restarted = false;
    let mut attempt = 0;
    let mut interruptions = 0;
    loop {
        progress(partial.have);
        if partial.have == layer.size {
            match partial.verify(&layer.digest)? {
                None => return Ok(partial.file),
                // Perhaps only what an earlier attempt left is bad: once from the start.
                Some(_) if resumed && !restarted => restarted = true,
                Some(mismatch) => return Err(mismatch.into()),
            }
        }
        let before = partial.have;
        let failure = match attempt_once(session, partial, layer, &progress).await {
            Ok(rest) if rest.have == layer.size => {
                partial = rest;
                continue;
            }
            Ok(rest) => {
                let cause = format!("unexpected EOF after {} of {} bytes", rest.have, layer.size);
                partial = rest;
                RegistryError::Request {
                    url: format!("blob {}", layer.digest),
                    cause,
                    transient: true,
                }
            }
            Err((Some(rest), PullError::Registry { source, .. })) if source.is_transient() => {
                partial = rest;
                source
            }
            Err((_, error)) => return Err(error),
        };
        resumed = true;
        attempt = if partial.have > before { 1 } else { attempt + 1 };
        interruptions += 1;
        if attempt >= ATTEMPTS_MAX || interruptions >= INTERRUPTIONS_MAX {
            return Err(failed(failure));
        }
        tracing::debug!(layer = %layer.digest, %failure, attempt, "layer download interrupted, trying again");
        tokio::time::sleep(RETRY_BASE * 2_u32.pow(attempt - 1)).await;
    }
}

/// One request, appended to what is there. The file comes back with errors
/// too, unless it is beyond use.
async fn attempt_once(
    session: &Session,
    mut partial: Partial,
    layer: &Descriptor,
    progress: &impl Fn(u64),
) -> Result<Partial, (Option<Partial>, PullError)> {
    let failed = |source| PullError::Registry {
        what: format!("layer {}", layer.digest),
        source,
    };
    let content = match session.blob(&layer.digest, partial.have).await {
        Ok(content) => content,
        Err(error) => return Err((Some(partial), failed(error))),
    };
    if content.offset != partial.have {
        partial.reset().map_err(|error| (None, error.into()))?;
    }
    let mut done = partial.have;
    let (pieces, queue) = mpsc::channel::<Bytes>(QUEUE);
    let writer = tokio::task::spawn_blocking(move || partial.append_all(queue));
    let mut stream = content.stream;
    let mut outcome = Ok(());
    loop {
        match session.piece(&mut stream, &layer.digest).await {
            Ok(None) => break,
            Ok(Some(piece)) => {
                done += piece.len() as u64;
                // The writer has gone: its own error says why.
                if pieces.send(piece).await.is_err() {
                    break;
                }
                progress(done.min(layer.size));
            }
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    drop(pieces);
    let mut partial = match writer.await {
        Ok(Ok(partial)) => partial,
        Ok(Err(error)) => return Err((None, error.into())),
        Err(error) => return Err((None, interrupted("writing a layer", &error).into())),
    };
    match outcome {
        Ok(()) => Ok(partial),
        // What came is the whole, and wrong: nothing of it can be kept.
        Err(error @ RegistryError::Protocol(_)) => {
            let _ = partial.reset();
            Err((None, failed(error)))
        }
        Err(error) => Err((Some(partial), failed(error))),
    }
}

/// Opens and locks the file. While another pull writes it, waits as long as
/// it makes progress.
async fn open(path: &Path, layer: &Descriptor, idle: Duration) -> Result<Partial, ImageError> {
    let doing = || format!("open {}", path.display());
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| ImageError::io(doing(), error))?;
    let (mut seen, mut unchanged) = (0, Duration::ZERO);
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(ImageError::io(doing(), error)),
            Err(TryLockError::WouldBlock) if unchanged > idle => {
                return Err(ImageError::Locked {
                    path: path.to_owned(),
                    waited_s: idle.as_secs(),
                });
            }
            Err(TryLockError::WouldBlock) => {}
        }
        tokio::time::sleep(LOCK_POLL).await;
        let size = file.metadata().map_err(|error| ImageError::io(doing(), error))?.len();
        unchanged = if size == seen { unchanged + LOCK_POLL } else { Duration::ZERO };
        seen = size;
    }
    let (path, size) = (path.to_owned(), layer.size);
    let hashed = tokio::task::spawn_blocking(move || Partial::take_up(path, file, size)).await;
    hashed.map_err(|error| interrupted("hashing a layer", &error))?
}

impl Partial {
    /// Hashes what is there.
    fn take_up(path: PathBuf, mut file: File, size: u64) -> Result<Self, ImageError> {
        let mut hasher = sha2::Sha256::new();
        let mut have = 0;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    have += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ImageError::io(format!("read {}", path.display()), error)),
            }
        }
        let mut partial = Self {
            path,
            file,
            hasher,
            have,
            size,
        };
        if have > size {
            partial.reset()?;
        }
        Ok(partial)
    }

    /// Throws away what is there.
    fn reset(&mut self) -> Result<(), ImageError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|error| ImageError::io(format!("truncate {}", self.path.display()), error))?;
        self.hasher = sha2::Sha256::new();
        self.have = 0;
        Ok(())
    }

    fn append_all(mut self, mut queue: mpsc::Receiver<Bytes>) -> Result<Self, ImageError> {
        while let Some(piece) = queue.blocking_recv() {
            if piece.len() as u64 > self.size - self.have {
                self.reset()?;
                return Err(ImageError::Manifest {
                    what: format!("layer sha256:{}", self.path.file_name().unwrap_or_default().to_string_lossy()),
                    reason: "the registry sends more bytes than the manifest says".to_owned(),
                });
            }
            if let Err(error) = self.file.write_all(&piece) {
                let error = ImageError::io(format!("write {}", self.path.display()), error);
                if error.is_disk_full() {
                    // It would stay in the way of everything else.
                    let _ = std::fs::remove_file(&self.path);
                }
                return Err(error);
            }
            self.hasher.update(&piece);
            self.have += piece.len() as u64;
        }
        Ok(self)
    }

    /// Checks the digest of the whole. Right content is rewound and unlocked;
    /// wrong content is thrown away, and what is wrong returned.
    fn verify(&mut self, digest: &Digest) -> Result<Option<ImageError>, ImageError> {
        let found = Digest::from_hash(self.hasher.clone().finalize().into());
        if found != *digest {
            self.reset()?;
            return Ok(Some(ImageError::DigestMismatch {
                what: "layer".to_owned(),
                expected: digest.to_string(),
                found: found.to_string(),
            }));
        }
        let ready = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.unlock());
        ready.map_err(|error| ImageError::io(format!("rewind {}", self.path.display()), error))?;
        Ok(None)
    }
}
