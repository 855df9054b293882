//! What `kubectl` prints, without what differs from run to run.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Fields that hold an instant.
const INSTANTS: [&str; 3] = ["Start Time:", "Started:", "Finished:"];

/// A page of `kubectl describe pod` or `kubectl events` with names for the
/// pod's identity, addresses, digests, instants, ages and counts above one;
/// runs of spaces are two, and the rows of its table stand in order. That a
/// server did not listen yet when it was first asked is a matter of luck: such
/// rows are left out where others tell what it answered.
#[must_use]
pub fn settled(page: &str, pod: &Value) -> String {
    let name = |text: &Value| text.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let known = [
        (name(&pod["metadata"]["uid"]), "POD-UID"),
        (name(&pod["status"]["podIP"]), "POD-IP"),
        (name(&pod["status"]["hostIP"]), "HOST-IP"),
    ];
    let mut lines = Vec::new();
    let mut rows: Option<Vec<String>> = None;
    for line in page.lines() {
        let mut line = line.trim_end().to_owned();
        for (found, instead) in &known {
            if let Some(found) = found {
                line = line.replace(found, instead);
            }
        }
        match &mut rows {
            Some(rows) => rows.push(row(&line)),
            None => lines.push(field(&line)),
        }
        if line.trim() == "Events:" || line.starts_with("LAST SEEN") {
            rows = Some(Vec::new());
        }
    }
    let mut rows = rows.unwrap_or_default();
    if rows.iter().any(|row| row.contains("statuscode")) {
        rows.retain(|row| !row.contains("connection refused"));
    }
    rows.sort();
    lines.into_iter().chain(rows).map(|line| line + "\n").collect()
}

/// Words between which are two spaces or more.
fn words(line: &str) -> Vec<&str> {
    line.trim().split("  ").map(str::trim).filter(|word| !word.is_empty()).collect()
}

fn field(line: &str) -> String {
    let indent: String = line.chars().take_while(|c| *c == ' ').collect();
    let words: Vec<String> = words(line).into_iter().map(unnumbered).collect();
    let told = INSTANTS.iter().find(|name| line.trim_start().starts_with(**name));
    match told {
        Some(name) => format!("{indent}{name}  INSTANT"),
        None => format!("{indent}{}", words.join("  ")),
    }
}

/// Digests and the ids of containers by what they are.
fn unnumbered(word: &str) -> String {
    let is_hex = |part: &str| part.len() == 64 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let parts = word.split_inclusive(['/', ':', '@']);
    parts.map(|part| if is_hex(part) { "DIGEST" } else { part }).collect()
}

fn row(line: &str) -> String {
    words(line).into_iter().map(aged).collect::<Vec<_>>().join("  ")
}

/// `20s (x2 over 50s)` as `AGE (xN over AGE)`.
fn aged(word: &str) -> String {
    let is_age = |word: &str| {
        let units = word.chars().filter(char::is_ascii_alphabetic).all(|c| "dhms".contains(c));
        word.starts_with(|c: char| c.is_ascii_digit()) && word.ends_with(|c: char| "dhms".contains(c)) && units && word.len() < 8
    };
    if is_age(word) {
        return "AGE".to_owned();
    }
    match word.split_once(" (x") {
        Some((last, _)) if is_age(last) => "AGE (xN over AGE)".to_owned(),
        _ => word.to_owned(), // no age
    }
}

/// Compares a page, settled, with the text `tests/e2e/golden/<name>.txt`.
/// With `LIFEPOD_WRITE_GOLDEN` set it is written instead, to be read before it
/// is committed.
///
/// # Errors
/// Where they differ; both are shown.
pub fn compare(name: &str, page: &str, pod: &Value) -> Result<()> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}.txt"));
    let seen = settled(page, pod);
    if std::env::var_os("LIFEPOD_WRITE_GOLDEN").is_some() {
        return std::fs::write(&path, seen).with_context(|| format!("writing {}", path.display()));
    }
    let wanted = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    if seen != wanted {
        bail!("{name} is not as {} says.\n--- wanted\n{wanted}\n--- seen\n{seen}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_differs_from_run_to_run_goes() {
        let pod = json!({"metadata": {"uid": "3f2c"}, "status": {"podIP": "10.244.0.7", "hostIP": "127.0.0.1"}});
        let id = "a".repeat(64);
        let page = format!(
            "Name:             web\nNode:             node1/127.0.0.1\nStart Time:       Mon, 01 Jan 2024 00:00:00 +0000\n    Container ID:  lifepod://{id}\n    Image ID:      docker.io/library/nginx@sha256:{id}\nEvents:\n  Type     Reason     Age                From     Message\n  ----     ------     ----               ----     -------\n  Warning  Unhealthy  0s (x5 over 1m40s)  kubelet  dial tcp 10.244.0.7:80\n  Normal   Created    20s                kubelet  Created container: web\n"
        );
        assert_eq!(
            settled(&page, &pod),
            "Name:  web\nNode:  node1/HOST-IP\nStart Time:  INSTANT\n    Container ID:  lifepod://DIGEST\n    Image ID:  docker.io/library/nginx@sha256:DIGEST\nEvents:\n----  ------  ----  ----  -------\nNormal  Created  AGE  kubelet  Created container: web\nType  Reason  Age  From  Message\nWarning  Unhealthy  AGE (xN over AGE)  kubelet  dial tcp POD-IP:80\n"
        );
    }
}
