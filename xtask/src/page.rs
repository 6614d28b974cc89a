//! `cargo xtask page`: builds the page with trunk into `target/page`, names the build for its service worker, and weighs it.

use crate::process::{program, root, run, say};
use crate::tools;
use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The most that all WebAssembly of the page may weigh, gzip'd, bytes.
const MAX_WASM: u64 = 2_500_000;
/// Files above this, in bytes, are not kept by the service worker.
const MAX_KEPT: u64 = 8 << 20;

#[derive(clap::Args)]
pub struct Options {
    /// Where the page is written
    #[arg(long, value_name = "DIR", default_value = "target/page")]
    pub dist: PathBuf,
}

/// True: what goes wrong is an error.
pub fn run_command(options: &Options) -> Result<bool> {
    build(&options.dist).map(|()| true)
}

/// Builds the page into `dist`. Errs where it became too heavy.
pub fn build(dist: &Path) -> Result<()> {
    tools::wasm_target()?;
    let trunk = tools::trunk()?;
    let mut dirs = vec![tools::wasm_bindgen()?];
    let wasm_opt = tools::wasm_opt();
    let mut command = program(trunk);
    // trunk takes its tools from the PATH, and takes `NO_COLOR=1` for an error.
    command.args(["build", "--dist"]).arg(root().join(dist)).env_remove("NO_COLOR");
    match wasm_opt {
        Ok(path) => {
            dirs.push(path);
            command.arg("--release");
        }
        Err(error) => {
            say(format_args!("{error:#}"));
            say("The page is built without wasm-opt: it will be larger");
            // Not `--release`, which would have trunk look for wasm-opt on the network.
            command.args(["--cargo-profile", "web"]);
        }
    }
    let bins = dirs.iter().filter_map(|path| path.parent().map(Path::to_path_buf));
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env("PATH", std::env::join_paths(bins.chain(std::env::split_paths(&path)))?);
    run(&mut command)?;
    let dist = root().join(dist);
    name_build(&dist)?;
    weigh(&dist)
}

/// Writes the build's name, and the files that it consists of, into its service worker.
fn name_build(dist: &Path) -> Result<()> {
    let place = dist.join("sw.js");
    let mut hash = Sha256::new();
    let mut kept = vec!["./".to_string()];
    for path in files_in(dist)? {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(dist).expect("it lies in there").to_string_lossy().replace('\\', "/");
        hash.update(name.as_bytes());
        hash.update(Sha256::digest(&bytes));
        if bytes.len() as u64 <= MAX_KEPT && !["index.html", "sw.js"].contains(&name.as_str()) {
            kept.push(format!("./{name}"));
        }
    }
    let build: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut text = fs::read_to_string(&place).with_context(|| format!("cannot read {}", place.display()))?;
    for (empty, filled) in [
        ("const BUILD = \"\";", format!("const BUILD = {build:?};")),
        ("const FILES = [];", format!("const FILES = {kept:?};")),
    ] {
        if !text.contains(empty) {
            bail!("web/sw.js has no line `{empty}` to be filled in");
        }
        text = text.replace(empty, &filled);
    }
    fs::write(&place, text).with_context(|| format!("cannot write {}", place.display()))
}

/// The files in a folder and in those below it, sorted; hidden ones left out.
fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            let into = if entry.path().is_dir() { &mut dirs } else { &mut files };
            into.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Says how large the page is, and errs where its WebAssembly is too large.
fn weigh(dist: &Path) -> Result<()> {
    let (mut wasm, mut all) = (0, 0);
    for path in files_in(dist)? {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let packed = gzip(&bytes)?;
        all += packed;
        let name = path.strip_prefix(dist).expect("it lies in there").display().to_string();
        if name.ends_with(".wasm") {
            wasm += packed;
        }
        if name.ends_with(".wasm") || packed > 50_000 {
            say(format_args!("{:>8.0} kB, gzip'd {:>6.0} kB  {name}", bytes.len() as f64 / 1e3, packed as f64 / 1e3));
        }
    }
    say(format_args!("gzip'd: {:.0} kB of WebAssembly, {:.0} kB in all", wasm as f64 / 1e3, all as f64 / 1e3));
    if wasm > MAX_WASM {
        bail!("the page's WebAssembly weighs {wasm} bytes gzip'd, more than {MAX_WASM}");
    }
    Ok(())
}

/// The length of `bytes` after gzip, as a server would send them.
fn gzip(bytes: &[u8]) -> Result<u64> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?.len() as u64)
}
