//! The gRPC health check: one call, one field each way.
//!
//! Source: gRPC health checking protocol, gRPC over HTTP/2; upstream
//! `pkg/probe/grpc/grpc.go` for the texts.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lifecycle::Probed;
use lifecycle::event::duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::handler;

/// Bytes of an answer that are looked at: a status is two, behind a prefix of five.
const ANSWER_MAX_BYTES: usize = 1_024;
/// Codes of a call. Source: gRPC status codes.
const DEADLINE_EXCEEDED: u32 = 4;
const UNIMPLEMENTED: u32 = 12;

/// How a call ended that has no answer.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    Status { code: u32, message: String },
    Broken(String),
}

/// Asks `grpc.health.v1.Health` about a service; it is well when it serves.
pub(crate) async fn check(host: &str, port: u16, service: &str, limit: Duration, user_agent: &str) -> Probed {
    let (address, deadline) = (handler::address(host, port), Instant::now() + limit);
    let stream = match timeout_at(deadline, handler::dial(host, port)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Probed::Failure(format!(
                "error: failed to connect service at \"{address}\": connection error: desc = \"transport: Error while dialing: {error}\""
            ));
        }
        Err(_) => {
            return Probed::Failure(format!(
                "timeout: failed to connect service \"{address}\" within {}: context deadline exceeded",
                duration(limit)
            ));
        }
    };
    let answer = timeout_at(deadline, call(stream, &address, service, user_agent)).await;
    let too_late = || format!("timeout: health rpc did not complete within {}", duration(limit));
    Probed::Failure(match answer {
        Ok(Ok(1)) => return Probed::Success,
        Ok(Ok(status)) => format!("service unhealthy (responded with \"{}\")", serving(status)),
        Err(_)
        | Ok(Err(Trouble::Status {
            code: DEADLINE_EXCEEDED, ..
        })) => too_late(),
        Ok(Err(Trouble::Status {
            code: UNIMPLEMENTED,
            message,
        })) => format!("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"),
        Ok(Err(Trouble::Status { message, .. } | Trouble::Broken(message))) => format!("error: health rpc probe failed: {message}"),
    })
}

/// Names of `HealthCheckResponse.ServingStatus`.
fn serving(status: u64) -> String {
    match status {
        0 => "UNKNOWN".to_owned(),
        1 => "SERVING".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => other.to_string(),
    }
}

async fn call(stream: TcpStream, address: &str, service: &str, user_agent: &str) -> Result<u64, Trouble> {
    let broken = |error: &dyn std::fmt::Display| Trouble::Broken(error.to_string());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, user_agent)
        .body(Full::new(request(service)))
        .map_err(|error| broken(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let (head, mut body) = response.into_parts();
        if !head.status.is_success() {
            return Err(Trouble::Broken(format!(
                "unexpected HTTP status code received from server: {} ({})",
                head.status.as_u16(),
                head.status.canonical_reason().unwrap_or_default()
            )));
        }
        ended(&head.headers)?;
        let mut data = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken(&error))?;
            if let Some(trailers) = frame.trailers_ref() {
                ended(trailers)?;
            } else if let Some(more) = frame.data_ref() {
                data.extend_from_slice(&more[..more.len().min(ANSWER_MAX_BYTES - data.len())]);
            }
        }
        status(&data).ok_or_else(|| Trouble::Broken("the answer is not a HealthCheckResponse".to_owned()))
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await, // what is left has arrived
    }
}

/// The end of a call, as its trailers tell.
fn ended(trailers: &HeaderMap) -> Result<(), Trouble> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status").map_or(Ok(0), str::parse::<u32>);
    match code {
        Ok(0) => Ok(()),
        Ok(code) => {
            let message = text("grpc-message").unwrap_or_default();
            let message = percent_encoding::percent_decode_str(message).decode_utf8_lossy().into_owned();
            Err(Trouble::Status { code, message })
        }
        Err(_) => Err(Trouble::Broken("the call ended without a status".to_owned())),
    }
}

/// A `HealthCheckRequest` with its prefix: not compressed, length.
fn request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a); // field 1, length-delimited
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or(0));
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

/// The status in a `HealthCheckResponse` with its prefix; absent is 0.
fn status(data: &[u8]) -> Option<u64> {
    let (prefix, rest) = data.split_at_checked(5)?;
    let length = usize::try_from(u32::from_be_bytes(prefix[1..].try_into().ok()?)).ok()?;
    let message = rest.get(..length).filter(|_| prefix[0] == 0)?;
    let Some((key, value)) = message.split_first() else {
        return Some(0);
    };
    if *key != 0x08 {
        return None; // the message has no other field
    }
    let mut number = 0;
    for (position, byte) in value.iter().take(9).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Response};
    use http_body_util::StreamBody;
    use hyper::body::{Frame, Incoming};
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    /// A server that answers `answer` to the service `a`, and any other with a
    /// status.
    async fn server(answer: &'static [u8], code: &'static str) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |asked: Request<Incoming>| async move {
                assert_eq!(asked.uri().path(), "/grpc.health.v1.Health/Check");
                assert_eq!(asked.headers()[header::USER_AGENT], "me");
                let known = asked.into_body().collect().await.unwrap().to_bytes() == request("a");
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static(if known { "0" } else { code }));
                trailers.insert("grpc-message", HeaderValue::from_static("not%20this"));
                let mut frames = vec![Ok::<_, std::convert::Infallible>(Frame::trailers(trailers))];
                if known {
                    frames.insert(0, Ok(Frame::data(Bytes::from_static(answer))));
                }
                Ok::<_, std::convert::Infallible>(Response::new(StreamBody::new(futures::stream::iter(frames))))
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        port
    }

    async fn ask(answer: &'static [u8], code: &'static str, service: &str) -> Probed {
        check("127.0.0.1", server(answer, code).await, service, LIMIT, "me").await
    }

    fn failed(text: &str) -> Probed {
        Probed::Failure(text.to_owned())
    }

    #[tokio::test]
    async fn a_service_is_well_when_it_serves() {
        assert_eq!(ask(&[0, 0, 0, 0, 2, 8, 1], "5", "a").await, Probed::Success);
        let not = ask(&[0, 0, 0, 0, 2, 8, 2], "5", "a").await;
        assert_eq!(not, failed("service unhealthy (responded with \"NOT_SERVING\")"));
        let empty = ask(&[0, 0, 0, 0, 0], "5", "a").await;
        assert_eq!(empty, failed("service unhealthy (responded with \"UNKNOWN\")"));
        let unknown = ask(&[], "5", "b").await;
        assert_eq!(unknown, failed("error: health rpc probe failed: not this"));
        let other = ask(&[], "12", "").await;
        let text = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): not this";
        assert_eq!(other, failed(text));
    }

    #[tokio::test]
    async fn who_does_not_answer_fails_in_time() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let silent = check("127.0.0.1", port, "", Duration::from_millis(50), "me").await;
        assert_eq!(silent, failed("timeout: health rpc did not complete within 50ms"));
        drop(listener);
        let refused = check("127.0.0.1", port, "", LIMIT, "me").await;
        let text = format!(
            "error: failed to connect service at \"127.0.0.1:{port}\": connection error: desc = \"transport: Error while dialing: dial tcp 127.0.0.1:{port}: connect: connection refused\""
        );
        assert_eq!(refused, Probed::Failure(text));
    }

    #[test]
    fn what_is_no_answer_is_told_apart() {
        assert_eq!(status(&[0, 0, 0, 0, 2, 8]), None);
        assert_eq!(status(&[1, 0, 0, 0, 2, 8, 1]), None);
        assert_eq!(status(&[0, 0, 0, 0, 3, 8, 0x81, 1]), Some(129));
        assert_eq!(request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
    }
}
