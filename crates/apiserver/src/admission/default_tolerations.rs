//! How long a Pod stays on a node that is not ready or not reachable, where it
//! does not say so itself.
//!
//! Source: upstream `plugin/pkg/admission/defaulttolerationseconds/admission.go`.

use api::{Object, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Attributes, Plugin};

/// For as long, in seconds.
const NODE_GONE_TOLERATION_S: i64 = 300;

/// The plugin `DefaultTolerationSeconds`.
pub(super) struct DefaultTolerations;

#[async_trait]
impl Plugin for DefaultTolerations {
    fn handles(&self, asked: &Attributes<'_>) -> bool {
        asked.is("", "pods")
    }

    async fn admit(&self, _asked: &Attributes<'_>, pod: &mut Object) -> Result<(), Status> {
        tolerate(pod);
        Ok(())
    }
}

/// Adds a toleration for each of the two taints that none tolerates yet.
pub(super) fn tolerate(pod: &mut Object) {
    let Some(Value::Object(spec)) = pod.body.get_mut("spec") else {
        return;
    };
    if !matches!(spec.get("tolerations"), Some(Value::Array(_))) {
        spec.insert("tolerations".to_owned(), json!([]));
    }
    let Some(Value::Array(tolerations)) = spec.get_mut("tolerations") else {
        return;
    };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let is = |toleration: &Value, field: &str, wanted: &str| matches!(toleration[field].as_str().unwrap_or_default(), found if found.is_empty() || found == wanted);
        if !tolerations
            .iter()
            .any(|toleration| is(toleration, "key", key) && is(toleration, "effect", "NoExecute"))
        {
            tolerations
                .push(json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": NODE_GONE_TOLERATION_S }));
        }
    }
}
