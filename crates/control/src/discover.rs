//! What the API server serves, for controllers that follow every kind.

use std::time::Duration;

use kube::Client;
use kube::discovery::{ApiCapabilities, ApiGroup, ApiResource, Discovery, verbs};

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Before it is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Every resource, in the version its group prefers, that can be listed and
/// watched. Asks until there is an answer.
pub(crate) async fn watchable(client: &Client) -> Vec<(ApiResource, ApiCapabilities)> {
    loop {
        match tokio::time::timeout(LIMIT, Discovery::new(client.clone()).run()).await {
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
