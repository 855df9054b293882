//! What a manifest asks and Lifepod does not do yet: refused by name, never
//! ignored.
//!
//! Two tables, [`POD`] and [`CONTAINER`]. A row goes when its feature comes.
//! The API server's refusals, `lifepod check` and `docs/pod-fields.md` are all
//! read from them.

use api::status::Violation;
use api::typed::{Container, Pod, PodSpec, SELinuxOptions, Volume};

/// One thing not done yet: what it is, and where it is asked for. Paths are
/// relative to what the table is about.
struct Missing<F> {
    /// Completes `Lifepod <version> does not <what> yet`.
    what: &'static str,
    /// What serves instead, in Markdown.
    instead: &'static str,
    /// The fields of the schema that can ask for it; lists and maps end in `[]`.
    fields: &'static [&'static str],
    /// Which of their values ask for it, in Markdown; empty for any.
    when: &'static str,
    /// The paths at which an object asks for it.
    at: F,
}

type OfPod = fn(&PodSpec) -> Vec<String>;
type OfContainer = fn(&InPod<'_>) -> Vec<String>;

/// A container and the spec it belongs to.
struct InPod<'a> {
    container: &'a Container,
    spec: &'a PodSpec,
}

/// A part of a Pod that could only be ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) path: String,
    what: &'static str,
    /// What serves instead, in Markdown.
    pub(super) instead: &'static str,
}

impl Refused {
    pub(super) fn violation(&self) -> Violation {
        not_yet(&self.path, self.what)
    }
}

/// A field of the schema, some or all of whose values are refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct RefusedField {
    /// Whether the path is below a container; below `spec` otherwise.
    pub(super) of_container: bool,
    pub(super) path: &'static str,
    /// Which values, in Markdown; empty for any.
    pub(super) when: &'static str,
    pub(super) instead: &'static str,
}

/// Every field that [`refused`] can name, annotations aside.
pub(super) fn refused_fields() -> Vec<RefusedField> {
    fn of<F>(table: &[Missing<F>], of_container: bool) -> impl Iterator<Item = RefusedField> {
        let fields = move |missing: &Missing<F>| {
            let (when, instead) = (missing.when, missing.instead);
            missing
                .fields
                .iter()
                .map(move |path| RefusedField {
                    of_container,
                    path,
                    when,
                    instead,
                })
                .collect::<Vec<_>>()
        };
        table.iter().flat_map(fields)
    }
    of(POD, false).chain(of(CONTAINER, true)).collect()
}

/// `Forbidden: Lifepod <version> does not <what> yet`.
pub(in crate::kinds) fn not_yet(field: &str, what: &str) -> Violation {
    Violation::forbidden(field, &format!("Lifepod {} does not {what} yet", env!("CARGO_PKG_VERSION")))
}

/// Every part of a valid Pod that could only be ignored.
pub(super) fn refused(pod: &Pod) -> Vec<Refused> {
    let mut refused = Vec::new();
    let Some(spec) = &pod.spec else { return refused };
    for missing in POD {
        refused.extend(found("spec", missing, (missing.at)(spec)));
    }
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (list, containers) in [("initContainers", init), ("containers", spec.containers.as_slice())] {
        for (index, container) in containers.iter().enumerate() {
            refused.extend(of_container(&format!("spec.{list}[{index}]"), &InPod { container, spec }));
        }
    }
    refused
}

/// Every part of the ephemeral containers that `before` has not that could
/// only be ignored.
pub(super) fn added(pod: &Pod, before: &Pod) -> Vec<Refused> {
    let list = |pod: &Pod| {
        pod.spec
            .as_ref()
            .and_then(|spec| spec.ephemeral_containers.clone())
            .unwrap_or_default()
    };
    let Some(spec) = &pod.spec else { return Vec::new() };
    let old = list(before);
    let mut refused = Vec::new();
    for (index, container) in list(pod).iter().enumerate().filter(|(_, new)| !old.contains(new)) {
        let container = &api::pods::as_container(container);
        refused.extend(of_container(
            &format!("spec.ephemeralContainers[{index}]"),
            &InPod { container, spec },
        ));
    }
    refused
}

fn of_container(field: &str, of: &InPod<'_>) -> Vec<Refused> {
    CONTAINER
        .iter()
        .flat_map(|missing| found(field, missing, (missing.at)(of)))
        .collect()
}

/// What one row refuses of the paths at which it is asked for.
fn found<F>(field: &str, missing: &Missing<F>, paths: Vec<String>) -> Vec<Refused> {
    let refuse = |path: String| {
        debug_assert!(
            missing.fields.contains(&pattern(&path).as_str()),
            "a row that refuses {path} names it in its fields"
        );
        Refused {
            path: format!("{field}.{path}"),
            what: missing.what,
            instead: missing.instead,
        }
    };
    paths.into_iter().map(refuse).collect()
}

/// A path as the schema has it: `volumes[3].nfs` is `volumes[].nfs`.
pub(super) fn pattern(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut inside = false;
    for letter in path.chars() {
        match letter {
            '[' => (inside, _) = (true, out.push('[')),
            ']' => (inside, _) = (false, out.push(']')),
            other if !inside => out.push(other),
            _ => {} // an index or a key
        }
    }
    out
}

fn set<T>(path: &str, value: &Option<T>) -> Vec<String> {
    given(path, value.is_some())
}

fn given(path: &str, asked: bool) -> Vec<String> {
    if asked { vec![path.to_owned()] } else { Vec::new() }
}

fn many<T>(path: &str, list: &Option<Vec<T>>) -> Vec<String> {
    given(path, list.as_ref().is_some_and(|list| !list.is_empty()))
}

/// The indices of a list whose items ask for something.
fn items<T>(list: &Option<Vec<T>>, path: impl Fn(usize) -> String, asked: impl Fn(&T) -> bool) -> Vec<String> {
    list.iter()
        .flatten()
        .enumerate()
        .filter(|(_, item)| asked(item))
        .map(|(index, _)| path(index))
        .collect()
}

fn se_linux(options: &Option<SELinuxOptions>) -> Vec<String> {
    given(
        "securityContext.seLinuxOptions",
        options.as_ref().is_some_and(|options| *options != SELinuxOptions::default()),
    )
}

/// The kinds of volumes that are mounted.
pub(super) const MOUNTED: [&str; 8] = [
    "emptyDir",
    "hostPath",
    "configMap",
    "secret",
    "downwardAPI",
    "projected",
    "persistentVolumeClaim",
    "image",
];

/// The kind of a volume no code mounts.
fn other_volume(volume: &Volume) -> Option<String> {
    let wire = serde_json::to_value(volume).unwrap_or_default();
    let mut kinds = wire.as_object().into_iter().flatten().map(|(kind, _)| kind);
    kinds.find(|kind| *kind != "name" && !MOUNTED.contains(&kind.as_str())).cloned()
}

/// Asked of a Pod as a whole; paths below `spec`.
const POD: &[Missing<OfPod>] = &[
    Missing {
        what: "mount volumes of this kind",
        instead: "a `hostPath` of a directory that the host mounts itself, or an `emptyDir`",
        fields: &[
            "volumes[].awsElasticBlockStore",
            "volumes[].azureDisk",
            "volumes[].azureFile",
            "volumes[].cephfs",
            "volumes[].cinder",
            "volumes[].csi",
            "volumes[].ephemeral",
            "volumes[].fc",
            "volumes[].flexVolume",
            "volumes[].flocker",
            "volumes[].gcePersistentDisk",
            "volumes[].gitRepo",
            "volumes[].glusterfs",
            "volumes[].iscsi",
            "volumes[].nfs",
            "volumes[].photonPersistentDisk",
            "volumes[].portworxVolume",
            "volumes[].quobyte",
            "volumes[].rbd",
            "volumes[].scaleIO",
            "volumes[].storageos",
            "volumes[].vsphereVolume",
        ],
        when: "",
        at: |spec| {
            let volumes = spec.volumes.iter().flatten().enumerate();
            volumes
                .filter_map(|(index, volume)| other_volume(volume).map(|kind| format!("volumes[{index}].{kind}")))
                .collect()
        },
    },
    Missing {
        what: "project cluster trust bundles",
        instead: "the bundle in a ConfigMap, as a `configMap` source",
        fields: &["volumes[].projected.sources[].clusterTrustBundle"],
        when: "",
        at: |spec| {
            let volumes = spec.volumes.iter().flatten().enumerate();
            let sources = volumes.flat_map(|(volume, of)| {
                let projected = of.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
                projected.enumerate().map(move |(source, of)| (volume, source, of))
            });
            let bundled = sources.filter(|(_, _, source)| source.cluster_trust_bundle.is_some());
            bundled
                .map(|(volume, source, _)| format!("volumes[{volume}].projected.sources[{source}].clusterTrustBundle"))
                .collect()
        },
    },
    Missing {
        what: "run Windows containers",
        instead: "an image for Linux",
        fields: &["os.name"],
        when: "`windows`",
        at: |spec| given("os.name", spec.os.as_ref().is_some_and(|os| os.name == "windows")),
    },
    Missing {
        what: "know resource claims",
        instead: "a device of the host as a `hostPath` volume",
        fields: &["resourceClaims"],
        when: "",
        at: |spec| many("resourceClaims", &spec.resource_claims),
    },
    Missing {
        what: "know resources of a pod as a whole",
        instead: "`resources` of each container",
        fields: &["resources"],
        when: "",
        at: |spec| set("resources", &spec.resources),
    },
    Missing {
        what: "spread pods over a topology",
        instead: "`nodeSelector`, or nothing: there is one node",
        fields: &["topologySpreadConstraints"],
        when: "",
        at: |spec| many("topologySpreadConstraints", &spec.topology_spread_constraints),
    },
    Missing {
        what: "score preferred node affinity",
        instead: "required node affinity, or `nodeSelector`",
        fields: &["affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution"],
        when: "",
        at: |spec| {
            let node = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
            let preferred = node.and_then(|node| node.preferred_during_scheduling_ignored_during_execution.as_ref());
            given(
                "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution",
                preferred.is_some_and(|terms| !terms.is_empty()),
            )
        },
    },
    Missing {
        what: "place pods by other pods",
        instead: "`nodeSelector`, or nothing: there is one node",
        fields: &["affinity.podAffinity", "affinity.podAntiAffinity"],
        when: "",
        at: |spec| {
            let Some(affinity) = &spec.affinity else { return Vec::new() };
            [
                set("affinity.podAffinity", &affinity.pod_affinity),
                set("affinity.podAntiAffinity", &affinity.pod_anti_affinity),
            ]
            .concat()
        },
    },
    Missing {
        what: "apply SELinux labels",
        instead: "a seccomp profile, and dropped capabilities",
        fields: &["securityContext.seLinuxOptions", "securityContext.seLinuxChangePolicy"],
        when: "",
        at: |spec| {
            let Some(context) = &spec.security_context else { return Vec::new() };
            [
                se_linux(&context.se_linux_options),
                set("securityContext.seLinuxChangePolicy", &context.se_linux_change_policy),
            ]
            .concat()
        },
    },
    Missing {
        what: "run Windows containers",
        instead: "`securityContext.runAsUser`",
        fields: &["securityContext.windowsOptions"],
        when: "",
        at: |spec| {
            spec.security_context
                .as_ref()
                .map(|context| set("securityContext.windowsOptions", &context.windows_options))
                .unwrap_or_default()
        },
    },
];

/// Asked of one container; paths below it.
const CONTAINER: &[Missing<OfContainer>] = &[
    Missing {
        what: "attach volume devices",
        instead: "a `hostPath` volume of type `BlockDevice`, in a privileged container",
        fields: &["volumeDevices"],
        when: "",
        at: |of| items(&of.container.volume_devices, |index| format!("volumeDevices[{index}]"), |_| true),
    },
    Missing {
        what: "forward host ports",
        instead: "`hostNetwork: true`, or the Pod's own address, which the host reaches",
        fields: &["ports[].hostPort"],
        when: "without `hostNetwork`",
        at: |of| {
            let own_network = of.spec.host_network != Some(true);
            items(
                &of.container.ports,
                |index| format!("ports[{index}].hostPort"),
                |port| own_network && port.host_port.is_some_and(|host| host != 0),
            )
        },
    },
    Missing {
        what: "bind ports to one address of the host",
        instead: "`hostNetwork: true`, with the program bound to that address",
        fields: &["ports[].hostIP"],
        when: "",
        at: |of| {
            items(
                &of.container.ports,
                |index| format!("ports[{index}].hostIP"),
                |port| port.host_ip.as_ref().is_some_and(|ip| !ip.is_empty()),
            )
        },
    },
    Missing {
        what: "know resources other than cpu, memory, ephemeral-storage and hugepages",
        instead: "a `hostPath` volume for a device",
        fields: &[
            "resources.limits[]",
            "resources.requests[]",
            "resources.limits",
            "resources.requests",
        ],
        when: "other than `cpu`, `memory`, `ephemeral-storage` and `hugepages-*`",
        at: other_resources,
    },
    Missing {
        what: "know resource claims",
        instead: "a device of the host as a `hostPath` volume",
        fields: &["resources.claims"],
        when: "",
        at: |of| {
            of.container
                .resources
                .as_ref()
                .map(|resources| many("resources.claims", &resources.claims))
                .unwrap_or_default()
        },
    },
    Missing {
        what: "apply SELinux labels",
        instead: "a seccomp profile, and dropped capabilities",
        fields: &["securityContext.seLinuxOptions"],
        when: "",
        at: |of| {
            of.container
                .security_context
                .as_ref()
                .map(|context| se_linux(&context.se_linux_options))
                .unwrap_or_default()
        },
    },
    Missing {
        what: "run Windows containers",
        instead: "`securityContext.runAsUser`",
        fields: &["securityContext.windowsOptions"],
        when: "",
        at: |of| {
            of.container
                .security_context
                .as_ref()
                .map(|context| set("securityContext.windowsOptions", &context.windows_options))
                .unwrap_or_default()
        },
    },
];

fn other_resources(of: &InPod<'_>) -> Vec<String> {
    let Some(resources) = &of.container.resources else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (list, map) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        let others = map
            .iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .filter(|name| !matches!(*name, "cpu" | "memory" | "ephemeral-storage") && !name.starts_with("hugepages-"));
        found.extend(others.map(|name| format!("resources.{list}[{name}]")));
    }
    found
}
