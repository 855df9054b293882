//! The last step of an answer: what is JSON becomes protobuf or YAML, or gets
//! indented, when the client wishes so.
//!
//! Objects, lists and events are written in protobuf where they are read; this
//! covers everything else, such as statuses and the answers of subresources.
//!
//! Source: upstream `apiserver/pkg/endpoints/handlers/negotiation/negotiate.go`
//! (`isPrettyPrint`), `apiserver/pkg/endpoints/handlers/responsewriters`.

use http::{HeaderValue, Request, Response, header};
use http_body::Body as _;
use http_body_util::BodyExt;

use crate::body::{self, Body};
use crate::negotiate;
use crate::request;

/// Marks an answer that is a stream and ends by itself.
#[derive(Clone, Copy)]
pub(crate) struct Finite;

/// How a client wants its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    protobuf: bool,
    yaml: bool,
    pretty: bool,
}

impl Wish {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let path = request.uri().path();
        // A proxied answer is another server's; a document is a document.
        if request::proxied(path).is_some() || path.starts_with("/openapi/") {
            return Self::default();
        }
        Self {
            protobuf: negotiate::prefers(request.headers(), api::protobuf::MEDIA_TYPE),
            yaml: path.starts_with("/api") && negotiate::prefers(request.headers(), negotiate::YAML),
            pretty: pretty(request),
        }
    }

    /// Answers that are streams, and those of other formats, stay as they are.
    pub(crate) async fn fulfil(self, response: Response<Body>) -> Response<Body> {
        let is_json = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|media_type| media_type.as_bytes().starts_with(b"application/json"));
        let there = response.body().size_hint().exact().is_some_and(|bytes| bytes > 0);
        let ends = there || response.extensions().get::<Finite>().is_some();
        if !(self.protobuf || self.yaml || self.pretty) || !is_json || !ends {
            return response;
        }
        let (mut head, body) = response.into_parts();
        // What ends is there already, or made without waiting.
        let Ok(text) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
            return Response::from_parts(head, body::empty());
        };
        if self.protobuf
            && let Ok(value) = serde_json::from_slice(&text)
            && let Ok(encoded) = api::protobuf::encode(&value)
        {
            let media_type = HeaderValue::from_static(api::protobuf::MEDIA_TYPE);
            head.headers.insert(header::CONTENT_TYPE, media_type);
            return Response::from_parts(head, body::full(encoded));
        }
        if self.yaml
            && let Ok(value) = serde_json::from_slice::<serde_json::Value>(&text)
            && let Ok(written) = serde_saphyr::to_string(&value)
        {
            head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(negotiate::YAML));
            return Response::from_parts(head, body::full(written));
        }
        let shown = if self.pretty { indent(&text).into() } else { text };
        Response::from_parts(head, body::full(shown))
    }
}

/// Asked for in the query, or else by a person with a browser, curl or Wget.
fn pretty<B>(request: &Request<B>) -> bool {
    let asked = request.uri().query().filter(|query| query.contains("pretty")).and_then(|query| {
        let query = request::Query::parse(query).ok()?;
        let value = query.get("pretty")?;
        Some(matches!(value, "1" | "t" | "T" | "TRUE" | "true" | "True"))
    });
    let by_hand = || {
        let agent = request.headers().get(header::USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
        [&b"curl"[..], b"Wget", b"Mozilla/5.0"].iter().any(|begin| agent.starts_with(begin))
    };
    asked.unwrap_or_else(by_hand)
}

/// JSON with two spaces a level, members in their order.
fn indent(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let mut quoted = false;
    let mut escaped = false;
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    for (index, byte) in text.iter().copied().enumerate() {
        if quoted {
            out.push(byte);
            (quoted, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
            continue;
        }
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => {}
            b'{' | b'[' => {
                out.push(byte);
                let closes = |next: &&u8| !next.is_ascii_whitespace();
                let empty = matches!(text[index + 1..].iter().find(closes), Some(b'}' | b']'));
                if empty {
                    continue;
                }
                depth += 1;
                line(&mut out, depth);
            }
            b'}' | b']' => {
                if !matches!(out.last(), Some(b'{' | b'[')) {
                    depth = depth.saturating_sub(1);
                    line(&mut out, depth);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            _ => {
                quoted = byte == b'"';
                out.push(byte);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::Rig;

    #[test]
    fn indented_json_is_the_same_and_readable() {
        let table = [
            (r#"{"b":1,"a":[],"c":{}}"#, "{\n  \"b\": 1,\n  \"a\": [],\n  \"c\": {}\n}"),
            (r#"[{"x":"a\"{,:\\"}, 2 ]"#, "[\n  {\n    \"x\": \"a\\\"{,:\\\\\"\n  },\n  2\n]"),
            (r"{}", "{}"),
            (r#""text""#, "\"text\""),
        ];
        for (text, wanted) in table {
            assert_eq!(String::from_utf8(indent(text.as_bytes())).unwrap(), wanted);
        }
    }

    #[tokio::test]
    async fn people_get_lines_and_programs_do_not() {
        let rig = Rig::new().await;
        let path = "/api/v1/namespaces/default";
        let lines = |text: &[u8]| text.iter().filter(|byte| **byte == b'\n').count();
        for (path, agent, pretty) in [
            (path.to_owned(), "curl/8", true),
            (path.to_owned(), "kubectl/v1.33", false),
            (format!("{path}?pretty=true"), "kubectl/v1.33", true),
            (format!("{path}?pretty=0"), "curl/8", false),
            (format!("{path}x"), "Mozilla/5.0 (X11)", true),
        ] {
            let answer = rig.get_with(&path, &[("user-agent", agent)]).await;
            assert_eq!(lines(&answer.text) > 5, pretty, "{path} {agent}");
            assert!(answer.json()["kind"].is_string());
        }
    }

    #[tokio::test]
    async fn a_refusal_comes_in_protobuf_too() {
        let rig = Rig::new().await;
        let accept = [("accept", "application/vnd.kubernetes.protobuf,application/json")];
        let answer = rig.get_with("/api/v1/namespaces/none", &accept).await;
        assert_eq!(
            (answer.code, answer.headers["content-type"].to_str().unwrap()),
            (404, api::protobuf::MEDIA_TYPE)
        );
        let (types, status) = api::protobuf::decode(&answer.text, 32).unwrap();
        assert_eq!(
            (types.kind.as_str(), &status["reason"], &status["code"]),
            ("Status", &json!("NotFound"), &json!(404))
        );
        // What has no protobuf form comes as JSON.
        let plain = rig.get_with("/version", &accept).await;
        assert_eq!(plain.headers["content-type"], "application/json");
        assert!(serde_json::from_slice::<Value>(&plain.text).is_ok());
    }
}
