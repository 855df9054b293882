//! Answers: JSON documents, statuses, and the splice that gives a stored
//! object its revision without decoding it.

use api::Status;
use api::protobuf::ProtobufError;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::body::{self, Body};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer of bytes that are JSON already.
pub(crate) fn bytes(code: StatusCode, json: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(body::full(json));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    // Source: upstream `WithCacheControl`: proxies must not keep answers that
    // depend on who asked.
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// An answer of a value.
pub(crate) fn json(code: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(text) => bytes(code, text),
        Err(error) => status(&Status::internal(&format!("the answer could not be encoded: {error}"))),
    }
}

/// An answer in protobuf.
pub(crate) fn protobuf(code: StatusCode, encoded: Result<Vec<u8>, ProtobufError>) -> Response<Body> {
    match encoded {
        Ok(encoded) => {
            let mut response = bytes(code, encoded);
            let media_type = HeaderValue::from_static(api::protobuf::MEDIA_TYPE);
            response.headers_mut().insert(header::CONTENT_TYPE, media_type);
            response
        }
        Err(error) => status(&Status::internal(&format!("the answer could not be encoded: {error}"))),
    }
}

/// An answer of text.
pub(crate) fn text(code: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// An answer that anybody who may have it may also keep for an hour.
///
/// Source: upstream `pkg/serviceaccount/openidmetadata.go`.
pub(crate) fn public_json(value: &impl Serialize, content_type: &'static str) -> Response<Body> {
    let mut response = json(StatusCode::OK, value);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

/// A status as its own answer.
pub(crate) fn status(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // A status is strings and numbers; it always encodes.
    let text = serde_json::to_vec(status).unwrap_or_default();
    let mut response = bytes(code, text);
    if let Some(details) = &status.details
        && details.retry_after_seconds > 0
    {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, details.retry_after_seconds.into());
    }
    if code == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"lifepod\""));
    }
    response
}

/// Adds `Warning` headers, each `299 - "<text>"`.
///
/// Source: upstream `apimachinery/pkg/util/net/http.go`, `NewWarningHeader`.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let mut quoted = String::with_capacity(warning.len() + 10);
        quoted.push_str("299 - \"");
        for character in warning.chars() {
            match character {
                '"' | '\\' => quoted.extend(['\\', character]),
                control if control.is_control() => quoted.push(' '),
                other => quoted.push(other),
            }
        }
        quoted.push('"');
        if let Ok(value) = HeaderValue::from_bytes(quoted.as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

const METADATA: &[u8] = b"\"metadata\":{";

/// Appends a stored object with `metadata.resourceVersion` set to `revision`.
///
/// Stored bytes are ours: compact JSON that begins with `apiVersion`, `kind`
/// and `metadata`, in this order, without a revision (it is not known before
/// the write). The first `"metadata":{` therefore is the object's own.
pub(crate) fn splice(stored: &[u8], revision: u64, out: &mut BytesMut) {
    let at = stored
        .windows(METADATA.len())
        .position(|window| window == METADATA)
        .map(|at| at + METADATA.len());
    // What a dry run would have made has no revision.
    let Some(at) = at.filter(|_| revision != 0) else {
        out.extend_from_slice(stored);
        return;
    };
    let (before, after) = stored.split_at(at);
    out.reserve(stored.len() + 44);
    out.extend_from_slice(before);
    out.extend_from_slice(b"\"resourceVersion\":\"");
    let mut digits = [0; 20];
    out.extend_from_slice(decimal(revision, &mut digits));
    out.put_u8(b'"');
    if after.first() != Some(&b'}') {
        out.put_u8(b',');
    }
    out.extend_from_slice(after);
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        #[allow(clippy::cast_possible_truncation)] // a digit
        let digit = (number % 10) as u8;
        digits[at] = b'0' + digit;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_object_gets_its_revision() {
        let splice = |stored: &str, revision| {
            let mut out = BytesMut::new();
            splice(stored.as_bytes(), revision, &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        assert_eq!(
            splice(
                r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"metadata":{}}}"#,
                120
            ),
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"120","name":"a"},"spec":{"metadata":{}}}"#
        );
        assert_eq!(
            splice(r#"{"kind":"Pod","metadata":{}}"#, u64::MAX),
            r#"{"kind":"Pod","metadata":{"resourceVersion":"18446744073709551615"}}"#
        );
        assert_eq!(splice(r#"{"metadata":{}}"#, 0), r#"{"metadata":{}}"#);
    }

    #[test]
    fn warnings_are_quoted_for_a_header() {
        let mut response = status(&Status::unauthorized());
        warn(&mut response, &["unknown field \"spec.foo\"".to_owned(), "two\nlines".to_owned()]);
        let values: Vec<_> = response
            .headers()
            .get_all(header::WARNING)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        assert_eq!(values, [r#"299 - "unknown field \"spec.foo\"""#, r#"299 - "two lines""#]);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
}
