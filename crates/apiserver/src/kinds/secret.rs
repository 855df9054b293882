//! Secret.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`, `ValidateSecret`,
//! `ValidateSecretUpdate`; conversion of `stringData`.

use std::sync::Arc;

use api::Object;
use api::status::Violation;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::config_map::{MAX_BYTES, decoded_bytes, frozen, keys, map};
use super::values::set_absent;
use super::{plain, text_field};
use crate::registry::{Cell, Column, Resource, Rules, Strategy};
use crate::table;
use crate::validate::immutable;

/// Annotation that names the service account of a token.
const ACCOUNT_ANNOTATION: &str = "kubernetes.io/service-account.name";

pub(super) fn row() -> Resource {
    Resource {
        strategy: Arc::new(Secret),
        fields: vec![text_field!("type")],
        columns: vec![
            table::name_column(),
            Column::computed("Type", Cell::Text, |secret, _| Value::from(secret.str_at("type"))),
            Column::computed("Data", Cell::Text, |secret, _| Value::from(table::count(secret, "data"))),
            table::age_column(),
        ],
        ..plain("", "Secret", "secrets", "secrets")
    }
}

struct Secret;

impl Strategy for Secret {
    /// `stringData` is for writing only: it becomes `data` and wins over it.
    fn default(&self, secret: &mut Object) {
        if let Some(Value::Object(plain)) = secret.body.remove("stringData") {
            let mut data = map(secret, "data");
            for (key, value) in plain {
                data.insert(key, Value::from(STANDARD.encode(value.as_str().unwrap_or_default())));
            }
            if !data.is_empty() {
                secret.body.insert("data".to_owned(), Value::Object(data));
            }
        }
        set_absent(&mut secret.body, "type", "Opaque");
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _rules: Rules) -> Vec<Violation> {
        let mut broken = Vec::new();
        if let Some(old) = old {
            broken.extend(immutable("type", &new.str_at("type"), &old.str_at("type")));
            broken.extend(frozen(new, old, &["data"]));
        }
        let data = map(new, "data");
        broken.extend(keys("data", &data));
        if decoded_bytes(&data) > MAX_BYTES {
            broken.push(Violation::too_long("data", MAX_BYTES));
        }
        broken.extend(of_type(new, &data));
        broken
    }
}

/// What the type of a Secret promises.
fn of_type(secret: &Object, data: &Map<String, Value>) -> Vec<Violation> {
    let required = |keys: &[&str]| -> Vec<Violation> {
        keys.iter()
            .filter(|key| !data.contains_key(**key))
            .map(|key| Violation::required(format!("data[{key}]"), ""))
            .collect()
    };
    match secret.str_at("type") {
        "kubernetes.io/service-account-token" => {
            let named = secret
                .meta
                .annotations
                .as_ref()
                .and_then(|map| map.get(ACCOUNT_ANNOTATION))
                .is_some_and(|name| !name.is_empty());
            if named {
                Vec::new()
            } else {
                vec![Violation::required(format!("metadata.annotations[{ACCOUNT_ANNOTATION}]"), "")]
            }
        }
        "kubernetes.io/dockercfg" => json(".dockercfg", data),
        "kubernetes.io/dockerconfigjson" => json(".dockerconfigjson", data),
        "kubernetes.io/basic-auth" if !data.contains_key("username") && !data.contains_key("password") => {
            required(&["username", "password"])
        }
        "kubernetes.io/ssh-auth" => required(&["ssh-privatekey"]),
        "kubernetes.io/tls" => required(&["tls.crt", "tls.key"]),
        // Types are open: the others promise nothing.
        _ => Vec::new(),
    }
}

fn json(key: &str, data: &Map<String, Value>) -> Vec<Violation> {
    let field = format!("data[{key}]");
    let Some(text) = data.get(key).and_then(Value::as_str) else {
        return vec![Violation::required(field, "")];
    };
    let content = STANDARD.decode(text).unwrap_or_default();
    match serde_json::from_slice::<Map<String, Value>>(&content) {
        Ok(_) => Vec::new(),
        Err(error) => vec![Violation::invalid(
            field,
            &Value::from("<secret contents redacted>"),
            &error.to_string(),
        )],
    }
}
