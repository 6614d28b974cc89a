//! A model hub on localhost, for tests: the paths, redirects, ranges and headers of the Hugging Face Hub, over a folder
//! `OWNER/NAME/FILE`. A download can be made to break off on purpose.

use crate::smollm2::sha256;
use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as Segments, Request, State};
use axum::http::header::{ETAG, HeaderName, LOCATION};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use futures_util::{StreamExt, stream};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tower_http::cors::{Any, CorsLayer};
use tower_http::services::ServeDir;

/// A file of a model.
struct Entry {
    size: u64,
    sha256: String,
}

impl Entry {
    /// Large files are kept elsewhere, and named by their sum.
    fn is_large(name: &str) -> bool {
        name.ends_with(".gguf") || name.ends_with(".safetensors")
    }

    /// As the hub tags it: by its sum where it is large.
    fn tag(&self, name: &str) -> String {
        let length = if Entry::is_large(name) { 64 } else { 40 };
        format!("\"{}\"", &self.sha256[..length])
    }
}

/// `OWNER/NAME`, then its files by name.
type Models = BTreeMap<String, BTreeMap<String, Entry>>;

struct Hub {
    models: Models,
    /// The next download stops after this many bytes; 0 for none.
    breaks_after: AtomicU64,
}

/// The hub over `dir`. `POST /break/BYTES` has the next download of a large file break off after so many bytes.
pub fn router(dir: &Path) -> Result<Router> {
    let hub = Arc::new(Hub { models: models_in(dir)?, breaks_after: AtomicU64::new(0) });
    let cross_origin = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::HEAD])
        .allow_headers(Any)
        .expose_headers(Any);
    let downloads = Router::new()
        .fallback_service(ServeDir::new(dir))
        .layer(middleware::from_fn_with_state(hub.clone(), break_off));
    Ok(Router::new()
        .route("/api/models/{owner}/{name}/revision/{revision}", get(listing))
        .route("/{owner}/{name}/resolve/{revision}/{file}", get(resolve))
        .route("/break/{bytes}", post(break_next))
        .nest_service("/cdn", downloads)
        .layer(cross_origin)
        .with_state(hub))
}

fn models_in(dir: &Path) -> Result<Models> {
    let mut models = Models::new();
    for owner in folders_in(dir)? {
        for name in folders_in(&dir.join(&owner))? {
            let folder = dir.join(&owner).join(&name);
            let mut files = BTreeMap::new();
            for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
                let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
                let (size, sha256) = sha256(&path)?;
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                files.insert(file, Entry { size, sha256 });
            }
            models.insert(format!("{owner}/{name}"), files);
        }
    }
    Ok(models)
}

fn folders_in(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    Ok(folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// Stands for the commit that is at hand: the same for as long as the files are.
fn commit(files: &BTreeMap<String, Entry>) -> String {
    let sums: Vec<&str> = files.values().map(|entry| &entry.sha256[..]).collect();
    let mut text = sums.join("");
    text.truncate(40);
    format!("{text:0<40}")
}

async fn listing(
    State(hub): State<Arc<Hub>>,
    Segments((owner, name, _)): Segments<(String, String, String)>,
) -> Response {
    let id = format!("{owner}/{name}");
    let Some(files) = hub.models.get(&id) else { return not_found() };
    let siblings: Vec<_> = files
        .iter()
        .map(|(name, entry)| {
            let mut sibling = json!({ "rfilename": name, "size": entry.size, "blobId": &entry.sha256[..40] });
            if Entry::is_large(name) {
                sibling["lfs"] = json!({ "sha256": entry.sha256, "size": entry.size, "pointerSize": 134 });
            }
            sibling
        })
        .collect();
    Json(json!({ "id": id, "modelId": id, "sha": commit(files), "private": false, "siblings": siblings }))
        .into_response()
}

async fn resolve(
    State(hub): State<Arc<Hub>>,
    Segments((owner, name, _, file)): Segments<(String, String, String, String)>,
) -> Response {
    let Some(files) = hub.models.get(&format!("{owner}/{name}")) else { return not_found() };
    let Some(entry) = files.get(&file) else { return not_found() };
    let mut response = StatusCode::FOUND.into_response();
    for (header, value) in [
        (LOCATION, format!("/cdn/{owner}/{name}/{file}")),
        (ETAG, entry.tag(&file)),
        (HeaderName::from_static("x-linked-etag"), entry.tag(&file)),
        (HeaderName::from_static("x-linked-size"), entry.size.to_string()),
        (HeaderName::from_static("x-repo-commit"), commit(files)),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(header, value);
        }
    }
    response
}

async fn break_next(State(hub): State<Arc<Hub>>, Segments(bytes): Segments<u64>) -> StatusCode {
    hub.breaks_after.store(bytes, Ordering::Relaxed);
    StatusCode::NO_CONTENT
}

/// Lets a download through, or only its beginning where a break was asked for.
async fn break_off(State(hub): State<Arc<Hub>>, request: Request, next: Next) -> Response {
    let is_large = request.method() == Method::GET && Entry::is_large(request.uri().path());
    let response = next.run(request).await;
    let breaks_after = if is_large { hub.breaks_after.swap(0, Ordering::Relaxed) } else { 0 };
    if breaks_after == 0 {
        return response;
    }
    let (parts, body) = response.into_parts();
    let beginning = body.into_data_stream().scan(breaks_after, |left, piece| {
        let piece = piece.map_err(io::Error::other).and_then(|piece: Bytes| {
            if *left == 0 {
                return Err(io::Error::other("broken off on purpose"));
            }
            let length = piece.len().min(*left as usize);
            *left -= length as u64;
            Ok(piece.slice(..length))
        });
        std::future::ready(Some(piece))
    });
    // The pieces before must have left this machine before the connection ends.
    let beginning = beginning.then(|piece| async {
        if piece.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        piece
    });
    let ended = stream::once(async { Err(io::Error::other("broken off on purpose")) });
    Response::from_parts(parts, Body::from_stream(beginning.chain(ended)))
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "error": "Repository or file not found" }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Server;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    /// Head and body of an answer; the body ends where the connection does.
    fn ask(server: &Server, request: &str) -> (String, Vec<u8>) {
        let address = server.address();
        let mut stream = TcpStream::connect(address.strip_prefix("http://").unwrap()).unwrap();
        let request = request.replacen("\r\n", " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", 1);
        stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        // A download that breaks off may end in an error.
        let _ = stream.read_to_end(&mut answer);
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
    }

    #[test]
    fn a_download_is_redirected_broken_off_and_resumed() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..500_000u32).map(|i| (i % 251) as u8).collect();
        fs::create_dir_all(dir.path().join("o/n")).unwrap();
        fs::write(dir.path().join("o/n/x.gguf"), &content).unwrap();
        fs::write(dir.path().join("o/n/config.json"), "{}").unwrap();
        let server = Server::start(0, router(dir.path()).unwrap()).unwrap();

        let (head, body) = ask(&server, "GET /api/models/o/n/revision/main?blobs=true\r\n");
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("access-control-allow-origin: *"), "{head}");
        let listing: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(listing["siblings"][1]["size"], 500_000);
        assert_eq!(listing["siblings"][1]["lfs"]["sha256"].as_str().unwrap().len(), 64);
        assert_eq!(listing["siblings"][0]["lfs"], serde_json::Value::Null);
        assert_eq!(listing["sha"].as_str().unwrap().len(), 40);

        let (head, _) = ask(&server, "GET /o/n/resolve/main/x.gguf\r\n");
        assert!(head.starts_with("HTTP/1.1 302") && head.contains("location: /cdn/o/n/x.gguf"), "{head}");
        assert!(head.contains("x-linked-size: 500000"), "{head}");

        let (head, _) = ask(&server, "POST /break/100000\r\nContent-Length: 0\r\n");
        assert!(head.starts_with("HTTP/1.1 204"), "{head}");
        let (head, body) = ask(&server, "GET /cdn/o/n/x.gguf\r\n");
        assert!(head.contains("content-length: 500000"), "{head}");
        assert_eq!(body, content[..100_000]);
        let (head, body) = ask(&server, "GET /cdn/o/n/x.gguf\r\nRange: bytes=100000-\r\n");
        assert!(head.starts_with("HTTP/1.1 206") && head.contains("bytes 100000-499999/500000"), "{head}");
        assert_eq!(body, content[100_000..]);
        assert!(ask(&server, "GET /api/models/o/x/revision/main\r\n").0.starts_with("HTTP/1.1 404"));
    }
}
