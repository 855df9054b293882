//! `TokenReview`: whose token is this?
//!
//! Source: upstream `pkg/registry/authentication/tokenreview/storage.go`.

use api::{Object, Status};
use serde_json::{Value, json};

use super::texts;
use crate::authn::{Identity, bearer};
use crate::call::Call;

/// A caller as `authentication.k8s.io/v1` `UserInfo`.
pub(crate) fn user_info(identity: &Identity) -> Value {
    let mut info = json!({"username": identity.user, "groups": identity.all_groups()});
    if !identity.uid.is_empty() {
        info["uid"] = json!(identity.uid);
    }
    if !identity.extra.is_empty() {
        info["extra"] = json!(identity.extra);
    }
    info
}

/// The status of a review.
pub(super) async fn status(call: &Call, review: &Object) -> Result<Value, Status> {
    let token = review.str_at("spec.token");
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences = texts(review, "spec.audiences");
    if audiences.is_empty() {
        audiences = call.core.tokens.audiences().to_vec();
    }
    Ok(match bearer::authenticate(&call.core, token, &audiences).await {
        Ok(bearer) => json!({"authenticated": true, "user": user_info(&bearer.identity), "audiences": bearer.audiences}),
        Err(why) => json!({"user": {}, "error": format!("[invalid bearer token, {why}]")}),
    })
}
