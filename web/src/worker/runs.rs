//! What is kept of a run: a note, its data, its steps and two checkpoints, written in turn, so that one is always whole.

use std::io::Write;

use espalier::platform::clock;
use espalier::train::{Checkpoint, RunConfig, StepMetrics, metrics};
use espalier::{Error, Result};
use serde::{Deserialize, Serialize};
use web_sys::FileSystemSyncAccessHandle;

use super::files::StoredSource;
use super::store::{Dir, io_error, write_at, write_whole};
use crate::protocol::{ModelChoice, StoredRun};

const NOTE: &str = "run.json";
/// The data set, as it was given.
pub const DATA: &str = "data";
/// One line of JSON a step.
pub const METRICS: &str = "metrics.jsonl";
/// The newest of these holds.
const SLOTS: [&str; 2] = ["checkpoint-0.espalier", "checkpoint-1.espalier"];

/// What a run was made from, and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    pub model: String,
    /// `None` for files that were dropped and not kept: they have to be dropped again.
    pub choice: Option<ModelChoice>,
    pub data: String,
    pub config: RunConfig,
    pub total_steps: u64,
    pub step: u64,
    /// The slot of the newest checkpoint
    pub slot: Option<usize>,
    pub when: u64,
    pub finished: bool,
}

/// The folder of all runs.
pub async fn all() -> Result<Dir> {
    Dir::root().await?.folder("runs").await
}

/// All runs in the storage, the newest first.
pub async fn list() -> Result<Vec<StoredRun>> {
    let runs = all().await?;
    let mut found = vec![];
    for id in runs.list().await? {
        let folder = runs.folder(&id).await?;
        let Some(note) = folder.read_json::<Note>(NOTE).await else { continue };
        found.push(StoredRun {
            model: note.model,
            data: note.data,
            method: format!("{:?}", note.config.method),
            step: note.step,
            total_steps: note.total_steps,
            bytes: folder.total().await,
            when: note.when,
            finished: note.finished,
            id,
        });
    }
    found.sort_by_key(|run| std::cmp::Reverse(run.when));
    Ok(found)
}

/// A run's folder, with the files open that are written at every step.
pub struct RunFolder {
    pub note: Note,
    folder: Dir,
    metrics: FileSystemSyncAccessHandle,
    metrics_bytes: u64,
    slots: [FileSystemSyncAccessHandle; 2],
}

impl RunFolder {
    /// Makes the folder of a new run.
    pub async fn create(id: &str, note: Note, data: &[u8]) -> Result<RunFolder> {
        let folder = all().await?.folder(id).await?;
        folder.write(DATA, data).await?;
        folder.write_json(NOTE, &note).await?;
        RunFolder::with(folder, note).await
    }

    /// Opens the folder of a run, with its data.
    pub async fn open(id: &str) -> Result<(RunFolder, Vec<u8>)> {
        let gone = || Error::malformed(id, "this run is not in the browser's storage any more");
        let folder = all().await?.folder(id).await?;
        let note: Note = folder.read_json(NOTE).await.ok_or_else(gone)?;
        let data = folder.read(DATA).await?.ok_or_else(gone)?;
        Ok((RunFolder::with(folder, note).await?, data))
    }

    async fn with(folder: Dir, note: Note) -> Result<RunFolder> {
        let metrics = folder.open(METRICS, true).await?;
        let slots = [folder.open(SLOTS[0], true).await?, folder.open(SLOTS[1], true).await?];
        let metrics_bytes = metrics.get_size().map_err(|e| io_error("read the steps", &e))? as u64;
        Ok(RunFolder { note, folder, metrics, metrics_bytes, slots })
    }

    /// The newest checkpoint that is whole, and the steps until it; later steps are cut off the file.
    pub async fn newest(&mut self) -> Result<(Option<Checkpoint>, Vec<StepMetrics>)> {
        let mut newest: Option<(usize, Checkpoint)> = None;
        self.slots.iter().for_each(FileSystemSyncAccessHandle::close);
        for (slot, name) in SLOTS.iter().enumerate() {
            let source = StoredSource::new(*name, self.folder.open(name, true).await?)?;
            // A damaged one was being written when the tab was closed; the other is whole.
            if let Ok(checkpoint) = Checkpoint::read(Box::new(source))
                && newest.as_ref().is_none_or(|(_, other)| other.state.step <= checkpoint.state.step)
            {
                newest = Some((slot, checkpoint));
            }
        }
        self.slots = [self.folder.open(SLOTS[0], true).await?, self.folder.open(SLOTS[1], true).await?];
        let step = newest.as_ref().map_or(0, |(_, checkpoint)| checkpoint.state.step);
        self.note.slot = newest.as_ref().map(|(slot, _)| *slot);
        let mut bytes = vec![0; self.metrics_bytes as usize];
        let fail = |e| io_error("read the steps", &e);
        // From the beginning: the cursor of the handle stands where the last write ended.
        let options = web_sys::FileSystemReadWriteOptions::new();
        options.set_at(0.0);
        self.metrics.read_with_u8_array_and_options(&mut bytes, &options).map_err(fail)?;
        let text = metrics::lines_until(&String::from_utf8_lossy(&bytes), step);
        write_whole(&self.metrics, text.as_bytes(), METRICS)?;
        self.metrics_bytes = text.len() as u64;
        let history = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok((newest.map(|(_, checkpoint)| checkpoint), history))
    }

    /// Adds a step's numbers.
    pub fn add(&mut self, step: &StepMetrics) -> Result<()> {
        let mut line = vec![];
        step.write_line(&mut line, METRICS)?;
        write_at(&self.metrics, self.metrics_bytes, &line, METRICS)?;
        self.metrics_bytes += line.len() as u64;
        Ok(())
    }

    /// Keeps a checkpoint in the slot of the older one.
    pub async fn keep(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let slot = self.note.slot.map_or(0, |slot| 1 - slot);
        let mut bytes = checkpoint.write(SLOTS[slot], vec![])?;
        bytes.flush().map_err(Error::io("write a checkpoint"))?;
        self.metrics.flush().map_err(|e| io_error("write the steps", &e))?;
        write_whole(&self.slots[slot], &bytes, SLOTS[slot])?;
        self.note.slot = Some(slot);
        self.note.step = checkpoint.state.step;
        self.write_note().await
    }

    /// Writes the note.
    pub async fn write_note(&mut self) -> Result<()> {
        self.note.when = clock::unix_seconds();
        self.folder.write_json(NOTE, &self.note).await
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        self.metrics.close();
        self.slots.iter().for_each(FileSystemSyncAccessHandle::close);
    }
}

/// A file of a run that has ended: its newest checkpoint, or its steps.
pub async fn file(id: &str, checkpoint: bool) -> Result<web_sys::Blob> {
    let folder = all().await?.folder(id).await?;
    let gone = || Error::malformed(id, "this run is not in the browser's storage any more");
    let note: Note = folder.read_json(NOTE).await.ok_or_else(gone)?;
    match (checkpoint, note.slot) {
        (true, Some(slot)) => folder.blob(SLOTS[slot]).await,
        (true, None) => Err(Error::malformed(id, "this run has no checkpoint yet")),
        (false, _) => folder.blob(METRICS).await,
    }
}

/// The choices of a run, where it is in the storage.
pub async fn config(id: &str) -> Option<RunConfig> {
    let folder = all().await.ok()?.folder(id).await.ok()?;
    Some(folder.read_json::<Note>(NOTE).await?.config)
}
