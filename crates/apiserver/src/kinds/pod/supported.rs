//! What a manifest asks and Lifepod does not do yet: refused by name, never
//! ignored.
//!
//! Two tables, [`POD`] and [`CONTAINER`]. A row goes when its feature comes.

use api::status::Violation;
use api::typed::{AppArmorProfile, Container, Pod, PodSpec, SELinuxOptions, Volume};

/// One thing not done yet: what it is, and the paths at which it is asked for,
/// relative to what the table is about.
struct Missing<F> {
    /// Completes `Lifepod <version> does not <what> yet`.
    what: &'static str,
    at: F,
}

type OfPod = fn(&PodSpec) -> Vec<String>;
type OfContainer = fn(&InPod<'_>) -> Vec<String>;

/// A container and the spec it belongs to.
struct InPod<'a> {
    container: &'a Container,
    spec: &'a PodSpec,
}

/// `Forbidden: Lifepod <version> does not <what> yet`.
pub(in crate::kinds) fn not_yet(field: &str, what: &str) -> Violation {
    Violation::forbidden(field, &format!("Lifepod {} does not {what} yet", env!("CARGO_PKG_VERSION")))
}

/// Annotation prefix that names an AppArmor profile of a container.
const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Every part of a valid Pod that could only be ignored.
pub(super) fn refusals(pod: &Pod) -> Vec<Violation> {
    let mut refused = Vec::new();
    for (key, profile) in pod.metadata.annotations.iter().flatten() {
        if key.starts_with(APP_ARMOR_ANNOTATION) && !matches!(profile.as_str(), "" | "unconfined") {
            refused.push(not_yet(&format!("metadata.annotations[{key}]"), "apply AppArmor profiles"));
        }
    }
    let Some(spec) = &pod.spec else { return refused };
    for missing in POD {
        refused.extend((missing.at)(spec).iter().map(|path| not_yet(&format!("spec.{path}"), missing.what)));
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
pub(super) fn added(pod: &Pod, before: &Pod) -> Vec<Violation> {
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

fn of_container(field: &str, of: &InPod<'_>) -> Vec<Violation> {
    let found = CONTAINER
        .iter()
        .flat_map(|missing| (missing.at)(of).into_iter().map(move |path| (path, missing.what)));
    found.map(|(path, what)| not_yet(&format!("{field}.{path}"), what)).collect()
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

fn app_armor(profile: &Option<AppArmorProfile>) -> Vec<String> {
    given(
        "securityContext.appArmorProfile",
        profile.as_ref().is_some_and(|profile| profile.type_ != "Unconfined"),
    )
}

fn se_linux(options: &Option<SELinuxOptions>) -> Vec<String> {
    given(
        "securityContext.seLinuxOptions",
        options.as_ref().is_some_and(|options| *options != SELinuxOptions::default()),
    )
}

/// The kind of a volume no code mounts.
fn other_volume(volume: &Volume) -> Option<String> {
    const MOUNTED: [&str; 6] = ["emptyDir", "hostPath", "configMap", "secret", "downwardAPI", "projected"];
    let wire = serde_json::to_value(volume).unwrap_or_default();
    let mut kinds = wire.as_object().into_iter().flatten().map(|(kind, _)| kind);
    kinds.find(|kind| *kind != "name" && !MOUNTED.contains(&kind.as_str())).cloned()
}

/// Asked of a Pod as a whole; paths below `spec`.
const POD: &[Missing<OfPod>] = &[
    Missing {
        what: "mount volumes of this kind",
        at: |spec| {
            let volumes = spec.volumes.iter().flatten().enumerate();
            volumes
                .filter_map(|(index, volume)| other_volume(volume).map(|kind| format!("volumes[{index}].{kind}")))
                .collect()
        },
    },
    Missing {
        what: "keep volumes in huge pages",
        at: |spec| {
            let huge = |volume: &Volume| {
                let medium = volume.empty_dir.as_ref().and_then(|empty| empty.medium.as_deref());
                medium.is_some_and(|medium| medium.starts_with("HugePages"))
            };
            items(&spec.volumes, |index| format!("volumes[{index}].emptyDir.medium"), huge)
        },
    },
    Missing {
        what: "project cluster trust bundles",
        at: |spec| {
            let bundled = |volume: &Volume| {
                let mut sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
                sources.any(|source| source.cluster_trust_bundle.is_some())
            };
            items(
                &spec.volumes,
                |index| format!("volumes[{index}].projected.sources.clusterTrustBundle"),
                bundled,
            )
        },
    },
    Missing {
        what: "give a pod its own user namespace",
        at: |spec| given("hostUsers", spec.host_users == Some(false)),
    },
    Missing {
        what: "run Windows containers",
        at: |spec| given("os.name", spec.os.as_ref().is_some_and(|os| os.name == "windows")),
    },
    Missing {
        what: "know resource claims",
        at: |spec| many("resourceClaims", &spec.resource_claims),
    },
    Missing {
        what: "know resources of a pod as a whole",
        at: |spec| set("resources", &spec.resources),
    },
    Missing {
        what: "spread pods over a topology",
        at: |spec| many("topologySpreadConstraints", &spec.topology_spread_constraints),
    },
    Missing {
        what: "score preferred node affinity",
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
        what: "apply AppArmor profiles",
        at: |spec| {
            spec.security_context
                .as_ref()
                .map(|context| app_armor(&context.app_armor_profile))
                .unwrap_or_default()
        },
    },
    Missing {
        what: "apply SELinux labels",
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
        what: "propagate mounts from containers to the node",
        at: |of| {
            items(
                &of.container.volume_mounts,
                |index| format!("volumeMounts[{index}].mountPropagation"),
                |mount| mount.mount_propagation.as_deref() == Some("Bidirectional"),
            )
        },
    },
    Missing {
        what: "attach volume devices",
        at: |of| items(&of.container.volume_devices, |index| format!("volumeDevices[{index}]"), |_| true),
    },
    Missing {
        what: "forward host ports",
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
        at: |of| {
            items(
                &of.container.ports,
                |index| format!("ports[{index}].hostIP"),
                |port| port.host_ip.as_ref().is_some_and(|ip| !ip.is_empty()),
            )
        },
    },
    Missing {
        what: "know resources other than cpu and memory",
        at: other_resources,
    },
    Missing {
        what: "know resource claims",
        at: |of| {
            of.container
                .resources
                .as_ref()
                .map(|resources| many("resources.claims", &resources.claims))
                .unwrap_or_default()
        },
    },
    Missing {
        what: "resize containers in place",
        at: |of| many("resizePolicy", &of.container.resize_policy),
    },
    Missing {
        what: "keep standard input open",
        at: |of| given("stdin", of.container.stdin == Some(true)),
    },
    Missing {
        what: "keep standard input open",
        at: |of| given("stdinOnce", of.container.stdin_once == Some(true)),
    },
    Missing {
        what: "give containers a terminal",
        at: |of| given("tty", of.container.tty == Some(true)),
    },
    Missing {
        what: "apply AppArmor profiles",
        at: |of| {
            of.container
                .security_context
                .as_ref()
                .map(|context| app_armor(&context.app_armor_profile))
                .unwrap_or_default()
        },
    },
    Missing {
        what: "apply SELinux labels",
        at: |of| {
            of.container
                .security_context
                .as_ref()
                .map(|context| se_linux(&context.se_linux_options))
                .unwrap_or_default()
        },
    },
    Missing {
        what: "leave /proc unmasked",
        at: |of| {
            let mount = of
                .container
                .security_context
                .as_ref()
                .and_then(|context| context.proc_mount.as_deref());
            given("securityContext.procMount", mount == Some("Unmasked"))
        },
    },
    Missing {
        what: "run Windows containers",
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
            .filter(|name| !matches!(*name, "cpu" | "memory"));
        found.extend(others.map(|name| format!("resources.{list}[{name}]")));
    }
    found
}
