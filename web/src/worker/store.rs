//! The browser's private storage (OPFS): `models/ID/...`, `runs/ID/...`. Nothing else of the page is kept on this machine.

use espalier::{Error, Result};
use js_sys::{AsyncIterator, Promise, Reflect};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    Blob, File, FileSystemDirectoryHandle, FileSystemFileHandle, FileSystemGetDirectoryOptions,
    FileSystemGetFileOptions, FileSystemReadWriteOptions, FileSystemRemoveOptions, FileSystemSyncAccessHandle,
    StorageEstimate, StorageManager,
};

use super::post::scope;

/// An error of the browser's as one of ours; a full storage and a lost connection are told apart.
pub fn io_error(what: impl Into<String>, error: &JsValue) -> Error {
    let text = |key: &str| Reflect::get(error, &key.into()).ok().and_then(|v| v.as_string()).unwrap_or_default();
    let (name, message) = (text("name"), text("message"));
    let kind = match name.as_str() {
        "QuotaExceededError" => std::io::ErrorKind::StorageFull,
        "NotFoundError" => std::io::ErrorKind::NotFound,
        "NoModificationAllowedError" => std::io::ErrorKind::ResourceBusy,
        "NetworkError" | "TypeError" => std::io::ErrorKind::NotConnected,
        _ => std::io::ErrorKind::Other,
    };
    let said = match kind {
        std::io::ErrorKind::StorageFull => "the browser's quota is used up".to_string(),
        std::io::ErrorKind::ResourceBusy => "another tab of this page is using it".to_string(),
        _ if message.is_empty() => format!("{error:?}"),
        _ => message,
    };
    Error::io(what)(std::io::Error::new(kind, said))
}

fn manager() -> StorageManager {
    scope().navigator().storage()
}

async fn wait<T: JsCast>(promise: Promise, what: impl Fn() -> String) -> Result<T> {
    let value = JsFuture::from(promise).await.map_err(|e| io_error(what(), &e))?;
    Ok(value.unchecked_into())
}

/// A folder of the storage.
#[derive(Clone)]
pub struct Dir {
    path: String,
    handle: FileSystemDirectoryHandle,
}

impl Dir {
    /// The whole storage. Errs where the browser gives none (a private window, say).
    pub async fn root() -> Result<Dir> {
        let handle = wait(manager().get_directory(), || "open the browser's storage".into()).await?;
        Ok(Dir { path: String::new(), handle })
    }

    fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}/{name}", self.path) }
    }

    /// The folder `name` in this one, made where there is none.
    pub async fn folder(&self, name: &str) -> Result<Dir> {
        let options = FileSystemGetDirectoryOptions::new();
        options.set_create(true);
        let path = self.at(name);
        let promise = self.handle.get_directory_handle_with_options(name, &options);
        let handle = wait(promise, || format!("open the folder {path}")).await?;
        Ok(Dir { path, handle })
    }

    /// Names of files and folders, sorted.
    pub async fn list(&self) -> Result<Vec<String>> {
        let what = || format!("list the folder {}", self.path);
        let keys: AsyncIterator = self.handle.keys();
        let mut names = vec![];
        loop {
            let promise: Promise = keys.next().map_err(|e| io_error(what(), &e))?.unchecked_into();
            let next: JsValue = wait(promise, what).await?;
            let get = |key: &str| Reflect::get(&next, &key.into()).unwrap_or(JsValue::UNDEFINED);
            if get("done").is_truthy() {
                break;
            }
            names.extend(get("value").as_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    async fn file(&self, name: &str, create: bool) -> Result<FileSystemFileHandle> {
        let options = FileSystemGetFileOptions::new();
        options.set_create(create);
        let promise = self.handle.get_file_handle_with_options(name, &options);
        wait(promise, || format!("open {}", self.at(name))).await
    }

    /// A handle for reading and writing without waiting; one at a time for each file.
    pub async fn open(&self, name: &str, create: bool) -> Result<FileSystemSyncAccessHandle> {
        let file = self.file(name, create).await?;
        wait(file.create_sync_access_handle(), || format!("open {}", self.at(name))).await
    }

    /// A file to be handed to the page.
    pub async fn blob(&self, name: &str) -> Result<Blob> {
        let file: File = wait(self.file(name, false).await?.get_file(), || format!("read {}", self.at(name))).await?;
        Ok(file.into())
    }

    /// Bytes of a file, or of all files in a folder; 0 where there is none.
    pub async fn bytes(&self, name: &str) -> u64 {
        match self.blob(name).await {
            Ok(blob) => blob.size() as u64,
            Err(_) => 0,
        }
    }

    /// Bytes of the files in this folder.
    pub async fn total(&self) -> u64 {
        let mut total = 0;
        for name in self.list().await.unwrap_or_default() {
            total += self.bytes(&name).await;
        }
        total
    }

    /// The whole of a file; `None` where there is none.
    pub async fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let handle = match self.open(name, false).await {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            handle => handle?,
        };
        let fail = |e| io_error(format!("read {}", self.at(name)), &e);
        let read = || {
            let mut bytes = vec![0; handle.get_size().map_err(fail)? as usize];
            let count = handle.read_with_u8_array(&mut bytes).map_err(fail)? as usize;
            bytes.truncate(count);
            Ok(Some(bytes))
        };
        let bytes = read();
        handle.close();
        bytes
    }

    /// Writes a whole file.
    pub async fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let handle = self.open(name, true).await?;
        let written = write_whole(&handle, bytes, &self.at(name));
        handle.close();
        written
    }

    /// Reads JSON; `None` where there is no such file, or what is in it is not what is expected.
    pub async fn read_json<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&self.read(name).await.ok()??).ok()
    }

    /// Writes JSON.
    pub async fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec(value).map_err(|e| Error::malformed(self.at(name), e.to_string()))?;
        self.write(name, &bytes).await
    }

    /// Deletes a file, or a folder with all that is in it. Not to be there is no error.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let options = FileSystemRemoveOptions::new();
        options.set_recursive(true);
        let promise = self.handle.remove_entry_with_options(name, &options);
        match wait::<JsValue>(promise, || format!("delete {}", self.at(name))).await {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.map(|_| ()),
        }
    }
}

/// Puts `bytes` in the place of a file's contents, and makes sure that they are on the disk.
pub fn write_whole(handle: &FileSystemSyncAccessHandle, bytes: &[u8], what: &str) -> Result<()> {
    let fail = |e| io_error(format!("write {what}"), &e);
    write_at(handle, 0, bytes, what)?;
    handle.truncate_with_f64(bytes.len() as f64).map_err(fail)?;
    handle.flush().map_err(fail)
}

/// Writes all of `bytes` from `offset` on.
pub fn write_at(handle: &FileSystemSyncAccessHandle, offset: u64, bytes: &[u8], what: &str) -> Result<()> {
    let fail = |e| io_error(format!("write {what}"), &e);
    let mut done = 0;
    while done < bytes.len() {
        let options = FileSystemReadWriteOptions::new();
        options.set_at((offset + done as u64) as f64);
        let wrote = handle.write_with_u8_array_and_options(&bytes[done..], &options).map_err(fail)? as usize;
        if wrote == 0 {
            let full = std::io::Error::new(std::io::ErrorKind::StorageFull, "no more bytes were taken");
            return Err(Error::io(format!("write {what}"))(full));
        }
        done += wrote;
    }
    Ok(())
}

/// Bytes used and bytes that may be used.
pub async fn estimate() -> (u64, u64) {
    let Ok(promise) = manager().estimate() else { return (0, 0) };
    let Ok(estimate) = wait::<StorageEstimate>(promise, || "ask for the storage's size".into()).await else {
        return (0, 0);
    };
    (estimate.get_usage().unwrap_or(0.0) as u64, estimate.get_quota().unwrap_or(0.0) as u64)
}

/// Whether the browser promised not to throw the storage away.
pub async fn is_persistent() -> bool {
    let Ok(promise) = manager().persisted() else { return false };
    JsFuture::from(promise).await.is_ok_and(|answer| answer.is_truthy())
}

/// Asks the browser not to throw the storage away; whether it agreed.
pub async fn persist() -> bool {
    let Ok(promise) = manager().persist() else { return false };
    JsFuture::from(promise).await.is_ok_and(|answer| answer.is_truthy())
}
