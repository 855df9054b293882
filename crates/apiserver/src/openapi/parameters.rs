//! The parameters of operations.
//!
//! Source: Kubernetes API reference, "Common parameters"; the `ListOptions`,
//! `CreateOptions`, `UpdateOptions`, `PatchOptions`, `DeleteOptions` and
//! `PodLogOptions` kinds.

use serde_json::{Value, json};

use super::shapes::Dialect;

pub(super) const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
pub(super) const CREATE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
pub(super) const PATCH: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];
pub(super) const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];
pub(super) const DELETE_COLLECTION: &[&str] = &[
    "continue",
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "labelSelector",
    "limit",
    "orphanDependents",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
];
pub(super) const LOG: &[&str] = &[
    "container",
    "follow",
    "limitBytes",
    "previous",
    "sinceSeconds",
    "tailLines",
    "timestamps",
];

pub(super) const NAMESPACE: &str = "object name and auth scope, such as for teams and projects";

/// Where a parameter is.
#[derive(Clone, Copy)]
pub(super) enum In {
    Body,
    Path,
    Query,
}

impl In {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Path => "path",
            Self::Query => "query",
        }
    }
}

/// A parameter in the path.
pub(super) fn path(dialect: Dialect, name: &str, description: &str) -> Value {
    let mut parameter = parameter(dialect, In::Path, name, "string", description);
    parameter["required"] = json!(true);
    parameter
}

/// A parameter of the query.
pub(super) fn query(dialect: Dialect, name: &str) -> Value {
    let kind = match name {
        "allowWatchBookmarks" | "follow" | "force" | "orphanDependents" | "previous" | "sendInitialEvents" | "timestamps" | "watch" => {
            "boolean"
        }
        "gracePeriodSeconds" | "limit" | "limitBytes" | "sinceSeconds" | "tailLines" | "timeoutSeconds" => "integer",
        _ => "string",
    };
    parameter(dialect, In::Query, name, kind, description(name))
}

fn parameter(dialect: Dialect, place: In, name: &str, kind: &str, description: &str) -> Value {
    let mut parameter = json!({"in": place.name(), "name": name});
    if !description.is_empty() {
        parameter["description"] = json!(description);
    }
    match dialect {
        Dialect::V2 => {
            parameter["type"] = json!(kind);
            parameter["uniqueItems"] = json!(true);
        }
        Dialect::V3 => parameter["schema"] = json!({"type": kind, "uniqueItems": true}),
    }
    parameter
}

fn description(name: &str) -> &'static str {
    match name {
        "allowWatchBookmarks" => {
            "allowWatchBookmarks requests watch events with type \"BOOKMARK\". Servers that do not implement bookmarks may ignore this flag \
             and bookmarks are sent at the server's discretion. Clients should not assume bookmarks are returned at any specific interval, \
             nor may they assume the server will send any BOOKMARK event during a session. If this is not a watch, this field is ignored."
        }
        "container" => "The container for which to stream logs. Defaults to only container if there is one container in the pod.",
        "continue" => {
            "The continue option should be set when retrieving more results from the server. The value is the token of the page before; it \
             expires, and a list that goes on with an expired one begins anew."
        }
        "dryRun" => {
            "When present, indicates that modifications should not be persisted. An invalid or unrecognized dryRun directive will result in \
             an error response and no further processing of the request. Valid values are: - All: all dry run stages will be processed"
        }
        "fieldManager" => {
            "fieldManager is a name associated with the actor or entity that is making these changes. The value must be less than or 128 \
             characters long, and only contain printable characters, as defined by https://golang.org/pkg/unicode/#IsPrint."
        }
        "fieldSelector" => "A selector to restrict the list of returned objects by their fields. Defaults to everything.",
        "fieldValidation" => {
            "fieldValidation instructs the server on how to handle objects in the request (POST/PUT/PATCH) containing unknown or duplicate \
             fields. Valid values are: - Ignore: This will ignore any unknown fields that are silently dropped from the object, and will \
             ignore all but the last duplicate field that the decoder encounters. This is the default behavior prior to v1.23. - Warn: This \
             will send a warning via the standard warning response header for each unknown field that is dropped from the object, and for \
             each duplicate field that is encountered. The request will still succeed if there are no other errors, and will only persist \
             the last of any duplicate fields. This is the default in v1.23+ - Strict: This will fail the request with a BadRequest error \
             if any unknown fields would be dropped from the object, or if any duplicate fields are present. The error returned from the \
             server will contain all unknown and duplicate fields encountered."
        }
        "follow" => "Follow the log stream of the pod. Defaults to false.",
        "force" => {
            "Force is going to \"force\" Apply requests. It means user will re-acquire conflicting fields owned by other people. Force flag \
             must be unset for non-apply patch requests."
        }
        "gracePeriodSeconds" => {
            "The duration in seconds before the object should be deleted. Value must be non-negative integer. The value zero indicates \
             delete immediately. If this value is nil, the default grace period for the specified type will be used. Defaults to a per \
             object value if not specified. zero means delete immediately."
        }
        "labelSelector" => "A selector to restrict the list of returned objects by their labels. Defaults to everything.",
        "limit" => {
            "limit is a maximum number of responses to return for a list call. If more items exist, the server will set the `continue` \
             field on the list metadata to a value that can be used with the same initial query to retrieve the next set of results."
        }
        "limitBytes" => "If set, the number of bytes to read from the server before terminating the log output.",
        "orphanDependents" => {
            "Deprecated: please use the PropagationPolicy, this field will be deprecated in 1.7. Should the dependent objects be orphaned. \
             If true/false, the \"orphan\" finalizer will be added to/removed from the object's finalizers list. Either this field or \
             PropagationPolicy may be set, but not both."
        }
        "path" => "Path is the URL path to use for the current proxy request.",
        "pretty" => {
            "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line \
             HTTP tool (curl and wget)."
        }
        "previous" => "Return previous terminated container logs. Defaults to false.",
        "propagationPolicy" => {
            "Whether and how garbage collection will be performed. Either this field or OrphanDependents may be set, but not both. The \
             default policy is decided by the existing finalizer set in the metadata.finalizers and the resource-specific default policy. \
             Acceptable values are: 'Orphan' - orphan the dependents; 'Background' - allow the garbage collector to delete the dependents \
             in the background; 'Foreground' - a cascading policy that deletes all dependents in the foreground."
        }
        "resourceVersion" => {
            "resourceVersion sets a constraint on what resource versions a request may be served from. See \
             https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions for details.\n\nDefaults to unset"
        }
        "resourceVersionMatch" => {
            "resourceVersionMatch determines how resourceVersion is applied to list calls. It is highly recommended that \
             resourceVersionMatch be set for list calls where resourceVersion is set See \
             https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions for details.\n\nDefaults to unset"
        }
        "sendInitialEvents" => {
            "`sendInitialEvents=true` may be set together with `watch=true`. In that case, the watch stream will begin with synthetic \
             events to produce the current state of objects in the collection. Once all such events have been sent, a synthetic \
             \"Bookmark\" event will be sent."
        }
        "sinceSeconds" => "A relative time in seconds before the current time from which to show logs.",
        "tailLines" => {
            "If set, the number of lines from the end of the logs to show. If not specified, logs are shown from the creation of the \
             container or sinceSeconds or sinceTime."
        }
        "timeoutSeconds" => {
            "Timeout for the list/watch call. This limits the duration of the call, regardless of any activity or inactivity."
        }
        "timestamps" => "If true, add an RFC3339 or RFC3339Nano timestamp at the beginning of every line of log output. Defaults to false.",
        "watch" => {
            "Watch for changes to the described resources and return them as a stream of add, update, and remove notifications. Specify \
             resourceVersion."
        }
        _ => "",
    }
}
