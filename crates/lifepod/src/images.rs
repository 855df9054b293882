//! `lifepod images ...`: what is on this node. Works beside a running
//! platform, which sees the change at once.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use runtime::image::{ImageStore, LayerState, Progress, PullOptions, Puller, Registries, StoredImage, layers_in_use};
use tokio::sync::broadcast::error::RecvError;

use crate::flags::Images;
use crate::layout::Layout;

/// Runs one of the `images` commands.
pub(crate) async fn run(command: Images) -> Result<()> {
    match command {
        Images::Pull { image, registries, data } => pull(&image, registries.as_deref(), &open(&data.data_dir)?).await,
        Images::Import { archive, data } => {
            let store = open(&data.data_dir)?;
            let path = archive.clone();
            let names = tokio::task::spawn_blocking(move || store.import(&path)).await??;
            for name in names {
                println!("{name}");
            }
            Ok(())
        }
        Images::Ls { data } => {
            print!("{}", listing(&open(&data.data_dir)?.list()?));
            Ok(())
        }
        Images::Rm { image, data } => {
            let store = open(&data.data_dir)?;
            let removed = store.remove(&image, &layers_in_use().context("reading which layers are in use")?)?;
            for name in removed.names {
                println!("untagged {name}");
            }
            if let Some(id) = removed.image_id {
                println!("removed {id} ({} freed)", size(removed.freed_bytes));
            }
            Ok(())
        }
    }
}

/// Options for pulls, with the mirrors of a file if there is one.
pub(crate) fn pull_options(registries: Option<&Path>) -> Result<PullOptions> {
    let registries = registries.map(Registries::load).transpose()?.unwrap_or_default();
    Ok(PullOptions {
        registries,
        ..PullOptions::default()
    })
}

fn open(data_dir: &Path) -> Result<ImageStore> {
    let layout = Layout::new(data_dir)?;
    layout.create()?;
    Ok(ImageStore::open(layout.images())?)
}

async fn pull(image: &str, registries: Option<&Path>, store: &ImageStore) -> Result<()> {
    let puller = Puller::new(store.clone(), pull_options(registries)?);
    let mut news = puller.progress();
    let bars = Bars::new();
    let pulling = puller.pull(image, None);
    tokio::pin!(pulling);
    let pulled = loop {
        tokio::select! {
            pulled = &mut pulling => break pulled,
            item = news.recv() => match item {
                Ok(progress) => bars.show(&progress),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break pulling.await,
            },
        }
    };
    bars.clear();
    let pulled = pulled?;
    println!(
        "{} {}",
        pulled
            .image
            .tags
            .first()
            .or(pulled.image.digests.first())
            .map_or(image, String::as_str),
        size(pulled.image.size_bytes)
    );
    Ok(())
}

/// One bar per layer, on a terminal; nothing elsewhere.
pub(crate) struct Bars {
    all: MultiProgress,
    layers: std::sync::Mutex<BTreeMap<String, ProgressBar>>,
}

impl Bars {
    pub(crate) fn new() -> Self {
        Self {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            layers: std::sync::Mutex::default(),
        }
    }

    pub(crate) fn show(&self, progress: &Progress) {
        let mut layers = self.layers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bar = layers.entry(progress.layer.to_string()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {bytes:>10}/{total_bytes:10} {msg:11}");
            let bar = ProgressBar::new(progress.total_bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            let short: String = progress.layer.rsplit(':').next().unwrap_or_default().chars().take(12).collect();
            self.all.add(bar.with_prefix(short))
        });
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes);
        bar.set_message(match progress.state {
            LayerState::Present => "present",
            LayerState::Downloading => "downloading",
            LayerState::Unpacking => "unpacking",
            LayerState::Ready => "ready",
        });
    }

    pub(crate) fn clear(&self) {
        // Only the terminal can fail here, and it has nothing left to show.
        let _ = self.all.clear();
    }
}

fn listing(images: &[StoredImage]) -> String {
    let mut rows = vec![["REPOSITORY".to_owned(), "TAG".to_owned(), "IMAGE ID".to_owned(), "SIZE".to_owned()]];
    for stored in images {
        let id: String = stored.image.id.trim_start_matches("sha256:").chars().take(12).collect();
        let bytes = size(stored.image.size_bytes);
        if stored.image.tags.is_empty() {
            rows.push(["<none>".to_owned(), "<none>".to_owned(), id.clone(), bytes.clone()]);
        }
        for tag in &stored.image.tags {
            let (repository, tag) = tag.rsplit_once(':').unwrap_or((tag, ""));
            rows.push([repository.to_owned(), tag.to_owned(), id.clone(), bytes.clone()]);
        }
    }
    rows[1..].sort();
    let widths: Vec<usize> = (0..4)
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += line.join("   ").trim_end();
        text.push('\n');
    }
    text
}

/// A size as people read it: powers of 1000, as image tools print.
fn size(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{}{name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(
            (size(999), size(1_500), size(62_000_000)),
            ("999B".to_owned(), "1.5kB".to_owned(), "62.0MB".to_owned())
        );
    }
}
