//! `docs/conformance.md`: which test shows which row of the specification.
//!
//! The rows stand in `rows.txt`. A test claims a row in a doc comment
//! (`/// Shows: 14.2.3 14.2.7`) or, in a transcript, in a line for people
//! (`# Shows: 14.2.3`). Only what runs can claim: a function with `#[test]`
//! and without `#[ignore]`, a file in the directory of transcripts. A claim of
//! a row that does not exist fails, and so does a page that is not what the
//! tests say.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::generated;

const ROWS: &str = include_str!("conformance/rows.txt");
const EVENTS: &str = include_str!("conformance/events.md");
const MARK: &str = "Shows:";
const PAGE: &str = "docs/conformance.md";
const TRANSCRIPTS: &str = "crates/sim/tests/scenarios";

/// How a test shows a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ring {
    /// The state machine in virtual time, as a reviewed text.
    Transcript,
    /// Code, in virtual time or none.
    Unit,
    /// Real containers.
    Real,
}

/// A test that claims rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    row: String,
    ring: Ring,
    test: String,
}

/// Writes the page, or fails when it is not what the tests say.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let rows = rows(ROWS)?;
    let claims = claims(root, &rows)?;
    let page = page(&rows, &claims);
    generated::keep(root, PAGE, &page, check, "conformance")
}

/// `14.2.3 | text`; a line with `#` is a heading.
fn rows(text: &str) -> Result<Vec<(String, String)>> {
    let mut rows: Vec<(String, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(heading) = line.strip_prefix("# ") {
            rows.push((String::new(), heading.to_owned()));
            continue;
        }
        let (id, text) = line.split_once(" | ").with_context(|| format!("{line:?} is no row"))?;
        ensure!(!rows.iter().any(|(known, _)| known == id), "row {id} stands there twice");
        rows.push((id.to_owned(), text.to_owned()));
    }
    Ok(rows)
}

fn claims(root: &Path, rows: &[(String, String)]) -> Result<Vec<Claim>> {
    let mut claims = Vec::new();
    for file in files(&root.join(TRANSCRIPTS), "txt")? {
        let text = fs::read_to_string(&file)?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for ids in text.lines().filter_map(|line| line.strip_prefix('#')?.trim().strip_prefix(MARK)) {
            claim(&mut claims, rows, ids, Ring::Transcript, &name)?;
        }
    }
    for (relative, file) in sources(root)? {
        let ring = if relative.starts_with("tests/e2e/") {
            Ring::Real
        } else {
            Ring::Unit
        };
        for (ids, name) in in_source(&fs::read_to_string(&file)?, MARK).with_context(|| relative.clone())? {
            claim(&mut claims, rows, &ids, ring, &name)?;
        }
    }
    claims.sort();
    claims.dedup();
    Ok(claims)
}

/// What tests claim after `mark` in their doc comments, with their names, by
/// file.
pub(crate) fn claimed(root: &Path, mark: &str) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for (relative, file) in sources(root)? {
        all.extend(in_source(&fs::read_to_string(&file)?, mark).with_context(|| relative)?);
    }
    Ok(all)
}

/// The sources that may hold claims, with their paths in the workspace.
fn sources(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let named = files(root, "rs")?.into_iter().map(|file| {
        let relative = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        (relative, file)
    });
    // Xtask's files speak of claims and make none.
    Ok(named
        .filter(|(relative, _)| !relative.starts_with("xtask/") && !relative.starts_with("target/"))
        .collect())
}

fn claim(claims: &mut Vec<Claim>, rows: &[(String, String)], ids: &str, ring: Ring, test: &str) -> Result<()> {
    for id in ids.split_whitespace() {
        ensure!(
            rows.iter().any(|(known, _)| known == id),
            "{test} claims row {id}, which does not exist"
        );
        claims.push(Claim {
            row: id.to_owned(),
            ring,
            test: test.to_owned(),
        });
    }
    Ok(())
}

/// Claims in the doc comments of test functions, with the functions' names.
fn in_source(text: &str, mark: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut pending: Vec<String> = Vec::new();
    let (mut test, mut ignored) = (false, false);
    for line in text.lines().map(str::trim) {
        if let Some(ids) = line.strip_prefix("///").map(str::trim).and_then(|line| line.strip_prefix(mark)) {
            pending.push(ids.trim().to_owned());
        } else if line.starts_with("#[") {
            test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            ignored |= line.starts_with("#[ignore");
        } else if !line.starts_with("//") && !line.is_empty() {
            if !pending.is_empty() {
                let name = line.split_once("fn ").and_then(|(_, rest)| rest.split(['(', '<']).next());
                let Some(name) = name else {
                    bail!("{pending:?} stands before {line:?}, which is no test")
                };
                ensure!(test && !ignored, "{name} claims {pending:?} and is not run as a test");
                found.extend(pending.drain(..).map(|ids| (ids, name.to_owned())));
            }
            (test, ignored) = (false, false);
        }
    }
    Ok(found)
}

fn files(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                found.extend(files(&path, extension)?);
            }
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn page(rows: &[(String, String)], claims: &[Claim]) -> String {
    let mut of: BTreeMap<&str, Vec<&Claim>> = BTreeMap::new();
    for claim in claims {
        of.entry(&claim.row).or_default().push(claim);
    }
    let numbered = rows.iter().filter(|(id, _)| !id.is_empty()).count();
    let mut out = String::from(
        "# Which test shows which rule\n\n\
         Generated by `cargo xtask conformance` from the tests themselves; `cargo xtask check`\n\
         fails when it is out of date. The rows are upstream's own tests of the Pod lifecycle\n\
         (`test/e2e/common/node`, `test/e2e/node`, `test/e2e_node/container_lifecycle_test.go`)\n\
         and what follows from the rules. A *transcript* is a text in `crates/sim/tests/scenarios`:\n\
         the state machine in virtual time. *Real* tests run containers. A row without a test is\n\
         not shown.\n",
    );
    // Writing to a string cannot fail.
    let _ = writeln!(out, "\n{} of {numbered} rows are shown.", of.len());
    for (id, text) in rows {
        if id.is_empty() {
            let _ = writeln!(
                out,
                "\n## {text}\n\n| row | rule | transcripts and unit tests | real containers |\n|---|---|---|---|"
            );
            continue;
        }
        let shown = of.get(id.as_str()).map(Vec::as_slice).unwrap_or_default();
        let list = |real: bool| {
            let names = shown.iter().filter(|claim| (claim.ring == Ring::Real) == real);
            names.map(|claim| format!("`{}`", claim.test)).collect::<Vec<_>>().join(" ")
        };
        let (virtual_time, real) = (list(false), list(true));
        let virtual_time = if shown.is_empty() {
            "**not shown**".to_owned()
        } else {
            virtual_time
        };
        let _ = writeln!(out, "| {id} | {text} | {virtual_time} | {real} |");
    }
    out + EVENTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_may_claim() {
        let good = "/// It does.\n/// Shows: 1.1 1.2\n/// Shows: 1.3\n#[test]\nfn a_rule_holds() {\n}\n#[tokio::test(start_paused = true)]\n/// Shows: 2.1\nasync fn another<T>() {}\n";
        let found = in_source(good, MARK).unwrap();
        assert_eq!(
            found,
            [("1.1 1.2", "a_rule_holds"), ("1.3", "a_rule_holds"), ("2.1", "another")].map(|(ids, name)| (ids.to_owned(), name.to_owned()))
        );
        for bad in [
            "/// Shows: 1.1\nfn no_test() {}\n",
            "/// Shows: 1.1\n#[test]\n#[ignore]\nfn never_run() {}\n",
            "/// Shows: 1.1\nstruct Nothing;\n",
        ] {
            assert!(in_source(bad, MARK).is_err(), "{bad}");
        }
        let rows = rows("# H\n1.1 | a\n").unwrap();
        assert!(claim(&mut Vec::new(), &rows, "1.2", Ring::Unit, "t").is_err());
        assert!(super::rows("1.1 | a\n1.1 | b\n").is_err());
    }

    #[test]
    fn the_page_is_what_the_tests_say() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        run(root, true).unwrap();
    }
}
