//! A record as one line of JSON: an `audit.k8s.io/v1` Event.
//!
//! Written straight from what was kept: at tens of thousands of requests a
//! second, a tree of values in between would cost more than the requests.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::Time;
use api::typed::MicroTime;
use serde::Serialize;

use super::{Seen, Stage};
use crate::authn::{AUTHENTICATED, Identity};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: User<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<User<'a>>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Option::is_none")]
    source_ips: Option<[IpAddr; 1]>,
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectRef<'a>>,
    response_status: ResponseStatus<'a>,
    request_received_timestamp: MicroTime,
    stage_timestamp: MicroTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Annotations>,
}

#[derive(Default, Serialize)]
struct User<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<&'a BTreeMap<String, Vec<String>>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef<'a> {
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_group: &'a str,
    api_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subresource: &'a str,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct ResponseStatus<'a> {
    metadata: Empty,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    code: u16,
}

#[derive(Serialize)]
struct Annotations {
    #[serde(rename = "authorization.k8s.io/decision")]
    decision: &'static str,
}

/// The line, with its end.
pub(super) fn line(seen: &Seen, stage: Stage, at: Time) -> Vec<u8> {
    let mut line = Vec::with_capacity(1_024);
    // Texts and numbers only: writing them to memory cannot fail.
    if serde_json::to_writer(&mut line, &event(seen, stage, at)).is_err() {
        line.clear();
    }
    line.push(b'\n');
    line
}

fn user(identity: &Identity) -> User<'_> {
    let mut groups: Vec<&str> = identity.groups.iter().map(String::as_str).collect();
    if identity.is_in(AUTHENTICATED) && !groups.contains(&AUTHENTICATED) {
        groups.push(AUTHENTICATED);
    }
    User {
        username: &identity.user,
        uid: &identity.uid,
        groups,
        extra: Some(&identity.extra).filter(|extra| !extra.is_empty()),
    }
}

fn event(seen: &Seen, stage: Stage, at: Time) -> Event<'_> {
    let failure = seen.failure.as_ref();
    let decision = match (seen.code, &seen.user) {
        (403, _) => Some("forbid"),
        (_, Some(_)) => Some("allow"),
        (_, None) => None,
    };
    Event {
        kind: "Event",
        api_version: "audit.k8s.io/v1",
        level: "Metadata",
        audit_id: &seen.id,
        stage: match stage {
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
        },
        request_uri: &seen.uri,
        verb: seen.asked.as_ref().map_or(seen.method.as_str(), |asked| asked.verb.name()),
        user: seen.user.as_ref().map(user).unwrap_or_default(),
        impersonated_user: seen.impersonated.as_ref().map(user),
        source_ips: seen.peer.map(|peer| [peer]),
        user_agent: &seen.user_agent,
        object_ref: seen.asked.as_ref().map(|asked| ObjectRef {
            resource: &asked.resource,
            namespace: &asked.namespace,
            name: &asked.name,
            api_group: &asked.group,
            api_version: &asked.version,
            subresource: &asked.subresource,
        }),
        response_status: ResponseStatus {
            metadata: Empty {},
            status: failure.map(|_| "Failure"),
            message: failure.map(|(_, message)| message.as_str()),
            reason: failure.map(|(reason, _)| reason.as_str()),
            code: seen.code,
        },
        request_received_timestamp: seen.received.wire_micro(),
        stage_timestamp: at.wire_micro(),
        annotations: decision.map(|decision| Annotations { decision }),
    }
}
