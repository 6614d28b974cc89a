//! Files to be saved: adapters as PEFT writes them, merged models, checkpoints, the steps of a run.

use std::io::{Cursor, Seek, SeekFrom, Write};

use espalier::export::{FloatType, Merged, Trained, WEIGHTS_FILE, folder_texts, write_safetensors};
use espalier::model::weights::TensorSource;
use espalier::train::CHECKPOINT_FILE;
use espalier::{Error, Result};
use js_sys::{Array, Uint8Array};
use web_sys::{Blob, FileSystemReadWriteOptions, FileSystemSyncAccessHandle};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::library::folder_name;
use super::post::{Reporter, post_with};
use super::runs;
use super::session::Session;
use super::store::{Dir, io_error, write_at};
use crate::protocol::{Event, Export, Work};

/// The file in which a merged model is put together; it is replaced by the next.
const MERGED: &str = "export.zip";

impl Session {
    /// Makes a file and hands it to the page.
    pub async fn export(&mut self, what: &Export) -> Result<()> {
        let mut reporter = Reporter::new(Work::Export, "writing the file", false);
        let (name, blob) = match what {
            Export::Peft { adapter } => {
                let held = self.shelf.get(*adapter)?;
                let files = held.adapter.to_files()?;
                (format!("{}.zip", folder_name(&held.shown.name)), zipped(&files)?)
            }
            Export::Merged { adapter } => self.merged(*adapter, &mut reporter).await?,
            Export::Checkpoint { run } => (CHECKPOINT_FILE.to_string(), runs::file(run, true).await?),
            Export::Metrics { run } => ("metrics.jsonl".to_string(), runs::file(run, false).await?),
        };
        post_with(&Event::File { name, bytes: blob.size() as u64 }, &[blob]);
        Ok(())
    }

    /// A Hugging Face folder with the adapter merged in, put together in the storage.
    async fn merged(&self, adapter: u32, reporter: &mut Reporter) -> Result<(String, Blob)> {
        let (model, held) = (self.model()?, self.shelf.get(adapter)?);
        let files = &model.files;
        let (merged, trained);
        let source: &dyn TensorSource = if held.adapter.method.trains_base() {
            trained = Trained::new(&held.adapter.tensors);
            &trained
        } else {
            merged = Merged::new(files, &held.adapter)?;
            &merged
        };
        let root = Dir::root().await?;
        let out = StoredFile { handle: root.open(MERGED, true).await?, at: 0 };
        out.handle.truncate_with_u32(0).map_err(|e| io_error("write the model", &e))?;
        let failed = |e: zip::result::ZipError| Error::io("write the model")(e.into());
        let mut archive = ZipWriter::new(out);
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
        for (name, text) in folder_texts(files, FloatType::F32)? {
            archive.start_file(name, options).map_err(failed)?;
            archive.write_all(text.as_bytes()).map_err(Error::io("write the model"))?;
        }
        archive.start_file(WEIGHTS_FILE, options).map_err(failed)?;
        let total = files.config().parameters();
        let mut show = |done| reporter.set(done, total);
        let archive = write_safetensors(WEIGHTS_FILE, archive, files.config(), source, FloatType::F32, &mut show)?;
        let out = archive.finish().map_err(failed)?;
        out.handle.flush().map_err(|e| io_error("write the model", &e))?;
        drop(out);
        let name = format!("{}-{}.zip", folder_name(&model.name), folder_name(&held.shown.name));
        Ok((name, root.blob(MERGED).await?))
    }
}

/// Files in a zip file, as a blob.
fn zipped(files: &[(String, Vec<u8>)]) -> Result<Blob> {
    let failed = |e: zip::result::ZipError| Error::io("write the zip file")(e.into());
    let mut archive = ZipWriter::new(Cursor::new(vec![]));
    for (name, bytes) in files {
        archive.start_file(name, SimpleFileOptions::default()).map_err(failed)?;
        archive.write_all(bytes).map_err(Error::io("write the zip file"))?;
    }
    let bytes = archive.finish().map_err(failed)?.into_inner();
    let parts = Array::of1(&Uint8Array::from(bytes.as_slice()));
    Blob::new_with_u8_array_sequence(&parts).map_err(|e| io_error("make a file", &e))
}

/// A file of the storage as something to write to; closed when dropped.
struct StoredFile {
    handle: FileSystemSyncAccessHandle,
    at: u64,
}

impl Write for StoredFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        write_at(&self.handle, self.at, bytes, MERGED).map_err(|error| match error {
            Error::Io { source, .. } => source,
            other => std::io::Error::other(other.to_string()),
        })?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for StoredFile {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let size = || self.handle.get_size().unwrap_or(0.0) as u64;
        let (base, by) = match to {
            SeekFrom::Start(at) => (0, at as i64),
            SeekFrom::Current(by) => (self.at, by),
            SeekFrom::End(by) => (size(), by),
        };
        self.at = base.checked_add_signed(by).ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl std::io::Read for StoredFile {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let options = FileSystemReadWriteOptions::new();
        options.set_at(self.at as f64);
        let read = self.handle.read_with_u8_array_and_options(bytes, &options);
        let read = read.map_err(|_| std::io::Error::other("the storage cannot be read"))? as usize;
        self.at += read as u64;
        Ok(read)
    }
}

impl Drop for StoredFile {
    fn drop(&mut self) {
        self.handle.close();
    }
}
