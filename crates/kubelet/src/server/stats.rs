//! `/stats/summary`, `/stats/usage`, `/metrics` and `/metrics/resource`: what
//! the node and its pods use.
//!
//! Source: upstream `kubelet/pkg/apis/stats/v1alpha1/types.go`,
//! `pkg/kubelet/metrics/collectors/resource_metrics.go`.

use std::fmt::Write;

use api::Time;
use api::node::{ContainerUsage, Counters, DiskUsage, InterfaceUsage, PodUsage};
use api::typed::Pod;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::{Body, NodeApi, json as answer_json, text};
use crate::machine_usage::{self, FileSystem};
use crate::pods::Known;
use crate::usage::Rate;

/// A pod and what it uses.
struct Used {
    known: Known,
    usage: PodUsage,
}

fn name(pod: &Pod) -> (&str, &str, &str) {
    let meta = &pod.metadata;
    (
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default(),
    )
}

/// Leaves out what is not counted.
fn object(pairs: &[(&str, Option<Value>)]) -> Value {
    let pairs = pairs.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
    Value::Object(pairs.collect::<Map<_, _>>())
}

fn cpu(at: Time, usage: &Counters, rate: Option<Rate>) -> Value {
    object(&[
        ("time", Some(json!(at.to_string()))),
        ("usageNanoCores", rate.map(|rate| json!(rate.nano_cores))),
        ("usageCoreNanoSeconds", usage.cpu_ns.map(Value::from)),
    ])
}

fn memory(at: Time, usage: &Counters) -> Value {
    object(&[
        ("time", Some(json!(at.to_string()))),
        ("usageBytes", usage.memory_bytes.map(Value::from)),
        ("workingSetBytes", usage.working_set_bytes.map(Value::from)),
        ("rssBytes", usage.rss_bytes.map(Value::from)),
        ("pageFaults", usage.page_faults.map(Value::from)),
        ("majorPageFaults", usage.major_page_faults.map(Value::from)),
    ])
}

fn disk(at: Time, fs: Option<FileSystem>, used: Option<DiskUsage>) -> Value {
    object(&[
        ("time", Some(json!(at.to_string()))),
        ("availableBytes", fs.map(|fs| json!(fs.available_bytes))),
        ("capacityBytes", fs.map(|fs| json!(fs.capacity_bytes))),
        (
            "usedBytes",
            used.map(|used| json!(used.bytes)).or(fs.map(|fs| json!(fs.used_bytes))),
        ),
        ("inodesFree", fs.map(|fs| json!(fs.inodes_free))),
        ("inodes", fs.map(|fs| json!(fs.inodes))),
        (
            "inodesUsed",
            used.map(|used| json!(used.inodes))
                .or(fs.map(|fs| json!(fs.inodes - fs.inodes_free))),
        ),
    ])
}

/// The interface whose figures stand for all. Source: upstream
/// `pkg/kubelet/stats/helper.go`, `defaultNetworkInterfaceName`.
const DEFAULT_INTERFACE: &str = "eth0";

/// Source: upstream `cadvisorInfoToNetworkStats`.
fn network(at: Time, interfaces: &[InterfaceUsage]) -> Value {
    let told = |one: &InterfaceUsage| {
        json!({
            "name": one.name,
            "rxBytes": one.received_bytes,
            "rxErrors": one.receive_errors,
            "txBytes": one.sent_bytes,
            "txErrors": one.send_errors,
        })
    };
    let default = interfaces.iter().find(|one| one.name == DEFAULT_INTERFACE);
    let mut network = default.map_or_else(|| json!({ "name": "" }), told);
    network["time"] = json!(at.to_string());
    network["interfaces"] = interfaces.iter().map(told).collect();
    network
}

impl NodeApi {
    /// Every pod that runs, read now.
    async fn used(&self, disks: bool) -> Vec<Used> {
        let mut usage = match self.runtime.usage(disks).await {
            Ok(usage) => usage.pods,
            Err(error) => {
                tracing::warn!(error = %error, "what pods use of the node is not known");
                return Vec::new();
            }
        };
        let pods = self.pods.all().into_iter();
        pods.filter_map(|(uid, known)| {
            let usage = usage.remove(&uid)?;
            Some(Used { known, usage })
        })
        .collect()
    }

    fn rate(&self, used: &Used, container: &ContainerUsage) -> Option<Rate> {
        self.samples.of_container(&used.known, &used.usage, container)
    }

    /// `/stats/summary`. With `only_cpu_and_memory` nothing is measured on disk.
    pub(super) async fn summary(&self, query: &str) -> Response<Body> {
        let disks = !query.split('&').any(|pair| pair == "only_cpu_and_memory=true");
        let used = self.used(disks).await;
        let (now, machine) = (self.clock.now(), machine_usage::memory());
        let cpu_ns = machine_usage::cpu_ns();
        let node = Counters {
            cpu_ns,
            memory_bytes: Some(machine.usage),
            working_set_bytes: Some(machine.working_set),
            rss_bytes: Some(machine.rss),
            ..Counters::default()
        };
        let mut node_memory = memory(now, &node);
        node_memory["availableBytes"] = json!(machine.available);
        let fs = machine_usage::file_system(&self.log_root).filter(|_| disks);
        let rate = cpu_ns.and_then(|cpu_ns| self.samples.of_node(now, cpu_ns));
        let mut summary = json!({
            "node": { "nodeName": self.node, "startTime": self.started.to_string(), "cpu": cpu(now, &node, rate), "memory": node_memory },
            "pods": used.iter().map(|used| self.pod_summary(used, fs)).collect::<Vec<_>>(),
        });
        if disks {
            summary["node"]["fs"] = disk(now, fs, None);
            summary["node"]["network"] = network(now, &machine_usage::interfaces(self.pod_links));
            summary["node"]["runtime"] = json!({ "imageFs": disk(now, fs, None), "containerFs": disk(now, fs, None) });
        }
        answer_json(StatusCode::OK, &summary)
    }

    fn pod_summary(&self, used: &Used, fs: Option<FileSystem>) -> Value {
        let (namespace, pod, uid) = name(&used.known.pod);
        let at = used.usage.at;
        let started = |container: &ContainerUsage| {
            let view = used.known.observed.containers.iter().find(|view| view.id == container.id);
            view.map_or(at, |view| view.created_at)
        };
        let mut total = Some(0);
        let containers: Vec<Value> = used
            .usage
            .running()
            .map(|(name, container)| {
                let rate = self.rate(used, container);
                total = total.zip(rate).map(|(total, rate)| total + rate.nano_cores);
                let mut told = json!({
                    "name": name,
                    "startTime": started(container).to_string(),
                    "cpu": cpu(at, &container.counters, rate),
                    "memory": memory(at, &container.counters),
                });
                if fs.is_some() {
                    told["rootfs"] = disk(at, fs, Some(container.written));
                    told["logs"] = disk(at, fs, Some(container.logs));
                }
                told
            })
            .collect();
        let rate = total.filter(|_| !containers.is_empty()).map(|nano_cores| Rate {
            nano_cores,
            window: std::time::Duration::ZERO,
        });
        let mut told = json!({
            "podRef": { "name": pod, "namespace": namespace, "uid": uid },
            "startTime": used.known.observed.sandbox.as_ref().map_or(at, |sandbox| sandbox.created_at).to_string(),
            "containers": containers,
            "cpu": cpu(at, &used.usage.counters, rate),
            "memory": memory(at, &used.usage.counters),
        });
        if let Some(processes) = used.usage.counters.processes {
            told["process_stats"] = json!({ "process_count": processes });
        }
        // None of a pod in the node's own network.
        if !used.usage.interfaces.is_empty() {
            told["network"] = network(at, &used.usage.interfaces);
        }
        if fs.is_some() {
            let all = used.usage.containers.values().map(ContainerUsage::disk);
            let all = all.fold(DiskUsage::default(), |sum, one| DiskUsage {
                bytes: sum.bytes + one.bytes,
                inodes: sum.inodes + one.inodes,
            });
            told["ephemeral-storage"] = disk(at, fs, Some(all));
        }
        told
    }

    /// `/stats/usage`: what `metrics.k8s.io` tells of this node, rates with
    /// their true windows. Containers too young for a rate are left out, and
    /// with one of them their pod, as metrics-server does.
    pub(super) async fn usage(&self) -> Response<Body> {
        let used = self.used(false).await;
        let now = self.clock.now();
        let node = machine_usage::cpu_ns()
            .and_then(|cpu_ns| self.samples.of_node(now, cpu_ns))
            .map(|rate| {
                json!({
                    "timestamp": now.to_string(),
                    "windowSeconds": rate.window.as_secs_f64(),
                    "cpuNanoCores": rate.nano_cores,
                    "memoryBytes": machine_usage::memory().working_set,
                })
            });
        let pods: Vec<Value> = used
            .iter()
            .filter_map(|used| {
                let rates: Option<Vec<Rate>> = used.usage.running().map(|(_, container)| self.rate(used, container)).collect();
                let rates = rates.filter(|rates| !rates.is_empty())?;
                let window = rates.iter().map(|rate| rate.window).max()?;
                let (namespace, pod, uid) = name(&used.known.pod);
                let containers: Vec<Value> = used
                    .usage
                    .running()
                    .zip(&rates)
                    .map(|((name, container), rate)| {
                        json!({
                            "name": name,
                            "cpuNanoCores": rate.nano_cores,
                            "memoryBytes": container.counters.working_set_bytes,
                        })
                    })
                    .collect();
                Some(json!({
                    "namespace": namespace, "name": pod, "uid": uid,
                    "timestamp": used.usage.at.to_string(),
                    "windowSeconds": window.as_secs_f64(),
                    "containers": containers,
                }))
            })
            .collect();
        answer_json(StatusCode::OK, &json!({ "node": node, "pods": pods }))
    }

    /// `/metrics/resource`, in Prometheus' text form with the times of reading.
    pub(super) async fn resource_metrics(&self) -> Response<Body> {
        let used = self.used(false).await;
        let now = self.clock.now();
        let mut cpus = String::new();
        let mut memories = String::new();
        let (mut pod_cpus, mut pod_memories) = (String::new(), String::new());
        for used in &used {
            let (namespace, pod, _) = name(&used.known.pod);
            let at = used.usage.at;
            for (name, container) in used.usage.running() {
                let labels = format!("container={name:?},namespace={namespace:?},pod={pod:?}");
                line(
                    &mut cpus,
                    "container_cpu_usage_seconds_total",
                    &labels,
                    seconds(container.counters.cpu_ns),
                    at,
                );
                let bytes = container.counters.working_set_bytes.map(|bytes| bytes.to_string());
                line(&mut memories, "container_memory_working_set_bytes", &labels, bytes, at);
            }
            let labels = format!("namespace={namespace:?},pod={pod:?}");
            line(
                &mut pod_cpus,
                "pod_cpu_usage_seconds_total",
                &labels,
                seconds(used.usage.counters.cpu_ns),
                at,
            );
            let bytes = used.usage.counters.working_set_bytes.map(|bytes| bytes.to_string());
            line(&mut pod_memories, "pod_memory_working_set_bytes", &labels, bytes, at);
        }
        let mut node_cpu = String::new();
        line(
            &mut node_cpu,
            "node_cpu_usage_seconds_total",
            "",
            seconds(machine_usage::cpu_ns()),
            now,
        );
        let mut node_memory = String::new();
        let bytes = machine_usage::memory().working_set.to_string();
        line(&mut node_memory, "node_memory_working_set_bytes", "", Some(bytes), now);
        let mut out = String::new();
        for (name, kind, help, lines) in [
            (
                "container_cpu_usage_seconds_total",
                "counter",
                "Cumulative cpu time consumed by the container in core-seconds",
                cpus,
            ),
            (
                "container_memory_working_set_bytes",
                "gauge",
                "Current working set of the container in bytes",
                memories,
            ),
            (
                "node_cpu_usage_seconds_total",
                "counter",
                "Cumulative cpu time consumed by the node in core-seconds",
                node_cpu,
            ),
            (
                "node_memory_working_set_bytes",
                "gauge",
                "Current working set of the node in bytes",
                node_memory,
            ),
            (
                "pod_cpu_usage_seconds_total",
                "counter",
                "Cumulative cpu time consumed by the pod in core-seconds",
                pod_cpus,
            ),
            (
                "pod_memory_working_set_bytes",
                "gauge",
                "Current working set of the pod in bytes",
                pod_memories,
            ),
        ] {
            // Writing to a String cannot fail.
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
        }
        text(StatusCode::OK, out)
    }

    /// `/metrics`: the node agent itself.
    pub(super) fn metrics(&self) -> Response<Body> {
        let all = self.pods.all();
        let ready = all
            .iter()
            .filter(|(_, known)| known.observed.sandbox.as_ref().is_some_and(|sandbox| sandbox.ready))
            .count();
        let states = all.iter().flat_map(|(_, known)| &known.observed.containers);
        let running = states
            .filter(|view| matches!(view.state, api::node::RunState::Running { .. }))
            .count();
        let sessions = self.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len();
        text(
            StatusCode::OK,
            format!(
                "# HELP kubelet_running_containers Number of containers currently running\n\
                 # TYPE kubelet_running_containers gauge\n\
                 kubelet_running_containers{{container_state=\"running\"}} {running}\n\
                 # HELP kubelet_running_pods Number of pods that have a running pod sandbox\n\
                 # TYPE kubelet_running_pods gauge\n\
                 kubelet_running_pods {ready}\n\
                 # HELP lifepod_kubelet_streams Number of streams (exec, attach, port-forward) being served\n\
                 # TYPE lifepod_kubelet_streams gauge\n\
                 lifepod_kubelet_streams {sessions}\n"
            ),
        )
    }
}

fn seconds(ns: Option<u64>) -> Option<String> {
    ns.map(|ns| format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000))
}

fn line(out: &mut String, name: &str, labels: &str, value: Option<String>, at: Time) {
    if let Some(value) = value {
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{labels}}}")
        };
        let _ = writeln!(out, "{name}{labels} {value} {}", at.0 / 1_000_000);
    }
}
