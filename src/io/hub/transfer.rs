//! HTTP with the hub: redirects, ranges, resuming, and the checks that what arrived is what was asked for.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::http::header::{AUTHORIZATION, CONTENT_RANGE, LOCATION, RANGE};
use ureq::http::{HeaderMap, Response};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::HubId;
use crate::io::atomic::explain;
use crate::{Error, Result};

const MAX_REDIRECTS: usize = 10;
/// How often in a row a transfer may break off without a byte more.
const MAX_ATTEMPTS: u32 = 5;
/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// A hub's address and how it is talked to.
pub(super) struct Hub {
    endpoint: String,
    token: Option<String>,
    agent: Agent,
    pub(super) retry_pause: Duration,
}

/// One file to be fetched, and what the hub's list of files says of it.
pub(super) struct Wanted<'a> {
    pub name: &'a str,
    pub size: Option<u64>,
    pub sha256: Option<String>,
    /// Asked for by commit: what an earlier call left of it is of the same file.
    pub pinned: bool,
}

/// Why a request came to nothing.
enum Failure {
    /// Asking again may help.
    Passing(Error),
    Final(Error),
}

/// An answer, and what the hub said of the file before it sent us elsewhere for it.
struct Answer {
    response: Response<Body>,
    size: Option<u64>,
    sha256: Option<String>,
}

impl Hub {
    pub fn new(endpoint: &str, token: Option<String>) -> Result<Hub> {
        let endpoint = endpoint.trim_end_matches('/').to_string();
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(Error::Option {
                name: "HF_ENDPOINT".into(),
                value: endpoint,
                expected: "an address that begins with https:// or http://".into(),
            });
        }
        // Redirects are followed here: the one away from the hub carries the file's length and sum, and the token must
        // not go along.
        let config = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(concat!("espalier/", env!("CARGO_PKG_VERSION")))
            // A compressed answer has no ranges.
            .accept_encoding("identity")
            .timeout_resolve(Some(Duration::from_secs(20)))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(30)))
            .tls_config(tls_config()?)
            .build();
        Ok(Hub { endpoint, token, agent: config.into(), retry_pause: Duration::from_secs(1) })
    }

    /// The body, of at most `limit` bytes, of what lies at `path` of the hub.
    pub fn get_small(&self, id: &HubId, path: &str, limit: u64) -> Result<Vec<u8>> {
        let answer = match self.get(id, path, 0) {
            Ok(answer) => answer,
            Err(Failure::Passing(e) | Failure::Final(e)) => return Err(e),
        };
        let mut body = Vec::new();
        let read = answer.response.into_body().into_reader().take(limit + 1).read_to_end(&mut body);
        read.map_err(|e| self.unreachable(id, e))?;
        if body.len() as u64 > limit {
            return Err(Error::malformed(id.to_string(), format!("the hub's answer is longer than {limit} bytes")));
        }
        Ok(body)
    }

    /// Fetches one file into `folder`, going on where an earlier try stopped; `report` is told the bytes that are there.
    /// Returns the file's length.
    pub fn get_file(
        &self,
        id: &HubId,
        path: &str,
        wanted: &Wanted,
        folder: &Path,
        cancel: &AtomicBool,
        report: &mut dyn FnMut(u64),
    ) -> Result<u64> {
        let target = folder.join(wanted.name);
        if let Ok(present) = fs::metadata(&target)
            && Some(present.len()) == wanted.size
        {
            report(present.len());
            return Ok(present.len());
        }
        let part_path = folder.join(format!("{}.part", wanted.name));
        let what = || format!("write {}", part_path.display());
        fs::create_dir_all(folder).map_err(Error::io(what()))?;
        let options = File::options().read(true).write(true).create(true).truncate(false).open(&part_path);
        let mut part = options.map_err(Error::io(what()))?;
        if let Err(TryLockError::WouldBlock) = part.try_lock() {
            return Err(Error::malformed(part_path.display().to_string(), "another fetch of it is under way"));
        }
        if !wanted.pinned && wanted.sha256.is_none() {
            part.set_len(0).map_err(Error::io(what()))?;
        }
        let resumed = part.metadata().map_err(Error::io(what()))?.len() > 0;
        let mut transfer = Transfer { hub: self, id, path, part: &mut part, cancel, report };
        let (mut len, mut sha256) = transfer.run(wanted)?;
        if resumed && !matches(transfer.part, sha256.as_deref())? {
            // The earlier piece may have been of something else: once more, from the start.
            transfer.part.set_len(0).map_err(Error::io(what()))?;
            (len, sha256) = transfer.run(wanted)?;
        }
        if !matches(&mut part, sha256.as_deref())? {
            drop(part);
            let _ = fs::remove_file(&part_path); // the error that matters is the one below
            return Err(Error::malformed(
                format!("{id}, {}", wanted.name),
                "its SHA-256 is not the one that the hub gives: the transfer was damaged; try again",
            ));
        }
        part.sync_all().map_err(Error::io(what()))?;
        drop(part);
        fs::rename(&part_path, &target).map_err(Error::io(format!("write {}", target.display())))?;
        Ok(len)
    }

    /// Asks for `path` of the hub from byte `from` on, following redirects.
    fn get(&self, id: &HubId, path: &str, from: u64) -> Result<Answer, Failure> {
        let mut url = format!("{}{path}", self.endpoint);
        let (mut size, mut sha256) = (None, None);
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(&url);
            if let Some(token) = self.token.as_ref().filter(|_| origin(&url) == origin(&self.endpoint)) {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = request.call().map_err(|e| Failure::Passing(self.unreachable(id, e)))?;
            let headers = response.headers();
            size = size.or(header(headers, "x-linked-size").and_then(|size| size.parse().ok()));
            sha256 = sha256.or(header(headers, "x-linked-etag").and_then(sha256_of_etag));
            match response.status().as_u16() {
                200 | 206 | 416 => return Ok(Answer { response, size, sha256 }),
                301 | 302 | 303 | 307 | 308 => {
                    let target = header(headers, LOCATION.as_str()).and_then(|target| resolve(&url, target));
                    url = target.ok_or_else(|| {
                        Failure::Final(Error::malformed(id.to_string(), "the hub redirects to no usable address"))
                    })?;
                }
                status => return Err(self.refused(id, status)),
            }
        }
        Err(Failure::Final(Error::malformed(id.to_string(), format!("more than {MAX_REDIRECTS} redirects"))))
    }

    fn unreachable(&self, id: &HubId, cause: impl std::error::Error) -> Error {
        let advice = "give a local folder, or set HF_ENDPOINT to a hub that can be reached";
        Error::Io {
            what: format!("reach {} for {id}", self.endpoint),
            source: io::Error::other(format!("{cause}; {advice}")),
        }
    }

    fn refused(&self, id: &HubId, status: u16) -> Failure {
        let hub = &self.endpoint;
        let problem = match (status, &self.token) {
            (401 | 403, None) => format!(
                "{hub} gives no access to it (HTTP {status}): the name is wrong, or it is private or gated; set HF_TOKEN to a \
                 token that may read it"
            ),
            (401 | 403, Some(_)) => {
                format!(
                    "{hub} gives no access to it (HTTP {status}): the name is wrong, or the token in HF_TOKEN may not read it"
                )
            }
            (404, _) => format!("{hub} has no such model, revision or file (HTTP 404): check the name"),
            _ => format!("{hub} answers with HTTP {status}; try again later"),
        };
        let error = Error::malformed(id.to_string(), problem);
        if status == 429 || status >= 500 { Failure::Passing(error) } else { Failure::Final(error) }
    }
}

/// One file on its way.
struct Transfer<'a> {
    hub: &'a Hub,
    id: &'a HubId,
    path: &'a str,
    part: &'a mut File,
    cancel: &'a AtomicBool,
    report: &'a mut dyn FnMut(u64),
}

impl Transfer<'_> {
    /// Fills the partial file to its end, taking a transfer that breaks off up again. Returns length and SHA-256 as given.
    fn run(&mut self, wanted: &Wanted) -> Result<(u64, Option<String>)> {
        let (mut size, mut sha256) = (wanted.size, wanted.sha256.clone());
        // A try counts as failed unless it got further than any before: some servers would have us begin again for ever.
        let (mut failures, mut furthest) = (0, self.len()?);
        loop {
            let have = self.len()?;
            if size == Some(have) {
                (self.report)(have);
                return Ok((have, sha256));
            }
            let failure = match self.attempt(&mut size, &mut sha256) {
                Ok(()) if size.is_none_or(|size| self.len().is_ok_and(|len| len == size)) => {
                    return Ok((self.len()?, sha256));
                }
                Ok(()) => {
                    let (len, size) = (self.len()?, size.unwrap_or(0));
                    Error::malformed(self.id.to_string(), format!("the transfer broke off after {len} of {size} bytes"))
                }
                Err(Failure::Passing(failure)) => failure,
                Err(Failure::Final(failure)) => return Err(failure),
            };
            failures = if self.len()? > furthest { 0 } else { failures + 1 };
            furthest = furthest.max(self.len()?);
            if failures == MAX_ATTEMPTS {
                return Err(failure);
            }
            tracing::debug!("{failure}; trying again");
            self.pause(self.hub.retry_pause * 2u32.pow(failures.saturating_sub(1)))?;
        }
    }

    /// One request for the rest of the file.
    fn attempt(&mut self, size: &mut Option<u64>, sha256: &mut Option<String>) -> Result<(), Failure> {
        let mut have = self.len().map_err(Failure::Final)?;
        if size.is_some_and(|size| have > size) {
            have = 0;
        }
        let answer = self.hub.get(self.id, self.path, have)?;
        *size = size.or(answer.size);
        if sha256.is_none() {
            *sha256 = answer.sha256;
        }
        let starts_at = match answer.response.status().as_u16() {
            206 => header(answer.response.headers(), CONTENT_RANGE.as_str()).and_then(start_of_range).unwrap_or(0),
            // The range asked for does not exist: what we have is of something else.
            416 => {
                self.part.set_len(0).map_err(|e| Failure::Final(self.failed_write(e)))?;
                let problem = "the hub refuses the range that was asked for";
                return Err(Failure::Passing(Error::malformed(self.id.to_string(), problem)));
            }
            _ => 0,
        };
        if answer.response.status().as_u16() == 206 && starts_at != have {
            let problem = "the hub sends another range than was asked for";
            return Err(Failure::Final(Error::malformed(self.id.to_string(), problem)));
        }
        let body = answer.response.into_body();
        *size = size.or(body.content_length().map(|rest| starts_at.saturating_add(rest)));
        self.part
            .set_len(starts_at)
            .and_then(|()| self.part.seek(SeekFrom::Start(starts_at)))
            .map_err(|e| Failure::Final(self.failed_write(e)))?;
        self.copy(body.into_reader(), starts_at, *size)
    }

    fn copy(&mut self, mut body: impl Read, mut at: u64, size: Option<u64>) -> Result<(), Failure> {
        let mut piece = vec![0; PIECE];
        loop {
            (self.report)(at);
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Failure::Final(Error::Cancelled));
            }
            let count = match body.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Failure::Passing(self.hub.unreachable(self.id, e))),
            };
            at += count as u64;
            if let Some(size) = size.filter(|&size| at > size) {
                let problem = format!("the hub sends more than the {size} bytes that it announced");
                return Err(Failure::Final(Error::malformed(self.id.to_string(), problem)));
            }
            self.part.write_all(&piece[..count]).map_err(|e| Failure::Final(self.failed_write(e)))?;
        }
    }

    fn len(&self) -> Result<u64> {
        self.part.metadata().map(|attributes| attributes.len()).map_err(|e| self.failed_write(e))
    }

    fn failed_write(&self, e: io::Error) -> Error {
        Error::io(format!("write {} into the cache", self.id))(explain(e))
    }

    fn pause(&self, pause: Duration) -> Result<()> {
        let step = Duration::from_millis(100);
        let mut left = pause;
        while !self.cancel.load(Ordering::Relaxed) {
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(step));
            left = left.saturating_sub(step);
        }
        Err(Error::Cancelled)
    }
}

/// True where the SHA-256 of `file` is `expected`, or none is expected.
fn matches(file: &mut File, expected: Option<&str>) -> Result<bool> {
    let Some(expected) = expected else { return Ok(true) };
    let mut hash = Sha256::new();
    let sum = file.seek(SeekFrom::Start(0)).and_then(|_| io::copy(file, &mut hash));
    sum.map_err(Error::io("read back what was fetched"))?;
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(found.eq_ignore_ascii_case(expected))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The tag of a large file is its SHA-256, in quotes; that of a small one is something else.
fn sha256_of_etag(etag: &str) -> Option<String> {
    let sum = etag.trim_start_matches("W/").trim_matches('"');
    (sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit())).then(|| sum.to_string())
}

/// `bytes 5-9/10` starts at 5.
fn start_of_range(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// `https://host:port` of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find(['/', '?', '#']).map_or(url, |end| &url[..host + end])
}

/// Where a redirect from `url` to `target` leads; never from https to http.
fn resolve(url: &str, target: &str) -> Option<String> {
    let resolved = if target.starts_with("http://") || target.starts_with("https://") {
        target.to_string()
    } else if target.starts_with('/') && !target.starts_with("//") {
        format!("{}{target}", origin(url))
    } else {
        return None;
    };
    (!url.starts_with("https://") || resolved.starts_with("https://")).then_some(resolved)
}

/// The usual root certificates, or those of the file that `SSL_CERT_FILE` names.
fn tls_config() -> Result<TlsConfig> {
    let Some(path) = env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) else {
        return Ok(TlsConfig::default());
    };
    let pem = fs::read(&path).map_err(Error::io(format!("read SSL_CERT_FILE {}", Path::new(&path).display())))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    Ok(TlsConfig::builder().root_certs(RootCerts::from(certificates)).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_resolve_and_never_leave_https() {
        let from = "https://a.b:1/c/d?e";
        assert_eq!(origin(from), "https://a.b:1");
        assert_eq!(resolve(from, "/x?y").as_deref(), Some("https://a.b:1/x?y"));
        assert_eq!(resolve(from, "https://z/x").as_deref(), Some("https://z/x"));
        assert_eq!(resolve("http://a", "/x").as_deref(), Some("http://a/x"));
        for bad in ["http://z/x", "//z/x", "x", "file:///x"] {
            assert_eq!(resolve(from, bad), None, "{bad}");
        }
        assert_ne!(origin("https://a.b.evil/x"), origin("https://a.b/y"));
    }

    #[test]
    fn only_a_sha256_is_taken_from_an_etag() {
        let sum = "ab".repeat(32);
        assert_eq!(sha256_of_etag(&format!("\"{sum}\"")), Some(sum));
        assert_eq!(sha256_of_etag("\"0123456789abcdef0123456789abcdef01234567\""), None);
        assert_eq!(start_of_range("bytes 5-9/10"), Some(5));
    }
}
