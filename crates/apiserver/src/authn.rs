//! Who is asking: the identity a client certificate states, or the bearer of
//! a token ([`bearer`]), or whom they may act as ([`impersonation`]).

pub(crate) mod bearer;
mod bootstrap_token;
pub(crate) mod impersonation;

use std::collections::BTreeMap;

use x509_parser::prelude::{FromDer, X509Certificate};

/// The group every identified caller is in.
pub const AUTHENTICATED: &str = "system:authenticated";

/// The group of callers that nobody identified; only impersonation makes one.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";

/// A user, the groups they are in, and what else authentication knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// For example `system:node:n1`.
    pub user: String,
    /// For example `system:nodes`; `system:authenticated` is implied.
    pub groups: Vec<String>,
    /// Which of all that were ever called so it is; empty where nobody keeps
    /// count, as for certificates.
    pub uid: String,
    /// For example `authentication.kubernetes.io/pod-name`.
    pub extra: BTreeMap<String, Vec<String>>,
    /// Nothing is implied: the groups are all there are. So it is with the
    /// subject of an access review.
    pub exact: bool,
}

impl Identity {
    /// An identity of one user in some groups.
    #[must_use]
    pub fn new(user: &str, groups: &[&str]) -> Self {
        Self {
            user: user.to_owned(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            ..Self::default()
        }
    }

    /// The identity of a ServiceAccount, without its UID.
    ///
    /// Source: upstream `apiserver/pkg/authentication/serviceaccount/util.go`.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")];
        Self::new(&format!("system:serviceaccount:{namespace}:{name}"), &groups)
    }

    /// All groups, with the implied one.
    #[must_use]
    pub fn all_groups(&self) -> Vec<String> {
        let mut groups = self.groups.clone();
        if !self.exact && !groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        groups
    }

    /// Whether the identity is in `group`.
    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        let own = |group: &str| self.groups.iter().any(|own| own == group);
        own(group) || group == AUTHENTICATED && !self.exact && !own(UNAUTHENTICATED)
    }

    /// The node this identity acts for, if it is a kubelet's.
    ///
    /// Source: upstream `pkg/auth/nodeidentifier/default.go`.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.user
            .strip_prefix("system:node:")
            .filter(|name| !name.is_empty() && self.is_in("system:nodes"))
    }
}

/// A certificate that identifies nobody.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not X.509.
    #[error("the client certificate cannot be decoded: {0}")]
    Malformed(String),
    /// The common name is the user; it is missing.
    #[error("the client certificate's subject has no common name, so it names no user")]
    NoCommonName,
}

/// The identity of a certificate whose chain TLS has already verified: the
/// common name is the user, each organization is a group.
///
/// Source: Kubernetes "Authenticating", "X.509 client certificates".
///
/// # Errors
/// When the subject names no user.
pub fn from_certificate(der: &[u8]) -> Result<Identity, CertificateError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| CertificateError::Malformed(error.to_string()))?;
    let subject = certificate.subject();
    let user = subject
        .iter_common_name()
        .find_map(|name| name.as_str().ok())
        .filter(|name| !name.is_empty());
    let user = user.ok_or(CertificateError::NoCommonName)?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok())
        .map(str::to_owned)
        .collect();
    Ok(Identity {
        user,
        groups,
        ..Identity::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_one_only_with_its_group() {
        assert_eq!(Identity::new("system:node:n1", &["system:nodes"]).node(), Some("n1"));
        assert_eq!(Identity::new("system:node:n1", &[]).node(), None);
        assert_eq!(Identity::new("admin", &["system:nodes"]).node(), None);
        assert_eq!(Identity::new("system:node:", &["system:nodes"]).node(), None);
    }

    #[test]
    fn what_is_not_a_certificate_is_nobody() {
        assert!(from_certificate(b"not a certificate").is_err());
    }
}
