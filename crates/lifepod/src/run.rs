//! `lifepod run -f FILE`: the Pods of a manifest, once, with their life shown.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api::typed::{ContainerStatus, Pod};
use futures::{StreamExt, TryStreamExt};
use kube::api::{Api, DeleteParams, DynamicObject, GroupVersionKind, PostParams, WatchEvent};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use runtime::image::{LayerState, Progress};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::flags::{Run, Up};
use crate::layout::{Layout, Lock};
use crate::platform::{Platform, client_as};

/// How long pods may take to be gone beyond their own grace.
const CLEANUP_LIMIT: Duration = Duration::from_secs(60);
/// Lines of all watches that wait to be printed.
const LINES: usize = 1_024;
/// Exit code after Ctrl-C: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Runs a manifest once. The exit code is that of the first container that
/// failed, 0 when none did.
pub(crate) async fn run(flags: Run) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let manifest = read_manifest(&flags.file)?;
    let mut home = Home::find_or_start(&flags.up).await?;
    let mut shown = Show::new();
    let client = home.client.clone();
    let mut pulls = JoinSet::new();
    if let Some(platform) = &home.own {
        pulls.spawn(show_pulls(platform.parts.puller.progress(), shown.started));
    }
    let mut made = Vec::new();
    let outcome = tokio::select! {
        outcome = live(&client, manifest, &mut made, &mut shown) => outcome,
        _ = interrupt.recv() => Ok(INTERRUPTED),
        _ = terminate.recv() => Ok(INTERRUPTED),
    };
    let cleaned = tokio::select! {
        cleaned = clean_up(&made) => cleaned,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted while cleaning up; `lifepod down` removes what is left")),
    };
    let stopped = home.stop().await;
    let code = outcome?;
    cleaned?;
    stopped?;
    Ok(ExitCode::from(code))
}

/// The platform a run happens on.
struct Home {
    client: Client,
    /// Present when this run started it, and so ends it.
    own: Option<Platform>,
}

impl Home {
    async fn find_or_start(up: &Up) -> Result<Self> {
        let layout = Layout::new(&up.data.data_dir)?;
        let running = layout.exists() && Lock::try_take(&layout)?.is_err();
        if running {
            let path = layout.admin_kubeconfig();
            let kubeconfig = Kubeconfig::read_from(&path).with_context(|| format!("reading {}", path.display()))?;
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            return Ok(Self {
                client: Client::try_from(config)?,
                own: None,
            });
        }
        let platform = Platform::start(up).await?;
        let client = client_as(&platform.api, client::Identity::admin("lifepod-run"));
        Ok(Self {
            client,
            own: Some(platform),
        })
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some(mut platform) = self.own.take() {
            platform.stop().await;
            platform.purge().await?;
        }
        Ok(())
    }
}

/// Shows how far downloads are: every change of a layer, and every tenth part
/// of a large one.
async fn show_pulls(mut news: tokio::sync::broadcast::Receiver<Progress>, started: Instant) {
    let mut shown: BTreeMap<Arc<str>, (LayerState, u64)> = BTreeMap::new();
    loop {
        let progress = match news.recv().await {
            Ok(progress) => progress,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        let tenths = progress
            .done_bytes
            .saturating_mul(10)
            .checked_div(progress.total_bytes)
            .unwrap_or(10);
        let now = (progress.state, tenths);
        if shown.insert(progress.layer.clone(), now) == Some(now) {
            continue;
        }
        let layer: String = progress.layer.rsplit(':').next().unwrap_or_default().chars().take(12).collect();
        let state = match progress.state {
            LayerState::Present => "present",
            LayerState::Downloading => "downloading",
            LayerState::Unpacking => "unpacking",
            LayerState::Ready => "ready",
        };
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{seconds:>8.3}s  image {}  layer {layer} {state}, {}0 % of {} bytes",
            progress.reference, tenths, progress.total_bytes
        );
    }
}

/// Every object of a manifest: YAML or JSON, `-` for standard input.
pub(crate) fn read_manifest(path: &Path) -> Result<Vec<DynamicObject>> {
    parse_manifest(&read_text(path)?).with_context(|| format!("the manifest {}", path.display()))
}

/// The text of a manifest, `-` for standard input.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).context("reading the manifest from standard input")
    } else {
        std::fs::read_to_string(path).with_context(|| format!("cannot read the manifest {}", path.display()))
    }
}

/// The documents of a manifest that are not empty; of a `List`, its items.
pub(crate) fn parse_documents(text: &str) -> Result<Vec<Value>> {
    // As kubectl reads YAML: `0644` is octal.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options).context("is not valid YAML")?;
    let mut all = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(mut map) if map.get("kind").and_then(Value::as_str) == Some("List") => {
                all.extend(map.remove("items").and_then(|items| items.as_array().cloned()).unwrap_or_default());
            }
            other => all.push(other),
        }
    }
    Ok(all)
}

fn parse_manifest(text: &str) -> Result<Vec<DynamicObject>> {
    let objects: Vec<DynamicObject> = parse_documents(text)?
        .into_iter()
        .map(|document| serde_json::from_value(document).context("holds something that is not a Kubernetes object"))
        .collect::<Result<_>>()?;
    let pods = objects
        .iter()
        .filter(|object| object.types.as_ref().is_some_and(|types| types.kind == "Pod"))
        .count();
    ensure!(pods > 0, "holds no Pod, so there is nothing to run");
    Ok(objects)
}

/// Something this run made, newest last.
struct Made {
    api: Api<DynamicObject>,
    kind: String,
    name: String,
}

/// Creates everything, then shows the pods until all have ended.
async fn live(client: &Client, manifest: Vec<DynamicObject>, made: &mut Vec<Made>, show: &mut Show) -> Result<u8> {
    let mut pods = Vec::new();
    for mut object in manifest {
        let types = object
            .types
            .clone()
            .context("an object of the manifest has no apiVersion and kind")?;
        let gvk = GroupVersionKind::try_from(&types).with_context(|| format!("apiVersion {:?}", types.api_version))?;
        let (resource, capabilities) = kube::discovery::pinned_kind(client, &gvk)
            .await
            .with_context(|| format!("{} is not served here", types.kind))?;
        let namespaced = matches!(capabilities.scope, kube::discovery::Scope::Namespaced);
        let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
        let api = if namespaced {
            ensure_namespace(client, &namespace, made, show).await?;
            object.metadata.namespace = Some(namespace.clone());
            Api::namespaced_with(client.clone(), &namespace, &resource)
        } else {
            Api::all_with(client.clone(), &resource)
        };
        let name = object
            .metadata
            .name
            .clone()
            .or_else(|| object.metadata.generate_name.clone())
            .unwrap_or_default();
        let created = api.create(&PostParams::default(), &object).await.map_err(|error| match error {
            kube::Error::Api(status) => anyhow::anyhow!("{}", status.message),
            other => other.into(),
        });
        let created = created.with_context(|| format!("cannot create {} {name:?}", types.kind))?;
        let name = created.name_any();
        show.line(&format!("{}/{name}", types.kind.to_lowercase()), "created");
        if types.kind == "Pod" {
            pods.push((namespace, name.clone()));
        }
        made.push(Made {
            api,
            kind: types.kind,
            name,
        });
    }
    follow(client, pods, show).await
}

async fn ensure_namespace(client: &Client, name: &str, made: &mut Vec<Made>, show: &Show) -> Result<()> {
    let gvk = GroupVersionKind::gvk("", "v1", "Namespace");
    let (resource, _) = kube::discovery::pinned_kind(client, &gvk).await?;
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    if api.get_opt(name).await?.is_none() {
        api.create(&PostParams::default(), &DynamicObject::new(name, &resource).data(json!({})))
            .await?;
        show.line(&format!("namespace/{name}"), "created");
        made.push(Made {
            api,
            kind: "Namespace".to_owned(),
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// What a watch of a pod says.
enum News {
    Pod { key: String, cells: Vec<String>, pod: Box<Pod> },
    Gone { key: String },
    Event { key: String, text: String },
    Log { key: String, container: String, line: String },
}

/// Shows every pod until all have ended; gives the exit code of the run.
async fn follow(client: &Client, pods: Vec<(String, String)>, show: &mut Show) -> Result<u8> {
    let (send, mut news) = mpsc::channel(LINES);
    let mut watches: JoinSet<Result<()>> = JoinSet::new();
    let mut left: BTreeMap<String, Option<u8>> = BTreeMap::new();
    for (namespace, name) in pods {
        let key = format!("pod/{name}");
        left.insert(key.clone(), None);
        watches.spawn(watch_pod(
            client.clone(),
            namespace.clone(),
            name.clone(),
            key.clone(),
            send.clone(),
        ));
        watches.spawn(watch_events(client.clone(), namespace, name, key, send.clone()));
    }
    let mut logs: BTreeMap<(String, String, i32), ()> = BTreeMap::new();
    while left.values().any(Option::is_none) {
        let item = tokio::select! {
            item = news.recv() => item.context("the watches ended")?,
            Some(ended) = watches.join_next() => {
                ended??;
                continue;
            }
        };
        match item {
            News::Event { key, text } => show.line(&key, &text),
            News::Log { key, container, line } => show.line(&format!("{key} [{container}]"), &line),
            News::Gone { key } => {
                show.line(&key, "deleted");
                left.insert(key, Some(1));
            }
            News::Pod { key, cells, pod } => {
                show.status(&key, &cells);
                follow_logs(client, &key, &pod, &mut logs, &mut watches, &send);
                let ended = api::pods::is_terminal(&pod);
                if ended {
                    left.insert(key, Some(exit_code(&pod)));
                }
            }
        }
    }
    // What the containers wrote last, and the last events.
    let deadline = tokio::time::Instant::now() + Duration::from_millis(500);
    while let Ok(Some(item)) = tokio::time::timeout_at(deadline, news.recv()).await {
        match item {
            News::Event { key, text } => show.line(&key, &text),
            News::Log { key, container, line } => show.line(&format!("{key} [{container}]"), &line),
            News::Pod { .. } | News::Gone { .. } => {}
        }
    }
    Ok(left.into_values().flatten().find(|code| *code != 0).unwrap_or(0))
}

/// Starts following the log of every container attempt that has one.
fn follow_logs(
    client: &Client,
    key: &str,
    pod: &Pod,
    known: &mut BTreeMap<(String, String, i32), ()>,
    watches: &mut JoinSet<Result<()>>,
    send: &mpsc::Sender<News>,
) {
    for status in statuses(pod) {
        let started = status
            .state
            .as_ref()
            .is_some_and(|state| state.running.is_some() || state.terminated.is_some());
        let attempt = (key.to_owned(), status.name.clone(), status.restart_count);
        if !started || known.insert(attempt, ()).is_some() {
            continue;
        }
        let api = Api::<Pod>::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
        let (key, name, container, send) = (key.to_owned(), pod.name_any(), status.name.clone(), send.clone());
        watches.spawn(async move {
            use futures::AsyncBufReadExt;
            let params = kube::api::LogParams {
                container: Some(container.clone()),
                follow: true,
                ..Default::default()
            };
            // A container that is gone again has no log to show.
            let Ok(reader) = api.log_stream(&name, &params).await else {
                return Ok(());
            };
            let mut lines = reader.lines();
            while let Ok(Some(line)) = lines.try_next().await {
                if send
                    .send(News::Log {
                        key: key.clone(),
                        container: container.clone(),
                        line,
                    })
                    .await
                    .is_err()
                {
                    break;
                }
            }
            Ok(())
        });
    }
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status
        .and_then(|status| status.init_container_statuses.as_deref())
        .unwrap_or_default();
    let regular = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    init.iter().chain(regular)
}

/// The first code that is not 0; 1 for a pod that failed without one.
fn exit_code(pod: &Pod) -> u8 {
    let codes = statuses(pod).filter_map(|status| Some(status.state.as_ref()?.terminated.as_ref()?.exit_code));
    let failed = codes
        .into_iter()
        .find(|code| *code != 0)
        .map(|code| u8::try_from(code & 0xff).unwrap_or(1).max(1));
    match api::pods::phase(pod) {
        "Failed" => failed.unwrap_or(1),
        _ => 0,
    }
}

/// The table form of a watch, with whole objects in it.
#[derive(Clone, Debug, Deserialize)]
struct Table {
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Clone, Debug, Deserialize)]
struct Row {
    cells: Vec<Value>,
    object: Value,
}

async fn watch_pod(client: Client, namespace: String, name: String, key: String, send: mpsc::Sender<News>) -> Result<()> {
    let path = format!("/api/v1/namespaces/{namespace}/pods?watch=true&includeObject=Object&fieldSelector=metadata.name%3D{name}");
    let request = http::Request::get(path)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())?;
    let mut changes = client.request_events::<Table>(request).await?.boxed();
    while let Some(change) = changes.try_next().await? {
        let (table, gone) = match change {
            WatchEvent::Added(table) | WatchEvent::Modified(table) => (table, false),
            WatchEvent::Deleted(table) => (table, true),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => bail!("the watch of {key} ended: {}", status.message),
        };
        for row in table.rows {
            let cells = row
                .cells
                .iter()
                .map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned))
                .collect();
            let pod = serde_json::from_value(row.object).context("a watch event holds no Pod")?;
            let item = if gone {
                News::Gone { key: key.clone() }
            } else {
                News::Pod {
                    key: key.clone(),
                    cells,
                    pod,
                }
            };
            if send.send(item).await.is_err() {
                return Ok(());
            }
        }
    }
    bail!("the watch of {key} ended; is the API server still running?")
}

async fn watch_events(client: Client, namespace: String, name: String, key: String, send: mpsc::Sender<News>) -> Result<()> {
    let path =
        format!("/api/v1/namespaces/{namespace}/events?watch=true&fieldSelector=involvedObject.kind%3DPod,involvedObject.name%3D{name}");
    let mut changes = client
        .request_events::<api::typed::Event>(http::Request::get(path).body(Vec::new())?)
        .await?
        .boxed();
    while let Some(change) = changes.try_next().await? {
        if let WatchEvent::Added(event) | WatchEvent::Modified(event) = change {
            let text = format!(
                "{} {}: {}",
                event.type_.unwrap_or_default(),
                event.reason.unwrap_or_default(),
                event.message.unwrap_or_default()
            );
            if send.send(News::Event { key: key.clone(), text }).await.is_err() {
                break;
            }
        }
    }
    Ok(())
}

/// Deletes what the run made, newest first, and waits until it is gone.
async fn clean_up(made: &[Made]) -> Result<()> {
    for item in made.iter().rev() {
        match item.api.delete(&item.name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error).with_context(|| format!("deleting {} {:?}", item.kind, item.name)),
        }
        let gone = async {
            while item.api.get_opt(&item.name).await?.is_some() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok::<_, kube::Error>(())
        };
        let limit = CLEANUP_LIMIT;
        tokio::time::timeout(limit, gone)
            .await
            .with_context(|| format!("{} {:?} was not gone {limit:?} after its deletion", item.kind, item.name))??;
    }
    Ok(())
}

/// Prints what happens, with the time since the start.
struct Show {
    started: Instant,
    statuses: BTreeMap<String, String>,
}

impl Show {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            statuses: BTreeMap::new(),
        }
    }

    fn line(&self, who: &str, what: &str) {
        println!("{:>8.3}s  {who}  {what}", self.started.elapsed().as_secs_f64());
    }

    /// READY, STATUS and RESTARTS as `kubectl get` prints them, when changed.
    fn status(&mut self, who: &str, cells: &[String]) {
        let cell = |index: usize| cells.get(index).map_or("", String::as_str);
        let restarts = cell(3).split(' ').next().unwrap_or_default();
        let text = format!(
            "{} {}{}",
            cell(1),
            cell(2),
            if restarts == "0" {
                String::new()
            } else {
                format!(", {restarts} restarts")
            }
        );
        if self.statuses.insert(who.to_owned(), text.clone()).as_ref() != Some(&text) {
            self.line(who, &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_kubectl_reads_it() {
        let objects = parse_manifest("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n---\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {mode: 0644}\n").unwrap();
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[1].data["spec"]["mode"], 420);
        let error = parse_manifest("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n").unwrap_err();
        assert!(error.to_string().contains("no Pod"));
        assert!(parse_manifest("{").is_err());
    }

    #[test]
    fn the_exit_code_is_that_of_the_first_container_that_failed() {
        let pod = |phase: &str, codes: &[i32]| -> Pod {
            let statuses: Vec<_> = codes
                .iter()
                .map(|code| json!({ "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": { "terminated": { "exitCode": code } } }))
                .collect();
            serde_json::from_value(json!({ "metadata": {}, "status": { "phase": phase, "containerStatuses": statuses } })).unwrap()
        };
        assert_eq!(exit_code(&pod("Failed", &[0, 3])), 3);
        assert_eq!(exit_code(&pod("Failed", &[])), 1);
        assert_eq!(exit_code(&pod("Succeeded", &[0])), 0);
    }
}
