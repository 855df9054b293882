//! The command line. Parsed once, passed on as typed configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
    #[command(after_help = "Stored objects and images stay in the data directory: the next `lifepod up` starts the pods again.")]
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
    /// The images on this node
    Images {
        #[command(subcommand)]
        command: Images,
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
#[derive(Clone, Debug, Args)]
pub(crate) struct DataDir {
    /// Directory of all state: objects, images, logs, keys
    #[arg(long, default_value = "/var/lib/lifepod", value_name = "DIR")]
    pub data_dir: PathBuf,
}

#[derive(Clone, Debug, Args)]
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
    /// Name of the pods' bridge
    #[arg(long, default_value = "lifepod0", value_name = "NAME")]
    pub bridge: String,
    /// Registry mirrors and credentials, a YAML or JSON file
    #[arg(long, value_name = "FILE")]
    pub registries: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Down {
    #[command(flatten)]
    pub data: DataDir,
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
