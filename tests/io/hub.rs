//! The hub client against a small server of its own: redirects, ranges, transfers that break off, wrong sums, refusals.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use espalier::io::hub::{HubClient, HubId, Progress};
use espalier::io::{Folder, ShardedSafetensors};
use espalier::{Error, Result};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does at a path.
#[derive(Clone, Default)]
struct Page {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The connection breaks off after this many bytes of the body, as many times as stand beside it.
    cut: Option<(usize, usize)>,
    /// Answers a range with the whole.
    no_ranges: bool,
}

fn page(body: impl Into<Vec<u8>>) -> Page {
    Page { status: 200, body: body.into(), ..Page::default() }
}

/// A request's path, range and token.
type Request = (String, Option<String>, Option<String>);
type Log = Mutex<Vec<Request>>;

struct Server {
    address: String,
    pages: Arc<Mutex<HashMap<String, Page>>>,
    log: Arc<Log>,
}

impl Server {
    fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Server { address, pages: Arc::default(), log: Arc::default() };
        let (pages, log) = (server.pages.clone(), server.log.clone());
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                // A client that goes away in the middle is what some of the tests are about.
                let _ = answer(connection, &pages, &log);
            }
        });
        server
    }

    fn put(&self, path: &str, page: Page) {
        self.pages.lock().unwrap().insert(path.into(), page);
    }

    fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

fn answer(mut connection: TcpStream, pages: &Mutex<HashMap<String, Page>>, log: &Log) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or("").to_string();
    let (mut range, mut token) = (None, None);
    for line in lines {
        let line = line?;
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("range") => range = Some(value.to_string()),
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => token = Some(value.to_string()),
            Some(_) => {}
            None => break,
        }
    }
    let mut page = pages.lock().unwrap().get(&path).cloned().unwrap_or(Page { status: 404, ..Page::default() });
    log.lock().unwrap().push((path.clone(), range.clone(), token));
    let mut body = page.body.as_slice();
    let mut headers = page.headers.clone();
    if let Some(range) = range.filter(|_| !page.no_ranges && page.status == 200) {
        let from: usize = range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap();
        if from >= body.len() {
            page.status = 416;
            body = b"";
        } else {
            page.status = 206;
            headers.push(("Content-Range".into(), format!("bytes {from}-{}/{}", body.len() - 1, body.len())));
            body = &body[from..];
        }
    }
    write!(connection, "HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n", page.status, body.len())?;
    for (name, value) in &headers {
        write!(connection, "{name}: {value}\r\n")?;
    }
    connection.write_all(b"\r\n")?;
    if let Some((at, times)) = page.cut
        && times > 0
    {
        body = &body[..at.min(body.len())];
        pages.lock().unwrap().get_mut(&path).unwrap().cut = Some((at, times - 1));
    }
    connection.write_all(body)?;
    connection.flush()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn weights() -> Vec<u8> {
    let header = br#"{"t":{"dtype":"U8","shape":[1000000],"data_offsets":[0,1000000]}}"#;
    let data = (0..1_000_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8);
    (header.len() as u64).to_le_bytes().into_iter().chain(*header).chain(data).collect()
}

fn listing(files: &[(&str, &[u8], bool)]) -> Page {
    let siblings: Vec<String> = files
        .iter()
        .map(|(name, bytes, lfs)| {
            let lfs = if *lfs { format!(r#","lfs":{{"sha256":"{}"}}"#, sha256(bytes)) } else { String::new() };
            format!(r#"{{"rfilename":"{name}","size":{}{lfs}}}"#, bytes.len())
        })
        .collect();
    page(format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, siblings.join(",")))
}

const LISTING: &str = "/api/models/o/m/revision/main?blobs=true";

fn resolve(file: &str) -> String {
    format!("/o/m/resolve/{COMMIT}/{file}")
}

/// A hub with the model `o/m`, whose weights lie on another server.
fn hub_with_model() -> (Server, Server) {
    let (hub, store) = (Server::start(), Server::start());
    let config: &[u8] = b"{}";
    let weights = weights();
    hub.put(
        LISTING,
        listing(&[("README.md", b"x", false), ("config.json", config, false), ("model.safetensors", &weights, true)]),
    );
    hub.put(&resolve("config.json"), page(config));
    let header = |name: &str, value: String| (name.to_string(), value);
    let headers = vec![
        header("Location", format!("{}/blob?signed=1", store.address)),
        header("X-Linked-Etag", format!("\"{}\"", sha256(&weights))),
        header("X-Linked-Size", weights.len().to_string()),
    ];
    hub.put(&resolve("model.safetensors"), Page { status: 302, headers, ..Page::default() });
    store.put("/blob?signed=1", page(weights));
    (hub, store)
}

fn client(hub: &Server, cache: &Path) -> HubClient {
    let client = HubClient::new(&hub.address, Some("secret".into()), cache.to_path_buf()).unwrap();
    client.with_retry_pause(Duration::from_millis(1))
}

fn fetch(client: &HubClient, id: &str) -> Result<std::path::PathBuf> {
    client.fetch(&id.parse::<HubId>().unwrap(), &AtomicBool::new(false), &mut |_| {})
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_model_is_fetched_once_and_then_found_in_the_cache_also_offline() {
    let cache = tempfile::tempdir().unwrap();
    let (hub, store) = hub_with_model();
    let client = client(&hub, cache.path());
    let mut seen = Vec::new();
    let id: HubId = "o/m".parse().unwrap();
    let folder = client
        .fetch(&id, &AtomicBool::new(false), &mut |progress: Progress| seen.push((progress.done, progress.total)))
        .unwrap();
    assert_eq!(names(&folder), [".complete", "config.json", "model.safetensors"]);
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    ShardedSafetensors::open_folder(&Folder::open(&folder).unwrap()).unwrap();
    let total = weights().len() as u64 + 2;
    assert_eq!(*seen.last().unwrap(), (total, Some(total)));
    assert!(seen.is_sorted_by_key(|(done, _)| *done));

    // The token goes to the hub and nowhere else.
    assert!(hub.take_log().iter().all(|(_, _, token)| token.as_deref() == Some("Bearer secret")));
    assert_eq!(store.take_log(), [("/blob?signed=1".to_string(), None, None)]);

    assert_eq!(fetch(&client, "o/m").unwrap(), folder);
    assert_eq!(hub.take_log().len(), 1);
    assert_eq!(fetch(&client, &format!("o/m@{COMMIT}")).unwrap(), folder);
    assert_eq!(hub.take_log().len(), 0);

    let offline = HubClient::new(&nowhere(), None, cache.path().to_path_buf()).unwrap();
    assert_eq!(fetch(&offline, "o/m").unwrap(), folder);
}

/// An address where nothing listens.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn a_transfer_that_breaks_off_is_resumed_where_it_stopped() {
    let cache = tempfile::tempdir().unwrap();
    let (hub, store) = hub_with_model();
    store.put("/blob?signed=1", Page { cut: Some((300_000, 2)), ..page(weights()) });
    let folder = fetch(&client(&hub, cache.path()), "o/m").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let ranges: Vec<_> = store.take_log().into_iter().map(|(_, range, _)| range).collect();
    assert_eq!(ranges, [None, Some("bytes=300000-".into()), Some("bytes=600000-".into())]);
}

#[test]
fn a_server_without_ranges_is_asked_for_the_whole_again() {
    let cache = tempfile::tempdir().unwrap();
    let (hub, store) = hub_with_model();
    store.put("/blob?signed=1", Page { cut: Some((300_000, 1)), no_ranges: true, ..page(weights()) });
    let folder = fetch(&client(&hub, cache.path()), "o/m").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
}

#[test]
fn a_cancelled_transfer_is_resumed_by_the_next_call() {
    let cache = tempfile::tempdir().unwrap();
    let (hub, store) = hub_with_model();
    let client = client(&hub, cache.path());
    let cancel = AtomicBool::new(false);
    let id: HubId = "o/m".parse().unwrap();
    let cancelled =
        client.fetch(&id, &cancel, &mut |progress| cancel.store(progress.done > 400_000, Ordering::Relaxed));
    assert!(matches!(cancelled, Err(Error::Cancelled)));
    let folder = cache.path().join("hub/o--m").join(COMMIT);
    assert_eq!(names(&folder), ["config.json", "model.safetensors.part"]);
    let have = fs::metadata(folder.join("model.safetensors.part")).unwrap().len();
    assert!(have > 0);
    store.take_log();
    fetch(&client, "o/m").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert_eq!(store.take_log()[0].1, Some(format!("bytes={have}-")));
}

#[test]
fn a_wrong_sum_is_refused_and_nothing_of_it_kept() {
    let cache = tempfile::tempdir().unwrap();
    let (hub, store) = hub_with_model();
    let mut damaged = weights();
    damaged[500_000] ^= 1;
    store.put("/blob?signed=1", page(damaged));
    let refusal = fetch(&client(&hub, cache.path()), "o/m").unwrap_err().to_string();
    assert!(refusal.starts_with("o/m, model.safetensors: its SHA-256 is not the one"), "{refusal}");
    let folder = cache.path().join("hub/o--m").join(COMMIT);
    assert_eq!(names(&folder), ["config.json"]);

    // A piece of something else, left over from before, is noticed and thrown away.
    store.put("/blob?signed=1", page(weights()));
    fs::write(folder.join("model.safetensors.part"), vec![7; 5000]).unwrap();
    fetch(&client(&hub, cache.path()), "o/m").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
}

#[test]
fn a_transfer_that_never_gets_further_ends_with_a_sentence() {
    let cache = tempfile::tempdir().unwrap();
    let (hub, store) = hub_with_model();
    store.put("/blob?signed=1", Page { status: 503, ..Page::default() });
    let refusal = fetch(&client(&hub, cache.path()), "o/m").unwrap_err().to_string();
    assert!(refusal.contains("HTTP 503; try again later"), "{refusal}");
    assert_eq!(store.take_log().len(), 5);
    store.put("/blob?signed=1", page(&weights()[..1000]));
    assert!(fetch(&client(&hub, cache.path()), "o/m").is_err());
    store.put("/blob?signed=1", page([weights(), weights()].concat()));
    let refusal = fetch(&client(&hub, cache.path()), "o/m").unwrap_err().to_string();
    assert!(refusal.contains("more than the 1000073 bytes"), "{refusal}");
}

#[test]
fn a_sharded_model_and_a_named_gguf_file_are_fetched() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Server::start();
    let index: &[u8] = br#"{"weight_map":{"t":"model-00001-of-00001.safetensors"}}"#;
    let weights = weights();
    let files: [(&str, &[u8], bool); 4] = [
        ("config.json", b"{}", false),
        ("model.safetensors.index.json", index, false),
        ("model-00001-of-00001.safetensors", &weights, true),
        ("q4.gguf", b"GGUF", true),
    ];
    hub.put(LISTING, listing(&files));
    for (name, bytes, _) in files {
        hub.put(&resolve(name), page(bytes));
    }
    let client = client(&hub, cache.path());
    let gguf = fetch(&client, "o/m:q4.gguf").unwrap();
    assert_eq!(fs::read(&gguf).unwrap(), b"GGUF");
    let folder = fetch(&client, "o/m").unwrap();
    assert_eq!(gguf.parent(), Some(folder.as_path()));
    let model = ShardedSafetensors::open_folder(&Folder::open(&folder).unwrap()).unwrap();
    assert_eq!(model.read_bytes("t", 1000..1003).unwrap(), weights[weights.len() - 1_000_000 + 1000..][..3]);
}

#[test]
fn refusals_are_one_clear_sentence() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Server::start();
    let with_token = client(&hub, cache.path());
    let without = HubClient::new(&format!("{}/", hub.address), None, cache.path().to_path_buf()).unwrap();
    let sentence = |client: &HubClient| fetch(client, "o/m").unwrap_err().to_string();

    assert_eq!(
        sentence(&with_token),
        format!("o/m: {} has no such model, revision or file (HTTP 404): check the name", hub.address)
    );
    hub.put(LISTING, Page { status: 401, ..Page::default() });
    assert!(sentence(&with_token).contains("the token in HF_TOKEN may not read it"));
    assert!(sentence(&without).contains("gives no access to it (HTTP 401)"));
    assert!(sentence(&without).contains("set HF_TOKEN"));
    hub.put(LISTING, Page { status: 302, headers: vec![("Location".into(), LISTING.into())], ..Page::default() });
    assert!(sentence(&without).contains("more than 10 redirects"));
    hub.put(LISTING, page("no JSON"));
    assert!(sentence(&without).contains("list of files is not valid"));
    hub.put(LISTING, listing(&[("config.json", b"{}", false), ("pytorch_model.bin", b"x", true)]));
    assert!(sentence(&without).contains("run any code"));

    let address = nowhere();
    let unreachable = HubClient::new(&address, None, cache.path().to_path_buf()).unwrap();
    let refusal = sentence(&unreachable);
    assert!(refusal.starts_with(&format!("cannot reach {address} for o/m: ")), "{refusal}");
    assert!(refusal.ends_with("give a local folder, or set HF_ENDPOINT to a hub that can be reached"), "{refusal}");
    assert!(HubClient::new("ftp://x", None, cache.path().to_path_buf()).is_err());
}
