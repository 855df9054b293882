//! `StorageClass` and `CSINode` of `storage.k8s.io/v1`.
//!
//! Source: upstream `pkg/apis/storage/validation/validation.go`,
//! `pkg/apis/storage/v1/defaults.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::status::Violation;
use api::typed::TopologySelectorTerm;
use api::typed::storage::{CSINode as TypedNode, CSINodeDriver, StorageClass as TypedClass};
use api::{Object, Scope};
use serde_json::Value;

use super::warnings::{list, old_label, text};
use super::{plain, short, values, view};
use crate::registry::{Cell, Column, Resource, Rules, Strategy};
use crate::table;
use crate::validate::{immutable, invalid_each, names, values as formats};

const GROUP: &str = "storage.k8s.io";
/// Annotations that make a class that of claims without one.
const DEFAULT_ANNOTATIONS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
/// Most parameters of a class, and bytes of all of them.
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_MAX_BYTES: usize = 256 * 1024;

pub(super) fn class_row() -> Resource {
    Resource {
        short_names: short(&["sc"]),
        scope: Scope::Cluster,
        strategy: Arc::new(StorageClass),
        columns: vec![
            Column::computed("Name", Cell::Name, |class, _| Value::from(name_cell(class)))
                .described("Name of the object, unique within its namespace."),
            Column::path("Provisioner", Cell::Text, ".provisioner"),
            Column::computed("ReclaimPolicy", Cell::Text, |class, _| or(class, "reclaimPolicy", "Delete")),
            Column::computed("VolumeBindingMode", Cell::Text, |class, _| {
                table::text_or_none(class, "volumeBindingMode")
            }),
            Column::computed("AllowVolumeExpansion", Cell::Boolean, |class, _| {
                Value::from(class.body.get("allowVolumeExpansion") == Some(&Value::Bool(true)))
            }),
            table::age_column(),
        ],
        ..plain(GROUP, "StorageClass", "storageclasses", "storageclasses")
    }
}

pub(super) fn node_row() -> Resource {
    Resource {
        scope: Scope::Cluster,
        strategy: Arc::new(CsiNode),
        columns: vec![
            table::name_column(),
            Column::computed("Drivers", Cell::Integer, |node, _| Value::from(table::count(node, "spec.drivers"))),
            table::age_column(),
        ],
        ..plain(GROUP, "CSINode", "csinodes", "csinodes")
    }
}

/// Whether claims that name no class get this one.
pub(crate) fn is_default_class(class: &Object) -> bool {
    let set = |key: &&str| {
        class
            .meta
            .annotations
            .as_ref()
            .is_some_and(|map| map.get(*key).is_some_and(|value| value == "true"))
    };
    DEFAULT_ANNOTATIONS.iter().any(set)
}

fn name_cell(class: &Object) -> String {
    let mark = if is_default_class(class) { " (default)" } else { "" };
    format!("{}{mark}", class.name())
}

fn or(object: &Object, path: &str, absent: &str) -> Value {
    match object.str_at(path) {
        "" => Value::from(absent),
        text => Value::from(text),
    }
}

struct StorageClass;

impl Strategy for StorageClass {
    /// Source: upstream `pkg/api/storage/util.go`, `GetWarningsForStorageClass`.
    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut told = Vec::new();
        let topologies = new.at("allowedTopologies").and_then(Value::as_array);
        for (index, topology) in topologies.into_iter().flatten().enumerate() {
            for (at, expression) in list(topology, "matchLabelExpressions").iter().enumerate() {
                if let Some(message) = old_label(text(expression, "key")) {
                    told.push(format!("allowedTopologies[{index}].matchLabelExpressions[{at}].key: {message}"));
                }
            }
        }
        told
    }

    fn default(&self, class: &mut Object) {
        values::set_absent(&mut class.body, "reclaimPolicy", "Delete");
        values::set_absent(&mut class.body, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _rules: Rules) -> Vec<Violation> {
        let class: TypedClass = match view(new) {
            Ok(class) => class,
            Err(broken) => return broken,
        };
        if let Some(old) = old {
            let mut broken = Vec::new();
            for field in ["parameters", "provisioner", "reclaimPolicy"] {
                if new.body.get(field) != old.body.get(field) {
                    broken.push(Violation::forbidden(
                        field,
                        "updates to {field} are forbidden.".replace("{field}", field).as_str(),
                    ));
                }
            }
            broken.extend(immutable(
                "volumeBindingMode",
                &new.body.get("volumeBindingMode"),
                &old.body.get("volumeBindingMode"),
            ));
            return broken;
        }
        let mut broken = provisioner(&class.provisioner);
        let parameters = class.parameters.unwrap_or_default();
        if parameters.len() > PARAMETERS_MAX {
            broken.push(Violation::too_long("parameters", PARAMETERS_MAX));
        } else if parameters.contains_key("") {
            broken.push(Violation::invalid("parameters", &Value::from(""), "field can not be empty."));
        }
        if parameters.len() <= PARAMETERS_MAX
            && parameters.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > PARAMETERS_MAX_BYTES
        {
            broken.push(Violation::too_long("parameters", PARAMETERS_MAX_BYTES));
        }
        broken.extend(formats::one_of(
            "reclaimPolicy",
            class.reclaim_policy.as_deref().unwrap_or_default(),
            &["Delete", "Retain"],
        ));
        broken.extend(formats::one_of(
            "volumeBindingMode",
            class.volume_binding_mode.as_deref().unwrap_or_default(),
            &["Immediate", "WaitForFirstConsumer"],
        ));
        broken.extend(topologies(class.allowed_topologies.as_deref().unwrap_or_default()));
        broken
    }
}

/// Source: upstream `validateAllowedTopologies`, `ValidateTopologySelectorTerm`.
fn topologies(terms: &[TopologySelectorTerm]) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut seen: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        let field = format!("allowedTopologies[{index}]");
        let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
        if expressions.is_empty() {
            broken.push(Violation::required(field.as_str(), ""));
        }
        let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (at, expression) in expressions.iter().enumerate() {
            let field = format!("{field}.matchLabelExpressions[{at}]");
            if expression.values.is_empty() {
                broken.push(Violation::required(format!("{field}.values"), ""));
            }
            let mut values = BTreeSet::new();
            for (at, value) in expression.values.iter().enumerate() {
                if !values.insert(value.as_str()) {
                    broken.push(Violation::duplicate(format!("{field}.values[{at}]"), value));
                }
            }
            let key = expression.key.as_str();
            broken.extend(invalid_each(&format!("{field}.key"), key, names::qualified_name(key)));
            if keys.insert(key, values).is_some() {
                broken.push(Violation::duplicate(format!("{field}.key"), key));
            }
        }
        if seen.contains(&keys) {
            broken.push(Violation::duplicate(format!("{field}.matchLabelExpressions"), ""));
        }
        seen.push(keys);
    }
    broken
}

fn provisioner(name: &str) -> Vec<Violation> {
    if name.is_empty() {
        return vec![Violation::required("provisioner", "")];
    }
    invalid_each("provisioner", name, names::qualified_name(&name.to_lowercase()))
}

struct CsiNode;

impl Strategy for CsiNode {
    fn validate(&self, new: &Object, old: Option<&Object>, _rules: Rules) -> Vec<Violation> {
        let drivers = match view::<TypedNode>(new) {
            Ok(node) => node.spec.drivers,
            Err(broken) => return broken,
        };
        let before = old
            .and_then(|old| view::<TypedNode>(old).ok())
            .map(|node| node.spec.drivers)
            .unwrap_or_default();
        let mut broken = Vec::new();
        for (index, driver) in drivers.iter().enumerate() {
            let field = format!("spec.drivers[{index}]");
            // A driver that is there already was valid when it came.
            if before.contains(driver) {
                continue;
            }
            if before
                .iter()
                .any(|other| other.name == driver.name && fixed(other) != fixed(driver))
            {
                broken.push(Violation::invalid(
                    &field,
                    &serde_json::to_value(driver).unwrap_or_default(),
                    "field is immutable",
                ));
            }
            broken.extend(driver_rules(&field, driver));
            if drivers[..index].iter().any(|other| other.name == driver.name) {
                broken.push(Violation::duplicate(format!("{field}.name"), &driver.name));
            }
        }
        broken
    }
}

/// What of a driver does not change; how many volumes it takes does.
fn fixed(driver: &CSINodeDriver) -> (&str, Option<&[String]>) {
    (&driver.node_id, driver.topology_keys.as_deref())
}

fn driver_rules(field: &str, driver: &CSINodeDriver) -> Vec<Violation> {
    const NAME_MAX: usize = 63;
    const NODE_ID_MAX: usize = 192;
    let mut broken = Vec::new();
    let name = format!("{field}.name");
    if driver.name.is_empty() {
        broken.push(Violation::required(&name, ""));
    } else if driver.name.len() > NAME_MAX {
        broken.push(Violation::too_long(&name, NAME_MAX));
    }
    broken.extend(invalid_each(
        &name,
        &driver.name,
        names::dns1123_subdomain(&driver.name.to_lowercase()),
    ));
    let id = format!("{field}.nodeID");
    if driver.node_id.is_empty() {
        broken.push(Violation::required(&id, &driver.node_id));
    } else if driver.node_id.len() > NODE_ID_MAX {
        broken.push(Violation::invalid(
            &id,
            &Value::from(driver.node_id.as_str()),
            &format!("must be {NODE_ID_MAX} characters or less"),
        ));
    }
    if let Some(count) = driver.allocatable.as_ref().and_then(|allocatable| allocatable.count) {
        broken.extend(formats::not_negative(&format!("{field}.allocatable.count"), i64::from(count)));
    }
    for key in driver.topology_keys.iter().flatten() {
        broken.extend(invalid_each(field, key, names::qualified_name(key)));
    }
    broken
}
