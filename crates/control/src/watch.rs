//! What every controller lives on: news of a kind, for as long as it asks.

use std::fmt::Debug;

use futures::{Stream, StreamExt};
use kube::{Api, Resource};
use kube_runtime::WatchStreamExt;
use kube_runtime::watcher::{Config, Event, watcher};
use serde::de::DeserializeOwned;

/// The objects there are, then their changes. A watch that fails is begun
/// anew, later each time, with a list of what there is by then; only the log
/// tells of that.
pub(crate) fn watch<K>(objects: Api<K>, which: Config) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let path = objects.resource_url().to_owned();
    watcher(objects, which).default_backoff().filter_map(move |event| {
        let news = event.inspect_err(|error| {
            tracing::warn!(resource = path, error = %error, "watch failed; it is tried again");
        });
        std::future::ready(news.ok())
    })
}
