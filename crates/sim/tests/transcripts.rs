//! Every file in `tests/scenarios` says what happens; `UPDATE=1` rewrites it.

use std::fs;
use std::path::PathBuf;

#[test]
fn scenarios_happen_as_they_are_written() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut paths: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for path in &paths {
        let text = fs::read_to_string(path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match sim::scenario::replay(&text) {
            Ok(real) if real == text => {}
            Ok(real) if update => fs::write(path, real).unwrap(),
            Ok(real) => wrong.push(format!("{name}\n{}", difference(&text, &real))),
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(paths.len() >= 10, "the scenarios are gone");
    assert!(
        wrong.is_empty(),
        "UPDATE=1 rewrites these; look at the difference:\n{}",
        wrong.join("\n")
    );
}

/// The first lines that differ.
fn difference(written: &str, real: &str) -> String {
    let line = written
        .lines()
        .zip(real.lines())
        .position(|(a, b)| a != b)
        .unwrap_or(written.lines().count().min(real.lines().count()));
    let near = |text: &str| {
        text.lines()
            .skip(line.saturating_sub(2))
            .take(8)
            .map(|l| format!("  {l}\n"))
            .collect::<String>()
    };
    format!("line {}, written:\n{}real:\n{}", line + 1, near(written), near(real))
}
