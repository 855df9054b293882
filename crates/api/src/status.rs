//! `metav1.Status`: the one shape of every error that leaves the API server.
//!
//! There is a constructor per reason; no one else picks a code or a wording.
//! Source: API conventions, "Response Status Kind"; upstream
//! `apimachinery/pkg/api/errors/errors.go`.

use serde::{Deserialize, Serialize};

use crate::ResourceId;

/// A `metav1.Status` of kind `Failure` or `Success`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    kind: String,
    api_version: String,
    /// Always empty here, yet clients expect the key.
    #[serde(default)]
    metadata: serde_json::Map<String, serde_json::Value>,
    /// `Success` or `Failure`.
    pub status: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For programs, such as `NotFound`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// HTTP status code.
    #[serde(default)]
    pub code: u16,
}

/// What a [`Status`] is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// Name of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Plural resource, or the kind for `Invalid`, as upstream does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// UID of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One per violation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds after which a retry may succeed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// One cause of a [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// For programs, such as `FieldValueRequired`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Path of the field, such as `spec.containers[0].name`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// One broken rule of validation: a field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, such as `spec.containers[0].name`.
    pub field: String,
    /// For programs, such as `FieldValueRequired`.
    pub reason: &'static str,
    /// For people, such as `Required value`.
    pub message: String,
}

impl Violation {
    /// `Required value[: detail]`.
    #[must_use]
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        };
        Self {
            field: field.into(),
            reason: "FieldValueRequired",
            message,
        }
    }

    /// `Invalid value: <value>: <detail>`; strings are quoted, numbers and
    /// booleans bare, null is `"null"`.
    #[must_use]
    pub fn invalid(field: impl Into<String>, value: &serde_json::Value, detail: &str) -> Self {
        let shown = match value {
            serde_json::Value::Null => "\"null\"".to_owned(),
            other => other.to_string(),
        };
        Self {
            field: field.into(),
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {shown}: {detail}"),
        }
    }

    /// `Invalid value: "<type>": <detail>`: a value of another type than the
    /// field's.
    #[must_use]
    pub fn type_invalid(field: impl Into<String>, found: &str, detail: &str) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueTypeInvalid",
            message: format!("Invalid value: {found:?}: {detail}"),
        }
    }

    /// `Unsupported value: "<value>": supported values: "A", "B"`.
    #[must_use]
    pub fn not_supported(field: impl Into<String>, value: &str, supported: &[&str]) -> Self {
        let list = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        Self {
            field: field.into(),
            reason: "FieldValueNotSupported",
            message: format!("Unsupported value: {value:?}: supported values: {list}"),
        }
    }

    /// The same for a list of values, as upstream prints it: as Go writes it.
    #[must_use]
    pub fn not_supported_list(field: impl Into<String>, values: &[&str], supported: &[&str]) -> Self {
        let quoted = |list: &[&str]| list.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        Self {
            field: field.into(),
            reason: "FieldValueNotSupported",
            message: format!(
                "Unsupported value: []string{{{}}}: supported values: {}",
                quoted(values),
                quoted(supported)
            ),
        }
    }

    /// `Forbidden: <detail>`.
    #[must_use]
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueForbidden",
            message: format!("Forbidden: {detail}"),
        }
    }

    /// `Duplicate value: "<value>"`.
    #[must_use]
    pub fn duplicate(field: impl Into<String>, value: &str) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueDuplicate",
            message: format!("Duplicate value: {value:?}"),
        }
    }

    /// `Duplicate value: <value>`, of a value with fields of its own.
    #[must_use]
    pub fn duplicate_value(field: impl Into<String>, value: &serde_json::Value) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueDuplicate",
            message: format!("Duplicate value: {value}"),
        }
    }

    /// `Not found: "<value>"`.
    #[must_use]
    pub fn not_found(field: impl Into<String>, value: &str) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueNotFound",
            message: format!("Not found: {value:?}"),
        }
    }

    /// `Too long: may not be more than <max> bytes`.
    #[must_use]
    pub fn too_long(field: impl Into<String>, max_bytes: usize) -> Self {
        Self {
            field: field.into(),
            reason: "FieldValueTooLong",
            message: format!("Too long: may not be more than {max_bytes} bytes"),
        }
    }
}

impl Status {
    fn failure(code: u16, reason: &str, message: String, details: Option<Details>) -> Self {
        Self {
            kind: "Status".to_owned(),
            api_version: "v1".to_owned(),
            metadata: serde_json::Map::new(),
            status: "Failure".to_owned(),
            message,
            reason: reason.to_owned(),
            details,
            code,
        }
    }

    fn about(id: &ResourceId, name: &str) -> Details {
        Details {
            name: name.to_owned(),
            group: id.group.clone(),
            kind: id.plural.clone(),
            ..Details::default()
        }
    }

    /// 200: the answer to a delete that removed the object.
    #[must_use]
    pub fn success(details: Option<Details>) -> Self {
        let mut status = Self::failure(200, "", String::new(), details);
        "Success".clone_into(&mut status.status);
        status
    }

    /// 200: deletion of a named object succeeded.
    #[must_use]
    pub fn deleted(id: &ResourceId, name: &str, uid: &str) -> Self {
        Self::success(Some(Details {
            uid: uid.to_owned(),
            ..Self::about(id, name)
        }))
    }

    /// 400.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message.into(), None)
    }

    /// 401: no credentials, or ones that are not known.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized".to_owned(), None)
    }

    /// 403: `pods "x" is forbidden: <why>`.
    #[must_use]
    pub fn forbidden(id: &ResourceId, name: &str, why: &str) -> Self {
        let subject = if name.is_empty() {
            format!("{} is forbidden", id.qualified())
        } else {
            format!("{} {name:?} is forbidden", id.qualified())
        };
        Self::failure(403, "Forbidden", format!("{subject}: {why}"), Some(Self::about(id, name)))
    }

    /// 403 whose message is complete already.
    #[must_use]
    pub fn refused(message: impl Into<String>) -> Self {
        Self::failure(403, "Forbidden", message.into(), Some(Details::default()))
    }

    /// 404: `pods "x" not found`.
    #[must_use]
    pub fn not_found(id: &ResourceId, name: &str) -> Self {
        Self::failure(
            404,
            "NotFound",
            format!("{} {name:?} not found", id.qualified()),
            Some(Self::about(id, name)),
        )
    }

    /// 404 for a path that names no served resource.
    #[must_use]
    pub fn no_such_path() -> Self {
        Self::failure(
            404,
            "NotFound",
            "the server could not find the requested resource".to_owned(),
            Some(Details::default()),
        )
    }

    /// 405.
    #[must_use]
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::failure(405, "MethodNotAllowed", message.into(), Some(Details::default()))
    }

    /// 406: none of the media types asked for can be produced.
    #[must_use]
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::failure(406, "NotAcceptable", message.into(), None)
    }

    /// 409 `AlreadyExists`: `pods "x" already exists`.
    #[must_use]
    pub fn already_exists(id: &ResourceId, name: &str) -> Self {
        Self::failure(
            409,
            "AlreadyExists",
            format!("{} {name:?} already exists", id.qualified()),
            Some(Self::about(id, name)),
        )
    }

    /// 409 `Conflict`: `Operation cannot be fulfilled on pods "x": <why>`.
    #[must_use]
    pub fn conflict(id: &ResourceId, name: &str, why: &str) -> Self {
        Self::failure(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", id.qualified()),
            Some(Self::about(id, name)),
        )
    }

    /// 409 for an update that lost against a newer version.
    #[must_use]
    pub fn modified(id: &ResourceId, name: &str) -> Self {
        Self::conflict(
            id,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 410 `Expired`: a revision or continue token that is too old.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message.into(), None)
    }

    /// Sets `metadata.continue`: how a list that expired may go on.
    pub fn set_continue(&mut self, token: String) {
        self.metadata.insert("continue".to_owned(), serde_json::Value::String(token));
    }

    /// 413.
    #[must_use]
    pub fn request_too_large(message: impl Into<String>) -> Self {
        Self::failure(413, "RequestEntityTooLarge", message.into(), None)
    }

    /// 415.
    #[must_use]
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::failure(415, "UnsupportedMediaType", message.into(), None)
    }

    /// 422: `Pod "x" is invalid: <field>: <message>`, all violations listed.
    #[must_use]
    pub fn invalid(id: &ResourceId, name: &str, violations: &[Violation]) -> Self {
        let causes: Vec<_> = violations
            .iter()
            .map(|v| Cause {
                reason: v.reason.to_owned(),
                message: v.message.clone(),
                field: v.field.clone(),
            })
            .collect();
        let mut parts: Vec<String> = Vec::new();
        for violation in violations {
            let part = format!("{}: {}", violation.field, violation.message);
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        let list = if parts.len() == 1 {
            parts.remove(0)
        } else {
            format!("[{}]", parts.join(", "))
        };
        let kind = if id.group.is_empty() {
            id.kind.clone()
        } else {
            format!("{}.{}", id.kind, id.group)
        };
        let details = Details {
            kind: id.kind.clone(),
            causes,
            ..Self::about(id, name)
        };
        Self::failure(422, "Invalid", format!("{kind} {name:?} is invalid: {list}"), Some(details))
    }

    /// 422 for a patch that is well formed and cannot be applied.
    #[must_use]
    pub fn unprocessable(message: impl std::fmt::Display) -> Self {
        Self::failure(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request: {message}"),
            Some(Details::default()),
        )
    }

    /// 429.
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::failure(
            429,
            "TooManyRequests",
            message.into(),
            Some(Details {
                retry_after_seconds,
                ..Details::default()
            }),
        )
    }

    /// 500.
    #[must_use]
    pub fn internal(message: &str) -> Self {
        Self::failure(500, "InternalError", format!("Internal error occurred: {message}"), None)
    }

    /// 500 `StoreReadError`: objects of a collection that cannot be read from
    /// the store, one cause each.
    #[must_use]
    pub fn store_read_error(id: &ResourceId, causes: Vec<Cause>) -> Self {
        let message = format!("failed to read one or more {} from the storage", id.qualified());
        let details = Details {
            causes,
            ..Self::about(id, "list")
        };
        Self::failure(500, "StoreReadError", message, Some(details))
    }

    /// 500 without a reason, for what upstream did not think of classifying.
    #[must_use]
    pub fn unclassified(message: impl Into<String>) -> Self {
        Self::failure(500, "", message.into(), None)
    }

    /// 503.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message.into(), None)
    }

    /// 504: the request could not be finished in its time.
    #[must_use]
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::failure(504, "Timeout", message.into(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_violations_read_as_kubectl_expects() {
        let id = ResourceId::new("", "v1", "Pod", "pods");
        let status = Status::invalid(
            &id,
            "x",
            &[
                Violation::required("spec.containers", ""),
                Violation::duplicate("spec.containers[1].name", "a"),
            ],
        );
        assert_eq!(
            status.message,
            r#"Pod "x" is invalid: [spec.containers: Required value, spec.containers[1].name: Duplicate value: "a"]"#
        );
        assert_eq!(status.code, 422);
        assert_eq!(status.details.unwrap().causes[1].field, "spec.containers[1].name");
    }
}
