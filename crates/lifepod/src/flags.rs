//! The command line. Parsed once, passed on as typed configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use serde::{Deserialize, Serialize};

/// A Kubernetes-wire-compatible pod platform in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "lifepod",
    version,
    about = "A Kubernetes-wire-compatible pod platform in one binary",
    after_help = "Examples:
  lifepod up                                 start everything, in the foreground
  export KUBECONFIG=/var/lib/lifepod/admin.kubeconfig
  kubectl get nodes                          the stock client talks to it
  lifepod run -f pod.yaml                    run a manifest once, watch its life, clean up
  lifepod down                               stop, and remove everything it made on this host"
)]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the platform: API server, scheduler, controllers and node, in the foreground
    #[command(after_help = "Examples:
  lifepod up
  lifepod up --listen 127.0.0.1:7443 --data-dir /srv/lifepod --node-name node1

Ctrl-C ends the platform and leaves the containers running: the next `lifepod up` adopts them.
`lifepod down` removes them.")]
    Up(Up),
    /// Stop the platform and remove every container, mount, cgroup, link and rule it made
    #[command(
        after_help = "Pods are stopped as when a node shuts down: each by its own grace, critical ones last, all within --grace.
Stored objects and images stay in the data directory: the next `lifepod up` starts the pods again, but for those
with restartPolicy Never, which are Failed, reason Terminated, as they must not run twice."
    )]
    Down(Down),
    /// Run the Pods of a manifest once: show their life, clean up at the end
    #[command(after_help = "Examples:
  lifepod run -f job.yaml          ends when every Pod has ended; exits with the first failing container's code
  lifepod run -f - < pod.yaml      Ctrl-C deletes the Pods and ends

Uses the platform that runs on the data directory, or starts one for the time of the run.")]
    Run(Run),
    /// Tell why a Pod is as it is: what blocked or killed it, and what happens next
    #[command(after_help = "Examples:
  lifepod why pod/web -n shop
  lifepod why web -o json | jq .containers

Reads the API and the node's flight recorder (through nodes/proxy) with your kubeconfig's rights.
Pods that are gone are remembered for an hour.")]
    Why(Why),
    /// Foresee a Pod's life from its manifest, in virtual time: nothing is started
    #[command(after_help = "Examples:
  lifepod simulate -f pod.yaml
  lifepod simulate -f pod.yaml --scenario app:starts-in=40s --scenario app:answers=404@10m
  lifepod simulate -f pod.yaml --scenario crashes-after=5s --for 2h -o json

Behaviours, each for every container or as CONTAINER:BEHAVIOUR:
  starts-in=20s           answers probes from then on
  crashes-after=5s[/3]    ends with code 1, or this one
  finishes-after=5s       ends with code 0
  ignores-sigterm         ends by SIGKILL alone
  answers=404[@30s]       its probes fail, from 30 s after its start on
  hooks-hang              its hooks do not end
  image-missing           its registry does not have its image
  pull-takes=30s          its image has to be pulled
Without one, containers run, answer and obey; init containers end well after a second.")]
    Simulate(Simulate),
    /// Tell of each field a manifest uses whether it is honoured or refused, why, and what serves instead
    #[command(after_help = "Examples:
  lifepod check -f pod.yaml                ends with 0 when everything is accepted, else with 1
  lifepod check -f - -o json < pod.yaml
  lifepod check --all-fields               every field of the Pod schema

Reads the tables by which the API server refuses; asks nobody and starts nothing.")]
    Check(Check),
    /// The images on this node
    Images {
        #[command(subcommand)]
        command: Images,
    },
    /// The key that stored Secrets are encrypted with
    Secrets {
        #[command(subcommand)]
        command: Secrets,
    },
    /// Print the version of Lifepod and of the Kubernetes API it serves
    Version,
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  lifepod completion bash > /etc/bash_completion.d/lifepod")]
    Completion {
        /// The shell to complete in
        shell: clap_complete::Shell,
    },
}

/// Where a platform keeps everything.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub(crate) struct DataDir {
    /// Directory of all state: objects, images, logs, keys
    #[arg(long, default_value = "/var/lib/lifepod", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// Kept in the data directory, so that `down` can go on with them.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub(crate) struct Up {
    #[command(flatten)]
    pub data: DataDir,
    /// Cgroup, below each controller's root, that holds all pods
    #[arg(long, default_value = "lifepod", value_name = "PATH")]
    pub cgroup_root: String,
    /// Address and port of the API server
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Addresses for pods
    #[arg(long, default_value = "10.244.0.0/24", value_name = "CIDR")]
    pub pod_cidr: String,
    /// Addresses for Services
    #[arg(long, default_value = "10.96.0.0/16", value_name = "CIDR")]
    pub service_cidr: String,
    /// Let new namespaces enforce the Pod Security Standard `baseline` [default: they take every Pod]
    #[arg(long)]
    pub baseline_namespaces: bool,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of this node, as its pods' host IP [default: that of the default route, else 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<std::net::IpAddr>,
    /// Port of the node API, on the node's address; 0 for any that is free
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    pub kubelet_port: u16,
    /// Name of the pods' bridge
    #[arg(long, default_value = "lifepod0", value_name = "NAME")]
    pub bridge: String,
    /// Registry mirrors and credentials, a YAML or JSON file
    #[arg(long, value_name = "FILE")]
    pub registries: Option<PathBuf>,
    /// Pods that have ended and are kept; beyond that the oldest are deleted, 0 keeps all
    #[arg(long, default_value_t = terminated_pods(), value_name = "PODS")]
    #[serde(default = "terminated_pods")]
    pub terminated_pod_gc_threshold: usize,
    /// Pods this node takes; the address range of `--pod-cidr` limits them too
    #[arg(long, default_value_t = kubelet::node_status::MAX_PODS, value_name = "COUNT")]
    pub max_pods: u32,
    /// Name servers, search domains and options of pods that name none, as the kubelet's flag of this name
    #[arg(long, default_value = RESOLV_CONF, value_name = "FILE")]
    #[serde(default = "resolv_conf")]
    pub resolv_conf: PathBuf,
    /// Most processes and threads of a pod, as the kubelet's flag; -1 for as many as the node has
    #[arg(long, default_value_t = -1, value_name = "COUNT", allow_negative_numbers = true)]
    #[serde(default = "unlimited")]
    pub pod_max_pids: i64,
    #[command(flatten)]
    pub container_log: ContainerLog,
    #[command(flatten)]
    pub eviction: Eviction,
    #[command(flatten)]
    #[serde(default)]
    pub image_gc: ImageGc,
}

/// When images nobody uses are removed; as the kubelet's flags of these names.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub(crate) struct ImageGc {
    /// Images nobody uses are removed when this much of their disk is in use, in percent; 100 keeps them all
    #[arg(long, default_value_t = 85, value_name = "PERCENT", allow_negative_numbers = true)]
    pub image_gc_high_threshold: i32,
    /// Until no more than this is
    #[arg(long, default_value_t = 80, value_name = "PERCENT", allow_negative_numbers = true)]
    pub image_gc_low_threshold: i32,
    /// But for those that have not been here for so long
    #[arg(long, default_value = "2m0s", value_name = "DURATION")]
    pub minimum_image_ttl_duration: String,
}

/// Of settings that were kept before there were such flags.
impl Default for ImageGc {
    fn default() -> Self {
        Self {
            image_gc_high_threshold: 85,
            image_gc_low_threshold: 80,
            minimum_image_ttl_duration: "2m0s".to_owned(),
        }
    }
}

impl ImageGc {
    /// In the words of those who decide by them.
    pub(crate) fn settings(&self) -> Result<kubelet::image_gc::Settings, kubelet::image_gc::InvalidSettings> {
        let Self {
            image_gc_high_threshold: high,
            image_gc_low_threshold: low,
            minimum_image_ttl_duration: min_age,
        } = self;
        kubelet::image_gc::Settings::parse(*high, *low, min_age)
    }
}

/// Of settings that were kept before there was such a flag.
fn unlimited() -> i64 {
    -1
}

/// How much of a container's log is kept; as the kubelet's flags of these names.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub(crate) struct ContainerLog {
    /// A container's log is rotated when it is this long; a negative size turns rotation off
    #[arg(long, default_value = "10Mi", value_name = "BYTES", allow_hyphen_values = true)]
    pub container_log_max_size: String,
    /// Files of a container's log that are kept, the one being written included; at least 2
    #[arg(long, default_value_t = 5, value_name = "COUNT", allow_hyphen_values = true)]
    pub container_log_max_files: i32,
}

impl ContainerLog {
    /// In the words of those who rotate.
    pub(crate) fn limits(&self) -> Result<runtime::LogLimits, kubelet::logs::InvalidLogLimits> {
        kubelet::logs::limits(&self.container_log_max_size, self.container_log_max_files)
    }
}

const RESOLV_CONF: &str = "/etc/resolv.conf";

fn resolv_conf() -> PathBuf {
    PathBuf::from(RESOLV_CONF)
}

/// What the node agent is told by flags, read and checked.
#[derive(Debug)]
pub(crate) struct KubeletSettings {
    pub(crate) thresholds: lifecycle::evict::Settings,
    pub(crate) image_gc: kubelet::image_gc::Settings,
    pub(crate) log_limits: runtime::LogLimits,
    pub(crate) pod_processes_max: Option<u64>,
    pub(crate) resolv_conf: String,
}

impl Up {
    pub(crate) fn kubelet_settings(&self) -> anyhow::Result<KubeletSettings> {
        Ok(KubeletSettings {
            thresholds: self.eviction.settings()?,
            image_gc: self.image_gc.settings()?,
            log_limits: self.container_log.limits()?,
            pod_processes_max: u64::try_from(self.pod_max_pids).ok().filter(|most| *most > 0),
            resolv_conf: self.node_resolv_conf()?,
        })
    }

    /// The node's resolver settings; a node without the usual file has none.
    fn node_resolv_conf(&self) -> anyhow::Result<String> {
        match std::fs::read_to_string(&self.resolv_conf) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.resolv_conf == resolv_conf() => Ok(String::new()),
            read => read.with_context(|| {
                let path = self.resolv_conf.display();
                format!("cannot read the resolver settings {path}; choose another file with --resolv-conf")
            }),
        }
    }
}

/// As of upstream's controller manager.
fn terminated_pods() -> usize {
    control::pod_gc::Options::default().ended_max
}

/// When the node counts as short of something and pods are evicted; as the
/// kubelet's flags of these names.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub(crate) struct Eviction {
    /// Below these, pods are evicted at once, for example `memory.available<1Gi,nodefs.available<10%` [default: 100Mi of memory, 1Gi and 1% of the inodes of the disks]
    #[arg(long, value_name = "THRESHOLDS")]
    pub eviction_hard: Option<String>,
    /// Below these, pods are evicted after a while, with grace
    #[arg(long, default_value = "", value_name = "THRESHOLDS", hide_default_value = true)]
    pub eviction_soft: String,
    /// After which while, for example `memory.available=1m30s`
    #[arg(long, default_value = "", value_name = "DURATIONS", hide_default_value = true)]
    pub eviction_soft_grace_period: String,
    /// How much more is to be there afterwards, for example `nodefs.available=500Mi`
    #[arg(long, default_value = "", value_name = "AMOUNTS", hide_default_value = true)]
    pub eviction_minimum_reclaim: String,
    /// Longest grace of a pod evicted by a soft threshold, in seconds
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub eviction_max_pod_grace_period: u64,
    /// How long the node's condition stays after a shortage
    #[arg(long, default_value = "5m0s", value_name = "DURATION")]
    pub eviction_pressure_transition_period: String,
}

impl Eviction {
    /// In the words of those who decide by them.
    pub(crate) fn settings(&self) -> Result<lifecycle::evict::Settings, lifecycle::evict::InvalidThreshold> {
        lifecycle::evict::Settings::parse(&lifecycle::evict::Flags {
            hard: self.eviction_hard.clone(),
            soft: self.eviction_soft.clone(),
            soft_grace: self.eviction_soft_grace_period.clone(),
            min_reclaim: self.eviction_minimum_reclaim.clone(),
            max_pod_grace_s: self.eviction_max_pod_grace_period,
            transition: self.eviction_pressure_transition_period.clone(),
        })
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Down {
    #[command(flatten)]
    pub data: DataDir,
    /// How long pods may take to stop, in seconds: preStop hooks run and processes get their stop signal; 0 kills at once
    #[arg(long, default_value_t = 40, value_name = "SECONDS")]
    pub grace: u64,
    /// Of that, for critical pods, which stop after the others
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub grace_critical: u64,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Run {
    /// Manifest with one or more Pods, YAML or JSON; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub up: Up,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Why {
    /// The pod: `pod/NAME`
    pub pod: String,
    /// Its namespace [default: that of the kubeconfig's context]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
    /// Kubeconfig to use [default: $KUBECONFIG, ~/.kube/config, or the administrator's in the data directory]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    #[command(flatten)]
    pub data: DataDir,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Simulate {
    /// Manifest with one or more Pods, YAML or JSON; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// How containers behave; may be given several times
    #[arg(long, value_name = "[CONTAINER:]BEHAVIOUR", value_parser = parse_behaviour)]
    pub scenario: Vec<sim::predict::Behaviour>,
    /// How much of the life to simulate
    #[arg(long = "for", default_value = "1h", value_name = "TIME", value_parser = parse_time)]
    pub horizon: std::time::Duration,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Check {
    /// Manifest with one or more objects, YAML or JSON; `-` for standard input
    #[arg(short, long, value_name = "FILE", required_unless_present = "all_fields")]
    pub file: Option<PathBuf>,
    /// Every field of the Pod schema instead of those of a manifest
    #[arg(long, conflicts_with = "file")]
    pub all_fields: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

fn parse_behaviour(text: &str) -> Result<sim::predict::Behaviour, sim::predict::BehaviourError> {
    text.parse()
}

fn parse_time(text: &str) -> Result<std::time::Duration, String> {
    let time = sim::predict::time(text).filter(|time| (1..=7 * 86_400).contains(&time.as_secs()));
    time.ok_or_else(|| "write a time from 1s to 168h, such as 90s, 30m or 2h".to_owned())
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Plain words
    Text,
    /// JSON, for programs
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Images {
    /// Fetch an image from its registry
    Pull {
        /// For example `nginx:1.27` or `registry.example.com/app@sha256:...`
        image: String,
        /// Registry mirrors and credentials, a YAML or JSON file
        #[arg(long, value_name = "FILE")]
        registries: Option<PathBuf>,
        #[command(flatten)]
        data: DataDir,
    },
    /// Add the images of an OCI or docker archive
    Import {
        /// A tar archive, as `docker save` or `skopeo copy ... oci-archive:` write it
        archive: PathBuf,
        #[command(flatten)]
        data: DataDir,
    },
    /// List the images
    Ls {
        #[command(flatten)]
        data: DataDir,
    },
    /// Remove a name, and the image when it was its last
    Rm {
        /// As `lifepod images ls` shows it
        image: String,
        #[command(flatten)]
        data: DataDir,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Secrets {
    /// Encrypt every stored Secret with a new key, and forget the old one
    #[command(
        after_help = "The platform must be stopped: Ctrl-C on `lifepod up` leaves the containers running, and the next `lifepod up` adopts them."
    )]
    RotateKey {
        #[command(flatten)]
        data: DataDir,
    },
}
