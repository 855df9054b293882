//! What intruders and broken clients get, byte by byte, from the real server.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::testing::NOW_S;
use crate::tokens::claims::{Bound, Claims};
use crate::tokens::key::SigningKey;
use crate::tokens::{DEFAULT_ISSUER, Tokens};

/// Sends bytes, and gives the code and message of every answer until the
/// server closes.
async fn raw(front: &Front, client: Option<&KeyedCertificate>, bytes: &[u8]) -> String {
    let mut stream = front.connect(client, b"http/1.1").await;
    let mut answer = Vec::new();
    let talk = async {
        // The server may close before everything is sent, and that is fine.
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        let mut buffer = [0; 16 << 10];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => answer.extend_from_slice(&buffer[..read]),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), talk)
        .await
        .expect("the server closes in time");
    brief(&answer)
}

/// `CODE MESSAGE` of each answer, or `closed`.
fn brief(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let answers: Vec<String> = text
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|answer| {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
            let code = head.split(' ').next().unwrap_or_default();
            let message = serde_json::from_str::<Value>(body.trim()).ok();
            let message = message
                .and_then(|value| value["message"].as_str().map(str::to_owned))
                .unwrap_or_default();
            format!("{code} {message}").trim_end().to_owned()
        })
        .collect();
    if answers.is_empty() {
        "closed".to_owned()
    } else {
        answers.join(" + ")
    }
}

fn request(method: &str, path: &str, headers: &[&str], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

fn get(path: &str, headers: &[&str]) -> Vec<u8> {
    request("GET", path, headers, "")
}

async fn check(front: &Front, client: Option<&KeyedCertificate>, table: &[(&str, Vec<u8>, &str)]) {
    let mut wrong = Vec::new();
    for (what, bytes, expected) in table {
        let got = raw(front, client, bytes).await;
        if got != *expected {
            wrong.push(format!("{what}\n  wanted {expected}\n  got    {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A token like the one the server would issue, changed.
fn claims(uid: &str, change: impl FnOnce(&mut Claims)) -> Claims {
    let mut claims = Claims {
        audiences: vec![DEFAULT_ISSUER.to_owned()],
        expires_s: NOW_S + 3_600,
        issued_s: NOW_S,
        id: "j".to_owned(),
        namespace: "default".to_owned(),
        account: Bound {
            name: "default".to_owned(),
            uid: uid.to_owned(),
        },
        pod: None,
        secret: None,
        node: None,
        warn_after_s: None,
    };
    change(&mut claims);
    claims
}

fn unsigned(header: &Value, payload: &str) -> String {
    format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(header.to_string()))
}

#[tokio::test]
#[allow(clippy::too_many_lines)] // a table
async fn whoever_has_no_credentials_gets_nothing() {
    let front = front().await;
    let account = front.rig.get("/api/v1/namespaces/default/serviceaccounts/default").await.json();
    let uid = account["metadata"]["uid"].as_str().unwrap().to_owned();
    let tokens = Arc::clone(&front.rig.server.core().tokens);
    let issue = |change: &dyn Fn(&mut Claims)| tokens.issue(&claims(&uid, change)).unwrap();
    let valid = issue(&|_| {});
    let bearer = |token: &str| get("/api/v1", &[&format!("Authorization: Bearer {token}")]);
    let payload = valid.split('.').nth(1).unwrap();
    let forger = Tokens::new(DEFAULT_ISSUER, "", SigningKey::ephemeral().unwrap());
    let mut altered: Vec<&str> = valid.split('.').collect();
    let raised = URL_SAFE_NO_PAD.decode(payload).unwrap();
    let raised = URL_SAFE_NO_PAD.encode(String::from_utf8(raised).unwrap().replace("default", "kube-system"));
    altered[1] = &raised;
    let confused = {
        // The public key as the secret of an HMAC, as careless verifiers take.
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256"}).to_string());
        let signed = format!("{header}.{payload}");
        let key = tokens.jwks()["keys"][0]["x"].as_str().unwrap().as_bytes().to_vec();
        let tag = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key), signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
    };
    const NO: &str = "401 Unauthorized";
    let pods = "/api/v1/namespaces/default/pods";
    let table = [
        ("a list", get("/api/v1/pods", &[]), NO),
        ("discovery", get("/apis", &[]), NO),
        ("the root", get("/", &[]), NO),
        ("metrics", get("/metrics", &[]), NO),
        ("the schema", get("/openapi/v3", &[]), NO),
        ("the token keys", get("/openid/v1/jwks", &[]), NO),
        ("the issuer", get("/.well-known/openid-configuration", &[]), NO),
        ("what is not served", get("/nowhere", &[]), NO),
        ("a path trick", get("/readyz/../api/v1/secrets", &[]), NO),
        ("an encoded path trick", get("/version/%2e%2e/api", &[]), NO),
        ("a create", request("POST", pods, &[], "{}"), NO),
        ("a delete", request("DELETE", pods, &[], ""), NO),
        ("health is for everybody", get("/readyz", &[]), "200"),
        ("so is the version", get("/version", &[]), "200"),
        ("a method nobody knows", request("BREW", "/api/v1/pods", &[], ""), NO),
        ("no token after Bearer", get("/api/v1", &["Authorization: Bearer "]), NO),
        ("a token that is none", bearer("x"), NO),
        ("three empty parts", bearer(".."), NO),
        ("a token as long as a book", bearer(&"a".repeat(40_000)), NO),
        ("another scheme", get("/api/v1", &["Authorization: Basic YWRtaW46YWRtaW4="]), NO),
        ("no algorithm", bearer(&unsigned(&json!({"alg": "none"}), payload)), NO),
        ("no algorithm, shouted", bearer(&unsigned(&json!({"alg": "NONE"}), payload)), NO),
        ("no signature", bearer(&unsigned(&json!({"alg": "ES256"}), payload)), NO),
        ("a symmetric signature with the public key", bearer(&confused), NO),
        ("another key", bearer(&forger.issue(&claims(&uid, |_| {})).unwrap()), NO),
        ("an altered account", bearer(&altered.join(".")), NO),
        ("expired", bearer(&issue(&|claims| claims.expires_s = NOW_S - 100)), NO),
        ("not valid yet", bearer(&issue(&|claims| claims.issued_s = NOW_S + 100)), NO),
        (
            "for somebody else",
            bearer(&issue(&|claims| claims.audiences = vec!["vault".to_owned()])),
            NO,
        ),
        ("for nobody", bearer(&issue(&|claims| claims.audiences.clear())), NO),
        (
            "of an account that is gone",
            bearer(&issue(&|claims| claims.account.name = "gone".to_owned())),
            NO,
        ),
        (
            "of a former account of the name",
            bearer(&issue(&|claims| claims.account.uid = "old".to_owned())),
            NO,
        ),
        (
            "of a pod that is gone",
            bearer(&issue(&|claims| {
                claims.pod = Some(Bound {
                    name: "gone".to_owned(),
                    uid: "u".to_owned(),
                });
            })),
            NO,
        ),
        ("in the query", get(&format!("/api/v1?access_token={valid}&token={valid}"), &[]), NO),
        (
            "behind one that does not count",
            get("/api/v1", &["Authorization: Bearer x", &format!("Authorization: Bearer {valid}")]),
            NO,
        ),
        (
            "what a front proxy would say",
            get("/api/v1", &["X-Remote-User: admin", "X-Remote-Group: system:masters"]),
            NO,
        ),
        (
            "acting as somebody from nowhere",
            get("/api/v1", &["Impersonate-User: admin", "Impersonate-Group: system:masters"]),
            NO,
        ),
        ("and the token itself", bearer(&valid), "200"),
    ];
    check(&front, None, &table).await;
    front.end().await;
}

#[tokio::test]
async fn whoever_has_no_rights_gets_nothing() {
    let front = front().await;
    let stranger = front.authority.client("x", &[], now()).unwrap();
    let bind = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"}, "subjects": [{"kind": "User", "name": "x"}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let table = [
        (
            "Secrets",
            get("/api/v1/namespaces/kube-system/secrets", &[]),
            r#"403 secrets is forbidden: User "x" cannot list resource "secrets" in API group "" in the namespace "kube-system""#,
        ),
        (
            "a watch of everything",
            get("/api/v1/pods?watch=1", &[]),
            r#"403 pods is forbidden: User "x" cannot watch resource "pods" in API group "" at the cluster scope"#,
        ),
        (
            "rights for oneself",
            request("POST", &format!("{rbac}/clusterrolebindings"), &[], &bind.to_string()),
            r#"403 clusterrolebindings.rbac.authorization.k8s.io is forbidden: User "x" cannot create resource "clusterrolebindings" in API group "rbac.authorization.k8s.io" at the cluster scope"#,
        ),
        (
            "another identity",
            get("/api/v1/pods", &["Impersonate-User: admin", "Impersonate-Group: system:masters"]),
            r#"403 users "admin" is forbidden: User "x" cannot impersonate resource "users" in API group "" at the cluster scope"#,
        ),
        (
            "a group alone",
            get("/api/v1/pods", &["Impersonate-Group: system:masters"]),
            r#"500 Internal error occurred: requested ["system:masters"] without impersonating a user"#,
        ),
        (
            "a token of an account",
            request("POST", "/api/v1/namespaces/kube-system/serviceaccounts/default/token", &[], "{}"),
            r#"403 serviceaccounts "default" is forbidden: User "x" cannot create resource "serviceaccounts/token" in API group "" in the namespace "kube-system""#,
        ),
        (
            "what others may do",
            request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", &[], "{}"),
            r#"403 subjectaccessreviews.authorization.k8s.io is forbidden: User "x" cannot create resource "subjectaccessreviews" in API group "authorization.k8s.io" at the cluster scope"#,
        ),
        (
            "whose token it is",
            request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", &[], "{}"),
            r#"403 tokenreviews.authentication.k8s.io is forbidden: User "x" cannot create resource "tokenreviews" in API group "authentication.k8s.io" at the cluster scope"#,
        ),
        (
            "a node behind the server",
            get("/api/v1/nodes/n1/proxy/pods", &[]),
            r#"403 nodes "n1" is forbidden: User "x" cannot get resource "nodes/proxy" in API group "" at the cluster scope"#,
        ),
        (
            "metrics",
            get("/metrics", &[]),
            r#"403 forbidden: User "x" cannot get path "/metrics""#,
        ),
        (
            "a kind that is not served",
            get("/apis/acme.com/v1/rockets", &[]),
            r#"403 rockets.acme.com is forbidden: User "x" cannot list resource "rockets" in API group "acme.com" at the cluster scope"#,
        ),
    ];
    check(&front, Some(&stranger), &table).await;
    front.end().await;
}

#[tokio::test]
async fn a_node_reaches_no_other_node_s_things() {
    let front = front().await;
    let node = front.authority.client("system:node:n1", &["system:nodes"], now()).unwrap();
    for name in ["n1", "n2"] {
        let made = front.rig.post("/api/v1/nodes", &json!({"metadata": {"name": name}})).await;
        assert_eq!(made.code, 201);
    }
    let theirs = front.rig.pod("theirs", Some("n2")).await;
    let uid = theirs["metadata"]["uid"].as_str().unwrap();
    let secret = json!({"metadata": {"name": "s"}});
    front.rig.post("/api/v1/namespaces/default/secrets", &secret).await;
    let pod = "/api/v1/namespaces/default/pods/theirs";
    let merge = |path: &str, body: &str| {
        let text = format!(
            "PATCH {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/merge-patch+json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        text.into_bytes()
    };
    let token = json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "theirs", "uid": uid}}});
    let table = [
        (
            "another node's pod",
            get(pod, &[]),
            r#"403 pods "theirs" is forbidden: User "system:node:n1" cannot get resource "pods" in API group "" in the namespace "default": no relationship found between node 'n1' and this object"#,
        ),
        (
            "its status",
            merge(&format!("{pod}/status"), r#"{"status":{"phase":"Failed"}}"#),
            r#"403 pods "theirs" is forbidden: node "n1" can only update pod status for pods with spec.nodeName set to itself"#,
        ),
        (
            "its end",
            request("DELETE", pod, &[], ""),
            r#"403 pods "theirs" is forbidden: node "n1" can only delete pods with spec.nodeName set to itself"#,
        ),
        (
            "a Secret no pod of the node refers to",
            get("/api/v1/namespaces/default/secrets/s", &[]),
            r#"403 secrets "s" is forbidden: User "system:node:n1" cannot get resource "secrets" in API group "" in the namespace "default": no relationship found between node 'n1' and this object"#,
        ),
        (
            "all Secrets",
            get("/api/v1/secrets", &[]),
            r#"403 secrets is forbidden: User "system:node:n1" cannot list resource "secrets" in API group "" at the cluster scope: can only read namespaced object of this type"#,
        ),
        (
            "the other node",
            merge("/api/v1/nodes/n2/status", r#"{"status":{}}"#),
            r#"403 nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2""#,
        ),
        (
            "a label that draws work",
            merge(
                "/api/v1/nodes/n1",
                r#"{"metadata":{"labels":{"node-restriction.kubernetes.io/vault":"yes"}}}"#,
            ),
            r#"403 nodes "n1" is forbidden: is not allowed to modify labels: node-restriction.kubernetes.io/vault"#,
        ),
        (
            "the other node's lease",
            merge("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2", "{}"),
            r#"403 leases.coordination.k8s.io "n2" is forbidden: User "system:node:n1" cannot patch resource "leases" in API group "coordination.k8s.io" in the namespace "kube-node-lease": can only access node lease with the same name as the requesting node"#,
        ),
        (
            "a token for the other node's pod",
            request(
                "POST",
                "/api/v1/namespaces/default/serviceaccounts/default/token",
                &[],
                &token.to_string(),
            ),
            r#"403 serviceaccounts "default" is forbidden: User "system:node:n1" cannot create resource "serviceaccounts/token" in API group "" in the namespace "default": no relationship found between node 'n1' and this object"#,
        ),
        (
            "a pod of its own making",
            request(
                "POST",
                "/api/v1/namespaces/default/pods",
                &[],
                &crate::testing::pod("mine").to_string(),
            ),
            r#"403 pods "mine" is forbidden: pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods"#,
        ),
    ];
    check(&front, Some(&node), &table).await;
    front.end().await;
}

#[tokio::test]
#[allow(clippy::too_many_lines)] // a table
async fn malformed_requests_are_refused_and_nothing_is_lost() {
    let front = front().await;
    let admin = front.authority.client("admin", &["system:masters"], now()).unwrap();
    let maps = "/api/v1/namespaces/default/configmaps";
    let post = |body: &str| request("POST", maps, &[], body);
    let typed = |kind: &str, body: &str| {
        let text = format!(
            "POST {maps} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        text.into_bytes()
    };
    let strict = request(
        "POST",
        &format!("{maps}?fieldValidation=Strict"),
        &[],
        r#"{"metadata":{"name":"a","name":"b"}}"#,
    );
    let huge = format!("POST {maps} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10485760\r\n\r\n{{").into_bytes();
    let chunks = {
        let mut bytes =
            format!("POST {maps} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n400000\r\n").into_bytes();
        bytes.extend(std::iter::repeat_n(b' ', 4 << 20));
        bytes
    };
    let allowed = |part: &str| format!("400 the path segment {part:?} is not allowed");
    let unrecognized = "400 the object provided is unrecognized (must be of type ConfigMap): ";
    let table: Vec<(&str, Vec<u8>, String)> = vec![
        ("dots", get("/api/v1/namespaces/default/pods/..", &[]), allowed("..")),
        (
            "encoded dots",
            get("/api/v1/namespaces/default/pods/%2e%2E", &[]),
            allowed("%2e%2E"),
        ),
        (
            "an encoded slash",
            get("/api/v1/namespaces/default/pods/a%2Fstatus", &[]),
            allowed("a%2Fstatus"),
        ),
        ("encoded twice", get("/api/v1/namespaces/default/pods/%252e", &[]), allowed("%252e")),
        (
            "an encoded end of text",
            get("/api/v1/namespaces/default/pods/a%00", &[]),
            allowed("a%00"),
        ),
        ("a backslash", get("/api/v1/namespaces/default/pods/%5c", &[]), allowed("%5c")),
        (
            "overlong UTF-8",
            get("/api/v1/namespaces/default/pods/%c0%af", &[]),
            allowed("%c0%af"),
        ),
        ("an empty segment", get("//api/v1/pods", &[]), allowed("")),
        ("far up", get("/api/v1/../../etc/passwd", &[]), allowed("..")),
        (
            "no JSON",
            post("{"),
            format!("{unrecognized}the body is not JSON: EOF while parsing an object at line 1 column 1"),
        ),
        ("no object", post("[]"), format!("{unrecognized}the body is not a JSON object")),
        (
            "another kind",
            post(r#"{"kind":"Secret"}"#),
            "400 the kind in the data (Secret) does not match the expected kind (ConfigMap)".to_owned(),
        ),
        (
            "another namespace",
            post(r#"{"metadata":{"name":"a","namespace":"kube-system"}}"#),
            "400 the namespace of the provided object does not match the namespace sent on the request".to_owned(),
        ),
        (
            "the same key twice",
            strict,
            r#"400 ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: duplicate field "metadata.name""#
                .to_owned(),
        ),
        (
            "a name that climbs",
            post(r#"{"metadata":{"name":"../../secrets/kube-system/s"}}"#),
            "422".to_owned(),
        ),
        (
            "a name with an end of text",
            post(r#"{"metadata":{"name":"a\u0000"}}"#),
            "422".to_owned(),
        ),
        ("ten thousand brackets", post(&"[".repeat(10_000)), "400".to_owned()),
        ("a form", typed("application/x-www-form-urlencoded", "a=b"), "415".to_owned()),
        (
            "protobuf that is none",
            typed("application/vnd.kubernetes.protobuf", "k8s\0garbage"),
            "400".to_owned(),
        ),
        (
            "ten megabytes announced",
            huge,
            "413 the request body is larger than the limit of 3145728 bytes".to_owned(),
        ),
        (
            "four megabytes in one piece",
            chunks,
            "413 the request body is larger than the limit of 3145728 bytes".to_owned(),
        ),
        (
            "a method nobody knows",
            request("BREW", "/api/v1/pods", &[], ""),
            "405 the server does not allow this method on the requested resource".to_owned(),
        ),
        (
            "TRACE",
            request("TRACE", "/api/v1/pods", &[], ""),
            "405 the server does not allow this method on the requested resource".to_owned(),
        ),
        (
            "headers without end",
            get("/api", &[&format!("X-A: {}", "a".repeat(200_000))]),
            "431".to_owned(),
        ),
        ("too many headers", get("/api", &vec!["X-A: a"; 200]), "431".to_owned()),
        ("a header without a colon", get("/api", &["Broken"]), "400".to_owned()),
        ("a space before the colon", get("/api", &["X-A : b"]), "400".to_owned()),
        ("no version", b"GET /api\r\n\r\n".to_vec(), "400".to_owned()),
        (
            "another version",
            b"GET /api HTTP/3.7\r\nHost: x\r\n\r\n".to_vec(),
            "400".to_owned(),
        ),
        (
            "noise",
            vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x0d, 0x0a, 0x0d, 0x0a],
            "400".to_owned(),
        ),
        (
            "a line feed in the path",
            b"GET /api\nX: y HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            "400".to_owned(),
        ),
        (
            "two lengths",
            format!(
                "POST {maps} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 50\r\n\r\n{{}}GET /api HTTP/1.1\r\nHost: x\r\n\r\n"
            )
            .into_bytes(),
            "400".to_owned(),
        ),
        (
            "a length with a sign",
            format!("POST {maps} HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\n{{}}").into_bytes(),
            "400".to_owned(),
        ),
        (
            "a coding that is not the last",
            format!("POST {maps} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n").into_bytes(),
            "400".to_owned(),
        ),
        (
            "a coding nobody knows",
            format!("POST {maps} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n").into_bytes(),
            "400".to_owned(),
        ),
    ];
    let mut wrong = Vec::new();
    let before = front.rig.store.revision();
    for (what, bytes, expected) in &table {
        let got = raw(&front, Some(&admin), bytes).await;
        // A code alone stands for a text that is the parser's.
        let fits = if expected.len() == 3 {
            got.starts_with(expected.as_str()) && !got.contains(" + ")
        } else {
            got == *expected
        };
        if !fits {
            wrong.push(format!("{what}\n  wanted {expected}\n  got    {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(front.rig.store.revision(), before, "nothing was written");
    front.end().await;
}

/// Whatever stands behind the end of a request, by one reading or the other,
/// is not taken for another request.
#[tokio::test]
async fn no_request_is_smuggled_in_another() {
    let front = front().await;
    let admin = front.authority.client("admin", &["system:masters"], now()).unwrap();
    let hidden = "DELETE /api/v1/namespaces/default/configmaps/precious HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    front.rig.config_map("precious", &json!({})).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for (what, head) in [
        (
            "length, then chunks",
            format!(
                "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                5 + hidden.len()
            ),
        ),
        (
            "chunks, then length",
            format!(
                "Transfer-Encoding: chunked\r\nContent-Length: {}\r\n\r\n0\r\n\r\n",
                5 + hidden.len()
            ),
        ),
    ] {
        // By its length, the body holds the hidden request; by its chunks, it
        // is over before. Whichever way the server reads, it must not go on.
        let bytes = format!("POST {maps} HTTP/1.1\r\nHost: x\r\n{head}{hidden}");
        let got = raw(&front, Some(&admin), bytes.as_bytes()).await;
        assert!(!got.contains(" + "), "{what}: {got}");
        assert_eq!(front.rig.get(&format!("{maps}/precious")).await.code, 200, "{what}");
    }
    front.end().await;
}

#[tokio::test]
async fn certificates_that_do_not_count_are_refused_by_tls() {
    let front = front().await;
    let long_ago = now() - Duration::from_secs(400 * 86_400);
    let expired = front.authority.client("admin", &["system:masters"], long_ago).unwrap();
    let serving = front.authority.serving("admin", &["127.0.0.1".to_owned()], now()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = Authority::open_or_create(elsewhere.path(), now()).unwrap();
    let foreign = foreign.client("admin", &["system:masters"], now()).unwrap();
    for (what, client) in [("expired", &expired), ("of another authority", &foreign), ("a server's", &serving)] {
        assert_eq!(raw(&front, Some(client), &get("/readyz", &[])).await, "closed", "{what}");
    }
    front.end().await;
}

#[tokio::test]
async fn whoever_is_slow_is_cut_off() {
    let limits = crate::Limits {
        request_timeout: Duration::from_millis(300),
        ..crate::Limits::default()
    };
    let connections = ConnectionLimits {
        header_timeout: Duration::from_millis(300),
        handshake_timeout: Duration::from_millis(300),
        strangers: 1,
        ..ConnectionLimits::default()
    };
    let front = front_with(Rig::with(limits).await, connections).await;
    let admin = front.authority.client("admin", &["system:masters"], now()).unwrap();
    assert_eq!(
        raw(&front, Some(&admin), b"GET /api HTTP/1.1\r\nHost:").await,
        "closed",
        "headers that do not end"
    );
    assert_eq!(raw(&front, Some(&admin), b"").await, "closed", "nothing at all");
    let maps = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{";
    let slow = raw(&front, Some(&admin), maps.as_bytes()).await;
    assert_eq!(
        slow, "504 the request was not finished within 0 seconds",
        "a body that does not end"
    );
    // TLS that does not begin.
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    let mut nothing = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut nothing)).await;
    assert_eq!(read.unwrap().unwrap_or(0), 0);
    // One stranger too many is closed; whoever has a certificate is not.
    let first = front.connect(None, b"http/1.1").await;
    assert_eq!(raw(&front, None, &get("/readyz", &[])).await, "closed");
    assert_eq!(raw(&front, Some(&admin), &get("/readyz", &[])).await, "200");
    drop(first);
    front.end().await;
}

#[tokio::test]
async fn a_panic_ends_its_request_and_no_other() {
    let mut front = front().await;
    let admin = front.authority.client("admin", &["system:masters"], now()).unwrap();
    front.rig.pod("p", Some("panics")).await;
    let mut sender = front.http2(Some(&admin)).await;
    let watching = sender
        .send_request(super::get("/api/v1/namespaces/default/configmaps?watch=1"))
        .await
        .unwrap();
    let failed = sender
        .send_request(super::get("/api/v1/namespaces/default/pods/p/log"))
        .await
        .unwrap();
    assert_eq!(failed.status(), 500);
    let message: Value = serde_json::from_str(&text(failed).await).unwrap();
    assert_eq!(
        message["message"],
        "Internal error occurred: the request handler failed; the server's log says where"
    );
    assert_eq!(text(sender.send_request(super::get("/readyz")).await.unwrap()).await, "ok");
    front.rig.config_map("after", &json!({})).await;
    let frame = watching.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(frame.starts_with(b"{\"type\":\"ADDED\""), "{frame:?}");
    front.end().await;
}
