//! Bytes that can be read at any offset: a native file, memory, or (in a browser worker) a file handle.
//!
//! Reads are synchronous: a browser worker has `FileReaderSync` and the sync handles of its private file system.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::{Error, Result, platform};

/// A file of known length, read at offsets.
pub trait ByteSource {
    /// What error messages call it: a path, or a name the user gave.
    fn name(&self) -> &str;

    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on. Errs, naming file, offset, wanted and available bytes, where the
    /// range passes the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// True without bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `len` bytes from `offset` on, in new memory that is only taken once the range is known to be there.
    fn read_vec(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        check_range(self.name(), self.len(), offset, len)?;
        let len = usize::try_from(len)
            .map_err(|_| Error::malformed(self.name(), format!("{len} bytes in one piece do not fit this machine")))?;
        let mut bytes = vec![0; len];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// Errs unless `wanted` bytes from `offset` on lie inside a file of `len` bytes.
pub fn check_range(name: &str, len: u64, offset: u64, wanted: u64) -> Result<()> {
    if offset.checked_add(wanted).is_some_and(|end| end <= len) {
        return Ok(());
    }
    let available = len.saturating_sub(offset);
    Err(Error::malformed(
        name,
        format!(
            "wanted {wanted} bytes at offset {offset}, {available} available (the file has {len}): is it truncated?"
        ),
    ))
}

impl<S: ByteSource + ?Sized> ByteSource for Box<S> {
    fn name(&self) -> &str {
        (**self).name()
    }
    fn len(&self) -> u64 {
        (**self).len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        (**self).read_at(offset, buf)
    }
}

impl<S: ByteSource + ?Sized> ByteSource for std::sync::Arc<S> {
    fn name(&self) -> &str {
        (**self).name()
    }
    fn len(&self) -> u64 {
        (**self).len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        (**self).read_at(offset, buf)
    }
}

/// A native file. Its length is taken when it is opened.
#[derive(Debug)]
pub struct FileSource {
    name: String,
    file: File,
    len: u64,
}

impl FileSource {
    /// Opens `path` for reading; errs where it is missing, unreadable, or a folder.
    pub fn open(path: impl AsRef<Path>) -> Result<FileSource> {
        let path: PathBuf = path.as_ref().to_path_buf();
        let name = path.display().to_string();
        let file = File::open(&path).map_err(Error::io(format!("open {name}")))?;
        let attributes = file.metadata().map_err(Error::io(format!("look at {name}")))?;
        if !attributes.is_file() {
            return Err(Error::malformed(name, "is not a file"));
        }
        Ok(FileSource { name, file, len: attributes.len() })
    }
}

impl ByteSource for FileSource {
    fn name(&self) -> &str {
        &self.name
    }
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(&self.name, self.len, offset, buf.len() as u64)?;
        platform::fs::read_exact_at(&self.file, offset, buf).map_err(Error::io(format!(
            "read {} bytes at offset {offset} of {}",
            buf.len(),
            self.name
        )))
    }
}

/// Bytes in memory under a name.
#[derive(Clone, Debug)]
pub struct MemorySource<B> {
    name: String,
    bytes: B,
}

impl<B: AsRef<[u8]>> MemorySource<B> {
    /// `bytes` (a `Vec<u8>`, an `Arc<[u8]>`, a slice), called `name`.
    pub fn new(name: impl Into<String>, bytes: B) -> MemorySource<B> {
        MemorySource { name: name.into(), bytes }
    }
}

impl<B: AsRef<[u8]>> ByteSource for MemorySource<B> {
    fn name(&self) -> &str {
        &self.name
    }
    fn len(&self) -> u64 {
        self.bytes.as_ref().len() as u64
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let bytes = self.bytes.as_ref();
        check_range(&self.name, bytes.len() as u64, offset, buf.len() as u64)?;
        // The range was just checked against a length that fits usize.
        let start = offset as usize;
        buf.copy_from_slice(&bytes[start..start + buf.len()]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_past_the_end_says_file_offset_wanted_and_available() {
        let source = MemorySource::new("x.bin", b"abcdef");
        let mut buf = [0; 4];
        source.read_at(2, &mut buf).unwrap();
        assert_eq!(&buf, b"cdef");
        assert_eq!(
            source.read_at(3, &mut buf).unwrap_err().to_string(),
            "x.bin: wanted 4 bytes at offset 3, 3 available (the file has 6): is it truncated?"
        );
        assert!(source.read_vec(u64::MAX, u64::MAX).is_err());
        assert!(source.read_vec(0, 1 << 60).is_err());
        assert_eq!(source.read_vec(6, 0).unwrap(), b"");
    }
}
