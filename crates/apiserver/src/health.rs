//! `/version` and the health checks: answered to anybody.
//!
//! Source: Kubernetes "API health endpoints".

use std::collections::BTreeMap;
use std::fmt::Write;

use http::{Response, StatusCode};
use serde_json::json;

use crate::body::Body;
use crate::request::Query;
use crate::respond;
use crate::server::{Core, Version};

/// The answer, if the path is one of these.
pub(crate) fn answer(core: &Core, path: &str, query: &Query) -> Option<Response<Body>> {
    if path == "/version" {
        return Some(respond::json(StatusCode::OK, &version(&core.version)));
    }
    let (endpoint, one) = ["/livez", "/readyz", "/healthz"].into_iter().find_map(|endpoint| {
        let rest = path.strip_prefix(endpoint)?;
        if rest.is_empty() {
            Some((endpoint, None))
        } else {
            rest.strip_prefix('/').map(|check| (endpoint, Some(check)))
        }
    })?;
    let checks = checks(core, endpoint);
    match one {
        None => Some(all(&endpoint[1..], &checks, query)),
        Some(name) => Some(match checks.iter().find(|check| check.name == name) {
            Some(check) => plain(
                check.passed,
                if check.passed {
                    "ok".to_owned()
                } else {
                    format!("check {name} failed")
                },
            ),
            None => respond::status(&api::Status::no_such_path()),
        }),
    }
}

struct Check {
    name: String,
    passed: bool,
}

/// Live is a server that answers; ready is one whose hubs follow the store.
fn checks(core: &Core, endpoint: &str) -> Vec<Check> {
    let mut checks = vec![Check {
        name: "ping".to_owned(),
        passed: true,
    }];
    if endpoint != "/livez" {
        let served = core.served();
        let hubs: BTreeMap<&str, bool> = served
            .registry
            .stored()
            .map(|row| (row.storage.as_ref(), row.hub().follows()))
            .collect();
        checks.extend(hubs.into_iter().map(|(storage, passed)| Check {
            name: format!("hub-{storage}"),
            passed,
        }));
    }
    if endpoint == "/readyz" {
        checks.push(Check {
            name: "shutdown".to_owned(),
            passed: !core.closing.is_cancelled(),
        });
    }
    checks
}

fn all(endpoint: &str, checks: &[Check], query: &Query) -> Response<Body> {
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut report = String::new();
    let mut passed = true;
    for check in checks {
        let line = if excluded.contains(&check.name.as_str()) {
            "[+]{} excluded: ok"
        } else if check.passed {
            "[+]{} ok"
        } else {
            passed = false;
            "[-]{} failed: reason withheld"
        };
        // Writing to a String cannot fail.
        let _ = writeln!(report, "{}", line.replace("{}", &check.name));
    }
    let verbose = query.boolean("verbose").unwrap_or(false);
    if passed && !verbose {
        return plain(true, "ok".to_owned());
    }
    let _ = writeln!(report, "{endpoint} check {}", if passed { "passed" } else { "failed" });
    plain(passed, report)
}

fn plain(passed: bool, text: String) -> Response<Body> {
    let code = if passed {
        StatusCode::OK
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    respond::text(code, "text/plain; charset=utf-8", text)
}

fn version(version: &Version) -> serde_json::Value {
    let mut numbers = version.git_version.trim_start_matches('v').split('.');
    json!({
        "major": numbers.next().unwrap_or_default(),
        "minor": numbers.next().unwrap_or_default(),
        "gitVersion": version.git_version,
        "gitCommit": version.git_commit,
        "gitTreeState": "",
        "buildDate": version.build_date,
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other }),
    })
}
