//! `NodeMetrics` and `PodMetrics`, which nodes compute: see [`crate::usage`].

use api::schema;
use api::{ResourceId, Scope};

use crate::registry::{Computed, Resource};

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

fn row(kind: &str, plural: &str, scope: Scope, computed: Computed) -> Resource {
    let schema = schema::for_kind(GROUP, VERSION, kind);
    let schema = schema.expect("the schema table is built into the binary and holds every kind named in this directory");
    Resource {
        scope,
        computed: Some(computed),
        ..Resource::plain(ResourceId::new(GROUP, VERSION, kind, plural), "", schema)
    }
}

pub(super) fn rows() -> [Resource; 2] {
    [
        row("NodeMetrics", "nodes", Scope::Cluster, Computed::NodeUsage),
        row("PodMetrics", "pods", Scope::Namespaced, Computed::PodUsage),
    ]
}
