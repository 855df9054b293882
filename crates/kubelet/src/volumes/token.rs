//! ServiceAccount tokens for projected volumes, renewed before they expire.
//!
//! Source: upstream `pkg/kubelet/token/token_manager.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use api::typed::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use api::{Time, Uid};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::payload;

/// A token is renewed after this long, however long it lives.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a token lives where its source does not say. Source: Pod API
/// reference, `expirationSeconds`.
const LIFE_S: i64 = 3600;
/// Most seconds by which renewals are spread.
const SPREAD_S: u64 = 10;

/// A token in use.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    text: String,
    pub(crate) refresh_at: Time,
}

impl std::fmt::Debug for Token {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("refresh_at", &self.refresh_at)
            .finish_non_exhaustive()
    }
}

/// Every token a pod's volumes want, by volume and source: those in hand, and
/// new ones for those that are due. One in hand is used on where the API
/// server gives no new one.
pub(crate) async fn renew(
    client: &Client,
    uid: &Uid,
    pod: &Pod,
    known: &mut BTreeMap<(String, usize), Token>,
    now: Time,
) -> BTreeMap<(String, usize), Result<String, String>> {
    let mut issued = BTreeMap::new();
    for volume in super::volumes(pod) {
        for (index, wanted) in payload::tokens(volume) {
            let key = (volume.name.clone(), index);
            if let Some(token) = known.get(&key).filter(|token| now < token.refresh_at) {
                issued.insert(key, Ok(token.text.clone()));
                continue;
            }
            match request(client, uid, pod, wanted, now).await {
                Ok(token) => {
                    issued.insert(key.clone(), Ok(token.text.clone()));
                    known.insert(key, token);
                }
                Err(error) => match known.get_mut(&key) {
                    Some(token) => {
                        tracing::warn!(%uid, volume = volume.name, error, "a token was not renewed; the old one is used on");
                        token.refresh_at = now + Duration::from_secs(SPREAD_S);
                        issued.insert(key, Ok(token.text.clone()));
                    }
                    None => drop(issued.insert(key, Err(error))),
                },
            }
        }
    }
    issued
}

async fn request(client: &Client, uid: &Uid, pod: &Pod, wanted: &ServiceAccountTokenProjection, now: Time) -> Result<Token, String> {
    let spec = pod.spec.as_ref();
    let account = spec
        .and_then(|spec| spec.service_account_name.as_deref())
        .filter(|name| !name.is_empty());
    let account = account.unwrap_or("default");
    let life_s = wanted.expiration_seconds.unwrap_or(LIFE_S);
    let audience = wanted.audience.iter().filter(|audience| !audience.is_empty());
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": audience.collect::<Vec<_>>(), "expirationSeconds": life_s,
            "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": uid.as_str() },
        },
    });
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
    let answer: Value = accounts
        .create_subresource("token", account, &PostParams::default(), &body)
        .await
        .map_err(|error| match error {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        })?;
    let text = answer["status"]["token"].as_str().unwrap_or_default();
    if text.is_empty() {
        return Err("the API server gave none".to_owned());
    }
    let spread = uid.as_str().bytes().fold(0_u64, |sum, byte| sum + u64::from(byte)) % SPREAD_S;
    Ok(Token {
        text: text.to_owned(),
        refresh_at: refresh_at(now, life_s, Duration::from_secs(spread)),
    })
}

/// When four fifths of its life are over, or after a day.
fn refresh_at(now: Time, life_s: i64, spread: Duration) -> Time {
    let life = Duration::from_secs(life_s.unsigned_abs());
    now + (life * 4 / 5).min(AGE_MAX).saturating_sub(spread)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;

    use super::*;

    /// Gives `token-1`, `token-2` and so on, unless it is `down`.
    fn server(asked: &Arc<AtomicU32>, down: &Arc<AtomicBool>) -> Client {
        let (asked, down) = (asked.clone(), down.clone());
        client::in_process(move |request: Request<kube::client::Body>| {
            let (nth, down) = (asked.fetch_add(1, Ordering::SeqCst) + 1, down.load(Ordering::SeqCst));
            async move {
                assert_eq!(request.uri().path(), "/api/v1/namespaces/team/serviceaccounts/builder/token");
                let (code, body) = if down {
                    (
                        503,
                        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "down", "reason": "", "code": 503 }),
                    )
                } else {
                    (201, json!({ "status": { "token": format!("token-{nth}") } }))
                };
                let response = Response::builder().status(code).body(Full::new(Bytes::from(body.to_string())));
                response.unwrap()
            }
        })
    }

    /// A pod is asked one token for, however often its volumes are looked at;
    /// another one when four fifths of its life are over.
    #[tokio::test]
    async fn a_running_pods_token_is_renewed_and_an_old_one_outlives_an_outage() {
        let (asked, down) = (Arc::default(), Arc::default());
        let client = server(&asked, &down);
        let source = json!({ "serviceAccountToken": { "path": "token", "expirationSeconds": 600 } });
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "team" },
            "spec": { "serviceAccountName": "builder", "containers": [],
                "volumes": [{ "name": "access", "projected": { "sources": [{ "downwardAPI": {} }, source] } }] },
        }))
        .unwrap();
        let uid: Uid = "11111111-1111-4111-8111-111111111111".parse().unwrap();
        let mut known = BTreeMap::new();
        let mut seen = Vec::new();
        for (now_s, is_down) in [
            (0, false),
            (1, false),
            (469, false),
            (480, false),
            (481, false),
            (961, true),
            (962, true),
            (980, false),
        ] {
            down.store(is_down, Ordering::SeqCst);
            let issued = renew(&client, &uid, &pod, &mut known, Time::from_secs(now_s)).await;
            let token = issued[&("access".to_owned(), 1)].clone().unwrap();
            seen.push(format!("{now_s} {token} of {}", asked.load(Ordering::SeqCst)));
        }
        let expected = [
            "0 token-1 of 1",
            "1 token-1 of 1",
            "469 token-1 of 1",
            "480 token-2 of 2",
            "481 token-2 of 2",
            "961 token-2 of 3",
            "962 token-2 of 3",
            "980 token-4 of 4",
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_token_is_renewed_well_before_it_expires() {
        let now = Time::from_secs(1_000);
        let after = |life_s, spread_s| refresh_at(now, life_s, Duration::from_secs(spread_s)).since(now).as_secs();
        assert_eq!(after(600, 0), 480);
        assert_eq!(after(3_600, 7), 2_873);
        assert_eq!(after(1 << 32, 0), 24 * 3_600);
    }

    #[test]
    fn a_token_is_not_shown() {
        let token = Token {
            text: "geheim".to_owned(),
            refresh_at: Time::from_secs(1),
        };
        assert!(!format!("{token:?}").contains("geheim"));
    }
}
