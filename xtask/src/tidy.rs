//! House rules that neither the compiler nor clippy knows: crate edges, file
//! sizes, file and type names, what pure crates may not say, and paths named in
//! the architecture page.
//!
//! Reading order: [`run`], then the tables, then one function per rule.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Which of our crates a crate may depend on outside tests. The table of
/// `docs/architecture.md`, section 2.
const EDGES: [(&str, &[&str]); 16] = [
    ("api", &[]),
    ("apiserver", &["api", "store"]),
    ("bench", &[]),
    ("clients", &["api", "apiserver", "client", "control", "store"]),
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
            "sim",
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

/// Crates that must work without an async runtime: pure ones, and the shim,
/// which forks.
const WITHOUT_TOKIO: [&str; 4] = ["api", "lifecycle", "shim", "sim"];
/// Crates that are handed the time, and whose order never comes from a hash.
const PURE: [&str; 2] = ["crates/lifecycle/src", "crates/sim/src"];
/// What pure crates may not say, by word.
const IMPURE_WORDS: [&str; 4] = ["HashMap", "HashSet", "Instant", "SystemTime"];
/// What pure crates may not call.
const IMPURE_CALLS: [&str; 3] = ["Timestamp::now", "env::var", "thread::sleep"];
/// The one file that imports the generated types, and the one crate that may
/// lift the lint against `unsafe`.
const TYPED: &str = "crates/api/src/typed.rs";
const UNSAFE: &str = "crates/shim/src";

/// The page whose paths must exist.
const PAGE: &str = "docs/architecture.md";
/// Directories of the workspace a path on the page may begin with. Others begin
/// with the name of a crate.
const TOP: [&str; 6] = ["crates", "dashboard", "docs", "tests", "xtask", ".ci"];
/// Directories of a crate.
const IN_CRATE: [&str; 3] = ["src", "tests", "examples"];

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
pub(crate) fn run(root: &Path) -> Result<()> {
    let mut broken = edges(root)?;
    for file in rust_files(root)? {
        let text = fs::read_to_string(root.join(&file)).with_context(|| format!("reading {}", file.display()))?;
        broken.extend(file_rules(&file, &text));
        broken.extend(place_rules(&file, &text));
    }
    let page = fs::read_to_string(root.join(PAGE)).with_context(|| format!("reading {PAGE}"))?;
    broken.extend(page_rules(&page, |path| root.join(path).exists()));
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
            if on == "tokio" && dependency["kind"].is_null() && WITHOUT_TOKIO.contains(&name) {
                broken.push(format!("crate {name} may not depend on tokio"));
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

/// Rules about what may be said where.
fn place_rules(file: &Path, text: &str) -> Vec<String> {
    let pure = PURE.iter().any(|dir| file.starts_with(dir));
    let typed = !file.starts_with("crates") || file == Path::new(TYPED);
    let mut broken = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        let mut complain = |what: &str| broken.push(format!("{}:{}: {what}", file.display(), number + 1));
        let words = || line.split(|c: char| !c.is_alphanumeric() && c != '_');
        if pure {
            let word = IMPURE_WORDS.iter().find(|word| words().any(|said| said == **word));
            if let Some(what) = word.or_else(|| IMPURE_CALLS.iter().find(|call| line.contains(**call))) {
                complain(&format!("{what} has no place in a crate that is pure"));
            }
        }
        if !typed && words().any(|word| word == "k8s_openapi") {
            complain(&format!("k8s_openapi is imported in {TYPED} alone; use what it exports"));
        }
        let lifts = line.contains("allow(unsafe_code") || line.contains("expect(unsafe_code");
        if lifts && !file.starts_with(UNSAFE) && file != Path::new("xtask/src/tidy.rs") {
            complain(&format!("unsafe code has its place in {UNSAFE}"));
        }
    }
    broken
}

/// Every path the page names exists, unless its line says it is planned.
fn page_rules(page: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut broken = Vec::new();
    for (line, token) in page_tokens(page) {
        let Some(paths) = braces(&token) else {
            broken.push(format!(
                "{PAGE}:{line}: {token}: write a list in braces on one line, without spaces"
            ));
            continue;
        };
        let paths = paths.iter().map(|path| existing_part(path));
        broken.extend(
            paths
                .filter(|path| !exists(path))
                .map(|path| format!("{PAGE}:{line}: {path} does not exist; mend the page, or mark the line as planned")),
        );
    }
    broken
}

/// What looks like a path of the workspace, in backticks or in a code block, as
/// a path from the root, with the number of its line. In a block, a line that
/// begins with a directory is a listing: names on it and below it, until the
/// next one, are in that directory.
fn page_tokens(page: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let (mut in_block, mut listed) = (false, None::<String>);
    for (number, line) in page.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            (in_block, listed) = (!in_block, None);
            continue;
        }
        let lower = line.to_lowercase();
        if lower.contains("planned") || lower.contains("not yet") {
            continue;
        }
        if in_block {
            let head = line.split_whitespace().next().filter(|head| line.starts_with(*head));
            listed = head.map_or(listed, |head| from_root(head).filter(|path| path.ends_with('/')));
            for token in line.split_whitespace().map(bare) {
                let in_listing = listed
                    .as_deref()
                    .filter(|_| token.ends_with(".rs") || token.contains('{') || token.contains('}'));
                found.extend(
                    from_root(token)
                        .or_else(|| in_listing.map(|dir| format!("{dir}{token}")))
                        .map(|path| (number + 1, path)),
                );
            }
        } else {
            let quoted = line.split('`').skip(1).step_by(2).flat_map(str::split_whitespace);
            found.extend(quoted.filter_map(|token| from_root(bare(token))).map(|path| (number + 1, path)));
        }
    }
    found
}

/// Without the punctuation around it.
fn bare(token: &str) -> &str {
    token
        .trim_start_matches(['(', '"'])
        .trim_end_matches([',', ';', ':', '.', ')', '"'])
}

/// The path from the workspace's root that a token names, if it names one.
fn from_root(token: &str) -> Option<String> {
    let (first, rest) = token.split_once('/')?;
    if TOP.contains(&first) && !rest.starts_with('/') {
        return Some(token.to_owned());
    }
    let second = rest.split('/').next()?;
    let is_name = !first.is_empty() && first.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (is_name && IN_CRATE.contains(&second)).then(|| format!("crates/{token}"))
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`; `None` where a brace has no partner.
fn braces(token: &str) -> Option<Vec<String>> {
    let Some((before, rest)) = token.split_once('{') else {
        return (!token.contains('}')).then(|| vec![token.to_owned()]);
    };
    let (list, after) = rest.split_once('}')?;
    let paths = list.split(',').map(|name| braces(&format!("{before}{name}{after}")));
    paths.collect::<Option<Vec<_>>>().map(|paths| paths.concat())
}

/// What of a path must exist: all of it, or the directory before the first
/// part that stands for others (`*.rs`, `<name>.rs`).
fn existing_part(path: &str) -> String {
    let parts = path.split('/').take_while(|part| !part.contains(['*', '<']));
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(page: &str) -> Vec<String> {
        let there = [
            "crates/a/src",
            "crates/a/src/",
            "crates/a/src/x.rs",
            "crates/a/src/plan",
            "crates/a/src/plan/b.rs",
            "docs/p.md",
        ];
        page_rules(page, |path| there.contains(&path))
            .iter()
            .map(|broken| {
                let (line, rest) = broken.strip_prefix("docs/architecture.md:").unwrap().split_once(": ").unwrap();
                format!("{line} {}", rest.split([' ', ':']).next().unwrap())
            })
            .collect()
    }

    #[test]
    fn quoted_paths_must_exist() {
        assert_eq!(missing("See `a/src/x.rs`, `crates/a/src/x.rs` and `docs/p.md`."), [""; 0]);
        assert_eq!(
            missing("See `a/src/y.rs`.\n`xtask/src/z.rs`: `gone/src/x.rs`"),
            ["1 crates/a/src/y.rs", "2 xtask/src/z.rs", "2 crates/gone/src/x.rs"]
        );
        assert_eq!(missing("`cargo test -p a docs/q.md`"), ["1 docs/q.md"]);
    }

    #[test]
    fn what_is_planned_or_no_path_of_ours_is_let_be() {
        assert_eq!(missing("planned: `a/src/y.rs`\n| Not yet | `tests/z.rs` |"), [""; 0]);
        assert_eq!(
            missing("a/src/y.rs unquoted, `foo/tests.rs`, `/etc/src/x`, `pkg/kubelet/x.go`, `and/or`"),
            [""; 0]
        );
    }

    #[test]
    fn braces_and_placeholders_are_looked_into() {
        assert_eq!(missing("`a/src/{x,plan/b}.rs` `a/src/plan/*.rs` `a/src/plan/<kind>.rs`"), [""; 0]);
        assert_eq!(
            missing("`a/src/plan/{b,c}.rs` `a/src/no/*.rs`"),
            ["1 crates/a/src/plan/c.rs", "1 crates/a/src/no"]
        );
        assert_eq!(missing("`a/src/{x,`"), ["1 crates/a/src/{x"]);
        assert_eq!(braces("{a,b}/{c,d}").unwrap(), ["a/c", "a/d", "b/c", "b/d"]);
    }

    #[test]
    fn listings_give_the_directory_once() {
        let page =
            "```\ncrates/a/src/  x.rs y.rs (the second) plan/{b,c}.rs\n               z.rs\n     planned:  w.rs\n\nother v.rs\n```\nu.rs";
        assert_eq!(
            missing(page),
            ["2 crates/a/src/y.rs", "2 crates/a/src/plan/c.rs", "3 crates/a/src/z.rs"]
        );
    }

    #[test]
    fn what_may_be_said_depends_on_the_place() {
        let pure = Path::new("crates/lifecycle/src/machine.rs");
        let said = |file: &Path, text: &str| place_rules(file, text).len();
        assert_eq!(said(pure, "let at = Instant::now();\nlet x: HashMap<u8, u8>;\nenv::var(\"x\")"), 3);
        assert_eq!(said(pure, "// not a HashMap\nlet instants = 1;"), 0);
        assert_eq!(said(Path::new("crates/kubelet/src/clock.rs"), "Instant::now()"), 0);
        assert_eq!(said(pure, "use k8s_openapi::api;"), 1);
        assert_eq!(said(Path::new(TYPED), "use k8s_openapi::api;"), 0);
        assert_eq!(said(Path::new("tests/bench/src/main.rs"), "use k8s_openapi::api;"), 0);
        assert_eq!(said(Path::new("crates/net/src/rtnl.rs"), "#![allow(unsafe_code)]"), 1);
        assert_eq!(said(Path::new("crates/shim/src/lib.rs"), "#![allow(unsafe_code)]"), 0);
    }

    #[test]
    fn names_and_sizes_are_checked() {
        assert_eq!(file_rules(Path::new("a/pod.rs"), "pub struct Pod;\n"), Vec::<String>::new());
        assert_eq!(file_rules(Path::new("a/pod.rs"), concat!("pub struct Pod", "Manager;\n")).len(), 1);
        assert_eq!(file_rules(Path::new("a/utils.rs"), "").len(), 1);
        assert_eq!(file_rules(Path::new("a/pod.rs"), &"\n".repeat(MAX_LINES + 1)).len(), 1);
        assert_eq!(
            file_rules(Path::new("a/pod/tests.rs"), &"\n".repeat(MAX_LINES + 1)),
            Vec::<String>::new()
        );
    }
}
