//! Images from files: OCI layouts (directories or archives of them) and what
//! `docker save` writes, each also compressed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::archive::{Archive, Kind};
use super::error::ImageError;
use super::layer::{LayerId, Section, add_layer, decompress};
use super::manifest::{Configuration, Descriptor, Document, LAYERS_MAX, Manifest, Platform, chain_ids, check_layer_type};
use super::pull::{CONFIG_BYTES_MAX, INDEX_DEPTH_MAX};
use super::reference::{Digest, Reference};
use super::scratch::TempPath;
use super::store::ImageStore;

/// Where containerd and newer Docker put the full name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Where the OCI specification puts a name, often only a tag.
const OCI_NAME: &str = "org.opencontainers.image.ref.name";

/// An image whose layers are in the store, not recorded yet.
struct Ready {
    config: Vec<u8>,
    documents: Vec<Vec<u8>>,
    chain: Vec<Digest>,
    names: Vec<Reference>,
    _lease: TempPath,
}

/// A manifest, and the documents that led to it.
struct Resolved {
    documents: Vec<Vec<u8>>,
    manifest: Manifest,
}

/// One line of a docker-save archive's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl ImageStore {
    /// Adds the images of an archive or OCI layout directory and returns their
    /// names. All of them or, on an error, none. Blocks: reads and unpacks.
    pub fn import(&self, path: &Path) -> Result<Vec<String>, ImageError> {
        self.import_for(path, &Platform::host())
    }

    /// As [`import`](Self::import), choosing images for another platform.
    pub fn import_for(&self, path: &Path, platform: &Platform) -> Result<Vec<String>, ImageError> {
        let import = Import {
            store: self,
            path,
            platform,
            source: Source::open(self, path)?,
        };
        let ready = import.read()?;
        let mut names = BTreeSet::new();
        for image in ready {
            let documents: Vec<&[u8]> = image.documents.iter().map(Vec::as_slice).collect();
            self.add_image(&image.config, &documents, image.chain, &image.names, false)?;
            names.extend(image.names.iter().map(ToString::to_string).filter(|name| !name.contains('@')));
        }
        Ok(names.into_iter().collect())
    }
}

struct Import<'a> {
    store: &'a ImageStore,
    path: &'a Path,
    platform: &'a Platform,
    source: Source,
}

impl Import<'_> {
    fn read(&self) -> Result<Vec<Ready>, ImageError> {
        let saved = match self.source.small("manifest.json").map_err(|reason| self.bad(reason))? {
            Some(bytes) => serde_json::from_slice::<Vec<Saved>>(&bytes).map_err(|error| self.bad(format!("manifest.json: {error}")))?,
            None => Vec::new(),
        };
        if let Some(index) = self.source.small("index.json").map_err(|reason| self.bad(reason))? {
            return self.oci(&index, &saved);
        }
        if saved.is_empty() {
            return Err(self.bad("it is neither an OCI image layout (index.json) nor a docker-save archive (manifest.json)".to_owned()));
        }
        saved.iter().map(|image| self.docker(image)).collect()
    }

    fn oci(&self, index: &[u8], saved: &[Saved]) -> Result<Vec<Ready>, ImageError> {
        let document = Document::parse(index).map_err(|reason| self.bad(format!("index.json {reason}")))?;
        let Document::Index(index) = document else {
            return Err(self.bad("index.json is not an index".to_owned()));
        };
        let mut ready = Vec::new();
        let mut offered = Vec::new();
        for entry in &index.manifests {
            match self.resolve(entry)? {
                Ok(found) => ready.push(self.oci_image(entry, found, saved)?),
                Err(others) => offered.push(others),
            }
        }
        if ready.is_empty() {
            let offered = if offered.is_empty() {
                "nothing".to_owned()
            } else {
                offered.join(", ")
            };
            return Err(ImageError::Platform {
                what: self.path.display().to_string(),
                wanted: self.platform.to_string(),
                offered,
            });
        }
        Ok(ready)
    }

    /// Follows indexes to the manifest for the platform; the inner error lists
    /// the platforms there are instead.
    fn resolve(&self, entry: &Descriptor) -> Result<Result<Resolved, String>, ImageError> {
        let mut documents = Vec::new();
        let mut next = entry.clone();
        for _ in 0..=INDEX_DEPTH_MAX {
            if let Some(platform) = next.platform.as_ref().filter(|platform| !platform.os.is_empty())
                && (platform.os != self.platform.os || platform.architecture != self.platform.architecture)
            {
                return Ok(Err(platform.to_string()));
            }
            let bytes = self.blob(&next.digest)?;
            let document = Document::parse(&bytes).map_err(|reason| self.bad(format!("manifest {} {reason}", next.digest)))?;
            documents.push(bytes);
            match document {
                Document::Manifest(manifest) => return Ok(Ok(Resolved { documents, manifest })),
                Document::Index(index) => match index.choose(self.platform) {
                    Ok(chosen) => next = chosen.clone(),
                    Err(offered) => return Ok(Err(offered)),
                },
            }
        }
        Err(self.bad(format!("manifest {} is an index more than {INDEX_DEPTH_MAX} deep", entry.digest)))
    }

    fn oci_image(&self, entry: &Descriptor, found: Resolved, saved: &[Saved]) -> Result<Ready, ImageError> {
        let Resolved { documents, manifest } = found;
        let config = self.blob(&manifest.config.digest)?;
        let configuration = self.configuration(&config, manifest.layers.len())?;
        let mut names = self.annotated(entry)?;
        let config_path = blob_path(&manifest.config.digest);
        for image in saved.iter().filter(|image| image.config == config_path) {
            names.extend(self.tags(image)?);
        }
        names.sort();
        names.dedup();
        if names.is_empty() {
            return Err(self.bad(format!(
                "image {} has no name: annotate it with {OCI_NAME}, such as docker.io/library/name:tag",
                entry.digest
            )));
        }
        let digests: BTreeSet<Reference> = names.iter().map(|name| name.at(entry.digest.clone())).collect();
        names.extend(digests);
        let chain = chain_ids(&configuration.diff_ids);
        let lease = self.store.lease(&chain)?;
        for (at, layer) in manifest.layers.iter().enumerate() {
            check_layer_type(&layer.media_type).map_err(|reason| self.bad(format!("layer {} {reason}", layer.digest)))?;
            let id = LayerId {
                name: layer.digest.as_str(),
                diff_id: &configuration.diff_ids[at],
                chain: &chain[..=at],
            };
            self.layer(&id, &blob_path(&layer.digest))?;
        }
        Ok(Ready {
            config,
            documents,
            chain,
            names,
            _lease: lease,
        })
    }

    fn docker(&self, image: &Saved) -> Result<Ready, ImageError> {
        let config = self.small(&image.config)?;
        let layers = image.layers.as_deref().unwrap_or_default();
        let configuration = self.configuration(&config, layers.len())?;
        let names = self.tags(image)?;
        if names.is_empty() {
            return Err(self.bad(format!("image {} has no name: save it by its name, not its id", image.config)));
        }
        let chain = chain_ids(&configuration.diff_ids);
        let lease = self.store.lease(&chain)?;
        for (at, layer) in layers.iter().enumerate() {
            let id = LayerId {
                name: layer,
                diff_id: &configuration.diff_ids[at],
                chain: &chain[..=at],
            };
            self.layer(&id, layer)?;
        }
        Ok(Ready {
            config,
            documents: Vec::new(),
            chain,
            names,
            _lease: lease,
        })
    }

    fn configuration(&self, config: &[u8], layers: usize) -> Result<Configuration, ImageError> {
        let what = || format!("configuration {}", Digest::of(config));
        let configuration = Configuration::parse(config).map_err(|reason| self.bad(format!("{} {reason}", what())))?;
        if !configuration.suits(self.platform) {
            let offered = configuration.platform.to_string();
            return Err(ImageError::Platform {
                what: self.path.display().to_string(),
                wanted: self.platform.to_string(),
                offered,
            });
        }
        if configuration.diff_ids.len() != layers || layers > LAYERS_MAX {
            return Err(self.bad(format!(
                "{} lists {} layers, the manifest {layers} (at most {LAYERS_MAX})",
                what(),
                configuration.diff_ids.len()
            )));
        }
        Ok(configuration)
    }

    fn layer(&self, id: &LayerId<'_>, path: &str) -> Result<(), ImageError> {
        let content = self.source.content(path).map_err(|reason| self.bad(reason))?;
        let content = content.ok_or_else(|| self.bad(format!("{path} is missing")))?;
        add_layer(self.store, id, content)
    }

    /// Names from an index entry's annotations. One that is only a tag names nothing.
    fn annotated(&self, entry: &Descriptor) -> Result<Vec<Reference>, ImageError> {
        let name = entry
            .annotations
            .get(CONTAINERD_NAME)
            .or_else(|| entry.annotations.get(OCI_NAME).filter(|name| name.contains(['/', ':'])));
        name.into_iter().map(|name| self.name(name)).collect()
    }

    fn tags(&self, image: &Saved) -> Result<Vec<Reference>, ImageError> {
        image.repo_tags.iter().flatten().map(|name| self.name(name)).collect()
    }

    fn name(&self, name: &str) -> Result<Reference, ImageError> {
        name.parse()
            .map_err(|error| self.bad(format!("it names an image {name:?}: {error}")))
    }

    /// A blob of an OCI layout, its digest checked.
    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let path = blob_path(digest);
        let bytes = self.small(&path)?;
        let found = Digest::of(&bytes);
        if found != *digest {
            let what = format!("{path} in {}", self.path.display());
            return Err(ImageError::DigestMismatch {
                what,
                expected: digest.to_string(),
                found: found.to_string(),
            });
        }
        Ok(bytes)
    }

    fn small(&self, path: &str) -> Result<Vec<u8>, ImageError> {
        let bytes = self.source.small(path).map_err(|reason| self.bad(reason))?;
        bytes.ok_or_else(|| self.bad(format!("{path} is missing")))
    }

    fn bad(&self, reason: String) -> ImageError {
        ImageError::Archive {
            path: self.path.to_owned(),
            reason,
        }
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Files by their paths in a directory or an archive.
enum Source {
    Directory(PathBuf),
    Archive {
        file: File,
        /// Offset and size of each file.
        files: HashMap<String, (u64, u64)>,
        /// Symbolic links, resolved to paths in the archive; older Docker
        /// writes them for layers that occur twice.
        links: BTreeMap<String, String>,
        /// An uncompressed copy, if one had to be made.
        _temp: Option<TempPath>,
    },
}

impl Source {
    fn open(store: &ImageStore, path: &Path) -> Result<Self, ImageError> {
        let doing = || format!("read {}", path.display());
        let metadata = std::fs::metadata(path).map_err(|error| ImageError::io(doing(), error))?;
        if metadata.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let mut file = File::open(path).map_err(|error| ImageError::io(doing(), error))?;
        let mut temp = None;
        let (mut plain, compressed) = decompress(&file).map_err(|error| ImageError::io(doing(), error))?;
        if compressed {
            let copy = store.temp("import");
            let limit = store.limits().archive_bytes;
            let mut unpack = || -> io::Result<(File, u64)> {
                let mut to = File::options().read(true).write(true).create_new(true).open(copy.as_path())?;
                let bytes = io::copy(&mut (&mut plain).take(limit.saturating_add(1)), &mut to)?;
                to.flush()?;
                Ok((to, bytes))
            };
            let (to, bytes) = unpack().map_err(|error| ImageError::io(format!("decompress {}", path.display()), error))?;
            if bytes > limit {
                return Err(ImageError::Archive {
                    path: path.to_owned(),
                    reason: format!("it has more than {limit} bytes uncompressed"),
                });
            }
            drop(plain);
            file = to;
            temp = Some(copy);
        } else {
            drop(plain);
        }
        let (mut files, mut links) = (HashMap::new(), BTreeMap::new());
        let mut archive = Archive::new(
            BufReader::with_capacity(256 * 1024, Section::new(&file, 0, u64::MAX)),
            store.limits().entries,
        );
        loop {
            let entry = archive.next().map_err(|error| ImageError::Archive {
                path: path.to_owned(),
                reason: error.to_string(),
            })?;
            let Some(entry) = entry else { break };
            let Some(name) = normal(Path::new(""), &entry.name()) else {
                continue;
            };
            match entry.kind {
                Kind::File => drop(files.insert(name, (archive.position(), entry.size))),
                Kind::Symlink => {
                    let parent = Path::new(&name).parent().unwrap_or(Path::new(""));
                    if let Some(target) = normal(parent, &String::from_utf8_lossy(&entry.link)) {
                        links.insert(name, target);
                    }
                }
                _ => {}
            }
        }
        Ok(Self::Archive {
            file,
            files,
            links,
            _temp: temp,
        })
    }

    /// A file's content; `None` if there is no such file.
    fn content(&self, path: &str) -> Result<Option<Box<dyn Read + '_>>, String> {
        let Some(path) = normal(Path::new(""), path) else {
            return Err(format!("it refers to {path:?}, outside itself"));
        };
        match self {
            Self::Directory(root) => match File::open(root.join(&path)) {
                Ok(file) => Ok(Some(Box::new(file))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(format!("read {path}: {error}")),
            },
            Self::Archive { file, files, links, .. } => {
                let path = links.get(&path).unwrap_or(&path);
                Ok(files
                    .get(path)
                    .map(|(at, size)| Box::new(Section::new(file, *at, *size)) as Box<dyn Read>))
            }
        }
    }

    /// A document's content.
    fn small(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        let Some(content) = self.content(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        content
            .take(CONFIG_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| format!("read {path}: {error}"))?;
        if bytes.len() as u64 > CONFIG_BYTES_MAX {
            return Err(format!("{path} has more than {CONFIG_BYTES_MAX} bytes"));
        }
        Ok(Some(bytes))
    }
}

/// `path` seen from `base`, without `.` and `..`; `None` if it leads out.
fn normal(base: &Path, path: &str) -> Option<String> {
    let mut out = PathBuf::new();
    for component in base.join(path).components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            Component::ParentDir if out.pop() => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    out.into_os_string().into_string().ok()
}

#[cfg(test)]
mod tests;
