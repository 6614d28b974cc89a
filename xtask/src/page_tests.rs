//! The page in Chromium, driven by Playwright: one build, one server for the page, another that plays a model hub.

use crate::process::{output_of, program, root, run};
use crate::serve::{self, Server};
use crate::{hub, page, smollm2, tools};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the specifications are.
const DIR: &str = "tests/page";
/// The page as it is built for them.
pub const DIST: &str = "target/page";

/// The programs that the tests need.
pub struct Tools {
    npm: PathBuf,
    chromium: PathBuf,
    swiftshader: Option<PathBuf>,
}

impl Tools {
    /// Finds or installs them, and what `package-lock.json` lists.
    pub fn find() -> Result<Tools> {
        let found = Tools { npm: tools::npm()?, chromium: tools::chromium()?, swiftshader: tools::swiftshader()? };
        found.install()?;
        Ok(found)
    }

    /// The packages of the lock file, installed anew where it has changed.
    fn install(&self) -> Result<()> {
        let dir = root().join(DIR);
        let lock = fs::read(dir.join("package-lock.json")).context("cannot read the tests' package-lock.json")?;
        let sum = format!("{:x?}", Sha256::digest(&lock));
        let mark = dir.join("node_modules").join(".espalier-lock");
        if fs::read_to_string(&mark).is_ok_and(|text| text == sum) {
            return Ok(());
        }
        let mut install = program(&self.npm);
        // The browser is the one of this machine.
        install.env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1");
        run(install.args(["ci", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]).arg(&dir))?;
        fs::write(&mark, sum).context("cannot write into the tests' node_modules")
    }
}

/// Servers that run for as long as this lives, and the command that tests against them.
pub struct PageTests {
    _page: Server,
    _hub: Server,
    pub command: Command,
}

impl PageTests {
    /// Starts the servers and prepares the run of `project` on the page that was built. The native program is `espalier`.
    pub fn start(tools: &Tools, espalier: &Path, model: Option<&Path>, project: &str) -> Result<PageTests> {
        let dist = root().join(DIST);
        let models = root().join("target").join("page-hub");
        let seedling = dist.join("assets").join("seedling.gguf");
        lay_out_hub(&models, &seedling)?;
        let page = Server::start(0, serve::router(&dist, model)?)?;
        let hub = Server::start(0, hub::router(&models)?)?;
        let script = root().join(DIR).join("node_modules").join("@playwright").join("test").join("cli.js");
        let mut command = program("node");
        command.current_dir(root().join(DIR)).arg(script).args(["test", "--project", project]);
        command.env("ESPALIER_PAGE", page.address()).env("ESPALIER_HUB", hub.address());
        command.env("ESPALIER_CHROMIUM", &tools.chromium).env("ESPALIER_BIN", espalier).env("ESPALIER_DIST", &dist);
        command.env("ESPALIER_SMOLLM2_GGUF", model.unwrap_or(Path::new("")));
        if let Some(manifest) = &tools.swiftshader {
            command.env("ESPALIER_VK_DRIVER_FILES", manifest);
        }
        Ok(PageTests { _page: page, _hub: hub, command })
    }
}

/// A hub with the page's own model in it.
fn lay_out_hub(dir: &Path, seedling: &Path) -> Result<()> {
    let folder = dir.join("espalier").join("seedling");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::copy(seedling, folder.join("seedling.gguf")).with_context(|| format!("cannot read {}", seedling.display()))?;
    Ok(())
}

/// The counts in Playwright's closing lines: `  12 passed (3.4m)`, `  1 failed`.
pub fn closing_line(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace();
    let count = words.next()?.parse().ok()?;
    match (words.next()?, words.next()) {
        ("passed", Some(time)) if time.starts_with('(') => Some((count, 0)),
        ("failed", None) => Some((0, count)),
        _ => None,
    }
}

#[derive(clap::Args)]
pub struct BenchOptions {
    /// Measure what an earlier build left
    #[arg(long)]
    no_build: bool,
}

/// `cargo xtask bench-web`: the same steps natively and in the page's worker, both on SwiftShader.
pub fn bench(options: &BenchOptions) -> Result<bool> {
    let tools = Tools::find()?;
    if tools.swiftshader.is_none() {
        bail!("no SwiftShader was found beside Chromium: there is nothing to compare the browser with");
    }
    run(crate::process::cargo().args(["build", "--release", "--bin", "espalier"]))?;
    if !options.no_build {
        page::build(Path::new(DIST))?;
    }
    // Built just now, or left by an earlier build.
    let espalier = built("release")?;
    let model = smollm2::cached_gguf()?;
    let mut tests = PageTests::start(&tools, &espalier, model.as_deref(), "bench")?;
    run(&mut tests.command)?;
    Ok(true)
}

/// The native program of a profile, as cargo names its place.
pub fn built(profile: &str) -> Result<PathBuf> {
    let metadata = output_of(crate::process::cargo().args(["metadata", "--no-deps", "--format-version", "1"]));
    let metadata = metadata.context("`cargo metadata` failed")?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("`cargo metadata` is not JSON")?;
    let target = metadata["target_directory"].as_str().context("`cargo metadata` names no target directory")?;
    Ok(Path::new(target).join(profile).join(format!("espalier{}", std::env::consts::EXE_SUFFIX)))
}

#[cfg(test)]
mod tests {
    use super::closing_line;

    #[test]
    fn closing_lines_of_playwright_are_counted() {
        assert_eq!(closing_line("  12 passed (3.4m)"), Some((12, 0)));
        assert_eq!(closing_line("  1 failed"), Some((0, 1)));
        assert_eq!(closing_line("  ✓  1 flow.spec.ts:5:1 › 12 passed (3s)"), None);
    }
}
