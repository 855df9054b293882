//! Patches of a JSON value: JSON Patch (RFC 6902), merge patch (RFC 7386) and
//! strategic merge patch. Pure.

mod strategic;

use api::Status;
use api::schema::{Schema, parse_strict};
use serde_json::Value;

/// Most operations of a JSON Patch.
///
/// Source: upstream `maxJSONPatchOperations`.
const MAX_OPERATIONS: usize = 10_000;

/// The media type of server-side apply, which is no patch of a value.
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// The media type of patches that merge lists by the keys the schema states.
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// The media types of the patches of a schema's values.
///
/// Source: upstream `apiserver/pkg/endpoints/installer.go`; for what was
/// declared at run time `apiextensions-apiserver/pkg/apiserver/
/// customresource_handler.go`, `serveResource`.
pub(crate) fn accepted(schema: Schema<'_>) -> &'static [&'static str] {
    const BUILT_IN: [&str; 4] = ["application/json-patch+json", "application/merge-patch+json", STRATEGIC, APPLY];
    const DECLARED: [&str; 3] = ["application/json-patch+json", "application/merge-patch+json", APPLY];
    if schema.is_built_in() { &BUILT_IN } else { &DECLARED }
}

/// A patch, read.
#[derive(Clone, Debug)]
pub(crate) enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7386.
    Merge(Value),
    /// Lists are merged by the keys the schema states.
    Strategic(Value),
}

impl Patch {
    /// Reads a patch of a media type; also says which fields it states twice.
    /// `schema` is of what it will be applied to.
    ///
    /// # Errors
    /// 415 for another media type, which strategic merge patch is where the
    /// schema states no keys for it; 400 for a patch that is malformed, 413 for
    /// one with too many operations.
    pub(crate) fn read(schema: Schema<'_>, media_type: &str, bytes: &[u8], max_depth: usize) -> Result<(Self, Vec<String>), Status> {
        let malformed = |why: &str| Status::bad_request(format!("error decoding patch: {why}"));
        let parse = || parse_strict(bytes, max_depth).map_err(|error| malformed(&error.to_string()));
        let object = || {
            let (value, duplicates) = parse()?;
            if value.is_object() {
                Ok((value, duplicates))
            } else {
                Err(malformed("the patch is not a JSON object"))
            }
        };
        match media_type {
            "application/json-patch+json" => {
                let (value, duplicates) = parse()?;
                let count = value.as_array().map_or(0, Vec::len);
                if count > MAX_OPERATIONS {
                    return Err(Status::request_too_large(format!(
                        "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
                    )));
                }
                let patch = serde_json::from_value(value).map_err(|error| malformed(&error.to_string()))?;
                Ok((Self::Json(patch), duplicates))
            }
            "application/merge-patch+json" => object().map(|(value, duplicates)| (Self::Merge(value), duplicates)),
            STRATEGIC if schema.is_built_in() => object().map(|(value, duplicates)| (Self::Strategic(value), duplicates)),
            _ => Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                accepted(schema).join(", ")
            ))),
        }
    }

    /// Whether it may read or write `metadata.managedFields`.
    pub(crate) fn is_about_managed_fields(&self) -> bool {
        match self {
            Self::Json(_) => true,
            Self::Merge(patch) | Self::Strategic(patch) => patch.get("metadata").is_some_and(|meta| meta.get("managedFields").is_some()),
        }
    }

    /// Applies the patch.
    ///
    /// # Errors
    /// 422 when an operation cannot be done, 400 when a directive makes no
    /// sense. The value is then of no use any more.
    pub(crate) fn apply(&self, schema: Schema<'_>, value: &mut Value) -> Result<(), Status> {
        match self {
            Self::Json(patch) => {
                grows_moderately(patch, value)?;
                json_patch::patch(value, patch).map_err(Status::unprocessable)
            }
            Self::Merge(patch) => {
                json_patch::merge(value, patch);
                Ok(())
            }
            Self::Strategic(patch) => {
                let patched =
                    strategic::apply(schema, std::mem::take(value), patch).map_err(|error| Status::bad_request(error.to_string()))?;
                *value = patched;
                Ok(())
            }
        }
    }
}

/// A handful of `copy` operations can double a document again and again.
fn grows_moderately(patch: &json_patch::Patch, value: &Value) -> Result<(), Status> {
    const MAX_COPIES_BYTES: usize = 3 << 20;
    let copies = patch
        .0
        .iter()
        .filter(|operation| matches!(operation, json_patch::PatchOperation::Copy(_)))
        .count();
    if copies == 0 {
        return Ok(());
    }
    // Each copy at most doubles what is there.
    let mut bytes = serde_json::to_vec(value).map_or(0, |text| text.len()).max(1);
    for _ in 0..copies {
        bytes = bytes.saturating_mul(2);
        if bytes > MAX_COPIES_BYTES && copies > 8 {
            return Err(Status::request_too_large(format!(
                "the patch copies {copies} times, which may grow the object beyond {MAX_COPIES_BYTES} bytes"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
