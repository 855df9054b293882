//! A record as one line of JSON: an `audit.k8s.io/v1` Event.

use api::Time;
use serde_json::{Value, json};

use super::{Seen, Stage};
use crate::reviews::token::user_info;

/// The line, with its end.
pub(super) fn line(seen: &Seen, stage: Stage, at: Time) -> Vec<u8> {
    let mut line = event(seen, stage, at).to_string().into_bytes();
    line.push(b'\n');
    line
}

fn event(seen: &Seen, stage: Stage, at: Time) -> Value {
    let verb = seen.asked.as_ref().map_or(seen.method.as_str(), |asked| asked.verb.name());
    let mut event = json!({
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "auditID": seen.id,
        "stage": match stage {
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
        },
        "requestURI": seen.uri,
        "verb": verb,
        "user": seen.user.as_ref().map_or_else(|| json!({}), user_info),
        "userAgent": seen.user_agent,
        "requestReceivedTimestamp": seen.received.wire_micro(),
        "stageTimestamp": at.wire_micro(),
    });
    if let Some(impersonated) = &seen.impersonated {
        event["impersonatedUser"] = user_info(impersonated);
    }
    if let Some(peer) = seen.peer {
        event["sourceIPs"] = json!([peer]);
    }
    if let Some(asked) = &seen.asked {
        let mut object = json!({"resource": asked.resource, "apiVersion": asked.version});
        for (field, value) in [
            ("namespace", &asked.namespace),
            ("name", &asked.name),
            ("apiGroup", &asked.group),
            ("subresource", &asked.subresource),
        ] {
            if !value.is_empty() {
                object[field] = json!(value);
            }
        }
        event["objectRef"] = object;
    }
    let mut status = json!({"metadata": {}, "code": seen.code});
    if let Some((reason, message)) = &seen.failure {
        status["status"] = json!("Failure");
        status["reason"] = json!(reason);
        status["message"] = json!(message);
    }
    event["responseStatus"] = status;
    if seen.code == 403 {
        event["annotations"] = json!({"authorization.k8s.io/decision": "forbid"});
    } else if seen.user.is_some() {
        event["annotations"] = json!({"authorization.k8s.io/decision": "allow"});
    }
    event
}
