//! A folder of named files: on disk, or in memory (what a page was given). What a Hugging Face model is loaded from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::{ByteSource, FileSource, MemorySource};
use crate::{Error, Result};

/// Files by name, without sub-folders.
pub trait Files {
    /// The names of all files, sorted.
    fn list(&self) -> Vec<String>;

    /// Opens the file `name`; errs where it is missing, and on a pickle file, which is never read.
    fn open(&self, name: &str) -> Result<Box<dyn ByteSource>>;

    /// What error messages call the whole: a path, a hub id.
    fn location(&self) -> String;

    /// True where there is a file `name`.
    fn has(&self, name: &str) -> bool {
        self.list().iter().any(|present| present == name)
    }

    /// The whole of a text file of at most `limit` bytes, such as `config.json`.
    fn read_text(&self, name: &str, limit: u64) -> Result<String> {
        let source = self.open(name)?;
        if source.len() > limit {
            let problem = format!("{} bytes; at most {limit} were expected of this file", source.len());
            return Err(Error::malformed(source.name(), problem));
        }
        String::from_utf8(source.read_vec(0, source.len())?)
            .map_err(|e| Error::malformed(source.name(), format!("is not UTF-8 text: {}", e.utf8_error())))
    }
}

/// A folder on disk.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    names: Vec<String>,
}

impl Folder {
    /// Lists the files of `path`; errs where it is no folder or unreadable.
    pub fn open(path: impl AsRef<Path>) -> Result<Folder> {
        let path = path.as_ref().to_path_buf();
        let mut names = Vec::new();
        let what = || format!("list the folder {}", path.display());
        for entry in std::fs::read_dir(&path).map_err(Error::io(what()))? {
            let entry = entry.map_err(Error::io(what()))?;
            // A link to a file counts as a file, which is how a hub cache is laid out.
            if entry.path().is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(Folder { path, names })
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Files for Folder {
    fn list(&self) -> Vec<String> {
        self.names.clone()
    }

    fn open(&self, name: &str) -> Result<Box<dyn ByteSource>> {
        if !is_plain_name(name) {
            return Err(Error::malformed(self.location(), format!("`{name}` is no file name")));
        }
        if !self.names.iter().any(|present| present == name) {
            return Err(missing(self, name));
        }
        open_unpickled(name, Box::new(FileSource::open(self.path.join(name))?))
    }

    fn location(&self) -> String {
        self.path.display().to_string()
    }
}

/// Files in memory under the name of the whole.
#[derive(Clone, Debug, Default)]
pub struct MemoryFiles {
    location: String,
    files: BTreeMap<String, Arc<[u8]>>,
}

impl MemoryFiles {
    /// No files yet; `location` is the name that error messages give.
    pub fn new(location: impl Into<String>) -> MemoryFiles {
        MemoryFiles { location: location.into(), files: BTreeMap::new() }
    }

    /// Adds the file `name`, or replaces it.
    pub fn insert(&mut self, name: impl Into<String>, bytes: impl Into<Arc<[u8]>>) {
        self.files.insert(name.into(), bytes.into());
    }
}

impl Files for MemoryFiles {
    fn list(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }

    fn open(&self, name: &str) -> Result<Box<dyn ByteSource>> {
        let bytes = self.files.get(name).ok_or_else(|| missing(self, name))?;
        open_unpickled(name, Box::new(MemorySource::new(format!("{}/{name}", self.location), bytes.clone())))
    }

    fn location(&self) -> String {
        self.location.clone()
    }
}

fn missing(files: &dyn Files, name: &str) -> Error {
    Error::malformed(files.location(), format!("there is no file {name}; found: {}", files.list().join(", ")))
}

/// True for a name that stays inside its folder: no separators, not `.` or `..`, no drive.
pub fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}

/// Checks `source`, called `name`, by [`refuse_pickle`]; every way to open a file of a model goes through here.
pub fn open_unpickled(name: &str, source: Box<dyn ByteSource>) -> Result<Box<dyn ByteSource>> {
    let start = source.read_vec(0, source.len().min(PICKLE_LOOK))?;
    refuse_pickle(name, &start)?;
    Ok(source)
}

/// How far into a file [`refuse_pickle`] looks: an archive of PyTorch names its `data.pkl` first.
const PICKLE_LOOK: u64 = 256;
const PICKLE_ENDINGS: [&str; 6] = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"];

/// Errs where a file is a Python pickle, by its name or its first bytes `start` (at least 256 where there are as many):
/// unpickling runs code that the file brings along.
pub fn refuse_pickle(name: &str, start: &[u8]) -> Result<()> {
    let lower = name.to_ascii_lowercase();
    let by_name = PICKLE_ENDINGS.iter().any(|ending| lower.ends_with(ending));
    let zip_of_pickle = start.starts_with(b"PK\x03\x04") && start.windows(8).any(|window| window == b"data.pkl");
    // Protocols 2 to 5 open with PROTO and the protocol's number.
    let bare_pickle = matches!(start, [0x80, 2..=5, ..]);
    if !(by_name || zip_of_pickle || bare_pickle) {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("{name}: a Python pickle file, which can run any code when it is opened,"),
        supported:
            "the same model as *.safetensors (many repositories hold both; `save_pretrained` writes it) or as .gguf"
                .into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pickle_is_refused_by_name_and_by_content_with_the_reason() {
        let mut files = MemoryFiles::new("m");
        files.insert("config.json", *b"{}");
        files.insert("pytorch_model.bin", *b"x");
        files.insert("renamed.safetensors", *b"\x80\x02}q\x00.");
        files.insert(
            "zip.safetensors",
            *b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\x12\0archive/data.pkl",
        );
        files.insert("plain.zip", *b"PK\x03\x04 nothing of the kind");
        assert_eq!(files.read_text("config.json", 10).unwrap(), "{}");
        files.open("plain.zip").unwrap();
        for name in ["pytorch_model.bin", "renamed.safetensors", "zip.safetensors"] {
            let refusal = files.open(name).err().unwrap().to_string();
            assert!(refusal.contains("run any code") && refusal.contains("safetensors"), "{refusal}");
        }
        assert_eq!(
            files.open("x").err().unwrap().to_string(),
            "m: there is no file x; found: config.json, plain.zip, pytorch_model.bin, renamed.safetensors, zip.safetensors"
        );
        assert!(files.read_text("config.json", 1).is_err());
    }

    #[test]
    fn a_name_with_a_path_in_it_is_no_plain_name() {
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
        for name in ["", ".", "..", "a/b", "../a", "a\\b", "C:a"] {
            assert!(!is_plain_name(name), "{name}");
        }
    }
}
