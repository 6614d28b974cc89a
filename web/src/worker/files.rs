//! Files that the page was given, or that lie in the browser's storage, read at offsets without being loaded whole.

use std::collections::BTreeMap;

use espalier::io::files::open_unpickled;
use espalier::io::source::check_range;
use espalier::io::{ByteSource, Files};
use espalier::{Error, Result};
use js_sys::Uint8Array;
use web_sys::{Blob, FileReaderSync, FileSystemReadWriteOptions, FileSystemSyncAccessHandle};

use super::store::io_error;

/// A file the user gave.
pub struct BlobSource {
    name: String,
    blob: Blob,
    reader: FileReaderSync,
}

impl BlobSource {
    /// `blob`, called `name`.
    pub fn new(name: impl Into<String>, blob: Blob) -> Result<BlobSource> {
        let name = name.into();
        let reader = FileReaderSync::new().map_err(|e| io_error(format!("read {name}"), &e))?;
        Ok(BlobSource { name, blob, reader })
    }
}

impl ByteSource for BlobSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.blob.size() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name, self.len(), offset, buf.len() as u64)?;
        let fail = |e| io_error(format!("read {}", self.name), &e);
        let end = (offset + buf.len() as u64) as f64;
        let piece = self.blob.slice_with_f64_and_f64(offset as f64, end).map_err(fail)?;
        let bytes = Uint8Array::new(&self.reader.read_as_array_buffer(&piece).map_err(fail)?.into());
        if bytes.length() as usize != buf.len() {
            return Err(Error::malformed(&self.name, "changed while it was read"));
        }
        bytes.copy_to(buf);
        Ok(())
    }
}

/// A file in the browser's storage; closed when dropped.
pub struct StoredSource {
    name: String,
    len: u64,
    handle: FileSystemSyncAccessHandle,
}

impl StoredSource {
    /// The file behind `handle`, called `name`.
    pub fn new(name: impl Into<String>, handle: FileSystemSyncAccessHandle) -> Result<StoredSource> {
        let name = name.into();
        let len = handle.get_size().map_err(|e| io_error(format!("read {name}"), &e))? as u64;
        Ok(StoredSource { name, len, handle })
    }
}

impl ByteSource for StoredSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name, self.len, offset, buf.len() as u64)?;
        let fail = |e| io_error(format!("read {}", self.name), &e);
        let mut done = 0;
        while done < buf.len() {
            let options = FileSystemReadWriteOptions::new();
            options.set_at((offset + done as u64) as f64);
            let read = self.handle.read_with_u8_array_and_options(&mut buf[done..], &options).map_err(fail)? as usize;
            if read == 0 {
                return Err(Error::malformed(&self.name, "ended while it was read"));
            }
            done += read;
        }
        Ok(())
    }
}

impl Drop for StoredSource {
    fn drop(&mut self) {
        self.handle.close();
    }
}

/// A folder of files that the page was given.
pub struct BlobFiles {
    location: String,
    files: BTreeMap<String, Blob>,
}

impl BlobFiles {
    /// `files` by name, called `location`.
    pub fn new(location: impl Into<String>, files: BTreeMap<String, Blob>) -> BlobFiles {
        BlobFiles { location: location.into(), files }
    }
}

impl Files for BlobFiles {
    fn list(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }

    fn open(&self, name: &str) -> Result<Box<dyn ByteSource>> {
        let missing =
            || Error::malformed(&self.location, format!("there is no file {name}; found: {}", self.list().join(", ")));
        let blob = self.files.get(name).ok_or_else(missing)?;
        open_unpickled(name, Box::new(BlobSource::new(format!("{}/{name}", self.location), blob.clone())?))
    }

    fn location(&self) -> String {
        self.location.clone()
    }
}
