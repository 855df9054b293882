use serde_json::{Value, json};

use crate::testing::Rig;

mod applies;
mod damaged;
mod fuzz;
mod history;
mod hostile;
mod media_types;
mod protobuf;
mod reads;
mod watches;
mod writes;

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn names(list: &Value) -> Vec<&str> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}
