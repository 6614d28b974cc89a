//! Bringing a model here: the page's own, the one served beside it, one of a hub, or files that were dropped.

use std::collections::BTreeMap;
use std::rc::Rc;

use espalier::io::{Files, MemorySource};
use espalier::model::ModelFiles;
use espalier::model::chat_template::Origin;
use espalier::quant::WeightFormat;
use espalier::train::RunConfig;
use espalier::{Error, Result};
use wasm_bindgen::JsCast;
use web_sys::{Blob, File};

use super::download::{Wanted, fetch_all, fetch_bytes, hub_files, hub_id};
use super::files::{BlobFiles, BlobSource};
use super::library::{self, Note, StoredFile, StoredFiles, folder_name};
use super::post::{Reporter, post};
use super::session::{LoadedModel, Session};
use super::store::write_at;
use crate::protocol::{Event, Model, ModelChoice, Work};

/// Where the page's own model and the one beside it lie, and what they are called.
const SEEDLING: (&str, &str) = ("assets/seedling.gguf", "Seedling");
const SERVED: (&str, &str) = ("models/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct");
/// Largest model that is held in memory, bytes.
const MAX_IN_MEMORY: usize = 16 << 20;
/// Bytes copied at once into the storage.
const COPY_PIECE: f64 = (4 << 20) as f64;
/// Below this many parameters a model learns at the higher rate and in the larger batches that suit it.
const TINY: u64 = 20_000_000;

/// A dropped file's name, without its folder.
pub fn name_of(blob: &Blob) -> String {
    blob.dyn_ref::<File>().map_or_else(|| "file".into(), |file| file.name())
}

fn is_gguf(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
}

impl Session {
    /// Loads a model's files and tells the page what it is.
    pub async fn load_model(&mut self, choice: ModelChoice, keep_copy: bool, files: &[Blob]) -> Result<()> {
        self.drop_model();
        let loaded = self.open_choice(&choice, keep_copy, files).await?;
        let model = describe(&loaded)?;
        self.model = Some(loaded);
        post(&Event::Model(model));
        // Without storage there is nothing to list.
        let _ = self.storage().await;
        Ok(())
    }

    /// Opens what `choice` names.
    pub async fn open_choice(&self, choice: &ModelChoice, keep_copy: bool, files: &[Blob]) -> Result<LoadedModel> {
        match choice {
            ModelChoice::Seedling => {
                let _reporter = Reporter::new(Work::Download, SEEDLING.1, true);
                let bytes = fetch_bytes(SEEDLING.0, MAX_IN_MEMORY).await?;
                let length = bytes.len() as u64;
                let mut files = ModelFiles::open_gguf(Box::new(MemorySource::new(SEEDLING.1, bytes)))?;
                files.set_location(SEEDLING.1);
                let choice = Some(choice.clone());
                Ok(LoadedModel { files: Rc::new(files), name: SEEDLING.1.into(), bytes: length, choice })
            }
            ModelChoice::Served => {
                let file = StoredFile { name: "model.gguf".into(), bytes: None, sha256: None, complete: false };
                self.fetch_model(SERVED.1, choice, vec![Wanted { url: SERVED.0.into(), file }]).await
            }
            ModelChoice::Hub { .. } => {
                let Some((id, endpoint)) = hub_id(choice)? else { unreachable!("the choice is of a hub") };
                let name = id.to_string();
                let wanted = hub_files(&endpoint, &id).await?;
                self.fetch_model(&name, choice, wanted).await
            }
            ModelChoice::Stored { id } => {
                let folder = library::models().await?.folder(id).await?;
                let note = library::note(&folder).await;
                let note = note.ok_or_else(|| Error::malformed(id, "is not in this browser's storage any more"))?;
                match note.files.iter().all(|file| file.complete) {
                    true => open_stored(&folder, &note, choice.clone()).await,
                    // A download that was interrupted goes on where it came from.
                    false => Box::pin(self.open_choice(&note.choice, keep_copy, files)).await,
                }
            }
            ModelChoice::Files => self.open_dropped(keep_copy, files).await,
        }
    }

    /// Fetches what is missing of a model, then opens it from the storage.
    async fn fetch_model(&self, name: &str, choice: &ModelChoice, wanted: Vec<Wanted>) -> Result<LoadedModel> {
        let id = folder_name(name);
        let folder = library::models().await?.folder(&id).await?;
        let earlier = library::note(&folder).await.filter(|note| note.choice == *choice);
        let mut note = earlier.unwrap_or_else(|| Note { name: name.into(), choice: choice.clone(), files: vec![] });
        let mut reporter = Reporter::new(Work::Download, name, true);
        fetch_all(&folder, &mut note, &wanted, &self.control, &mut reporter).await?;
        open_stored(&folder, &note, choice.clone()).await
    }

    /// Opens files that were dropped, and keeps a copy where that is wanted and there is room.
    async fn open_dropped(&self, keep_copy: bool, files: &[Blob]) -> Result<LoadedModel> {
        let by_name: BTreeMap<String, Blob> = files.iter().map(|file| (name_of(file), file.clone())).collect();
        let gguf = by_name.keys().find(|name| is_gguf(name)).cloned();
        let name = match &gguf {
            Some(name) => name.trim_end_matches(".gguf").trim_end_matches(".GGUF").to_string(),
            None => "dropped folder".into(),
        };
        let opened = match &gguf {
            Some(file) => {
                let mut opened = ModelFiles::open_gguf(Box::new(BlobSource::new(file, by_name[file].clone())?))?;
                opened.set_location(&name);
                opened
            }
            None => ModelFiles::open_folder(&BlobFiles::new(&name, by_name.clone()))?,
        };
        let mut choice = None;
        if keep_copy {
            match self.keep_copy(&name, gguf.as_deref(), &by_name).await {
                Ok(id) => choice = Some(ModelChoice::Stored { id }),
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => post(&Event::Notice { text: format!("No copy of the model was kept: {error}") }),
            }
        }
        let bytes = by_name.values().map(|blob| blob.size() as u64).sum();
        Ok(LoadedModel { files: Rc::new(opened), name, bytes, choice })
    }

    /// Copies dropped files into the storage; the name of their folder.
    async fn keep_copy(&self, name: &str, gguf: Option<&str>, files: &BTreeMap<String, Blob>) -> Result<String> {
        let id = folder_name(name);
        let folder = library::models().await?.folder(&id).await?;
        let wanted: Vec<(&String, &Blob)> =
            files.iter().filter(|(name, _)| gguf.is_none_or(|gguf| gguf == **name)).collect();
        let total: u64 = wanted.iter().map(|(_, blob)| blob.size() as u64).sum();
        let mut reporter = Reporter::new(Work::Load, format!("keeping a copy of {name}"), true);
        let choice = ModelChoice::Stored { id: id.clone() };
        let mut note = Note { name: name.into(), choice, files: vec![] };
        let mut done = 0;
        for (file, blob) in wanted {
            let source = BlobSource::new(file, blob.clone())?;
            let handle = folder.open(file, true).await?;
            let mut at = 0.0;
            while at < blob.size() {
                let length = COPY_PIECE.min(blob.size() - at);
                let bytes = espalier::io::ByteSource::read_vec(&source, at as u64, length as u64);
                if let Err(error) = bytes.and_then(|bytes| write_at(&handle, at as u64, &bytes, file)) {
                    handle.close();
                    return Err(error);
                }
                at += length;
                reporter.set(done + at as u64, total);
                espalier::platform::yield_now().await;
                if self.control.is_cancelled() {
                    handle.close();
                    return Err(Error::Cancelled);
                }
            }
            handle.close();
            done += blob.size() as u64;
            note.files.push(StoredFile {
                name: file.clone(),
                bytes: Some(blob.size() as u64),
                sha256: None,
                complete: true,
            });
        }
        library::write_note(&folder, &note).await?;
        Ok(id)
    }
}

async fn open_stored(folder: &super::store::Dir, note: &Note, choice: ModelChoice) -> Result<LoadedModel> {
    let files = StoredFiles::open(folder, note).await?;
    let mut opened = match note.files.iter().find(|file| is_gguf(&file.name)) {
        Some(file) => ModelFiles::open_gguf(files.open(&file.name)?)?,
        None => ModelFiles::open_folder(&files)?,
    };
    opened.set_location(&note.name);
    let bytes = note.files.iter().filter_map(|file| file.bytes).sum();
    Ok(LoadedModel { files: Rc::new(opened), name: note.name.clone(), bytes, choice: Some(choice) })
}

/// What the page is told of a model.
fn describe(loaded: &LoadedModel) -> Result<Model> {
    let (files, config) = (&loaded.files, loaded.files.config());
    let mut dtypes: BTreeMap<String, usize> = BTreeMap::new();
    for tensor in files.tensors() {
        *dtypes.entry(tensor.dtype.clone()).or_default() += 1;
    }
    Ok(Model {
        name: loaded.name.clone(),
        family: config.family.model_type.into(),
        parameters: config.parameters(),
        layers: config.num_hidden_layers,
        hidden_size: config.hidden_size,
        vocab_size: config.vocab_size,
        context: config.max_position_embeddings,
        bytes: loaded.bytes,
        dtypes: dtypes.into_iter().collect(),
        chat_template: files.chat_template().is_ok_and(|template| template.origin() != Origin::Default),
        preset: preset(config.parameters()),
    })
}

/// The choices that suit a model of this size in a browser.
fn preset(parameters: u64) -> RunConfig {
    let tiny = parameters < TINY;
    RunConfig {
        weights: Some(WeightFormat::Nf4 { double_quant: true }),
        lr: tiny.then_some(2e-3),
        steps: tiny.then_some(50),
        batch_size: if tiny { 8 } else { 2 },
        grad_accumulation: if tiny { 1 } else { 4 },
        context: Some(if tiny { 64 } else { 256 }),
        eval_fraction: 0.1,
        eval_every: Some(10),
        checkpoint_every: 10,
        sample_every: Some(10),
        ..RunConfig::default()
    }
}
