//! Roles and bindings as an index by who they are for, made anew when one of
//! them has changed. A decision is a few look-ups and no allocation.
//!
//! Source: upstream `plugin/pkg/auth/authorizer/rbac/rbac.go`,
//! `pkg/registry/rbac/validation/rule.go`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use api::Object;
use serde_json::Value;

use super::rules::{GROUP, Rule};
use super::{Attributes, Decision};
use crate::authn::{AUTHENTICATED, Identity, UNAUTHENTICATED};
use crate::hub::Hub;

/// What a binding gives to a subject.
struct Grant {
    /// `ClusterRoleBinding "b" of ClusterRole "r" to User "u"`.
    source: String,
    rules: Arc<[Rule]>,
}

/// Bindings that name a role which is not there.
struct Dangling(String);

/// What bindings of one namespace, or of the cluster, give to whom.
#[derive(Default)]
struct Grants {
    users: HashMap<String, Vec<Result<Grant, Dangling>>>,
    groups: HashMap<String, Vec<Result<Grant, Dangling>>>,
}

#[derive(Default)]
struct Index {
    /// The last change of each hub this was made from.
    made_of: [u64; 4],
    cluster: Grants,
    namespaced: HashMap<String, Grants>,
    cluster_roles: HashMap<String, Arc<[Rule]>>,
    /// By namespace and name.
    roles: HashMap<(String, String), Arc<[Rule]>>,
}

/// The rules of a stored role, as of a revision.
type Parsed = HashMap<String, (u64, Arc<[Rule]>)>;

/// The role-based authorizer.
pub(crate) struct Rbac {
    /// Cluster roles, roles, cluster role bindings, role bindings.
    hubs: [Option<Arc<Hub>>; 4],
    index: RwLock<Arc<Index>>,
    /// Held while the index is made; keeps what roles were parsed to.
    parsed: Mutex<Parsed>,
}

impl Rbac {
    pub(super) fn new(hubs: [Option<Arc<Hub>>; 4]) -> Self {
        Self {
            hubs,
            index: RwLock::default(),
            parsed: Mutex::default(),
        }
    }

    pub(super) fn decide(&self, identity: &Identity, asked: &Attributes<'_>) -> Decision {
        let index = self.index();
        let namespace = match asked {
            Attributes::Resource { namespace, .. } => namespace,
            Attributes::Path { .. } => "",
        };
        let mut dangling = Vec::new();
        for grant in index.of(identity, namespace) {
            match grant {
                Ok(grant) if grant.rules.iter().any(|rule| rule.allows(asked)) => {
                    return Decision::Allow(format!("RBAC: allowed by {}", grant.source));
                }
                Ok(_) => {}
                Err(Dangling(why)) => dangling.push(why.as_str()),
            }
        }
        Decision::NoOpinion(match dangling.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            several => {
                let mut several = several.to_vec();
                several.dedup();
                format!("RBAC: [{}]", several.join(", "))
            }
        })
    }

    /// Every rule that holds for somebody in a namespace, or, where that is
    /// empty, everywhere.
    pub(crate) fn rules_for(&self, identity: &Identity, namespace: &str) -> Vec<Rule> {
        let index = self.index();
        let grants = index.of(identity, namespace).filter_map(|grant| grant.as_ref().ok());
        grants.flat_map(|grant| grant.rules.iter().cloned()).collect()
    }

    /// The rules of the role a binding names; `None` when it is not there.
    pub(super) fn role(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        let index = self.index();
        if kind == "ClusterRole" {
            index.cluster_roles.get(name).cloned()
        } else {
            index.roles.get(&(namespace.to_owned(), name.to_owned())).cloned()
        }
    }

    /// The index of what the hubs hold now.
    fn index(&self) -> Arc<Index> {
        let changed = || self.hubs.each_ref().map(|hub| hub.as_ref().map_or(0, |hub| hub.changed()));
        let current = || Arc::clone(&self.index.read().unwrap_or_else(PoisonError::into_inner));
        let index = current();
        if index.made_of == changed() {
            return index;
        }
        let mut parsed = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        let (index, made_of) = (current(), changed());
        if index.made_of == made_of {
            return index;
        }
        // What changes from here on is newer than `made_of`: it is made again.
        let index = Arc::new(self.build(made_of, &mut parsed));
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&index);
        index
    }

    fn build(&self, made_of: [u64; 4], parsed: &mut Parsed) -> Index {
        let objects = |at: usize| {
            let entries = self.hubs[at].as_ref().map(|hub| hub.page("", None, None, |_| true).entries);
            entries.unwrap_or_default()
        };
        let mut kept = Parsed::new();
        let mut rules = |key: &str, revision: u64, object: &Object| {
            let rules = match parsed.get(key) {
                Some((at, rules)) if *at == revision => Arc::clone(rules),
                _ => Rule::of(object).into(),
            };
            kept.insert(key.to_owned(), (revision, Arc::clone(&rules)));
            rules
        };
        let mut index = Index {
            made_of,
            ..Index::default()
        };
        for entry in objects(0) {
            let rules = rules(&entry.key, entry.revision, &entry.object);
            index.cluster_roles.insert(entry.object.name().to_owned(), rules);
        }
        for entry in objects(1) {
            let rules = rules(&entry.key, entry.revision, &entry.object);
            let key = (entry.object.namespace().to_owned(), entry.object.name().to_owned());
            index.roles.insert(key, rules);
        }
        for entry in objects(2).iter().chain(&objects(3)) {
            index.bind(&entry.object);
        }
        *parsed = kept;
        index
    }
}

impl Index {
    /// What a binding gives to each of its subjects.
    fn bind(&mut self, binding: &Object) {
        let namespace = binding.namespace();
        let (kind, role) = (binding.str_at("roleRef.kind"), binding.str_at("roleRef.name"));
        let rules = if kind == "ClusterRole" {
            self.cluster_roles.get(role)
        } else {
            self.roles.get(&(namespace.to_owned(), role.to_owned()))
        };
        let rules = rules.cloned();
        let grants = if namespace.is_empty() {
            &mut self.cluster
        } else {
            self.namespaced.entry(namespace.to_owned()).or_default()
        };
        let subjects = binding.body.get("subjects").and_then(Value::as_array).into_iter().flatten();
        for subject in subjects {
            let text = |field: &str| subject.get(field).and_then(Value::as_str).unwrap_or_default();
            let (subject_kind, name) = (text("kind"), text("name"));
            let own = Some(text("namespace")).filter(|own| !own.is_empty()).unwrap_or(namespace);
            let shown = match subject_kind {
                "ServiceAccount" => format!("ServiceAccount {:?}", format!("{name}/{own}")),
                other => format!("{other} {name:?}"),
            };
            let grant = match &rules {
                Some(rules) => Ok(Grant {
                    source: if namespace.is_empty() {
                        format!("ClusterRoleBinding {:?} of {kind} {role:?} to {shown}", binding.name())
                    } else {
                        format!(
                            "RoleBinding {:?} of {kind} {role:?} to {shown}",
                            format!("{}/{namespace}", binding.name())
                        )
                    },
                    rules: Arc::clone(rules),
                }),
                None => Err(Dangling(format!("{}.{GROUP} {role:?} not found", kind.to_ascii_lowercase()))),
            };
            match subject_kind {
                "User" => grants.users.entry(name.to_owned()).or_default().push(grant),
                "Group" => grants.groups.entry(name.to_owned()).or_default().push(grant),
                "ServiceAccount" if !own.is_empty() => {
                    let user = format!("system:serviceaccount:{own}:{name}");
                    grants.users.entry(user).or_default().push(grant);
                }
                _ => {}
            }
        }
    }

    /// What is given to somebody, cluster-wide and in a namespace.
    fn of<'a>(&'a self, identity: &'a Identity, namespace: &str) -> impl Iterator<Item = &'a Result<Grant, Dangling>> {
        let local = Some(namespace).filter(|namespace| !namespace.is_empty());
        let local = local.and_then(|namespace| self.namespaced.get(namespace));
        std::iter::once(&self.cluster).chain(local).flat_map(|grants| {
            let implied = [AUTHENTICATED, UNAUTHENTICATED].into_iter().filter(|group| identity.is_in(group));
            let own = identity.groups.iter().map(String::as_str);
            let groups = own
                .filter(|group| *group != AUTHENTICATED && *group != UNAUTHENTICATED)
                .chain(implied);
            let by_user = grants.users.get(&identity.user).into_iter().flatten();
            by_user.chain(groups.filter_map(|group| grants.groups.get(group)).flatten())
        })
    }
}
