//! Measures what `lifepod simulate` costs: an hour of a probed pod's life.
//! `cargo run --release -p sim --example foresee`

use std::time::{Duration, Instant};

fn main() {
    let manifest = serde_json::json!({"metadata": {"name": "web"}, "spec": {"containers": [{
        "name": "app", "image": "x:1",
        "livenessProbe": {"httpGet": {"port": 80}},
        "readinessProbe": {"httpGet": {"port": 80}},
    }]}});
    let pod = serde_json::from_value(manifest).expect("the manifest above is a Pod");
    let mut took = Vec::new();
    let mut steps = 0;
    for _ in 0..21 {
        let started = Instant::now();
        let prediction = sim::predict::predict(&pod, &[], Duration::from_secs(3_600)).expect("the manifest above is one a node takes");
        took.push(started.elapsed());
        steps = prediction.steps;
    }
    took.sort();
    println!(
        "an hour foreseen, all its questions answered: median {:.1} ms, most {:.1} ms, {steps} steps",
        took[10].as_secs_f64() * 1_000.0,
        took[20].as_secs_f64() * 1_000.0
    );
}
