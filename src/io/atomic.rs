//! Files and folders that appear whole or not at all: written under a temporary name in the same place, flushed to the
//! disk, renamed. Whatever fails, nothing is left behind and what was there before stays.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::platform::fs::{create_new, process_id, sync_folder};
use crate::{Error, Result};

/// Writes the file `path` through `write`. The file has its name only once `write` has returned `Ok` and all bytes are on the
/// disk; a file that was there before is then replaced. Folders on the way to it are made. Errs where `path` is something
/// other than a file, and on a full disk with one sentence that says so.
pub fn write_atomically<T>(path: impl AsRef<Path>, write: impl FnOnce(&mut AtomicFile) -> Result<T>) -> Result<T> {
    let mut file = AtomicFile::create(path)?;
    let result = write(&mut file)?;
    file.commit()?;
    Ok(result)
}

/// A file being written under a temporary name; dropped without [`commit`](AtomicFile::commit), it is removed.
pub struct AtomicFile {
    // In this order: closed, then removed, then the folders made for it.
    out: BufWriter<File>,
    temporary: Removed,
    path: PathBuf,
    parents: NewFolders,
}

impl AtomicFile {
    /// Begins the file `path`.
    pub fn create(path: impl AsRef<Path>) -> Result<AtomicFile> {
        let path = path.as_ref().to_path_buf();
        let what = || format!("write {}", path.display());
        if let Ok(present) = fs::metadata(&path)
            && !present.is_file()
        {
            return Err(Error::io(what())(io::Error::new(ErrorKind::AlreadyExists, "it exists and is no file")));
        }
        let temporary = temporary_name(&path).map_err(Error::io(what()))?;
        let parents = NewFolders::make(folder_of(&path)).map_err(Error::io(what()))?;
        let file = create_new(&temporary).map_err(|e| Error::io(what())(explain(e)))?;
        Ok(AtomicFile {
            out: BufWriter::with_capacity(1 << 20, file),
            temporary: Removed(Some(temporary)),
            path,
            parents,
        })
    }

    /// The name that the file will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Brings all bytes to the disk and gives the file its name.
    pub fn commit(mut self) -> Result<()> {
        let Removed(Some(temporary)) = &self.temporary else { return Ok(()) };
        let done = self
            .out
            .flush()
            .and_then(|()| self.out.get_ref().sync_all())
            .and_then(|()| fs::rename(temporary, &self.path))
            .map_err(explain);
        done.map_err(Error::io(format!("write {}", self.path.display())))?;
        self.temporary.0 = None;
        self.parents.keep();
        sync_folder(folder_of(&self.path)).map_err(Error::io(format!("flush the folder of {}", self.path.display())))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes).map_err(explain)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush().map_err(explain)
    }
}

/// What to do with a folder that is there already and has files in it. An empty one is always taken.
#[derive(Clone, Copy)]
pub enum Existing<'a> {
    /// Err.
    Refuse,
    /// Replace it where this is true of every name in it: where it holds only what we would write ourselves.
    ReplaceIf(&'a dyn Fn(&str) -> bool),
    /// Replace it, whatever it holds: the user asked for it.
    Replace,
}

/// Writes the folder `path` through `write`, which is given a temporary folder to fill. The folder has its name only once
/// `write` has returned `Ok` and all its files are on the disk.
pub fn write_folder_atomically<T>(
    path: impl AsRef<Path>,
    existing: Existing,
    write: impl FnOnce(&Path) -> Result<T>,
) -> Result<T> {
    let path = path.as_ref();
    let what = || format!("write the folder {}", path.display());
    let replaced = is_occupied(path, existing)?;
    let temporary = temporary_name(path).map_err(Error::io(what()))?;
    let parents = NewFolders::make(folder_of(path)).map_err(Error::io(what()))?;
    fs::create_dir(&temporary).map_err(|e| Error::io(what())(explain(e)))?;
    let mut removed = Removed(Some(temporary.clone()));
    let result = write(&temporary)?;
    sync_tree(&temporary)
        .and_then(|()| if replaced { replace_folder(&temporary, path) } else { fs::rename(&temporary, path) })
        .map_err(|e| Error::io(what())(explain(e)))?;
    removed.0 = None;
    parents.keep();
    sync_folder(folder_of(path)).map_err(Error::io(format!("flush the folder of {}", path.display())))?;
    Ok(result)
}

/// True where `path` is a folder to be replaced; errs where it may not be.
fn is_occupied(path: &Path, existing: Existing) -> Result<bool> {
    let refuse = |problem: String| {
        Err(Error::Io {
            what: format!("write the folder {}", path.display()),
            source: io::Error::new(ErrorKind::AlreadyExists, problem),
        })
    };
    let Ok(present) = fs::metadata(path) else { return Ok(false) };
    if !present.is_dir() {
        return refuse("it exists and is no folder".into());
    }
    let entries = fs::read_dir(path).map_err(Error::io(format!("list the folder {}", path.display())))?;
    let names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let foreign = match existing {
        Existing::Refuse => names.first(),
        Existing::ReplaceIf(ours) => names.iter().find(|name| !ours(name)),
        Existing::Replace => None,
    };
    match foreign {
        Some(name) => refuse(format!("it is not empty (it holds {name}); choose another, or empty it")),
        None => Ok(true),
    }
}

/// Puts `new` where the folder `old` is; where that fails, `old` stays.
fn replace_folder(new: &Path, old: &Path) -> io::Result<()> {
    let aside = temporary_name(old)?;
    fs::rename(old, &aside)?;
    if let Err(e) = fs::rename(new, old) {
        fs::rename(&aside, old)?;
        return Err(e);
    }
    // The new folder is in place: what is left of the old one under its temporary name is no failure of this write.
    let _ = fs::remove_dir_all(&aside);
    Ok(())
}

/// Brings every file below `folder` to the disk.
fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            // Windows flushes only through a handle that may write.
            File::options().read(true).write(true).open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(folder)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// A hidden name beside `path` that nobody else takes.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the path ends in no name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{}.tmp", process_id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    Ok(folder_of(path).join(temporary))
}

/// Says of a full disk that it is full, and what has become of the file.
pub(super) fn explain(e: io::Error) -> io::Error {
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => io::Error::new(
            e.kind(),
            format!("there is no room for it on the disk ({e}); nothing of it was left behind"),
        ),
        _ => e,
    }
}

/// A file or folder that is removed when this is dropped, unless it has been taken out.
struct Removed(Option<PathBuf>);

impl Drop for Removed {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // Already failing: an error here would hide the one that matters.
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

/// Folders made on the way to a file, outermost first; those that are empty are removed again unless they are to be kept.
struct NewFolders(Vec<PathBuf>);

impl NewFolders {
    fn make(folder: &Path) -> io::Result<NewFolders> {
        let missing: Vec<&Path> =
            folder.ancestors().take_while(|folder| *folder != Path::new("") && !folder.exists()).collect();
        let mut made = NewFolders(Vec::new());
        for folder in missing.into_iter().rev() {
            match fs::create_dir(folder) {
                Ok(()) => made.0.push(folder.to_path_buf()),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Ok(made)
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for NewFolders {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            // Fails, as it should, where somebody else has put something in.
            let _ = fs::remove_dir(folder);
        }
    }
}
