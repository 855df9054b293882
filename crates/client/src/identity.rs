//! Who a component is to the API server.

/// A user name and its groups, as authentication would establish them.
///
/// Source: Kubernetes authentication page, "Users in Kubernetes"; the names
/// are upstream's for the same components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// For example `system:kube-scheduler`.
    pub user: String,
    /// `system:authenticated` is added by the server.
    pub groups: Vec<String>,
    /// The program's name, as upstream's user agent begins: whose name the
    /// fields it writes carry in `managedFields`.
    pub agent: String,
}

impl Identity {
    /// The scheduler.
    #[must_use]
    pub fn scheduler() -> Self {
        Self {
            user: "system:kube-scheduler".to_owned(),
            groups: Vec::new(),
            agent: "kube-scheduler".to_owned(),
        }
    }

    /// One of the controllers, such as `namespace-controller`: a ServiceAccount
    /// of `kube-system` that holds the role `system:controller:<name>`.
    ///
    /// Source: upstream `--use-service-account-credentials`.
    #[must_use]
    pub fn controller(name: &str) -> Self {
        Self {
            user: format!("system:serviceaccount:kube-system:{name}"),
            groups: vec!["system:serviceaccounts".to_owned(), "system:serviceaccounts:kube-system".to_owned()],
            agent: "kube-controller-manager".to_owned(),
        }
    }

    /// The node agent of a node.
    #[must_use]
    pub fn node(name: &str) -> Self {
        Self {
            user: format!("system:node:{name}"),
            groups: vec!["system:nodes".to_owned()],
            agent: "kubelet".to_owned(),
        }
    }

    /// An administrator; may do everything.
    #[must_use]
    pub fn admin(user: &str) -> Self {
        Self {
            user: user.to_owned(),
            groups: vec!["system:masters".to_owned()],
            agent: user.to_owned(),
        }
    }
}
