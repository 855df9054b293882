//! Who shows a bearer token: its signature, time and audience, and whether the
//! objects it is bound to are still the ones it was made for.
//!
//! Source: upstream `pkg/serviceaccount/claims.go`, `Validate`;
//! `apiserver/pkg/authentication/request/bearertoken/bearertoken.go`.

use std::sync::Arc;
use std::time::Duration;

use api::{Object, Time};
use http::HeaderValue;

use super::{Identity, bootstrap_token};
use crate::server::Core;
use crate::tokens::TokenError;
use crate::tokens::claims::{Bound, Claims};

/// An object that is being deleted counts for this long.
const LEEWAY: Duration = Duration::from_secs(60);

/// A token that counts.
pub(crate) struct Bearer {
    pub(crate) identity: Identity,
    /// Of the audiences asked for, those the token is for.
    pub(crate) audiences: Vec<String>,
    /// Its bearer should have read a newer one by now.
    pub(crate) stale: bool,
}

/// Why a token does not count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// Not one of ours.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// What it says does not hold (any more).
    #[error("{0}")]
    Claims(String),
    /// Whether it holds could not be found out.
    #[error("the objects it is bound to could not be read: {0}")]
    Read(String),
}

/// The caller an `Authorization` header names; nobody when there is none, or
/// it does not count.
pub(crate) async fn of_request(core: &Core, header: Option<&HeaderValue>) -> Option<Identity> {
    let (scheme, token) = header?.to_str().ok()?.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return None;
    }
    match authenticate(core, token.trim(), core.tokens.audiences()).await {
        Ok(bearer) => {
            if bearer.stale {
                tracing::debug!(user = bearer.identity.user, "a bearer should have read a newer token by now");
            }
            Some(bearer.identity)
        }
        Err(why) => {
            tracing::debug!(%why, "a bearer token does not count");
            None
        }
    }
}

/// Whom a token identifies for one of some audiences.
pub(crate) async fn authenticate(core: &Core, token: &str, audiences: &[String]) -> Result<Bearer, Refused> {
    if let Some((id, secret)) = bootstrap_token::parts(token) {
        // It is for this server, whatever else is asked for.
        let own = core
            .tokens
            .audiences()
            .iter()
            .filter(|own| audiences.contains(own))
            .cloned()
            .collect::<Vec<_>>();
        if own.is_empty() {
            return Err(Refused::Claims("a bootstrap token is for this server alone".to_owned()));
        }
        return Ok(Bearer {
            identity: bootstrap_token::authenticate(core, id, secret).await?,
            audiences: own,
            stale: false,
        });
    }
    let claims = core.tokens.read(token)?;
    let now = (core.clock)();
    let shared: Vec<String> = claims
        .audiences
        .iter()
        .filter(|audience| audiences.contains(audience))
        .cloned()
        .collect();
    if shared.is_empty() {
        return Err(Refused::Claims(format!(
            "token audiences {:?} is invalid for the target audiences {audiences:?}",
            claims.audiences
        )));
    }
    if let Some(why) = claims.refused_at(now) {
        return Err(Refused::Claims(why.to_owned()));
    }
    holds(core, &claims, now).await?;
    Ok(Bearer {
        identity: claims.identity(),
        audiences: shared,
        stale: claims.stale_at(now),
    })
}

/// The ServiceAccount, and what else the token is bound to, are there.
async fn holds(core: &Core, claims: &Claims, now: Time) -> Result<(), Refused> {
    let namespace = claims.namespace.as_str();
    let account = find(core, "serviceaccounts", namespace, &claims.account.name).await?;
    let Some(account) = account.filter(|account| counts(account, now)) else {
        return Err(Refused::Claims(format!(
            "service account {namespace}/{} has been deleted",
            claims.account.name
        )));
    };
    if account.uid() != claims.account.uid {
        return Err(Refused::Claims(format!(
            "service account UID ({}) does not match claim ({})",
            account.uid(),
            claims.account.uid
        )));
    }
    // A Pod's node may come and go: the Pod is what counts.
    let node = claims.node.as_ref().filter(|_| claims.pod.is_none());
    let bound = [
        ("secrets", namespace, claims.secret.as_ref()),
        ("pods", namespace, claims.pod.as_ref()),
        ("nodes", "", node),
    ];
    for (plural, namespace, bound) in bound {
        if let Some(bound) = bound {
            is_the_same(core, plural, namespace, bound, now).await?;
        }
    }
    Ok(())
}

async fn is_the_same(core: &Core, plural: &str, namespace: &str, bound: &Bound, now: Time) -> Result<(), Refused> {
    let object = find(core, plural, namespace, &bound.name).await?;
    let Some(object) = object.filter(|object| counts(object, now)) else {
        return Err(Refused::Claims("service account token has been invalidated".to_owned()));
    };
    if object.uid() == bound.uid {
        Ok(())
    } else {
        let kind = plural.trim_end_matches('s');
        Err(Refused::Claims(format!(
            "{kind} UID ({}) does not match service account {kind} ref claim ({})",
            object.uid(),
            bound.uid
        )))
    }
}

/// Not deleted for longer than the leeway.
fn counts(object: &Object, now: Time) -> bool {
    let deleted = object.meta.deletion_timestamp.as_ref().map(Time::from);
    deleted.is_none_or(|deleted| deleted + LEEWAY >= now)
}

/// A stored object of the core group.
pub(crate) async fn find(core: &Core, plural: &str, namespace: &str, name: &str) -> Result<Option<Arc<Object>>, Refused> {
    let Some(row) = core.row("", "v1", plural) else {
        return Ok(None);
    };
    let current = core.current(&row, &row.key(namespace, name)).await;
    let current = current.map_err(|status| Refused::Read(status.message))?;
    Ok(current.map(|current| current.object))
}
