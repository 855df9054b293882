//! Stored values that cannot be decoded: a flipped bit, a key that is gone.
//!
//! What would show one fails, and says where it is; everything else of its kind
//! stays within reach. Nothing here tells what the value says: it may be a
//! Secret's.
//!
//! Source: KEP-3926; upstream `apiserver/pkg/storage/errors.go`
//! (`NewCorruptObjError`), `apiserver/pkg/storage/etcd3/corrupt_obj_deleter.go`.

use api::status::Cause;
use api::{ResourceId, Status};
use store::Versioned;

/// Most values a failed list names. Source: upstream
/// `corruptObjErrAggregatorFactory(100)`.
const NAMED: usize = 100;
/// What encrypted values begin with, whoever encrypted them.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// A stored value that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) key: String,
    /// The revision that wrote it.
    pub(crate) revision: u64,
    /// It could not even be decrypted.
    encrypted: bool,
}

impl Damage {
    pub(super) fn of(key: &str, versioned: &Versioned) -> Self {
        Self {
            key: key.to_owned(),
            revision: versioned.modified.0,
            encrypted: versioned.value.starts_with(ENCRYPTED),
        }
    }

    /// In the words of upstream's storage.
    fn text(&self) -> String {
        let why = if self.encrypted {
            "data from the storage is not transformable"
        } else {
            "object not decodable"
        };
        let Self { key, revision, .. } = self;
        format!("StorageError: corrupt object, Code: 7, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {why} revision={revision}")
    }

    /// 500 for a request for this object.
    pub(crate) fn status(&self) -> Status {
        Status::internal(&self.text())
    }

    /// 500 for a request for a collection with such objects.
    pub(crate) fn of_list(id: &ResourceId, damaged: &[Self]) -> Status {
        let named = damaged.iter().take(NAMED).map(|damage| Cause {
            reason: "UnexpectedServerResponse".to_owned(),
            message: damage.text(),
            field: damage.key.clone(),
        });
        let more = (damaged.len() > NAMED).then(|| Cause {
            reason: "FieldValueTooMany".to_owned(),
            message: "too many errors, the list is truncated".to_owned(),
            field: String::new(),
        });
        Status::store_read_error(id, named.chain(more).collect())
    }
}
