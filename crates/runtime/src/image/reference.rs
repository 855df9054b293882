//! Image references: what people write, and the one form everything else uses.
//!
//! The grammar is that of `github.com/distribution/reference`; the
//! normalization that of its `ParseDockerRef`, which containerd applies: a
//! short name is on `docker.io`, a name without a slash there is in
//! `library/`, no tag means `latest`, and a digest makes the tag irrelevant.

use std::fmt;
use std::str::FromStr;

/// The registry of names without one.
const DEFAULT_REGISTRY: &str = "docker.io";
/// The older name of the same registry.
const LEGACY_DEFAULT_REGISTRY: &str = "index.docker.io";
/// Longest registry and repository together, as `reference.NameTotalLengthMax`.
const NAME_BYTES_MAX: usize = 255;
/// Longest tag.
const TAG_BYTES_MAX: usize = 128;

/// The digest of a blob: `sha256:` and 64 lowercase hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest whose raw hash is `hash`.
    #[must_use]
    pub fn from_hash(hash: [u8; 32]) -> Self {
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in hash {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        Self(text)
    }

    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self::from_hash(sha2::Sha256::digest(bytes).into())
    }

    /// `sha256:<hex>`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hexadecimal part: safe as a file name.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = InvalidReference;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidReference;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(InvalidReference::Format);
        };
        if algorithm != "sha256" {
            let known = matches!(algorithm, "sha384" | "sha512");
            return Err(if known {
                InvalidReference::Algorithm(algorithm.to_owned())
            } else {
                InvalidReference::Format
            });
        }
        let fits = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if fits { Ok(Self(text)) } else { Err(InvalidReference::Format) }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// Why a text is not an image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// It would be valid in lower case.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// Registry and repository together are too long.
    #[error("repository name must not be more than {NAME_BYTES_MAX} characters")]
    TooLong,
    /// A valid digest algorithm that is not supported.
    #[error("unsupported digest algorithm {0:?}: use a sha256 digest")]
    Algorithm(String),
}

/// What of a repository is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// A name that may move.
    Tag(String),
    /// Exactly this manifest.
    Digest(Digest),
}

/// A normalized image reference. Its display form is the key under which an
/// image is stored, and the name containerd prints.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    version: Version,
}

impl Reference {
    /// The host, with its port: `docker.io`, `127.0.0.1:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path on that host: `library/nginx`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Tag or digest.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// `registry/repository`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository at a digest.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        Self {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            version: Version::Digest(digest),
        }
    }

    /// The short form people know: without `docker.io/` and `library/`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let whole = self.to_string();
        let Some(path) = whole.strip_prefix("docker.io/") else {
            return whole;
        };
        let short = path.strip_prefix("library/").unwrap_or(path);
        // A first component that looks like a host must keep the registry before it.
        match short.parse::<Self>() {
            Ok(again) if again == *self => short.to_owned(),
            _ => whole,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}/{}:{tag}", self.registry, self.repository),
            Version::Digest(digest) => write!(f, "{}/{}@{digest}", self.registry, self.repository),
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A bare hash would be ambiguous with an image id; upstream refuses it as a name too.
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(InvalidReference::Format);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (registry, remainder) = split_registry(rest);
        let (path, tag) = match remainder.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (remainder, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) || !is_registry(registry) {
            return Err(InvalidReference::Format);
        }
        if !is_repository(path) {
            let lower = path.to_ascii_lowercase();
            return Err(if is_repository(&lower) {
                InvalidReference::Uppercase(path.to_owned())
            } else {
                InvalidReference::Format
            });
        }
        let registry = if registry == LEGACY_DEFAULT_REGISTRY {
            DEFAULT_REGISTRY
        } else {
            registry
        };
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if registry.len() + 1 + repository.len() > NAME_BYTES_MAX {
            return Err(InvalidReference::TooLong);
        }
        let version = match digest {
            Some(digest) => Version::Digest(digest),
            None => Version::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            version,
        })
    }
}

/// Splits off the registry. The first component is one when it has a dot, a
/// port or an upper-case letter, or is `localhost` (`splitDockerDomain`).
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) => {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = if let Some(rest) = registry.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        let fits = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        if !fits || !(port.is_empty() || port.starts_with(':')) {
            return false;
        }
        (None, port.strip_prefix(':'))
    } else {
        match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        }
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.is_none_or(|host| host.split('.').all(label))
        && port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// Components of letters and digits joined by single `.`, one or two `_`, or
/// any number of `-`; components joined by `/`.
fn is_repository(path: &str) -> bool {
    path.split('/').all(|component| {
        let bytes = component.as_bytes();
        let word = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9');
        if !bytes.first().is_some_and(word) || !bytes.last().is_some_and(word) {
            return false;
        }
        bytes
            .split(word)
            .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_BYTES_MAX && tag.bytes().next().is_some_and(word) && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests;
