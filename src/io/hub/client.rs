//! Fetches a model from a hub into a cache, once: `CACHE/hub/owner--name/COMMIT/`.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Deserialize;

use super::transfer::{Hub, Wanted};
use super::{DEFAULT_ENDPOINT, HubId, Needed, needed_files};
use crate::io::files::is_plain_name;
use crate::io::safetensors::shards_of_index;
use crate::io::{FileSource, write_atomically};
use crate::{Error, Result};

/// How far a fetch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file that is being fetched.
    pub file: &'a str,
    /// Bytes that lie on the disk, of all files.
    pub done: u64,
    /// Bytes of all files, where the hub says so.
    pub total: Option<u64>,
}

/// A hub and the cache for what comes from it.
pub struct HubClient {
    hub: Hub,
    cache: PathBuf,
}

/// The folder for what can be fetched or computed again: `ESPALIER_CACHE`, or `espalier` in the user's cache folder.
pub fn cache_folder() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("ESPALIER_CACHE").filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let folder = dirs::cache_dir().map(|folder| folder.join("espalier"));
    folder.ok_or_else(|| Error::Option {
        name: "ESPALIER_CACHE".into(),
        value: "(not set)".into(),
        expected: "this system has no cache folder; set ESPALIER_CACHE to one".into(),
    })
}

/// The name of the file that says that a folder is complete.
const COMPLETE: &str = ".complete";
/// A list of files longer than this, in bytes, is refused.
const MAX_LISTING: u64 = 32 << 20;

#[derive(Deserialize)]
struct Listing {
    sha: Option<String>,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
}

impl HubClient {
    /// The hub at `HF_ENDPOINT` (or the default), with the token in `HF_TOKEN` if there is one, and the user's cache. Proxies
    /// are taken from the environment (`https_proxy` and its kin), further root certificates from `SSL_CERT_FILE`.
    pub fn from_env() -> Result<HubClient> {
        let set =
            |name: &str| env::var(name).ok().map(|value| value.trim().to_string()).filter(|value| !value.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.into());
        HubClient::new(&endpoint, set("HF_TOKEN"), cache_folder()?)
    }

    /// The hub at `endpoint` (`http://` or `https://`), which `token` opens, with `cache` for its files.
    pub fn new(endpoint: &str, token: Option<String>, cache: PathBuf) -> Result<HubClient> {
        Ok(HubClient { hub: Hub::new(endpoint, token)?, cache })
    }

    /// How long to wait before a transfer that broke off is taken up again, the first time; then twice that, and so on.
    pub fn with_retry_pause(mut self, pause: Duration) -> HubClient {
        self.hub.retry_pause = pause;
        self
    }

    /// The path of the model `id`: a folder, or a GGUF file. What is missing of it is fetched first: only what a model needs
    /// (see [`needed_files`]); transfers that break off are resumed, also by a later call; lengths and SHA-256 sums are
    /// checked. Where the hub cannot be reached, what was fetched before is used. `progress` is called now and then.
    /// Errs with [`Error::Cancelled`] soon after `cancel` is set, keeping what has arrived.
    pub fn fetch(&self, id: &HubId, cancel: &AtomicBool, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        let model = self.cache.join("hub").join(format!("{}--{}", id.owner, id.name));
        if is_commit(&id.revision)
            && let Some(path) = cached(&model.join(&id.revision), id)
        {
            return Ok(path);
        }
        let reference = model.join("refs").join(id.revision.replace('/', "--"));
        let listing = match self.hub.get_small(id, &id.listing_path(), MAX_LISTING) {
            Err(unreachable @ Error::Io { .. }) => {
                let commit = fs::read_to_string(&reference).unwrap_or_default();
                let path = if is_commit(&commit) { cached(&model.join(commit), id) } else { None };
                let path = path.ok_or(unreachable)?;
                tracing::warn!("the hub cannot be reached; using {id} as fetched before");
                return Ok(path);
            }
            listing => listing?,
        };
        let listing: Listing = serde_json::from_slice(&listing)
            .map_err(|e| Error::malformed(id.to_string(), format!("the hub's list of files is not valid: {e}")))?;
        // Files of a commit never change; a hub that names none is asked for each file's length again.
        let commit = listing.sha.filter(|sha| is_commit(sha));
        let folder = model.join(commit.as_deref().unwrap_or("unversioned"));
        let present = commit.as_ref().and_then(|_| cached(&folder, id));
        let path = match present {
            Some(path) => path,
            None => {
                let revision = commit.as_deref().unwrap_or(&id.revision);
                let siblings = &listing.siblings;
                Fetch { hub: &self.hub, id, revision, folder: &folder, siblings, cancel, done: 0, total: Some(0) }
                    .run(progress)?
            }
        };
        if let Some(commit) = &commit {
            write_text(&reference, commit)?;
        }
        Ok(path)
    }
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    write_atomically(path, |out| out.write_all(text.as_bytes()).map_err(Error::io(format!("write {}", path.display()))))
}

/// One fetch of the files of a model.
struct Fetch<'a> {
    hub: &'a Hub,
    id: &'a HubId,
    revision: &'a str,
    folder: &'a Path,
    siblings: &'a [Sibling],
    cancel: &'a AtomicBool,
    /// Bytes of the files that are complete.
    done: u64,
    /// Bytes of all files, while each one's size is known.
    total: Option<u64>,
}

impl Fetch<'_> {
    fn run(mut self, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        let listed: Vec<String> = self.siblings.iter().map(|sibling| sibling.rfilename.clone()).collect();
        match needed_files(self.id, &listed)? {
            Needed::Gguf(file) => {
                self.get_all(std::slice::from_ref(&file), progress)?;
                if self.id.file.is_none() {
                    write_text(&self.folder.join(COMPLETE), &file)?;
                }
                Ok(self.folder.join(file))
            }
            Needed::Folder { mut files, index } => {
                if let Some(index) = index {
                    self.get_all(std::slice::from_ref(&index), progress)?;
                    files.extend(shards_of_index(&FileSource::open(self.folder.join(index))?)?);
                }
                self.get_all(&files, progress)?;
                write_text(&self.folder.join(COMPLETE), "")?;
                Ok(self.folder.to_path_buf())
            }
        }
    }

    fn get_all(&mut self, names: &[String], progress: &mut dyn FnMut(Progress)) -> Result<()> {
        let mut wanted = Vec::with_capacity(names.len());
        for name in names {
            let sibling = self.siblings.iter().find(|sibling| sibling.rfilename == *name);
            let (Some(sibling), true) = (sibling, is_plain_name(name)) else {
                return Err(Error::malformed(
                    self.id.to_string(),
                    format!("its index lists {name}, which is not there"),
                ));
            };
            self.total = self.total.zip(sibling.size).and_then(|(total, size)| total.checked_add(size));
            let sha256 = sibling.lfs.as_ref().and_then(|lfs| lfs.sha256.clone());
            wanted.push(Wanted { name, size: sibling.size, sha256, pinned: is_commit(self.revision) });
        }
        for wanted in wanted {
            let path = self.id.file_path(self.revision, wanted.name);
            let (before, total) = (self.done, self.total);
            let mut report = |bytes| progress(Progress { file: wanted.name, done: before + bytes, total });
            self.done += self.hub.get_file(self.id, &path, &wanted, self.folder, self.cancel, &mut report)?;
        }
        Ok(())
    }
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What `id` means in `folder`, if it is there.
fn cached(folder: &Path, id: &HubId) -> Option<PathBuf> {
    if let Some(file) = &id.file {
        return Some(folder.join(file)).filter(|path| path.is_file());
    }
    // The marker holds the name of the one file that was fetched, or nothing.
    let only = fs::read_to_string(folder.join(COMPLETE)).ok()?;
    if only.is_empty() { Some(folder.to_path_buf()) } else { Some(folder.join(only)).filter(|path| path.is_file()) }
}
