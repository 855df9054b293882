//! The one body type of requests and responses, and reading it with a limit.

use api::Status;
use bytes::{Bytes, BytesMut};
use futures::Stream;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};

/// Whatever made a body fail.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A request or response body: bytes at once, or a stream such as a watch.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BodyError>;

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body without content.
#[must_use]
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body that is sent as it comes to be.
pub fn stream(chunks: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Body {
    use futures::TryStreamExt;
    StreamBody::new(chunks.map_ok(Frame::data)).boxed_unsync()
}

/// Reads a whole body of at most `limit_bytes`.
///
/// # Errors
/// 413 when it is longer, 400 when the client stops in the middle.
pub async fn read(mut body: Body, limit_bytes: usize) -> Result<Bytes, Status> {
    let too_large = || Status::request_too_large(format!("the request body is larger than the limit of {limit_bytes} bytes"));
    if http_body::Body::size_hint(&body).lower() > limit_bytes as u64 {
        return Err(too_large());
    }
    let mut first: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(format!("the request body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let so_far = first.as_ref().map_or(0, Bytes::len) + joined.len();
        if so_far + data.len() > limit_bytes {
            return Err(too_large());
        }
        match first.take() {
            None if joined.is_empty() => first = Some(data),
            None => joined.extend_from_slice(&data),
            Some(before) => {
                joined.extend_from_slice(&before);
                joined.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| joined.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn chunks_are_joined_and_the_limit_holds() {
        let chunks = || stream(futures::stream::iter(["ab", "cd", "ef"].map(|chunk| Ok(Bytes::from(chunk)))));
        assert_eq!(read(chunks(), 6).await.unwrap(), "abcdef");
        assert_eq!(read(chunks(), 5).await.unwrap_err().code, 413);
        assert_eq!(read(full("abc"), 2).await.unwrap_err().code, 413);
        assert_eq!(read(empty(), 0).await.unwrap(), "");
    }
}
