//! The table of `docs/security.md`: what was tried to get out of a container,
//! and the answer it got.
//!
//! A test says so in a doc comment, `/// Escape: ATTEMPT | ANSWER`, one line
//! each. Only what runs can say it, and the table is what the tests say.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::{conformance, generated};

const MARK: &str = "Escape:";
const PAGE: &str = "docs/security.md";
/// The table stands between this and the end of the page.
const HEAD: &str = "| attempt | answer | test |\n|---|---|---|\n";

/// Writes the table, or fails when it is not what the tests say.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let path = root.join(PAGE);
    let written = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let (text, _) = written.split_once(HEAD).with_context(|| format!("{PAGE} has no table to fill"))?;
    let page = format!("{text}{HEAD}{}", rows(&conformance::claimed(root, MARK)?)?);
    generated::keep(root, PAGE, &page, check, "escapes")
}

fn rows(claimed: &[(String, String)]) -> Result<String> {
    let mut rows = Vec::new();
    for (said, test) in claimed {
        let (attempt, answer) = said
            .split_once(" | ")
            .with_context(|| format!("{test}: {said:?} is no attempt and answer"))?;
        rows.push((attempt, answer, test));
    }
    rows.sort_unstable();
    let mut out = String::new();
    for (attempt, answer, test) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "| {attempt} | {answer} | `{test}` |");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_has_an_answer() {
        let said = |text: &str| [(text.to_owned(), "t".to_owned())];
        assert_eq!(rows(&said("a link | refused")).unwrap(), "| a link | refused | `t` |\n");
        assert!(rows(&said("a link")).is_err());
    }

    #[test]
    fn the_page_is_what_the_tests_say() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        run(root, true).unwrap();
    }
}
