//! Discovery: what is served, from the registry alone.
//!
//! Source: Kubernetes "The Kubernetes API", "Discovery API"; KEP-3352.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Scope, Status};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::body::Body;
use crate::negotiate::{self, DiscoveryForm};
use crate::registry::{Registry, Resource, Row, Subresource};
use crate::respond;

/// Verbs of every row, in discovery's order.
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Verbs of a row. Whoever asks for another gets 405.
pub(crate) fn row_verbs(row: &Resource) -> &'static [&'static str] {
    match (row.review, row.computed) {
        (Some(_), _) => &["create"],
        (None, Some(_)) => &["get", "list"],
        // Namespaces go one by one: what they hold has to go first.
        (None, None) if row.has(Subresource::Finalize) => &["create", "delete", "get", "list", "patch", "update", "watch"],
        (None, None) => &VERBS,
    }
}

/// Rows by group, then version.
type Groups<'r> = BTreeMap<&'r str, BTreeMap<&'r str, Vec<&'r Arc<Row>>>>;

pub(crate) fn groups(registry: &Registry) -> Groups<'_> {
    let mut groups = Groups::new();
    for row in registry.rows() {
        groups
            .entry(&row.id.group)
            .or_default()
            .entry(&row.id.version)
            .or_default()
            .push(row);
    }
    groups
}

/// The answer to a path of discovery.
pub(crate) fn answer(registry: &Registry, path: &str, accept: Option<&str>) -> Result<Response<Body>, Status> {
    let groups = groups(registry);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let value = match parts.as_slice() {
        [] => json!({"paths": paths(&groups)}),
        ["api"] => match negotiate::discovery(accept)? {
            DiscoveryForm::Plain => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
            form => return Ok(aggregated(form, groups.iter().filter(|(group, _)| group.is_empty()))),
        },
        ["apis"] => match negotiate::discovery(accept)? {
            DiscoveryForm::Plain => {
                let groups: Vec<Value> = named(&groups).map(|(group, versions)| group_document(group, versions)).collect();
                json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
            }
            form => return Ok(aggregated(form, named(&groups))),
        },
        ["api", version] => resources("", version, &groups)?,
        ["apis", group] => {
            let versions = groups.get(group).filter(|_| !group.is_empty()).ok_or_else(Status::no_such_path)?;
            let mut document = group_document(group, versions);
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            document
        }
        ["apis", group, version] => resources(group, version, &groups)?,
        _ => return Err(Status::no_such_path()),
    };
    negotiate::discovery(accept)?;
    Ok(respond::json(StatusCode::OK, &value))
}

fn named<'g, 'r>(groups: &'g Groups<'r>) -> impl Iterator<Item = (&'g &'r str, &'g BTreeMap<&'r str, Vec<&'r Arc<Row>>>)> {
    groups.iter().filter(|(group, _)| !group.is_empty())
}

fn paths(groups: &Groups<'_>) -> Vec<String> {
    let mut paths = vec!["/api".to_owned(), "/apis".to_owned()];
    for (group, versions) in groups {
        for version in versions.keys() {
            if group.is_empty() {
                paths.push(format!("/api/{version}"));
            } else {
                paths.push(format!("/apis/{group}"));
                paths.push(format!("/apis/{group}/{version}"));
            }
        }
    }
    paths.extend(
        [
            crate::tokens::DISCOVERY_PATH,
            crate::tokens::JWKS_PATH,
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/readyz",
            "/version",
        ]
        .map(str::to_owned),
    );
    paths.sort();
    paths.dedup();
    paths
}

fn group_document(group: &str, versions: &BTreeMap<&str, Vec<&Arc<Row>>>) -> Value {
    let versions: Vec<Value> = versions
        .keys()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.last()})
}

fn resources(group: &str, version: &str, groups: &Groups<'_>) -> Result<Value, Status> {
    let rows = groups
        .get(group)
        .and_then(|versions| versions.get(version))
        .ok_or_else(Status::no_such_path)?;
    let mut list = Vec::new();
    for row in rows {
        let mut resource = json!({
            "name": row.id.plural,
            "singularName": row.id.singular,
            "namespaced": row.scope == Scope::Namespaced,
            "kind": row.id.kind,
            "verbs": row_verbs(row),
        });
        if !row.short_names.is_empty() {
            resource["shortNames"] = json!(row.short_names);
        }
        if !row.categories.is_empty() {
            resource["categories"] = json!(row.categories);
        }
        list.push(resource);
        for subresource in &row.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", row.id.plural, subresource.name()),
                "singularName": "",
                "namespaced": row.scope == Scope::Namespaced,
                "kind": kind(row, *subresource),
                "verbs": verbs(*subresource),
            });
            if let Some((group, version)) = foreign(*subresource) {
                entry["group"] = json!(group);
                entry["version"] = json!(version);
            }
            list.push(entry);
        }
        if row.has(Subresource::Binding) {
            list.push(json!({"name": "bindings", "singularName": "binding", "namespaced": true, "kind": "Binding", "verbs": ["create"]}));
        }
    }
    list.sort_by(|one, other| one["name"].as_str().cmp(&other["name"].as_str()));
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}))
}

/// Kind of what a subresource is sent or answers.
pub(crate) fn kind(row: &Resource, subresource: Subresource) -> &str {
    match subresource {
        Subresource::Binding => "Binding",
        Subresource::Proxy if row.id.kind == "Node" => "NodeProxyOptions",
        Subresource::Proxy if row.id.kind == "Service" => "ServiceProxyOptions",
        Subresource::Proxy => "PodProxyOptions",
        Subresource::Token => "TokenRequest",
        Subresource::Exec => "PodExecOptions",
        Subresource::Attach => "PodAttachOptions",
        Subresource::PortForward => "PodPortForwardOptions",
        Subresource::Scale => "Scale",
        Subresource::Eviction => "Eviction",
        _ => &row.id.kind,
    }
}

/// Group and version of a subresource's own kind, where they are not the row's.
pub(crate) const fn foreign(subresource: Subresource) -> Option<(&'static str, &'static str)> {
    match subresource {
        Subresource::Token => Some(("authentication.k8s.io", "v1")),
        Subresource::Scale => Some(("autoscaling", "v1")),
        Subresource::Eviction => Some(("policy", "v1")),
        _ => None,
    }
}

/// Verbs of a subresource.
pub(crate) const fn verbs(subresource: Subresource) -> &'static [&'static str] {
    match subresource {
        Subresource::Status | Subresource::EphemeralContainers | Subresource::Resize | Subresource::Scale | Subresource::Approval => {
            &["get", "patch", "update"]
        }
        Subresource::Binding | Subresource::Token | Subresource::Eviction => &["create"],
        Subresource::Log => &["get"],
        Subresource::Finalize => &["update"],
        Subresource::Exec | Subresource::Attach | Subresource::PortForward => &["create", "get"],
        Subresource::Proxy => &["create", "delete", "get", "patch", "update"],
    }
}

fn aggregated<'g, 'r: 'g>(
    form: DiscoveryForm,
    groups: impl Iterator<Item = (&'g &'r str, &'g BTreeMap<&'r str, Vec<&'r Arc<Row>>>)>,
) -> Response<Body> {
    let version = if form == DiscoveryForm::AggregatedV2 { "v2" } else { "v2beta1" };
    let items: Vec<Value> = groups.map(|(group, versions)| aggregated_group(group, versions)).collect();
    let document = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let mut response = respond::json(StatusCode::OK, &document);
    let media_type = if form == DiscoveryForm::AggregatedV2 {
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    } else {
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
    };
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregated_group(group: &str, versions: &BTreeMap<&str, Vec<&Arc<Row>>>) -> Value {
    let response_kind = |row: &Resource, kind: &str| json!({"group": row.id.group, "version": row.id.version, "kind": kind});
    let one = |row: &Resource| {
        let mut resource = json!({
            "resource": row.id.plural,
            "responseKind": response_kind(row, &row.id.kind),
            "scope": if row.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": row.id.singular,
            "verbs": row_verbs(row),
        });
        if !row.short_names.is_empty() {
            resource["shortNames"] = json!(row.short_names);
        }
        if !row.categories.is_empty() {
            resource["categories"] = json!(row.categories);
        }
        let subresources: Vec<Value> = row
            .subresources
            .iter()
            .map(|subresource| {
                let mut responds = response_kind(row, kind(row, *subresource));
                if let Some((group, version)) = foreign(*subresource) {
                    responds["group"] = json!(group);
                    responds["version"] = json!(version);
                }
                json!({"subresource": subresource.name(), "responseKind": responds, "verbs": verbs(*subresource)})
            })
            .collect();
        if !subresources.is_empty() {
            resource["subresources"] = json!(subresources);
        }
        resource
    };
    let version = |(version, rows): (&&str, &Vec<&Arc<Row>>)| {
        let mut resources: Vec<Value> = rows.iter().map(|row| one(row)).collect();
        if let Some(row) = rows.iter().find(|row| row.has(Subresource::Binding)) {
            resources.push(json!({
                "resource": "bindings", "responseKind": response_kind(row, "Binding"), "scope": "Namespaced", "singularResource": "binding",
                "verbs": ["create"],
            }));
        }
        resources.sort_by(|one, other| one["resource"].as_str().cmp(&other["resource"].as_str()));
        json!({"version": version, "resources": resources, "freshness": "Current"})
    };
    json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions.iter().map(version).collect::<Vec<_>>()})
}
