//! The keys values are sealed with, and the file they are in: upstream's
//! `EncryptionConfiguration`, as JSON. The first key seals, every key opens.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde_json::{Value, json};

use super::Opened;
use crate::pki::{PkiError, write_file};

/// How every sealed value begins; the key's name and a colon follow.
const ENVELOPE: &[u8] = b"k8s:enc:aesgcm:v1:";
const KEY_BYTES: usize = 32;

/// What can go wrong with keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file could not be read or written.
    #[error("the keys Secrets are encrypted with")]
    File(#[source] PkiError),
    /// The file holds something else.
    #[error("{path} holds no encryption keys: {why}; restore it: without its keys no stored Secret can be read")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel gave no random bytes.
    #[error("no random bytes for a key")]
    Random,
    /// A value was sealed with a key that is not there.
    #[error("it is encrypted with the key {name:?}, which is not in the key file")]
    Unknown {
        /// The key's name.
        name: String,
    },
    /// A value was altered, or moved from under another name.
    #[error("it was altered, or belongs under another name")]
    Altered,
}

struct Key {
    name: String,
    secret: [u8; KEY_BYTES],
    cipher: LessSafeKey,
}

/// Keys, newest first. Clones share them.
#[derive(Clone)]
pub struct Keys(Arc<Vec<Key>>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.name)).finish()
    }
}

fn random<const N: usize>() -> Result<[u8; N], KeysError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| KeysError::Random)?;
    Ok(bytes)
}

fn key(name: &str, secret: [u8; KEY_BYTES]) -> Key {
    let unbound = UnboundKey::new(&AES_256_GCM, &secret).expect("AES-256 takes every key of 32 bytes");
    Key {
        name: name.to_owned(),
        secret,
        cipher: LessSafeKey::new(unbound),
    }
}

impl Keys {
    /// The keys in a file (mode 0600), or a new one that is put there.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds something else.
    pub fn open_or_create(path: &Path) -> Result<Self, KeysError> {
        match fs::read(path) {
            Ok(text) => Self::parse(&text).map_err(|why| KeysError::Damaged {
                path: path.to_owned(),
                why,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let keys = Self(Arc::new(vec![key("key1", random()?)]));
                keys.write(path)?;
                Ok(keys)
            }
            Err(source) => Err(KeysError::File(PkiError::Read {
                path: path.to_owned(),
                source,
            })),
        }
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let config: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let listed = config.pointer("/resources/0/providers/0/aesgcm/keys").and_then(Value::as_array);
        let listed = listed.ok_or("there is no list at resources[0].providers[0].aesgcm.keys")?;
        let mut keys = Vec::new();
        for entry in listed {
            let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
            let name = text("name");
            if name.is_empty() || name.contains(':') {
                return Err(format!("a key has the name {name:?}"));
            }
            let secret = STANDARD.decode(text("secret")).ok().and_then(|bytes| bytes.try_into().ok());
            keys.push(key(
                name,
                secret.ok_or_else(|| format!("the secret of {name} is not {KEY_BYTES} bytes in base64"))?,
            ));
        }
        if keys.is_empty() {
            return Err("the list of keys is empty".to_owned());
        }
        Ok(Self(Arc::new(keys)))
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, path: &Path) -> Result<(), KeysError> {
        let keys: Vec<Value> = self
            .0
            .iter()
            .map(|key| json!({"name": key.name, "secret": STANDARD.encode(key.secret)}))
            .collect();
        let config = json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [{"resources": ["secrets"], "providers": [{"aesgcm": {"keys": keys}}, {"identity": {}}]}],
        });
        write_file(path, format!("{config:#}\n").as_bytes(), 0o600).map_err(KeysError::File)
    }

    /// The same keys behind a new one, which seals from now on.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn with_new(&self) -> Result<Self, KeysError> {
        let number = |key: &Key| key.name.strip_prefix("key").and_then(|number| number.parse::<u64>().ok());
        let next = self.0.iter().filter_map(number).max().unwrap_or(0) + 1;
        let mut keys = vec![key(&format!("key{next}"), random()?)];
        keys.extend(self.0.iter().map(|old| key(&old.name, old.secret)));
        Ok(Self(Arc::new(keys)))
    }

    /// The newest key alone.
    #[must_use]
    pub fn newest_only(&self) -> Self {
        Self(Arc::new(self.0.iter().take(1).map(|old| key(&old.name, old.secret)).collect()))
    }

    /// The name of the key that seals.
    #[must_use]
    pub fn newest(&self) -> &str {
        self.0.first().map_or("", |key| &key.name)
    }

    pub(super) fn seal(&self, at: &str, plain: &[u8]) -> Bytes {
        let key = self.0.first().expect("parsing and making refuse an empty list");
        let nonce: [u8; NONCE_LEN] =
            random().expect("the kernel's random source does not fail once it is seeded, and it is before user space starts");
        let mut cipher = plain.to_vec();
        key.cipher
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(at.as_bytes()), &mut cipher)
            .expect("AES-GCM takes every message a store takes: they are far below 64 GiB");
        [ENVELOPE, key.name.as_bytes(), b":", &nonce, &cipher].concat().into()
    }

    /// Opens what [`seal`](Self::seal) made; what was never sealed is given as
    /// it is. JSON never begins like an envelope.
    pub(super) fn open(&self, at: &str, stored: &Bytes) -> Result<Opened, KeysError> {
        let Some(rest) = stored.strip_prefix(ENVELOPE) else {
            return Ok(Opened {
                plain: stored.clone(),
                newest: false,
            });
        };
        let colon = rest.iter().position(|byte| *byte == b':').ok_or(KeysError::Altered)?;
        let (name, sealed) = (String::from_utf8_lossy(&rest[..colon]), &rest[colon + 1..]);
        let Some(index) = self.0.iter().position(|key| key.name == name) else {
            return Err(KeysError::Unknown { name: name.into_owned() });
        };
        let (nonce, cipher) = sealed.split_at_checked(NONCE_LEN).ok_or(KeysError::Altered)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| KeysError::Altered)?;
        let mut buffer = cipher.to_vec();
        let opened = self.0[index].cipher.open_in_place(nonce, Aad::from(at.as_bytes()), &mut buffer);
        let length = opened.map_err(|_| KeysError::Altered)?.len();
        buffer.truncate(length);
        Ok(Opened {
            plain: buffer.into(),
            newest: index == 0,
        })
    }
}
