//! The key that signs tokens: ECDSA P-256 with SHA-256 (ES256), by `ring`.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::PublicKeyData;
use ring::digest::{SHA256, digest as hash};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey};
use serde_json::{Value, json};

use crate::pki::{PkiError, write_file};

/// The only algorithm tokens are signed and verified with.
pub const ALGORITHM: &str = "ES256";

/// What can go wrong with the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read or written.
    #[error("the key of ServiceAccount tokens")]
    File(#[source] PkiError),
    /// The file holds something else.
    #[error("{path} holds no P-256 private key ({why}); restore it, or remove it to make a new one (every token then has to be made anew)")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The library could not make a key.
    #[error("cannot make a key for ServiceAccount tokens")]
    Generate(#[source] rcgen::Error),
    /// The library could not sign.
    #[error("signing failed: the random source of the system gave nothing")]
    Sign,
}

/// A private key and its public half.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    id: String,
}

/// The SHA-256 of some bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(hash(&SHA256, bytes).as_ref());
    out
}

impl SigningKey {
    /// The key in a file (PKCS#8, PEM, mode 0600), made if it is not there.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds something else.
    pub fn open_or_create(path: &Path) -> Result<Self, KeyError> {
        match fs::read_to_string(path) {
            Ok(pem) => {
                let damaged = |why: String| KeyError::Damaged {
                    path: path.to_owned(),
                    why,
                };
                let pair = rcgen::KeyPair::from_pem(&pem).map_err(|error| damaged(error.to_string()))?;
                Self::of(&pair).map_err(damaged)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let pair = rcgen::KeyPair::generate().map_err(KeyError::Generate)?;
                write_file(path, pair.serialize_pem().as_bytes(), 0o600).map_err(KeyError::File)?;
                Self::of(&pair).map_err(|why| KeyError::Damaged {
                    path: path.to_owned(),
                    why,
                })
            }
            Err(source) => Err(KeyError::File(PkiError::Read {
                path: path.to_owned(),
                source,
            })),
        }
    }

    /// A key that ends with the process.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn ephemeral() -> Result<Self, KeyError> {
        let pair = rcgen::KeyPair::generate().map_err(KeyError::Generate)?;
        Self::of(&pair).map_err(|_| KeyError::Sign)
    }

    fn of(pair: &rcgen::KeyPair) -> Result<Self, String> {
        let random = SystemRandom::new();
        let signing = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der(), &random);
        Ok(Self {
            pair: signing.map_err(|error| error.to_string())?,
            random,
            // Source: upstream `keyIDFromPublicKey`: the hash of the public
            // key in its DER form.
            id: URL_SAFE_NO_PAD.encode(digest(&pair.subject_public_key_info())),
        })
    }

    /// Its `kid`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The signature of a message: `r` and `s`, 32 bytes each.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.pair.sign(&self.random, message).map_err(|_| KeyError::Sign)?;
        Ok(signature.as_ref().to_vec())
    }

    /// Whether this key made the signature.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(message, signature)
            .is_ok()
    }

    /// The public half as a JSON web key.
    #[must_use]
    pub fn jwk(&self) -> Value {
        // An uncompressed point: 4, then x and y of 32 bytes each.
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({
            "use": "sig",
            "kty": "EC",
            "kid": self.id,
            "crv": "P-256",
            "alg": ALGORITHM,
            "x": URL_SAFE_NO_PAD.encode(x),
            "y": URL_SAFE_NO_PAD.encode(y),
        })
    }
}
