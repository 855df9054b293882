//! `lifepod why pod/NAME`: why a pod is as it is, from the API and from the
//! flight recorder of its node, read through the node proxy with the rights of
//! the kubeconfig's user.

mod explain;
mod text;

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use api::Time;
use api::typed::{Node, Pod};
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use kubelet::flight::FlightList;
use kubelet::{Clock, SystemClock};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::flags::{Output, Why};
use crate::layout::Layout;

use self::explain::{Explanation, Told};

/// Explains one pod.
pub(crate) async fn run(flags: Why) -> Result<ExitCode> {
    let name = pod_name(&flags.pod)?;
    let config = config(&flags).await?;
    let namespace = flags.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config)?;
    let explanation = ask(&client, &namespace, name).await?;
    match flags.output {
        Output::Text => print!("{}", text::render(&explanation)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&explanation)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// `pod/web`, `po/web`, `pods/web` or `web`.
fn pod_name(asked: &str) -> Result<&str> {
    let name = match asked.split_once('/') {
        Some(("pod" | "pods" | "po", name)) => name,
        Some((kind, _)) => bail!("{kind:?} cannot be explained, only pods can: lifepod why pod/NAME"),
        None => asked,
    };
    let valid = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'));
    ensure!(valid, "{asked:?} names no pod: lifepod why pod/NAME");
    Ok(name)
}

/// As `kubectl` finds it, and last the administrator's of the data directory.
async fn config(flags: &Why) -> Result<Config> {
    let options = KubeConfigOptions {
        context: flags.context.clone(),
        ..KubeConfigOptions::default()
    };
    let kubeconfig = match &flags.kubeconfig {
        Some(path) => Kubeconfig::read_from(path).with_context(|| format!("reading {}", path.display()))?,
        None => match Kubeconfig::from_env().context("reading the files of $KUBECONFIG")? {
            Some(kubeconfig) => kubeconfig,
            None => match Kubeconfig::read() {
                Ok(kubeconfig) => kubeconfig,
                Err(_) => {
                    let path = Layout::new(&flags.data.data_dir)?.admin_kubeconfig();
                    Kubeconfig::read_from(&path).with_context(|| {
                        format!(
                            "no kubeconfig: neither --kubeconfig, $KUBECONFIG nor ~/.kube/config, and {} cannot be read",
                            path.display()
                        )
                    })?
                }
            },
        },
    };
    Ok(Config::from_custom_kubeconfig(kubeconfig, &options).await?)
}

async fn ask(client: &Client, namespace: &str, name: &str) -> Result<Explanation> {
    let pod = Api::<Pod>::namespaced(client.clone(), namespace)
        .get_opt(name)
        .await
        .with_context(|| format!("reading pod {namespace}/{name}"))?;
    let mut told = Told::default();
    let nodes = match &pod {
        Some(pod) => pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).into_iter().collect(),
        // It was on one of them; only they know.
        None => {
            let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
            let nodes = nodes.with_context(|| format!("pod {namespace}/{name} is not in the API; looking for a node that remembers it"))?;
            nodes.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
        }
    };
    for node in nodes {
        match flights(client, &node, namespace, name).await {
            Ok(list) => told.flights.extend(list.items.into_iter().map(|flight| (node.clone(), flight))),
            Err(error) => told
                .unread
                .push(format!("the flight recorder of node {node} could not be read: {error:#}")),
        }
    }
    ensure!(
        pod.is_some() || !told.flights.is_empty(),
        "pod {name:?} is not in namespace {namespace:?}, and no node remembers one of that name (an hour, at most){}",
        told.unread.iter().map(|why| format!("; {why}")).collect::<String>()
    );
    let now: Time = SystemClock::new().now();
    Ok(explain::explain(namespace, name, pod.as_ref(), told, now))
}

async fn flights(client: &Client, node: &str, namespace: &str, name: &str) -> Result<FlightList> {
    let escape = |segment: &str| utf8_percent_encode(segment, NON_ALPHANUMERIC).to_string();
    let path = format!(
        "/api/v1/nodes/{}/proxy/flightRecorder/{}/{}",
        escape(node),
        escape(namespace),
        escape(name)
    );
    let request = http::Request::get(path).body(Vec::new())?;
    match client.request::<FlightList>(request).await {
        Ok(list) => Ok(list),
        Err(kube::Error::Api(status)) if status.code == 403 => bail!("{} (it takes get on nodes/proxy)", status.message),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_named_as_for_kubectl() {
        for asked in ["pod/web-1", "po/web-1", "pods/web-1", "web-1"] {
            assert_eq!(pod_name(asked).unwrap(), "web-1");
        }
        assert!(pod_name("deployment/web").unwrap_err().to_string().contains("only pods can"));
        for bad in ["", "pod/", "pod/a/b", "A", "../x"] {
            assert!(pod_name(bad).is_err(), "{bad}");
        }
    }
}
