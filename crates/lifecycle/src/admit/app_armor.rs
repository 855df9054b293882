//! Whether this node can confine a pod as it asks.
//!
//! Source: upstream `pkg/security/apparmor/validate.go`, `Validate`;
//! `pkg/kubelet/lifecycle/handlers.go`, `appArmorAdmitHandler`. That a profile
//! is there is the runtime's to find, when it makes a container.

use api::typed::{AppArmorProfile, Pod};

use crate::input::Rejection;

/// Refuses a pod that asks for a profile of a node that has no AppArmor.
///
/// # Errors
/// The refusal.
pub fn app_armor(pod: &Pod, enabled: bool) -> Result<(), Rejection> {
    let pending = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending") == "Pending";
    if enabled || !pending || !confined(pod) {
        return Ok(());
    }
    Err(Rejection {
        reason: "AppArmor".to_owned(),
        message: "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned(),
    })
}

/// Whether a container, of any kind, is to have a profile.
fn confined(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let of_pod = spec
        .security_context
        .as_ref()
        .and_then(|context| context.app_armor_profile.as_ref());
    let asks = |own: Option<&AppArmorProfile>| own.or(of_pod).is_some_and(|profile| profile.type_ != "Unconfined");
    let own = |context: &Option<api::typed::SecurityContext>| asks(context.as_ref().and_then(|context| context.app_armor_profile.as_ref()));
    let mut regular = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut ephemeral = spec.ephemeral_containers.iter().flatten();
    regular.any(|container| own(&container.security_context)) || ephemeral.any(|container| own(&container.security_context))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refused(of_pod: Value, init: Value, main: Value, phase: &str) -> Option<String> {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {
                "securityContext": { "appArmorProfile": of_pod },
                "initContainers": [{ "name": "i", "securityContext": { "appArmorProfile": init } }],
                "containers": [{ "name": "c", "securityContext": { "appArmorProfile": main } }],
            },
            "status": { "phase": phase },
        }))
        .unwrap();
        assert_eq!(app_armor(&pod, true), Ok(()));
        app_armor(&pod, false)
            .err()
            .map(|refusal| format!("{}: {}", refusal.reason, refusal.message))
    }

    #[test]
    fn a_profile_needs_a_node_that_has_app_armor() {
        let (none, of) = (Value::Null, |kind: &str| json!({ "type": kind }));
        let text = Some("AppArmor: Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned());
        for kind in ["RuntimeDefault", "Localhost"] {
            assert_eq!(refused(of(kind), none.clone(), none.clone(), "Pending"), text);
            assert_eq!(refused(none.clone(), of(kind), none.clone(), "Pending"), text);
            assert_eq!(refused(of("Unconfined"), none.clone(), of(kind), "Pending"), text);
            // It runs already.
            assert_eq!(refused(of(kind), none.clone(), none.clone(), "Running"), None);
            // Nobody is left to whom the pod's own would apply.
            assert_eq!(refused(of(kind), of("Unconfined"), of("Unconfined"), "Pending"), None);
        }
        assert_eq!(refused(none.clone(), none.clone(), none, "Pending"), None);
    }
}
