//! From a request body to an object: JSON or protobuf, shape, unknown fields,
//! defaults.
//!
//! Source: Kubernetes "API concepts", "Field validation"; upstream
//! `apiserver/pkg/endpoints/handlers/{create,update}.go`.

use api::schema::{ParseError, apply_defaults, check, normalize, parse_strict, prune, unknown_fields};
use api::status::Violation;
use api::{Object, Status, protobuf};
use serde_json::Value;

use crate::call::Call;
use crate::negotiate::{MEDIA_TYPES, YAML};
use crate::registry::Resource;

/// What happens to fields the schema does not know, and to duplicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Dropped without a word.
    Ignore,
    /// Dropped, with a `Warning` header each.
    Warn,
    /// The request is refused.
    Strict,
}

impl FieldValidation {
    /// From the query of a write; the server's default is `Warn`.
    pub(crate) fn of(call: &Call) -> Result<Self, Status> {
        match call.query.get("fieldValidation") {
            Some("Ignore") => Ok(Self::Ignore),
            None | Some("Warn") => Ok(Self::Warn),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => {
                let known = ["", "Ignore", "Strict", "Warn"];
                Err(call.invalid_option(Violation::not_supported("fieldValidation", other, &known)))
            }
        }
    }
}

/// A body as JSON, and what strict validation has against it.
pub(crate) struct Parsed {
    pub(crate) value: Value,
    /// `duplicate field "x"`, `unknown field "y"`.
    pub(crate) complaints: Vec<String>,
}

/// Reads YAML, and so also JSON; also says which fields it states twice.
pub(crate) fn from_yaml(bytes: &[u8], max_depth: usize) -> Result<(Value, Vec<String>), String> {
    match parse_strict(bytes, max_depth) {
        Ok(parsed) => Ok(parsed),
        Err(error @ ParseError::TooDeep { .. }) => Err(error.to_string()),
        Err(ParseError::Syntax(_)) => {
            let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
            let options = serde_saphyr::options! { legacy_octal_numbers: true };
            let value: Value = serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())?;
            let json = serde_json::to_vec(&value).map_err(|error| error.to_string())?;
            parse_strict(&json, max_depth).map_err(|error| error.to_string())
        }
    }
}

/// Parses a request body of a media type: protobuf, YAML, or else JSON.
/// Protobuf has no names, and so nothing that strict validation could complain
/// about.
pub(crate) fn parse(media_type: &str, bytes: &[u8], max_depth: usize, kind: &str) -> Result<Parsed, Status> {
    let refused = |error: &dyn std::fmt::Display| {
        Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {error}"))
    };
    require_known(media_type)?;
    if media_type == protobuf::MEDIA_TYPE {
        let (_, value) = protobuf::decode(bytes, max_depth).map_err(|error| refused(&error))?;
        return Ok(Parsed {
            value,
            complaints: Vec::new(),
        });
    }
    let (value, complaints) = match media_type {
        YAML => from_yaml(bytes, max_depth).map_err(|error| refused(&error))?,
        _ => parse_strict(bytes, max_depth).map_err(|error| refused(&error))?,
    };
    Ok(Parsed { value, complaints })
}

/// Reads and decodes the body of a create or update.
pub(crate) async fn read(call: &mut Call) -> Result<Object, Status> {
    let row = std::sync::Arc::clone(&call.row);
    read_as(call, &row).await
}

/// The same for a body of another kind than the row's, as some subresources
/// take.
pub(crate) async fn read_as(call: &mut Call, row: &Resource) -> Result<Object, Status> {
    let media_type = call.content_type();
    let validation = FieldValidation::of(call)?;
    let bytes = call.read_body().await?;
    let parsed = parse(&media_type, &bytes, call.core.limits.body_depth, &row.id.kind)?;
    let (object, complaints) = decode(row, parsed)?;
    match validation {
        FieldValidation::Strict if !complaints.is_empty() => {
            Err(unhandled(row, &format!("strict decoding error: {}", complaints.join(", "))))
        }
        FieldValidation::Warn => {
            call.warnings.extend(complaints);
            Ok(object)
        }
        _ => Ok(object),
    }
}

/// Turns a value into an object of a row: checked, pruned, in normal form,
/// with defaults. Also returns every field it did not know.
pub(crate) fn decode(row: &Resource, parsed: Parsed) -> Result<(Object, Vec<String>), Status> {
    let Parsed { mut value, mut complaints } = parsed;
    require_kind(row, &mut value)?;
    check(row.schema(), &value).map_err(|error| unhandled(row, &error.to_string()))?;
    complaints.extend(unknown_fields(row.schema(), &value));
    prune(row.schema(), &mut value);
    normalize(row.schema(), &mut value);
    apply_defaults(row.schema(), &mut value);
    let mut object = Object::from_value(value).map_err(|error| unhandled(row, &error.to_string()))?;
    row.strategy.default(&mut object);
    Ok((object, complaints))
}

/// `Pod in version "v1" cannot be handled as a Pod: <why>`.
fn unhandled(row: &Resource, why: &str) -> Status {
    Status::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        row.id.kind, row.id.version, row.id.kind
    ))
}

/// The body's `apiVersion` and `kind` must be the row's; absent ones are
/// filled in, as upstream's decoder does from the path.
fn require_kind(row: &Resource, value: &mut Value) -> Result<(), Status> {
    let wanted = (row.id.api_version(), row.id.kind.as_str());
    let Value::Object(fields) = value else {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): the body is not a JSON object",
            row.id.kind
        )));
    };
    for (field, wanted) in [("apiVersion", wanted.0.as_str()), ("kind", wanted.1)] {
        match fields.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(given)) if given.is_empty() || given == wanted => {}
            Some(given) => {
                let given = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
                return Err(Status::bad_request(format!(
                    "the {field} in the data ({given}) does not match the expected {field} ({wanted})"
                )));
            }
        }
        fields.insert(field.to_owned(), Value::from(wanted));
    }
    Ok(())
}

/// 415 for a body of a media type that cannot be read.
///
/// Source: upstream `apiserver/pkg/endpoints/handlers/negotiation/{negotiate,errors}.go`.
fn require_known(media_type: &str) -> Result<(), Status> {
    match media_type {
        "" | "application/json" | YAML | protobuf::MEDIA_TYPE => Ok(()),
        _ => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: {MEDIA_TYPES}"
        ))),
    }
}

#[cfg(test)]
mod tests;
