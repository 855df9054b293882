//! `lifepod simulate -f FILE`: what becomes of a manifest's pods, foreseen by
//! the state machine in virtual time. Nothing is started and nobody is asked.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use api::Object;
use api::typed::Pod;
use apiserver::registry::Rules;
use serde::Serialize;
use serde_json::Value;
use sim::predict::{Prediction, predict};

use crate::flags::{Output, Simulate};
use crate::run::read_manifest;

/// Lines of a timeline that are printed; JSON has them all.
const SHOWN: usize = 80;

#[derive(Serialize)]
struct Foreseen {
    name: String,
    #[serde(flatten)]
    prediction: Prediction,
}

/// Foresees every Pod of a manifest.
pub(crate) fn run(flags: &Simulate) -> Result<ExitCode> {
    let mut all = Vec::new();
    for object in read_manifest(&flags.file)? {
        if object.types.as_ref().is_none_or(|types| types.kind != "Pod") {
            continue;
        }
        let name = object
            .metadata
            .name
            .clone()
            .or_else(|| object.metadata.generate_name.clone())
            .unwrap_or_default();
        let pod = admitted(serde_json::to_value(object)?).with_context(|| format!("pod {name:?}"))?;
        let started = Instant::now();
        let prediction = predict(&pod, &flags.scenario, flags.horizon).with_context(|| format!("pod {name:?}"))?;
        if flags.output == Output::Text {
            print!("{}", render(&name, &prediction, started.elapsed()));
        }
        all.push(Foreseen { name, prediction });
    }
    if flags.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// The pod as the API server would store it, or what it would refuse.
fn admitted(mut value: Value) -> Result<Pod> {
    let registry = apiserver::kinds::builtin();
    let row = registry.find("", "v1", "pods").context("pods are not served")?;
    api::schema::check(row.schema(), &value)?;
    api::schema::apply_defaults(row.schema(), &mut value);
    let mut object: Object = serde_json::from_value(value)?;
    object.meta.namespace.get_or_insert_with(|| "default".to_owned());
    row.strategy.default(&mut object);
    let broken = row.strategy.validate(&object, None, Rules::Create);
    if !broken.is_empty() {
        let lines: Vec<String> = broken
            .iter()
            .map(|violation| format!("{}: {}", violation.field, violation.message))
            .collect();
        bail!("the API server would refuse it: {}", lines.join("; "));
    }
    Ok(serde_json::from_value(serde_json::to_value(&object)?)?)
}

fn render(name: &str, prediction: &Prediction, took: std::time::Duration) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "Pod {name}: {} s of its life in {:.1} ms ({} steps of the machine)",
        prediction.simulated_s,
        took.as_secs_f64() * 1_000.0,
        prediction.steps
    );
    for finding in &prediction.findings {
        let _ = writeln!(out, "  {finding}");
    }
    for warning in &prediction.warnings {
        let _ = writeln!(out, "  WARNING: {warning}");
    }
    let _ = writeln!(out, "\n  seconds  what happens");
    for moment in prediction.timeline.iter().take(SHOWN) {
        let repeats = match moment.repeats {
            0 => String::new(),
            count => format!(" (and {count} times more)"),
        };
        let _ = writeln!(out, "{:>9.3}  {}{repeats}", moment.at_s, moment.text);
    }
    if prediction.timeline.len() > SHOWN {
        let _ = writeln!(
            out,
            "           ... {} more; -o json has them all",
            prediction.timeline.len() - SHOWN
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_server_would_refuse_is_refused() {
        let pod =
            |container: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [container]}});
        let good = admitted(pod(
            json!({"name": "a", "image": "x:1", "livenessProbe": {"tcpSocket": {"port": 1}}}),
        ))
        .unwrap();
        let probe = good.spec.unwrap().containers[0].liveness_probe.clone().unwrap();
        assert_eq!((probe.period_seconds, probe.failure_threshold), (Some(10), Some(3)));
        let refused = admitted(pod(json!({"name": "A_b", "image": "x:1"}))).unwrap_err().to_string();
        assert!(refused.contains("spec.containers[0].name"), "{refused}");
        assert!(admitted(pod(json!({"name": 3}))).is_err());
    }
}
