//! ServiceAccount tokens: what they claim, how they are signed and read.
//!
//! Reading order: `claims.rs` (what a token says), `key.rs` (ES256 and the key
//! file), here (issuing and reading). Whether what a token says still holds is
//! for [`crate::authn`]: it needs the objects the token is bound to.
//!
//! Source: KEP-1205 "Bound service account tokens"; upstream
//! `pkg/serviceaccount/{jwt,claims}.go`; RFC 7515, 7517, 7519.

pub mod claims;
pub mod key;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};

use self::claims::Claims;
use self::key::{KeyError, SigningKey};

/// Who issues tokens, unless a flag says otherwise. Source: kubeadm's
/// `--service-account-issuer`.
pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Where the verification keys are served.
pub const JWKS_PATH: &str = "/openid/v1/jwks";

/// Where the discovery document is served.
pub const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";

/// Tokens longer than this are nobody's: ours take about a kilobyte.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Verified tokens that are remembered, per generation. A token that was seen
/// lately costs a hash instead of a signature check.
const REMEMBERED: usize = 2_048;

/// Why a text is no token of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of base64url that hold what a token holds.
    #[error("the token is not a JSON web token")]
    Malformed,
    /// Not made here: another issuer, key or algorithm, or altered.
    #[error("the token was not signed by this server's key")]
    Signature,
    /// Signed by us for somebody else's name.
    #[error("the token names another issuer")]
    Issuer,
}

/// Issues and reads tokens.
pub struct Tokens {
    issuer: String,
    audiences: Vec<String>,
    jwks_uri: String,
    key: SigningKey,
    seen: Mutex<Seen>,
}

/// Claims of tokens whose signature was verified, in two generations: when the
/// young one is full, the old one is forgotten.
#[derive(Default)]
struct Seen {
    young: HashMap<[u8; 32], Arc<Claims>>,
    old: HashMap<[u8; 32], Arc<Claims>>,
}

impl Seen {
    fn get(&mut self, digest: &[u8; 32]) -> Option<Arc<Claims>> {
        if let Some(claims) = self.young.get(digest) {
            return Some(Arc::clone(claims));
        }
        let claims = self.old.remove(digest)?;
        self.put(*digest, Arc::clone(&claims));
        Some(claims)
    }

    fn put(&mut self, digest: [u8; 32], claims: Arc<Claims>) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, claims);
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

impl Tokens {
    /// Tokens of an issuer. `jwks_uri` is where other parties find the keys;
    /// the issuer is also the audience of this API server.
    #[must_use]
    pub fn new(issuer: &str, jwks_uri: &str, key: SigningKey) -> Self {
        Self {
            issuer: issuer.to_owned(),
            audiences: vec![issuer.to_owned()],
            jwks_uri: jwks_uri.to_owned(),
            key,
            seen: Mutex::default(),
        }
    }

    /// The audiences that mean this API server.
    #[must_use]
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// A signed token.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn issue(&self, claims: &Claims) -> Result<String, KeyError> {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = encode(&json!({"alg": key::ALGORITHM, "kid": self.key.id()}));
        let mut token = format!("{header}.{}", encode(&claims.to_json(&self.issuer)));
        let signature = self.key.sign(token.as_bytes())?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// What a token claims, once its signature and issuer are found to be
    /// ours. Neither time nor audience is looked at.
    ///
    /// # Errors
    /// When it is not a token of ours.
    pub fn read(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let digest = key::digest(token.as_bytes());
        if let Some(claims) = self.seen().get(&digest) {
            return Ok(claims);
        }
        let claims = Arc::new(self.verify(token)?);
        self.seen().put(digest, Arc::clone(&claims));
        Ok(claims)
    }

    fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        // The algorithm is ours to choose, never the token's.
        if header.alg != key::ALGORITHM || !header.kid.is_empty() && header.kid != self.key.id() {
            return Err(TokenError::Signature);
        }
        if !self.key.verifies(signed.as_bytes(), &decode(signature)?) {
            return Err(TokenError::Signature);
        }
        let payload: Value = serde_json::from_slice(&decode(payload)?).map_err(|_| TokenError::Malformed)?;
        if payload.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(TokenError::Issuer);
        }
        Claims::from_json(&payload).ok_or(TokenError::Malformed)
    }

    /// The document at [`DISCOVERY_PATH`].
    ///
    /// Source: OpenID Connect Discovery 1.0, section 3; upstream
    /// `pkg/serviceaccount/openidmetadata.go`.
    #[must_use]
    pub fn discovery(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": self.jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [key::ALGORITHM],
        })
    }

    /// The document at [`JWKS_PATH`].
    #[must_use]
    pub fn jwks(&self) -> Value {
        json!({"keys": [self.key.jwk()]})
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        // Whoever held the lock only moved values.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
