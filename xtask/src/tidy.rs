//! House rules that neither the compiler nor clippy knows: crate edges, file
//! sizes, file and type names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Which of our crates a crate may depend on outside tests. The table of
/// `docs/architecture.md`, section 2.
const EDGES: [(&str, &[&str]); 15] = [
    ("api", &[]),
    ("apiserver", &["api", "store"]),
    ("bench", &[]),
    ("client", &["api"]),
    ("control", &["api", "client"]),
    ("e2e", &[]),
    ("kubelet", &["api", "client", "lifecycle", "runtime"]),
    ("lifecycle", &["api"]),
    (
        "lifepod",
        &[
            "api",
            "apiserver",
            "client",
            "control",
            "kubelet",
            "lifecycle",
            "net",
            "runtime",
            "shim",
            "store",
        ],
    ),
    ("net", &["api", "client", "runtime"]),
    ("runtime", &["api", "shim"]),
    ("shim", &[]),
    (
        "sim",
        &[
            "api",
            "apiserver",
            "client",
            "control",
            "kubelet",
            "lifecycle",
            "net",
            "runtime",
            "shim",
            "store",
        ],
    ),
    ("store", &[]),
    ("xtask", &["e2e"]),
];

/// A file this long is two files.
const MAX_LINES: usize = 700;
/// File names that say nothing.
const BANNED_FILES: [&str; 7] = ["mod.rs", "utils.rs", "util.rs", "common.rs", "helpers.rs", "helper.rs", "misc.rs"];
/// Ends of type names that say nothing.
const BANNED_TYPE_ENDS: [&str; 5] = ["Manager", "Helper", "Util", "Utils", "Common"];

/// Checks every rule and reports all violations at once.
///
/// # Errors
/// When a rule is broken.
pub fn run(root: &Path) -> Result<()> {
    let mut broken = edges(root)?;
    for file in rust_files(root)? {
        let text = fs::read_to_string(root.join(&file)).with_context(|| format!("reading {}", file.display()))?;
        broken.extend(file_rules(&file, &text));
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!("tidy found:\n  {}", broken.join("\n  "))
}

fn edges(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root)
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("reading `cargo metadata`")?;
    let allowed: BTreeMap<_, _> = EDGES.into_iter().collect();
    let mut broken = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(may) = allowed.get(name) else {
            broken.push(format!("crate {name} is not in the table of crate edges"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            let ours = allowed.contains_key(on) && dependency["path"].is_string();
            if ours && dependency["kind"].is_null() && !may.contains(&on) {
                broken.push(format!("crate {name} may not depend on {on}"));
            }
        }
    }
    Ok(broken)
}

fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .current_dir(root)
        .output()?;
    let text = String::from_utf8(output.stdout).context("file names are not UTF-8")?;
    Ok(text.lines().map(PathBuf::from).filter(|file| root.join(file).is_file()).collect())
}

fn file_rules(file: &Path, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let is_test = name == "tests.rs" || file.components().any(|part| part.as_os_str() == "tests");
    if BANNED_FILES.contains(&name.as_ref()) {
        broken.push(format!("{}: the name says nothing about the content", file.display()));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES && !is_test {
        broken.push(format!(
            "{}: {lines} lines, more than {MAX_LINES}: split it by concern",
            file.display()
        ));
    }
    for (number, line) in text.lines().enumerate() {
        let mut words = line
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|word| !word.is_empty());
        let declares = words.any(|word| matches!(word, "struct" | "enum" | "trait"));
        let declared = words.next().filter(|_| declares && !line.trim_start().starts_with("//"));
        if let Some(declared) = declared
            && BANNED_TYPE_ENDS.iter().any(|end| declared.ends_with(end))
        {
            broken.push(format!(
                "{}:{}: {declared} says nothing about what it is",
                file.display(),
                number + 1
            ));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes_are_checked() {
        assert_eq!(file_rules(Path::new("a/pod.rs"), "pub struct Pod;\n"), Vec::<String>::new());
        assert_eq!(file_rules(Path::new("a/pod.rs"), "pub struct PodManager;\n").len(), 1);
        assert_eq!(file_rules(Path::new("a/utils.rs"), "").len(), 1);
        assert_eq!(file_rules(Path::new("a/pod.rs"), &"\n".repeat(MAX_LINES + 1)).len(), 1);
        assert_eq!(
            file_rules(Path::new("a/pod/tests.rs"), &"\n".repeat(MAX_LINES + 1)),
            Vec::<String>::new()
        );
    }
}
