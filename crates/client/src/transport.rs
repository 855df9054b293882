//! Transports under [`kube::Client`].

use std::convert::Infallible;
use std::future::Future;

use bytes::Bytes;
use http::{Request, Response};
use kube::client::Body;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A client whose requests go to `handle` in this process: no socket, no TLS,
/// yet the same requests, authorization and answers as over HTTPS.
///
/// Dropping an answer's body ends what feeds it, such as a watch.
pub fn in_process<H, F, B>(handle: H) -> kube::Client
where
    H: Fn(Request<Body>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let service = tower::service_fn(move |request| {
        let answer = handle(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    kube::Client::new(service, "default")
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::typed::Pod;
    use http_body_util::Full;
    use kube::Api;

    #[tokio::test]
    async fn a_request_reaches_the_handler_and_its_answer_comes_back() {
        let client = in_process(|request: Request<Body>| async move {
            assert_eq!(request.uri().path(), "/api/v1/namespaces/default/pods/a");
            Response::new(Full::new(Bytes::from_static(
                br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#,
            )))
        });
        let pod = Api::<Pod>::default_namespaced(client).get("a").await.unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("a"));
    }
}
