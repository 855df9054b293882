//! The flight recorder's log: one file of JSON lines per pod.
//!
//! A task of its own appends what is new, never the path of a pod, and nothing
//! is forced to the disk: a killed agent loses the last moments, a machine
//! without power more. A line with the number of an earlier one replaces it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::{Time, Uid};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Entry, Flight, FlightRecorder, POD_BYTES, Subject};
use crate::clock::Clock;

/// What is new is gathered for so long before it is written.
const GATHER: Duration = Duration::from_millis(100);
/// How often pods that are long gone are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// A file that has grown to this is written anew.
const FILE_BYTES: u64 = 4 * POD_BYTES as u64;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", untagged)]
enum Line {
    #[serde(rename_all = "camelCase")]
    Gone {
        gone_at: api::typed::MicroTime,
    },
    Entry(Box<Entry>),
    Subject(Subject),
}

fn path(dir: &Path, uid: &Uid) -> PathBuf {
    dir.join(format!("{uid}.jsonl"))
}

/// Every pod in the log. A damaged line ends its file: it was being written
/// when the agent was killed.
pub(super) fn read(dir: &Path) -> io::Result<BTreeMap<Uid, Flight>> {
    fs::create_dir_all(dir)?;
    let mut flights = BTreeMap::new();
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            let _ = fs::remove_file(&path); // a rewrite that was not finished
            continue;
        }
        match flight(&fs::read_to_string(&path)?) {
            Some(flight) => drop(flights.insert(flight.subject.uid.clone(), flight)),
            None => fs::remove_file(&path)?,
        }
    }
    Ok(flights)
}

fn flight(text: &str) -> Option<Flight> {
    let mut lines = text.lines().map_while(|line| serde_json::from_str::<Line>(line).ok());
    let Some(Line::Subject(subject)) = lines.next() else { return None };
    let (mut entries, mut gone_at) = (BTreeMap::new(), None);
    for line in lines {
        match line {
            Line::Entry(entry) => drop(entries.insert(entry.number, *entry)),
            Line::Gone { gone_at: at } => gone_at = Some(Time::from(at.0)),
            Line::Subject(_) => {}
        }
    }
    let mut flight = Flight::new(subject);
    flight.next_number = entries.keys().next_back().map_or(1, |last| last + 1);
    flight.dropped = entries.keys().next().map_or(0, |first| first - 1);
    entries.into_values().for_each(|entry| flight.push(entry));
    // Whoever is still here says so when its worker begins.
    flight.gone_at = gone_at.or_else(|| flight.last_at());
    Some(flight)
}

/// What is to be done to the files.
struct Batch {
    append: Vec<(Uid, Vec<u8>)>,
    whole: Vec<(Uid, Vec<u8>)>,
    remove: Vec<Uid>,
}

/// Writes what is new until `shutdown`, and then what is left.
pub(super) async fn write(recorder: FlightRecorder, dir: PathBuf, clock: Arc<dyn Clock>, shutdown: CancellationToken) {
    let mut sizes: BTreeMap<Uid, u64> = BTreeMap::new();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let ends = tokio::select! {
            () = shutdown.cancelled() => true,
            () = recorder.news.notified() => false,
            _ = sweep.tick() => {
                recorder.lock().make_room(clock.now());
                false
            }
        };
        if !ends {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(GATHER) => {}
            }
        }
        let batch = gather(&recorder, &mut sizes);
        let dir = dir.clone();
        match tokio::task::spawn_blocking(move || store(&dir, &batch)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = %error, "the flight recorder's log cannot be written"),
            Err(panicked) => tracing::error!(error = %panicked, "writing the flight recorder's log failed"),
        }
        if ends {
            return;
        }
    }
}

fn gather(recorder: &FlightRecorder, sizes: &mut BTreeMap<Uid, u64>) -> Batch {
    let mut inner = recorder.lock();
    let mut batch = Batch {
        append: Vec::new(),
        whole: Vec::new(),
        remove: std::mem::take(&mut inner.removed),
    };
    for uid in &batch.remove {
        sizes.remove(uid);
    }
    for (uid, flight) in &mut inner.flights {
        let unwritten = std::mem::take(&mut flight.unwritten);
        if unwritten.is_empty() {
            continue;
        }
        let size = sizes.get(uid).copied().unwrap_or(FILE_BYTES);
        let whole = size >= FILE_BYTES;
        let mut text = Vec::new();
        if whole {
            line(&mut text, &Line::Subject(flight.subject.clone()));
        }
        for (entry, _) in &flight.entries {
            if whole || unwritten.contains(&entry.number) {
                line(&mut text, &Line::Entry(Box::new(entry.clone())));
            }
        }
        if let Some(gone_at) = flight.gone_at {
            line(
                &mut text,
                &Line::Gone {
                    gone_at: gone_at.wire_micro(),
                },
            );
        }
        let before = if whole { 0 } else { size };
        sizes.insert(uid.clone(), before + text.len() as u64);
        if whole { &mut batch.whole } else { &mut batch.append }.push((uid.clone(), text));
    }
    batch
}

fn line(text: &mut Vec<u8>, line: &Line) {
    // Strings and numbers always encode.
    if serde_json::to_writer(&mut *text, line).is_ok() {
        text.push(b'\n');
    }
}

fn store(dir: &Path, batch: &Batch) -> io::Result<()> {
    for uid in &batch.remove {
        match fs::remove_file(path(dir, uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    for (uid, text) in &batch.whole {
        let unfinished = dir.join(format!("{uid}.new"));
        fs::write(&unfinished, text)?;
        fs::rename(&unfinished, path(dir, uid))?;
    }
    for (uid, text) in &batch.append {
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path(dir, uid))?
            .write_all(text)?;
    }
    Ok(())
}
