//! What is kept of models: a folder each in the storage, with a note that says what it is and how much of it is there.

use std::collections::BTreeMap;

use espalier::io::files::open_unpickled;
use espalier::io::{ByteSource, Files};
use espalier::{Error, Result};
use serde::{Deserialize, Serialize};

use super::files::StoredSource;
use super::store::Dir;
use crate::protocol::{ModelChoice, StoredModel};

/// The note's file name.
const NOTE: &str = "model.espalier.json";

/// What a stored model is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// For people
    pub name: String,
    /// Where it can be had again
    pub choice: ModelChoice,
    pub files: Vec<StoredFile>,
}

/// A file of a stored model, and what it has to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredFile {
    pub name: String,
    /// Absent where the server did not say
    pub bytes: Option<u64>,
    pub sha256: Option<String>,
    /// All of it is there, and is what it has to be
    pub complete: bool,
}

/// The folder of stored models.
pub async fn models() -> Result<Dir> {
    Dir::root().await?.folder("models").await
}

/// A name for the folder of a model: letters, digits, `-`, `_` and `.` stay, all else becomes `-`.
pub fn folder_name(id: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    id.chars().map(plain).collect::<String>().trim_matches('.').to_string()
}

/// The note in a model's folder.
pub async fn note(folder: &Dir) -> Option<Note> {
    folder.read_json(NOTE).await
}

/// Writes the note.
pub async fn write_note(folder: &Dir, note: &Note) -> Result<()> {
    folder.write_json(NOTE, note).await
}

/// All stored models.
pub async fn list() -> Result<Vec<StoredModel>> {
    let models = models().await?;
    let mut found = vec![];
    for id in models.list().await? {
        let folder = models.folder(&id).await?;
        let note = note(&folder).await;
        let complete = note.as_ref().is_some_and(|note| note.files.iter().all(|file| file.complete));
        let name = note.map_or_else(|| id.clone(), |note| note.name);
        found.push(StoredModel { bytes: folder.total().await, id, name, complete });
    }
    Ok(found)
}

/// The files of a stored model, opened.
pub struct StoredFiles {
    location: String,
    /// Each can be taken once: a file has one handle.
    files: BTreeMap<String, std::cell::RefCell<Option<StoredSource>>>,
}

impl StoredFiles {
    /// Opens the files that the note lists.
    pub async fn open(folder: &Dir, note: &Note) -> Result<StoredFiles> {
        let mut files = BTreeMap::new();
        for file in &note.files {
            let source =
                StoredSource::new(format!("{}/{}", note.name, file.name), folder.open(&file.name, false).await?)?;
            files.insert(file.name.clone(), std::cell::RefCell::new(Some(source)));
        }
        Ok(StoredFiles { location: note.name.clone(), files })
    }
}

impl Files for StoredFiles {
    fn list(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }

    fn open(&self, name: &str) -> Result<Box<dyn ByteSource>> {
        let source = self.files.get(name).and_then(|file| file.borrow_mut().take());
        let missing =
            || Error::malformed(&self.location, format!("there is no file {name}; found: {}", self.list().join(", ")));
        open_unpickled(name, Box::new(source.ok_or_else(missing)?))
    }

    fn location(&self) -> String {
        self.location.clone()
    }
}
