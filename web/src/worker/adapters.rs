//! The adapters at hand: what runs made, and what was dropped.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use espalier::io::MemoryFiles;
use espalier::peft::{Adapter, Method};
use espalier::{Error, Result};
use web_sys::Blob;

use super::files::BlobSource;
use super::models::name_of;
use super::post::post;
use super::session::Session;
use crate::protocol::{self, Event};

/// Largest adapter file that is read, bytes: it is held in memory.
const MAX_BYTES: u64 = 512 << 20;

/// Adapters by number.
#[derive(Default)]
pub struct Shelf {
    held: BTreeMap<u32, Held>,
    next: u32,
}

/// An adapter, and what the page is told of it.
pub struct Held {
    pub shown: protocol::Adapter,
    pub adapter: Adapter,
}

impl Shelf {
    /// Takes an adapter; its number.
    pub fn add(&mut self, name: String, adapter: Adapter, losses: Option<(f64, f64)>, run: Option<String>) -> u32 {
        let id = self.next;
        self.next += 1;
        let parameters = adapter.tensors.iter().map(|t| t.data.len() as u64).sum();
        let method = match &adapter.method {
            Method::Lora(lora) => format!("LoRA, rank {}", lora.r),
            Method::Full => "every weight".into(),
            Method::None => "nothing trained".into(),
        };
        let shown =
            protocol::Adapter { id, name, method, parameters, bytes: 4 * parameters, losses, run, merges: true };
        self.held.insert(id, Held { shown, adapter });
        id
    }

    /// An adapter by its number.
    pub fn get(&self, id: u32) -> Result<&Held> {
        self.held.get(&id).ok_or_else(|| Error::Option {
            name: "adapter".into(),
            value: id.to_string(),
            expected: "it is not at hand any more".into(),
        })
    }

    /// Tells the page what is at hand.
    pub fn tell(&self) {
        let adapters = self.held.values().map(|held| held.shown.clone()).collect();
        post(&Event::Adapters { adapters });
    }
}

impl Session {
    /// Takes an adapter from dropped files: a PEFT folder, or a zip file of one.
    pub fn add_adapter(&mut self, files: &[Blob]) -> Result<()> {
        let mut folder = MemoryFiles::new("the adapter");
        let mut name = "adapter".to_string();
        for blob in files {
            let file = name_of(blob);
            let source = BlobSource::new(&file, blob.clone())?;
            let length = espalier::io::ByteSource::len(&source);
            if length > MAX_BYTES {
                return Err(Error::malformed(
                    &file,
                    format!("{length} bytes; an adapter of up to {MAX_BYTES} is read"),
                ));
            }
            let bytes = espalier::io::ByteSource::read_vec(&source, 0, length)?;
            if file.to_ascii_lowercase().ends_with(".zip") {
                name = file.trim_end_matches(".zip").to_string();
                unzip(&file, bytes, &mut folder)?;
            } else {
                folder.insert(file, bytes);
            }
        }
        let adapter = Adapter::read(&folder)?;
        self.shelf.add(name, adapter, None, None);
        self.shelf.tell();
        Ok(())
    }
}

fn unzip(file: &str, bytes: Vec<u8>, into: &mut MemoryFiles) -> Result<()> {
    let damaged = |e: zip::result::ZipError| Error::malformed(file, format!("is no zip file that can be read: {e}"));
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    for at in 0..archive.len() {
        let mut member = archive.by_index(at).map_err(damaged)?;
        if !member.is_file() || member.size() > MAX_BYTES {
            continue;
        }
        let name = member.name().rsplit('/').next().unwrap_or_default().to_string();
        let mut bytes = vec![];
        // The header's size may lie: no more than the limit is ever unpacked.
        let read = member.by_ref().take(MAX_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(Error::io(format!("unpack {file}")))?;
        into.insert(name, bytes);
    }
    Ok(())
}
