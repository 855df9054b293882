//! So that nobody takes the server from the others: how many requests of one
//! caller are answered at a time.
//!
//! Beside the ceilings for everybody ([`crate::server::Limits`]) every caller
//! has one of their own. The cluster's own parts are never refused by the
//! ceiling for everybody: a flood must not stop the nodes from reporting.
//! Masters have none of their own, as upstream exempts them.
//!
//! Source: in the manner of Kubernetes "API Priority and Fairness".

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::authn::Identity;
use crate::authz::MASTERS;
use crate::server::Limits;

/// What is counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A request that reads.
    Read,
    /// A request that writes.
    Write,
    /// A watch, a followed log, a proxied stream.
    Stream,
}

impl Class {
    fn limit(self, limits: &Limits) -> usize {
        match self {
            Self::Read => limits.user_reads,
            Self::Write => limits.user_writes,
            Self::Stream => limits.user_streams,
        }
    }
}

/// Requests being answered, by caller; no longer than there are such requests.
#[derive(Clone, Default)]
pub(crate) struct Callers(Arc<Mutex<HashMap<String, [usize; 3]>>>);

/// One request of a caller, counted until dropped.
pub(crate) struct Turn {
    callers: Callers,
    user: String,
    class: Class,
}

impl Callers {
    /// Takes a request of a caller in; `None` when they have too many.
    pub(crate) fn take(&self, identity: &Identity, class: Class, limits: &Limits) -> Option<Turn> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = held.entry(identity.user.clone()).or_default();
        let count = &mut counts[class as usize];
        if *count >= class.limit(limits) && !identity.is_in(MASTERS) {
            return None;
        }
        *count += 1;
        Some(Turn {
            callers: self.clone(),
            user: identity.user.clone(),
            class,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut held = self.callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = held.get_mut(&self.user) {
            counts[self.class as usize] -= 1;
            if *counts == [0; 3] {
                held.remove(&self.user);
            }
        }
    }
}

/// A part of the cluster: a kubelet, or what acts for the control plane.
pub(crate) fn is_own(user: &Identity) -> bool {
    user.node().is_some()
        || user.user.starts_with("system:kube-")
        || user.user.starts_with("system:serviceaccount:kube-system:")
        || user.user == "system:apiserver"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_their_own_share() {
        let callers = Callers::default();
        let limits = Limits {
            user_reads: 2,
            user_writes: 1,
            ..Limits::default()
        };
        let (one, other) = (Identity::new("one", &[]), Identity::new("other", &[]));
        let admin = Identity::new("admin", &[MASTERS]);
        let first = callers.take(&one, Class::Read, &limits).unwrap();
        let second = callers.take(&one, Class::Read, &limits).unwrap();
        assert!(callers.take(&one, Class::Read, &limits).is_none());
        let write = callers.take(&one, Class::Write, &limits).unwrap();
        assert!(callers.take(&one, Class::Write, &limits).is_none());
        assert!(callers.take(&other, Class::Read, &limits).is_some());
        let many: Vec<Turn> = (0..10).map(|_| callers.take(&admin, Class::Write, &limits).unwrap()).collect();
        drop(first);
        assert!(callers.take(&one, Class::Read, &limits).is_some());
        drop((second, write, many));
        assert!(callers.0.lock().unwrap().is_empty(), "nothing is kept of who is gone");
    }

    #[tokio::test]
    async fn one_too_many_is_told_when_to_come_back_and_others_are_not() {
        use crate::testing::Rig;
        let limits = Limits {
            user_streams: 1,
            ..Limits::default()
        };
        let rig = Rig::with(limits).await;
        let watch = |user: &'static str, path: &'static str| {
            let rig = &rig;
            async move {
                let request = http::Request::get(path).body(crate::body::empty()).unwrap();
                rig.server.handle(Some(Identity::new(user, &[])), request).await
            }
        };
        let (scheduler, proxy) = ("system:kube-scheduler", "system:kube-proxy");
        let first = watch(scheduler, "/api/v1/pods?watch=1").await;
        assert_eq!(first.status(), 200);
        let second = watch(scheduler, "/api/v1/pods?watch=1").await;
        assert_eq!(
            (second.status().as_u16(), &second.headers()["retry-after"]),
            (429, &http::HeaderValue::from(1))
        );
        assert_eq!(watch(proxy, "/api/v1/services?watch=1").await.status(), 200);
        assert_eq!(watch(scheduler, "/api/v1/pods").await.status(), 200, "reads are counted apart");
        drop(first);
        assert_eq!(watch(scheduler, "/api/v1/pods?watch=1").await.status(), 200);
    }
}
