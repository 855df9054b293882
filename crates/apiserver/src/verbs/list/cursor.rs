//! Continue tokens: where a list goes on, and at which revision.
//!
//! Source: upstream `apiserver/pkg/storage/continue.go`.

use api::Status;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// A place in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The revision the list was begun at; `None` goes on with what is stored
    /// now.
    pub(super) revision: Option<u64>,
    /// The key of the last entry that was given out.
    pub(super) after: String,
}

#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    after: String,
}

const VERSION: &str = "meta.k8s.io/v1";

impl Cursor {
    pub(super) fn new(revision: u64, after: &str) -> Self {
        Self {
            revision: Some(revision),
            after: after.to_owned(),
        }
    }

    pub(super) fn encode(&self) -> String {
        let rv = self.revision.map_or(-1, |revision| i64::try_from(revision).unwrap_or(i64::MAX));
        let token = Token {
            v: VERSION.to_owned(),
            rv,
            after: self.after.clone(),
        };
        // Three plain fields always encode.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    /// Decodes a token for a collection of keys that start with `prefix`.
    pub(super) fn decode(token: &str, prefix: &str) -> Result<Self, Status> {
        let refuse = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD
            .decode(token.trim_end_matches('='))
            .map_err(|error| refuse(&error.to_string()))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|error| refuse(&error.to_string()))?;
        if token.v != VERSION {
            return Err(refuse("server does not recognize this encoded version"));
        }
        if !token.after.starts_with(prefix) {
            return Err(refuse("it belongs to another collection"));
        }
        let revision = match token.rv {
            -1 => None,
            rv => Some(
                u64::try_from(rv)
                    .ok()
                    .filter(|rv| *rv > 0)
                    .ok_or_else(|| refuse("incorrect encoded start resourceVersion"))?,
            ),
        };
        Ok(Self {
            revision,
            after: token.after,
        })
    }

    /// 410, with a token that goes on at the newest revision.
    pub(super) fn expired(&self) -> Status {
        let mut status = Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue \
             parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token \
             results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now \
             may show up in the list.",
        );
        status.set_continue(
            Self {
                revision: None,
                after: self.after.clone(),
            }
            .encode(),
        );
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_and_stays_in_its_collection() {
        let cursor = Cursor::new(7, "/registry/pods/a/x");
        assert_eq!(Cursor::decode(&cursor.encode(), "/registry/pods/a/").unwrap(), cursor);
        assert_eq!(Cursor::decode(&cursor.encode(), "/registry/pods/b/").unwrap_err().code, 400);
        assert_eq!(Cursor::decode("!", "/").unwrap_err().code, 400);
        assert_eq!(
            Cursor::decode(&URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":-7,"after":"/a"}"#), "/")
                .unwrap_err()
                .code,
            400
        );
        let expired = cursor.expired();
        assert_eq!((expired.code, expired.reason.as_str()), (410, "Expired"));
    }
}
