//! What the page, the tests and the demonstration need beside cargo: looked for first, installed where we can, else a sentence on what to install.

use crate::process::{cargo, on_path, output_of, program, root, run, say};
use crate::smollm2::cache;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

pub const WASM: &str = "wasm32-unknown-unknown";

/// Versions of what Cargo.lock does not name.
const TRUNK: &str = "0.21.14";
const BINARYEN: &str = "132.0.0";

/// rustfmt, clippy and the standard library for WebAssembly.
pub fn rust_components() -> Result<()> {
    for component in ["rustfmt", "clippy"] {
        let subcommand = component.trim_start_matches("rust");
        if output_of(cargo().args([subcommand, "--version"])).is_none() {
            rustup(&["component", "add", component])?;
        }
    }
    wasm_target()
}

/// The standard library for WebAssembly.
pub fn wasm_target() -> Result<()> {
    let libraries = output_of(program("rustc").args(["--print", "target-libdir", "--target", WASM]));
    if !libraries.is_some_and(|dir| Path::new(dir.trim()).is_dir()) {
        rustup(&["target", "add", WASM])?;
    }
    Ok(())
}

fn rustup(arguments: &[&str]) -> Result<()> {
    if on_path("rustup").is_none() {
        bail!(
            "`rustup {}` is needed, and there is no rustup: install it from rustup.rs, or add the component another way",
            arguments.join(" ")
        );
    }
    run(program("rustup").args(arguments))
}

/// The test runner of wasm-bindgen-cli, at the version in Cargo.lock: any other refuses the code that the library generated.
pub fn wasm_bindgen_test_runner() -> Result<PathBuf> {
    cargo_tool("wasm-bindgen-cli", "wasm-bindgen-test-runner", &locked_version("wasm-bindgen")?)
}

/// wasm-bindgen, of the same version.
pub fn wasm_bindgen() -> Result<PathBuf> {
    cargo_tool("wasm-bindgen-cli", "wasm-bindgen", &locked_version("wasm-bindgen")?)
}

/// The program that builds the page from `index.html`.
pub fn trunk() -> Result<PathBuf> {
    cargo_tool("trunk", "trunk", TRUNK)
}

/// `name` of the crate `package`: from the PATH where it has this version, else from the cache, where it is installed once.
fn cargo_tool(package: &str, name: &str, version: &str) -> Result<PathBuf> {
    if let Some(path) = on_path(name)
        && output_of(program(&path).arg("--version")).is_some_and(|v| v.split_whitespace().any(|word| word == version))
    {
        return Ok(path);
    }
    let home = cache()?.join("tools").join(format!("{package}-{version}"));
    let path = home.join("bin").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if !path.exists() {
        say(format_args!("Installing {package} {version} into {} (once)", home.display()));
        let mut install = cargo();
        // These programs wait for others: a quick build is worth more than a fast program.
        install.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1").env("CARGO_PROFILE_RELEASE_DEBUG", "0");
        run(install.args(["install", "--locked", "--version", version, package, "--root"]).arg(&home))?;
    }
    Ok(path)
}

/// wasm-opt of binaryen's npm package: that of the distributions is often too old for what today's compiler writes.
pub fn wasm_opt() -> Result<PathBuf> {
    let home = cache()?.join("tools").join(format!("binaryen-{BINARYEN}"));
    let path = home.join("node_modules").join(".bin").join(if cfg!(windows) { "wasm-opt.cmd" } else { "wasm-opt" });
    if !path.exists() {
        let npm = npm().context("wasm-opt comes with npm")?;
        say(format_args!("Installing wasm-opt (binaryen {BINARYEN}) into {} (once)", home.display()));
        fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
        let mut install = program(npm);
        install.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]).arg(&home);
        run(install.arg(format!("binaryen@{BINARYEN}")))?;
    }
    Ok(path)
}

/// The package manager of Node.js.
pub fn npm() -> Result<PathBuf> {
    let find = || on_path("npm").or_else(|| on_path("npm.cmd"));
    if let Some(path) = find() {
        return Ok(path);
    }
    apt_install(&["npm"], "Node.js with npm")?;
    find().context("npm was installed, but is not on the PATH")
}

fn locked_version(package: &str) -> Result<String> {
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{package}\""));
    let version = lines.nth(1).and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    Ok(version.with_context(|| format!("Cargo.lock names no {package}"))?.to_string())
}

/// The driver program of a Chromium that speaks WebGPU.
pub fn chromedriver() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CHROMEDRIVER") {
        return Ok(path.into());
    }
    let find = || {
        on_path("chromedriver").filter(|_| {
            ["chromium", "chromium-browser", "google-chrome", "chrome"].iter().any(|b| on_path(b).is_some())
        })
    };
    if let Some(path) = find() {
        return Ok(path);
    }
    let packages: &[&str] = if distribution().contains("ubuntu") {
        &["chromium-browser", "chromium-chromedriver"]
    } else {
        &["chromium", "chromium-driver"]
    };
    apt_install(packages, "Chromium (or Chrome) and the chromedriver of the same version")?;
    find()
        .context("Chromium was installed, but there is no chromedriver on the PATH: set CHROMEDRIVER to where it lies")
}

/// A Chromium, for tests that bring their own driver.
pub fn chromium() -> Result<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let find =
        || std::env::var_os("CHROMIUM").map(PathBuf::from).or_else(|| names.iter().find_map(|name| on_path(name)));
    if let Some(path) = find() {
        return Ok(path);
    }
    let package = if distribution().contains("ubuntu") { "chromium-browser" } else { "chromium" };
    apt_install(&[package], "Chromium (or Chrome), and set CHROMIUM to where it lies")?;
    find().context("Chromium was installed, but is not on the PATH: set CHROMIUM to where it lies")
}

/// The manifest of the Vulkan driver that Chromium brings for machines without a GPU: with it, a native program sees the adapter
/// that the browser sees. It is written into the cache, as that of Chromium names the driver by a relative path.
pub fn swiftshader() -> Result<Option<PathBuf>> {
    let chromium = chromium()?;
    let beside = fs::canonicalize(&chromium).ok().and_then(|path| path.parent().map(Path::to_path_buf));
    let dirs = ["/usr/lib/chromium", "/usr/lib/chromium-browser", "/opt/google/chrome"].map(PathBuf::from);
    let mut libraries = beside.into_iter().chain(dirs).map(|dir| dir.join("libvk_swiftshader.so"));
    let Some(library) = libraries.find(|path| path.is_file()) else { return Ok(None) };
    let manifest = cache()?.join("swiftshader.json");
    let text = serde_json::json!({
        "file_format_version": "1.0.0",
        "ICD": { "library_path": library, "api_version": "1.0.5" },
    });
    fs::create_dir_all(cache()?).context("cannot create the cache")?;
    fs::write(&manifest, text.to_string()).with_context(|| format!("cannot write {}", manifest.display()))?;
    Ok(Some(manifest))
}

/// A Vulkan driver on Linux; macOS and Windows bring their own Metal and Direct3D 12.
pub fn gpu_driver() -> Result<()> {
    if !cfg!(target_os = "linux") || has_vulkan_driver() {
        return Ok(());
    }
    install_gpu_driver()
}

/// Mesa's drivers, the one that needs no GPU among them.
pub fn install_gpu_driver() -> Result<()> {
    say("No usable Vulkan driver found");
    apt_install(&["mesa-vulkan-drivers"], "a Vulkan driver: that of your GPU, or Mesa's software driver (lavapipe)")
}

/// True where the Vulkan loader would find a driver's manifest.
fn has_vulkan_driver() -> bool {
    if ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].iter().any(|name| std::env::var_os(name).is_some()) {
        return true;
    }
    let dirs = ["/usr/share", "/usr/local/share", "/etc", "/run/opengl-driver/share"].map(PathBuf::from);
    let home = dirs::data_local_dir();
    let manifests = dirs.iter().chain(&home).filter_map(|dir| fs::read_dir(dir.join("vulkan/icd.d")).ok()).flatten();
    manifests.flatten().any(|entry| entry.path().extension().is_some_and(|e| e == "json"))
}

/// Installs Debian packages where this is Debian or Ubuntu and we may; else errs with `what` to install.
fn apt_install(packages: &[&str], what: &str) -> Result<()> {
    if !distribution().contains("debian") && !distribution().contains("ubuntu") || on_path("apt-get").is_none() {
        bail!("please install {what}");
    }
    let is_root = output_of(program("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    if !is_root && on_path("sudo").is_none() {
        bail!("please install {what}: apt-get install {}", packages.join(" "));
    }
    let apt = |arguments: &[&str]| {
        let mut command = if is_root { program("apt-get") } else { program("sudo") };
        if !is_root {
            command.args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        }
        command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        run(&mut command)
    };
    say(format_args!("Installing {} with apt-get", packages.join(" ")));
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"], packages].concat())
}

/// The names that this Linux goes by, such as `ubuntu debian`.
fn distribution() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let names = release.lines().filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")));
    names.map(|name| name.trim_matches('"')).collect::<Vec<_>>().join(" ")
}
