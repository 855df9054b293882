//! What a ServiceAccount token says. Pure.
//!
//! Source: upstream `pkg/serviceaccount/claims.go`.

use std::collections::BTreeMap;

use api::Time;
use serde_json::{Map, Value, json};

use crate::authn::Identity;

/// How far the clocks of issuer and reader may be apart. Source: `go-jose`
/// `jwt.DefaultLeeway`.
const LEEWAY_S: i64 = 60;

/// An object a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its name.
    pub name: String,
    /// Which of all that were ever called so it is; empty for a node that was
    /// not there when the token was made.
    pub uid: String,
}

/// The claims of a token. Times are seconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Who the token is for.
    pub audiences: Vec<String>,
    /// When it ends.
    pub expires_s: i64,
    /// When it was made, and begins.
    pub issued_s: i64,
    /// Unique for every token.
    pub id: String,
    /// The ServiceAccount's namespace.
    pub namespace: String,
    /// The ServiceAccount.
    pub account: Bound,
    /// The Pod it lives with.
    pub pod: Option<Bound>,
    /// The Secret it lives with.
    pub secret: Option<Bound>,
    /// The Node it lives with, or, beside a Pod, where that runs.
    pub node: Option<Bound>,
    /// From when its use is a sign of a client that does not read it anew.
    pub warn_after_s: Option<i64>,
}

fn bound(value: &Bound) -> Value {
    if value.uid.is_empty() {
        json!({"name": value.name})
    } else {
        json!({"name": value.name, "uid": value.uid})
    }
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn bound_from(private: &Value, field: &str) -> Option<Bound> {
    let value = private.get(field)?;
    Some(Bound {
        name: text(value, "name")?.to_owned(),
        uid: text(value, "uid").unwrap_or_default().to_owned(),
    })
}

impl Claims {
    /// The payload of a token of `issuer`.
    #[must_use]
    pub fn to_json(&self, issuer: &str) -> Value {
        let mut private = Map::new();
        private.insert("namespace".to_owned(), json!(self.namespace));
        private.insert("serviceaccount".to_owned(), bound(&self.account));
        for (field, value) in [("pod", &self.pod), ("secret", &self.secret), ("node", &self.node)] {
            if let Some(value) = value {
                private.insert(field.to_owned(), bound(value));
            }
        }
        if let Some(warn_after_s) = self.warn_after_s {
            private.insert("warnafter".to_owned(), json!(warn_after_s));
        }
        json!({
            "aud": self.audiences,
            "exp": self.expires_s,
            "iat": self.issued_s,
            "iss": issuer,
            "jti": self.id,
            "kubernetes.io": private,
            "nbf": self.issued_s,
            "sub": self.user(),
        })
    }

    /// From a payload; `None` when something every token of ours has is
    /// missing.
    #[must_use]
    pub fn from_json(payload: &Value) -> Option<Self> {
        let private = payload.get("kubernetes.io")?;
        let audiences = payload.get("aud")?.as_array()?;
        let claims = Self {
            audiences: audiences
                .iter()
                .map(|audience| audience.as_str().map(str::to_owned))
                .collect::<Option<_>>()?,
            expires_s: payload.get("exp")?.as_i64()?,
            issued_s: payload.get("nbf")?.as_i64()?,
            id: text(payload, "jti").unwrap_or_default().to_owned(),
            namespace: text(private, "namespace")?.to_owned(),
            account: bound_from(private, "serviceaccount")?,
            pod: bound_from(private, "pod"),
            secret: bound_from(private, "secret"),
            node: bound_from(private, "node"),
            warn_after_s: private.get("warnafter").and_then(Value::as_i64),
        };
        (text(payload, "sub") == Some(&claims.user())).then_some(claims)
    }

    /// The user name of its bearer.
    #[must_use]
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.account.name)
    }

    /// Why it does not count at a time, in upstream's words.
    #[must_use]
    pub fn refused_at(&self, now: Time) -> Option<&'static str> {
        let now_s = now.0.div_euclid(1_000_000_000);
        if now_s > self.expires_s.saturating_add(LEEWAY_S) {
            Some("service account token has expired")
        } else if now_s < self.issued_s.saturating_sub(LEEWAY_S) {
            Some("service account token is not valid yet")
        } else {
            None
        }
    }

    /// Whether its bearer should have read a newer one by now.
    #[must_use]
    pub fn stale_at(&self, now: Time) -> bool {
        self.warn_after_s
            .is_some_and(|warn_after_s| now.0.div_euclid(1_000_000_000) > warn_after_s)
    }

    /// Who its bearer is.
    ///
    /// Source: upstream `pkg/serviceaccount/util.go`, `ServiceAccountInfo.UserInfo`.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let mut extra = BTreeMap::new();
        let mut add = |key: &str, value: &str| {
            if !value.is_empty() {
                extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
            }
        };
        if let Some(pod) = &self.pod {
            add("pod-name", &pod.name);
            add("pod-uid", &pod.uid);
        }
        if let Some(node) = &self.node {
            add("node-name", &node.name);
            add("node-uid", &node.uid);
        }
        if !self.id.is_empty() {
            add("credential-id", &format!("JTI={}", self.id));
        }
        Identity {
            uid: self.account.uid.clone(),
            extra,
            ..Identity::service_account(&self.namespace, &self.account.name)
        }
    }
}
