//! One layer from its compressed file to its place in the store.

use std::fs;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt};

use sha2::Digest as _;

use super::archive::Archive;
use super::error::ImageError;
use super::reference::Digest;
use super::store::ImageStore;
use super::unpack::{UnpackError, unpack};

const READ_BYTES: usize = 256 * 1024;

/// Which layer is meant.
#[derive(Clone, Debug)]
pub(crate) struct LayerId<'a> {
    /// For messages: digest of the blob, or path in an archive.
    pub(crate) name: &'a str,
    /// Digest of the uncompressed archive.
    pub(crate) diff_id: &'a Digest,
    /// The chain of the image up to and including this layer, bottom first.
    pub(crate) chain: &'a [Digest],
}

/// Unpacks a layer, compressed or not, unless it is there already. Checks that
/// the uncompressed archive, to its last byte, has the promised digest.
pub(crate) fn add_layer(store: &ImageStore, id: &LayerId<'_>, source: impl Read) -> Result<(), ImageError> {
    let Some((chain_id, below)) = id.chain.split_last() else {
        return Ok(());
    };
    if store.has_layer(chain_id) {
        return Ok(());
    }
    let failed = |source: UnpackError| {
        if source.is_disk_full() {
            ImageError::DiskFull {
                doing: format!("extract layer {}", id.name),
            }
        } else {
            ImageError::Unpack {
                layer: id.name.to_owned(),
                source,
            }
        }
    };
    let temp = store.temp("layer");
    let root = temp.as_path().join("fs");
    fs::DirBuilder::new()
        .mode(0o700)
        .create(temp.as_path())
        .and_then(|()| fs::DirBuilder::new().mode(0o755).create(&root))
        .map_err(|error| ImageError::io(format!("make {}", root.display()), error))?;
    let below: Vec<_> = below.iter().rev().map(|layer| store.layer_fs(layer)).collect();
    let (plain, _) = decompress(source).map_err(|error| failed(UnpackError::Read(error)))?;
    let plain = Measured {
        source: plain,
        hasher: sha2::Sha256::new(),
        left: store.limits().archive_bytes,
        exceeded: false,
    };
    let mut archive = Archive::new(plain, store.limits().entries);
    let outcome = unpack(&mut archive, &root, &below);
    let mut plain = archive.into_rest();
    // The digest covers what follows the archive's end mark as well.
    let outcome = outcome.and_then(|bytes| io::copy(&mut plain, &mut io::sink()).map(|_| bytes).map_err(UnpackError::Read));
    if plain.exceeded {
        return Err(failed(UnpackError::Limit {
            what: "bytes",
            max: store.limits().archive_bytes,
        }));
    }
    let bytes = outcome.map_err(failed)?;
    let found = Digest::from_hash(plain.hasher.finalize().into());
    if found != *id.diff_id {
        return Err(ImageError::DigestMismatch {
            what: format!("uncompressed layer {}", id.name),
            expected: id.diff_id.to_string(),
            found: found.to_string(),
        });
    }
    let size = temp.as_path().join("size");
    fs::write(&size, bytes.to_string()).map_err(|error| ImageError::io(format!("write {}", size.display()), error))?;
    store.add_layer(chain_id, &temp)
}

/// Recognizes the compression by its first bytes, as containerd does: media
/// types are often wrong. Also tells whether there was any.
pub(crate) fn decompress<'a>(source: impl Read + 'a) -> io::Result<(Box<dyn Read + 'a>, bool)> {
    let mut source = BufReader::with_capacity(READ_BYTES, source);
    // A short first read would hide the magic number; four bytes are certain.
    let mut magic = Vec::with_capacity(4);
    (&mut source).take(4).read_to_end(&mut magic)?;
    let gzip = magic.starts_with(&[0x1f, 0x8b]);
    let zstd = magic == [0x28, 0xb5, 0x2f, 0xfd] || matches!(magic[..], [0x50..=0x5f, 0x2a, 0x4d, 0x18]);
    let whole = io::Cursor::new(magic).chain(source);
    let plain: Box<dyn Read + 'a> = if gzip {
        Box::new(flate2::read::MultiGzDecoder::new(whole))
    } else if zstd {
        Box::new(zstd::stream::read::Decoder::new(whole)?)
    } else {
        Box::new(whole)
    };
    Ok((plain, gzip || zstd))
}

/// Hashes what passes, and ends it at a limit.
struct Measured<R> {
    source: R,
    hasher: sha2::Sha256,
    left: u64,
    exceeded: bool,
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        match self.left.checked_sub(n as u64) {
            Some(left) => self.left = left,
            None => {
                self.exceeded = true;
                return Err(io::Error::other("the archive is too large"));
            }
        }
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

/// Part of a file, read independently of the file's own offset.
pub(crate) struct Section<'a> {
    file: &'a fs::File,
    at: u64,
    left: u64,
}

impl<'a> Section<'a> {
    /// `size` bytes from `at`, or as many as there are.
    pub(crate) fn new(file: &'a fs::File, at: u64, size: u64) -> Self {
        Self { file, at, left: size }
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}
