//! Bringing files into the storage: streamed, in ranges that go on where an earlier try stopped, their sums checked.

use espalier::io::hub::{HubId, Needed, needed_files};
use espalier::platform::clock;
use espalier::{Error, Result};
use js_sys::{Reflect, Uint8Array};
use sha2::{Digest, Sha256};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    FileSystemReadWriteOptions, FileSystemSyncAccessHandle, ReadableStreamDefaultReader, Request, RequestInit, Response,
};

use super::control::Control;
use super::library::{Note, StoredFile, write_note};
use super::post::{Reporter, scope};
use super::store::{Dir, io_error, write_at};
use crate::protocol::ModelChoice;

/// How often in a row a transfer may break off without a byte more.
const MAX_ATTEMPTS: u32 = 5;
/// Bytes that are read at once to be summed.
const PIECE: usize = 1 << 20;
/// Largest list of a repository's files, bytes.
const MAX_LISTING: usize = 16 << 20;

/// An address that could not be reached, in words.
fn unreachable(url: &str, why: &str) -> Error {
    let kind = std::io::ErrorKind::NotConnected;
    Error::io(format!("fetch {url}"))(std::io::Error::new(
        kind,
        format!("{why}. What is there already is kept; try again"),
    ))
}

/// Asks for `url`, from byte `from` on.
async fn request(url: &str, from: u64) -> Result<Response> {
    let init = RequestInit::new();
    let request = Request::new_with_str_and_init(url, &init).map_err(|e| io_error(format!("fetch {url}"), &e))?;
    if from > 0 {
        // The name and the value of this header are valid.
        let _ = request.headers().set("Range", &format!("bytes={from}-"));
    }
    let answer = JsFuture::from(scope().fetch_with_request(&request)).await;
    let response: Response = answer.map_err(|_| unreachable(url, "the connection failed"))?.unchecked_into();
    Ok(response)
}

/// The whole of a small answer.
pub async fn fetch_bytes(url: &str, limit: usize) -> Result<Vec<u8>> {
    let response = request(url, 0).await?;
    if !response.ok() {
        return Err(unreachable(url, &format!("the answer was {} {}", response.status(), response.status_text())));
    }
    let failed = |_| unreachable(url, "the connection broke");
    let buffer = JsFuture::from(response.array_buffer().map_err(failed)?).await.map_err(failed)?;
    let bytes = Uint8Array::new(&buffer);
    if bytes.length() as usize > limit {
        return Err(Error::malformed(url, format!("is longer than {limit} bytes")));
    }
    Ok(bytes.to_vec())
}

/// A file to be fetched.
pub struct Wanted {
    pub url: String,
    pub file: StoredFile,
}

/// Fetches what is missing of `wanted` into `folder`, whose note says what is complete.
pub async fn fetch_all(
    folder: &Dir,
    note: &mut Note,
    wanted: &[Wanted],
    control: &Control,
    reporter: &mut Reporter,
) -> Result<()> {
    for wanted in wanted {
        if !note.files.iter().any(|file| file.name == wanted.file.name) {
            note.files.push(wanted.file.clone());
        }
    }
    write_note(folder, note).await?;
    let total: u64 = wanted.iter().filter_map(|wanted| wanted.file.bytes).sum();
    let mut before = 0;
    for wanted in wanted {
        let at = note.files.iter().position(|file| file.name == wanted.file.name);
        let Some(at) = at else { continue };
        if !note.files[at].complete {
            let handle = folder.open(&wanted.file.name, true).await?;
            let fetched =
                fetch_file(&handle, wanted, control, &mut |done| reporter.set(before + done, total.max(before + done)))
                    .await;
            handle.close();
            let sum_wrong = matches!(&fetched, Err(Error::Malformed { .. }));
            if sum_wrong {
                folder.remove(&wanted.file.name).await?;
            }
            note.files[at] = StoredFile { complete: true, bytes: Some(fetched?), ..wanted.file.clone() };
            write_note(folder, note).await?;
        }
        before += note.files[at].bytes.unwrap_or(0);
    }
    Ok(())
}

/// Fetches one file, going on behind what is there; its length.
async fn fetch_file(
    handle: &FileSystemSyncAccessHandle,
    wanted: &Wanted,
    control: &Control,
    report: &mut dyn FnMut(u64),
) -> Result<u64> {
    let name = &wanted.file.name;
    let fail = |e| io_error(format!("write {name}"), &e);
    let mut hash = Sha256::new();
    let mut done = sum_of(handle, &mut hash, name)?;
    let mut attempts = 0;
    loop {
        if wanted.file.bytes.is_some_and(|bytes| done == bytes) && done > 0 {
            break;
        }
        let response = match request(&wanted.url, done).await {
            Err(error) => {
                attempts = again(attempts, error, control).await?;
                continue;
            }
            Ok(response) => response,
        };
        match response.status() {
            206 => {}
            // The server knows no ranges, or the whole file was asked for.
            200 => {
                done = 0;
                hash = Sha256::new();
                handle.truncate_with_u32(0).map_err(fail)?;
            }
            416 if wanted.file.bytes.is_none() && done > 0 => break,
            status => {
                return Err(unreachable(&wanted.url, &format!("the answer was {status} {}", response.status_text())));
            }
        }
        let length = response.headers().get("Content-Length").ok().flatten().and_then(|v| v.parse::<u64>().ok());
        let expected = wanted.file.bytes.or(length.map(|length| done + length));
        match stream(handle, &response, wanted, &mut hash, &mut done, control, report).await {
            Ok(()) if expected.is_none_or(|bytes| done >= bytes) => break,
            Ok(()) => {
                let error = unreachable(&wanted.url, "the connection broke");
                attempts = again(attempts, error, control).await?;
            }
            Err((error, progressed)) => {
                attempts = again(if progressed { 0 } else { attempts }, error, control).await?;
            }
        }
    }
    handle.flush().map_err(fail)?;
    let sum: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if let Some(expected) = &wanted.file.sha256
        && *expected != sum
    {
        return Err(Error::malformed(
            name,
            format!("arrived damaged: its SHA-256 sum is {sum}, expected {expected}; it was deleted, load it again"),
        ));
    }
    if let Some(bytes) = wanted.file.bytes
        && bytes != done
    {
        return Err(Error::malformed(
            name,
            format!("has {done} bytes, expected {bytes}; it was deleted, load it again"),
        ));
    }
    Ok(done)
}

/// Waits a little before another try; errs after too many, and at once where the error will not pass.
async fn again(attempts: u32, error: Error, control: &Control) -> Result<u32> {
    let passing = matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotConnected);
    if !passing || attempts + 1 >= MAX_ATTEMPTS {
        return Err(error);
    }
    let begun = clock::now();
    while begun.elapsed().as_secs_f64() < 0.3 * f64::from(1 << attempts) {
        if control.is_cancelled() {
            return Err(Error::Cancelled);
        }
        sleep(50).await;
    }
    Ok(attempts + 1)
}

/// Lets `milliseconds` pass.
pub async fn sleep(milliseconds: i32) {
    let promise = js_sys::Promise::new(&mut |resolve, _| {
        // A worker has timers.
        let _ = scope().set_timeout_with_callback_and_timeout_and_arguments_0(&resolve, milliseconds);
    });
    let _ = JsFuture::from(promise).await;
}

/// Sums what is there already; its length.
fn sum_of(handle: &FileSystemSyncAccessHandle, hash: &mut Sha256, name: &str) -> Result<u64> {
    let fail = |e| io_error(format!("read {name}"), &e);
    let size = handle.get_size().map_err(fail)? as u64;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        let options = FileSystemReadWriteOptions::new();
        options.set_at(at as f64);
        let read = handle.read_with_u8_array_and_options(&mut piece, &options).map_err(fail)? as usize;
        if read == 0 {
            break;
        }
        hash.update(&piece[..read]);
        at += read as u64;
    }
    Ok(at)
}

/// Writes an answer's body behind what is there. An error says whether anything arrived before it.
async fn stream(
    handle: &FileSystemSyncAccessHandle,
    response: &Response,
    wanted: &Wanted,
    hash: &mut Sha256,
    done: &mut u64,
    control: &Control,
    report: &mut dyn FnMut(u64),
) -> std::result::Result<(), (Error, bool)> {
    let begun = *done;
    let broke = |progressed| (unreachable(&wanted.url, "the connection broke"), progressed);
    let body = response.body().ok_or_else(|| broke(false))?;
    let reader: ReadableStreamDefaultReader = body.get_reader().unchecked_into();
    loop {
        if control.is_cancelled() {
            let _ = reader.cancel();
            return Err((Error::Cancelled, true));
        }
        let next = JsFuture::from(reader.read()).await.map_err(|_| broke(*done > begun))?;
        let get = |key: &str| Reflect::get(&next, &key.into()).unwrap_or(JsValue::UNDEFINED);
        if get("done").is_truthy() {
            return Ok(());
        }
        let piece = Uint8Array::new(&get("value")).to_vec();
        hash.update(&piece);
        if let Err(error) = write_at(handle, *done, &piece, &wanted.file.name) {
            let _ = reader.cancel();
            return Err((error, true));
        }
        *done += piece.len() as u64;
        report(*done);
    }
}

/// What has to be fetched of a model on a hub.
pub async fn hub_files(endpoint: &str, id: &HubId) -> Result<Vec<Wanted>> {
    let endpoint = endpoint.trim_end_matches('/');
    let listing = fetch_bytes(&format!("{endpoint}{}", id.listing_path()), MAX_LISTING).await?;
    let listing: serde_json::Value = serde_json::from_slice(&listing)
        .map_err(|e| Error::malformed(id.to_string(), format!("the hub's list of files is not JSON: {e}")))?;
    let siblings = listing["siblings"].as_array().cloned().unwrap_or_default();
    let names: Vec<String> = siblings.iter().filter_map(|file| file["rfilename"].as_str().map(String::from)).collect();
    // By commit, so that a download that is resumed tomorrow goes on with the same files.
    let revision = listing["sha"].as_str().unwrap_or(&id.revision).to_string();
    let wanted = |name: String| {
        let entry = siblings.iter().find(|file| file["rfilename"] == name.as_str());
        let (mut bytes, mut sha256) = (None, None);
        if let Some(entry) = entry {
            bytes = entry["size"].as_u64().or(entry["lfs"]["size"].as_u64());
            sha256 = entry["lfs"]["sha256"].as_str().map(String::from);
        }
        let url = format!("{endpoint}{}", id.file_path(&revision, &name));
        Wanted { url, file: StoredFile { name, bytes, sha256, complete: false } }
    };
    Ok(match needed_files(id, &names)? {
        Needed::Gguf(name) => vec![wanted(name)],
        Needed::Folder { files, index: None } => files.into_iter().map(wanted).collect(),
        Needed::Folder { files, index: Some(index) } => {
            let text = fetch_bytes(&format!("{endpoint}{}", id.file_path(&revision, &index)), MAX_LISTING).await?;
            let json: serde_json::Value =
                serde_json::from_slice(&text).map_err(|e| Error::malformed(&index, format!("is not JSON: {e}")))?;
            let shards = json["weight_map"].as_object().into_iter().flat_map(|map| map.values());
            let mut shards: Vec<String> = shards.filter_map(|name| name.as_str().map(String::from)).collect();
            shards.sort_unstable();
            shards.dedup();
            files.into_iter().chain([index]).chain(shards).map(wanted).collect()
        }
    })
}

/// What [`ModelChoice::Hub`] names, or an error that says how it is written.
pub fn hub_id(choice: &ModelChoice) -> Result<Option<(HubId, String)>> {
    match choice {
        ModelChoice::Hub { id, endpoint } => Ok(Some((id.trim().parse()?, endpoint.clone()))),
        _ => Ok(None),
    }
}
