//! Text transcripts: commands, a line of dashes, what came of them.
//!
//! A file holds blocks, each ended by an empty line; lines that begin with `#`
//! are for people. One world lives through a whole file. Commands:
//!
//! ```text
//! pod restart=OnFailure init=a,b sidecars=s containers=app,log grace=5 deadline=60 host-network volumes pull=Always gate=x
//! image x:1 absent 2s | broken | invalid | present
//! life app ignores-term | start-error | runs 3s code=1
//! fail <text an action begins with> = <class>: <message>
//! run until=running|ready|succeeded|failed|gone|idle    advance 10s    quietly 1h
//! exit app code=1 [oom]     set-image app x:2     condition x=True    debug dbg x:1
//! delete [grace=5]   delete grace=0   evict <message>   reject <reason>: <message>
//! drain 10s    sandbox dies    agent dies 5s    show app    conditions    phase    why
//! ```

mod run;

use std::fmt::Write as _;

pub use run::{Run, ScenarioError};

/// One block of a scenario file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Lines for people, kept as they are.
    pub comments: Vec<String>,
    /// What is done.
    pub commands: Vec<String>,
    /// What is expected of it.
    pub expected: Vec<String>,
}

/// Splits a file into its blocks.
#[must_use]
pub fn parse(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    for part in text.split("\n\n").map(str::trim_end).filter(|p| !p.trim().is_empty()) {
        let (before, after) = match part.split_once("\n----") {
            Some((before, after)) => (before, after),
            None => (part, ""),
        };
        let (comments, commands) = before
            .lines()
            .filter(|l| !l.trim().is_empty())
            .partition::<Vec<_>, _>(|l| l.starts_with('#'));
        blocks.push(Block {
            comments: comments.into_iter().map(str::to_owned).collect(),
            commands: commands.into_iter().map(str::to_owned).collect(),
            expected: after.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect(),
        });
    }
    blocks
}

/// Runs a whole file; the same file with what really came of it.
pub fn replay(text: &str) -> Result<String, ScenarioError> {
    let mut run = Run::new();
    let mut out = String::new();
    for block in parse(text) {
        for line in block.comments.iter().chain(&block.commands) {
            let _ = writeln!(out, "{line}"); // writing to a string cannot fail
        }
        if block.commands.is_empty() {
            out.push('\n');
            continue;
        }
        out.push_str("----\n");
        for line in run.block(&block.commands)? {
            let _ = writeln!(out, "{line}");
        }
        out.push('\n');
    }
    Ok(format!("{}\n", out.trim_end()))
}
