//! Connections that change their protocol: after a 101 of the other side its
//! connection and the client's are one.
//!
//! Source: upstream `apimachinery/pkg/util/proxy/upgradeaware.go`.

use std::time::Duration;

use http::{Response, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::body::{self, Body};
use crate::call::Call;

/// For one side to end once the other has.
const FAREWELL: Duration = Duration::from_secs(10);

/// Answers with the other side's answer; after a 101 the two connections are
/// joined, until one of them ends or the server does.
pub(crate) fn pass(mut call: Call, mut response: Response<Body>) -> Response<Body> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    let theirs = hyper::upgrade::on(&mut response);
    let (head, _) = response.into_parts();
    if let Some(ours) = call.upgrade.take() {
        let permit = call.permit.take();
        call.core.in_background(async move {
            let _counted = permit;
            match tokio::try_join!(ours, theirs) {
                Ok((client, node)) => relay(client, node).await,
                Err(error) => tracing::debug!(%error, "a connection was not handed over"),
            }
        });
    }
    let mut answer = Response::new(body::empty());
    *answer.status_mut() = head.status;
    *answer.headers_mut() = head.headers;
    answer
}

async fn relay(client: Upgraded, node: Upgraded) {
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_node, mut to_node) = tokio::io::split(TokioIo::new(node));
    let mut up = std::pin::pin!(copy(&mut from_client, &mut to_node));
    let mut down = std::pin::pin!(copy(&mut from_node, &mut to_client));
    // An end travels on; a side that does not end after it is cut off.
    tokio::select! {
        () = &mut up => { let _ = tokio::time::timeout(FAREWELL, down).await; }
        () = &mut down => { let _ = tokio::time::timeout(FAREWELL, up).await; }
    }
}

async fn copy<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(from: &mut R, to: &mut W) {
    let _ = tokio::io::copy(from, to).await;
    let _ = to.shutdown().await;
}
