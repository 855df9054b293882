//! Bootstrap tokens: how a node that has nothing yet asks for its certificate.
//!
//! A token is `ID.SECRET`, kept in the Secret `bootstrap-token-ID` of
//! `kube-system`.
//!
//! Source: Kubernetes "Authenticating with bootstrap tokens"; upstream
//! `plugin/pkg/auth/authenticator/token/bootstrap/bootstrap.go`.

use api::{Object, Time};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};

use super::Identity;
use super::bearer::{Refused, find};
use crate::server::Core;

const KIND: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// The two parts of a text that has the form of a token.
pub(super) fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let is =
        |text: &str, length: usize| text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (is(id, 6) && is(secret, 16)).then_some((id, secret))
}

/// Whom a token identifies.
pub(super) async fn authenticate(core: &Core, id: &str, secret: &str) -> Result<Identity, Refused> {
    let stored = find(core, "secrets", "kube-system", &format!("bootstrap-token-{id}")).await?;
    let stored = stored.ok_or_else(|| Refused::Claims("there is no such bootstrap token".to_owned()))?;
    identity(&stored, id, secret, (core.clock)()).map_err(|why| Refused::Claims(why.to_owned()))
}

/// Pure: whom the stored token identifies, if it is this one.
fn identity(stored: &Object, id: &str, secret: &str, now: Time) -> Result<Identity, &'static str> {
    let data = |key: &str| {
        let text = stored.at("data").and_then(|data| data.get(key)).and_then(serde_json::Value::as_str);
        String::from_utf8(STANDARD.decode(text.unwrap_or_default()).unwrap_or_default()).unwrap_or_default()
    };
    if stored.meta.deletion_timestamp.is_some() || stored.str_at("type") != KIND {
        return Err("the Secret is no bootstrap token");
    }
    // Digests are compared: how long that takes tells nothing of the secret.
    let same = digest(&SHA256, data("token-secret").as_bytes()).as_ref() == digest(&SHA256, secret.as_bytes()).as_ref();
    if !same || data("token-id") != id {
        return Err("the bootstrap token has another secret");
    }
    let expires = data("expiration");
    if !expires.is_empty() {
        let expires = expires
            .parse::<jiff::Timestamp>()
            .map_err(|_| "the bootstrap token's expiration is no time")?;
        if Time::from(expires) <= now {
            return Err("the bootstrap token has expired");
        }
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err("the bootstrap token is not for authentication");
    }
    let mut groups = vec![GROUP.to_owned()];
    let extra = data("auth-extra-groups");
    for group in extra.split(',').map(str::trim).filter(|group| !group.is_empty()) {
        if !group.starts_with("system:bootstrappers:") {
            return Err("the bootstrap token names a group outside system:bootstrappers");
        }
        groups.push(group.to_owned());
    }
    Ok(Identity {
        user: format!("system:bootstrap:{id}"),
        groups,
        ..Identity::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn stored(change: impl FnOnce(&mut Value)) -> Object {
        let mut plain = json!({
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "expiration": "2027-01-01T00:00:00Z", "auth-extra-groups": "system:bootstrappers:workers",
        });
        change(&mut plain);
        let data: serde_json::Map<String, Value> = plain
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| (key.clone(), json!(STANDARD.encode(value.as_str().unwrap()))))
            .collect();
        serde_json::from_value(json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": KIND, "data": data})).unwrap()
    }

    #[test]
    fn a_token_counts_as_long_as_its_secret_says() {
        let now = Time::from_secs(1_790_000_000);
        let late = Time::from_secs(1_800_000_000);
        let secret = "0123456789abcdef";
        let known = identity(&stored(|_| {}), "abcdef", secret, now).unwrap();
        assert_eq!(
            (known.user.as_str(), known.groups.join(",")),
            (
                "system:bootstrap:abcdef",
                "system:bootstrappers,system:bootstrappers:workers".to_owned()
            )
        );
        assert_eq!(
            identity(&stored(|_| {}), "abcdef", secret, late),
            Err("the bootstrap token has expired")
        );
        assert_eq!(
            identity(&stored(|_| {}), "abcdef", "0000000000000000", now),
            Err("the bootstrap token has another secret")
        );
        assert_eq!(
            identity(&stored(|_| {}), "abcdeg", secret, now),
            Err("the bootstrap token has another secret")
        );
        let unused = stored(|data| data["usage-bootstrap-authentication"] = json!("false"));
        assert_eq!(
            identity(&unused, "abcdef", secret, now),
            Err("the bootstrap token is not for authentication")
        );
        let masters = stored(|data| data["auth-extra-groups"] = json!("system:masters"));
        assert_eq!(
            identity(&masters, "abcdef", secret, now),
            Err("the bootstrap token names a group outside system:bootstrappers")
        );
        let mut other = stored(|_| {});
        other.body.insert("type".to_owned(), json!("Opaque"));
        assert_eq!(identity(&other, "abcdef", secret, now), Err("the Secret is no bootstrap token"));
    }

    #[test]
    fn only_texts_of_the_form_are_looked_up() {
        assert_eq!(parts("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for text in [
            "abcdef.0123456789abcde",
            "ABCDEF.0123456789abcdef",
            "abc/..x.0123456789abcdef",
            "abcdef0123456789abcdef",
            "",
        ] {
            assert_eq!(parts(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_bootstrapper_asks_for_a_certificate_and_nothing_else() {
        use crate::testing::Rig;
        let rig = Rig::new().await;
        let secret = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": KIND, "stringData": {
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"}});
        let secrets = "/api/v1/namespaces/kube-system/secrets";
        assert_eq!(rig.post(secrets, &secret).await.code, 201);
        let get = |path: &'static str| {
            let rig = &rig;
            async move {
                let request = http::Request::get(path).header("authorization", "Bearer abcdef.0123456789abcdef");
                rig.request(None, request.body(crate::body::empty()).unwrap()).await.code
            }
        };
        assert_eq!(get("/apis/certificates.k8s.io/v1/certificatesigningrequests").await, 200);
        assert_eq!(get("/api/v1/nodes").await, 403);
        rig.delete(&format!("{secrets}/bootstrap-token-abcdef"), None).await;
        assert_eq!(get("/apis/certificates.k8s.io/v1/certificatesigningrequests").await, 401);
    }
}
