//! What the API server serves, for controllers that follow every kind.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use kube::Client;
use kube::discovery::{ApiCapabilities, ApiGroup, ApiResource, Discovery, verbs};

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Before it is asked again after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Before it is asked again whether kinds have come or gone: two small
/// requests. Upstream asks every 30 s.
const AGAIN: Duration = Duration::from_secs(5);

/// A resource, and what can be done with it.
pub(crate) type Served = (ApiResource, ApiCapabilities);

/// Every resource, in the version its group prefers, that can be listed and
/// watched: now, and again whenever that is something else.
///
/// Source: upstream `garbagecollector.go`, `Sync`, and
/// `resource_quota_controller.go`, `Sync`.
pub(crate) fn watchable(client: Client) -> BoxStream<'static, Vec<Served>> {
    let known: Option<BTreeMap<String, String>> = None;
    stream::unfold((client, known), |(client, mut known)| async move {
        loop {
            if known.is_some() {
                tokio::time::sleep(AGAIN).await;
            }
            let found = ask(&client).await;
            let terms: BTreeMap<String, String> = found.iter().map(terms).collect();
            if known.as_ref() != Some(&terms) {
                return Some((found, (client, Some(terms))));
            }
            known = Some(terms);
        }
    })
    .boxed()
}

/// What makes a resource another one for whoever follows it.
fn terms((resource, capabilities): &Served) -> (String, String) {
    let path = format!("{}/{}", resource.api_version, resource.plural);
    (
        path,
        format!("{} {:?} {:?}", resource.kind, capabilities.scope, capabilities.operations),
    )
}

/// Asks until there is an answer.
async fn ask(client: &Client) -> Vec<Served> {
    loop {
        match tokio::time::timeout(LIMIT, Discovery::new(client.clone()).run_aggregated()).await {
            Ok(Ok(discovery)) => {
                let all = discovery.groups().flat_map(ApiGroup::recommended_resources);
                let can = |capabilities: &ApiCapabilities, verb| capabilities.supports_operation(verb);
                return all
                    .filter(|(_, capabilities)| can(capabilities, verbs::LIST) && can(capabilities, verbs::WATCH))
                    .collect();
            }
            Ok(Err(error)) => tracing::warn!(%error, "discovering resources failed; it is tried again"),
            Err(_) => tracing::warn!("discovering resources did not end within {LIMIT:?}; it is tried again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
