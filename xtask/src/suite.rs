//! `cargo xtask test`: everything that must hold, in one run. A step that fails does not keep the later ones from telling what they find.

use crate::process::{cargo, root, run_and_see, say};
use crate::{page_tests, smollm2, tools};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The package that holds the page.
const PAGE: &str = "espalier-web";

/// `CI` in the environment makes a missing browser, GPU adapter or model a failure.
#[derive(clap::Args)]
pub struct Options {
    /// Only the format, the lints, and the native tests that need no downloaded model
    #[arg(long)]
    quick: bool,
    /// The tests that use the page as a person would, on what `cargo xtask page` left
    #[arg(long, conflicts_with = "quick")]
    page: bool,
    /// Run only the tests whose names contain this, and nothing else
    filter: Option<String>,
}

/// True where everything passed.
pub fn run(options: &Options) -> Result<bool> {
    let mut suite = Suite::new();
    if options.page {
        suite.test_page_only(options);
        return suite.finish();
    }
    suite.step("set-up: Rust", |_| tools::rust_components().map(|()| true));
    suite.step("set-up: GPU driver", |_| tools::gpu_driver().map(|()| true));
    let mut model = None;
    let mut browser = None;
    if !options.quick {
        suite.optional("set-up: SmolLM2", || smollm2::gguf().map(|path| model = Some(path)));
        suite.optional("set-up: browser", || Browser::find().map(|found| browser = Some(found)));
    }
    if options.filter.is_none() {
        suite.command("format", cargo().args(["fmt", "--all", "--check"]));
        suite.command("lints", native("clippy").args(["--all-targets", "--", "-D", "warnings"]));
        if !options.quick {
            suite.command("lints, WebAssembly", browser_cargo("clippy")?.args(["--lib", "--", "-D", "warnings"]));
            suite.command("lints, page", page_cargo("clippy").args(["--all-targets", "--", "-D", "warnings"]));
            suite.command("documentation", native("doc").arg("--no-deps").env("RUSTDOCFLAGS", "-D warnings"));
        }
    }
    suite.command("tests", &mut native_tests(options, model.as_deref()));
    if let Some(browser) = browser {
        suite.command("tests in the browser", &mut browser.tests(options)?);
        suite.command("tests of the page's parts", &mut browser.page_tests(options));
    }
    suite.finish()
}

/// Cargo for what runs natively: all but the page.
fn native(command: &str) -> Command {
    let mut cargo = cargo();
    cargo.args([command, "--workspace", "--exclude", PAGE]);
    cargo
}

/// Cargo for the page, which is nothing but WebAssembly.
fn page_cargo(command: &str) -> Command {
    let mut cargo = cargo();
    cargo.args([command, "--package", PAGE, "--target", tools::WASM]);
    cargo
}

fn native_tests(options: &Options, model: Option<&Path>) -> Command {
    let mut tests = native("test");
    tests.arg("--no-fail-fast");
    // Empty: do without the model, even where it is in the cache.
    tests.env("ESPALIER_SMOLLM2_GGUF", model.unwrap_or(Path::new("")));
    tests.args(&options.filter);
    tests
}

/// Cargo for the library as a browser gets it, with the test programs that are for a browser as well.
fn browser_cargo(command: &str) -> Result<Command> {
    let mut cargo = cargo();
    cargo.args([command, "--package", "espalier", "--target", tools::WASM, "--no-default-features"]);
    for program in browser_tests()? {
        cargo.args(["--test", &program]);
    }
    Ok(cargo)
}

/// The programs in `tests/` that declare tests with `gpu_tests!`, by name.
fn browser_tests() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("tests")).context("cannot list tests/")? {
        let path = entry.context("cannot list tests/")?.path();
        let main = if path.is_dir() { path.join("main.rs") } else { path.clone() };
        let is_rust = main.extension().is_some_and(|e| e == "rs");
        if is_rust && fs::read_to_string(&main).is_ok_and(|text| text.contains("gpu_tests!")) {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

struct Browser {
    runner: PathBuf,
    driver: PathBuf,
}

impl Browser {
    fn find() -> Result<Browser> {
        Ok(Browser { driver: tools::chromedriver()?, runner: tools::wasm_bindgen_test_runner()? })
    }

    fn tests(&self, options: &Options) -> Result<Command> {
        let mut tests = browser_cargo("test")?;
        self.set_up(&mut tests, options);
        Ok(tests)
    }

    /// What of the page can be tested without a page.
    fn page_tests(&self, options: &Options) -> Command {
        let mut tests = page_cargo("test");
        tests.arg("--lib");
        self.set_up(&mut tests, options);
        tests
    }

    fn set_up(&self, tests: &mut Command, options: &Options) {
        tests.args(&options.filter);
        tests.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER", &self.runner).env("CHROMEDRIVER", &self.driver);
        tests.env("WASM_BINDGEN_TEST_TIMEOUT", "1200");
    }
}

/// The steps so far, and the tests they ran.
struct Suite {
    started: Instant,
    steps: Vec<(String, Outcome, Duration)>,
    passed: u64,
    failed: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl Suite {
    fn new() -> Suite {
        Suite { started: Instant::now(), steps: Vec::new(), passed: 0, failed: 0 }
    }

    fn step(&mut self, name: &str, run: impl FnOnce(&mut Suite) -> Result<bool>) {
        self.record(name, |suite| match run(suite) {
            Ok(true) => Outcome::Passed,
            Ok(false) => Outcome::Failed,
            Err(error) => {
                say(format_args!("{error:#}"));
                Outcome::Failed
            }
        });
    }

    /// Something that a person's machine may lack, and a continuous integration may not.
    fn optional(&mut self, name: &str, run: impl FnOnce() -> Result<()>) {
        self.record(name, |_| match run() {
            Ok(()) => Outcome::Passed,
            Err(error) => {
                say(format_args!("{error:#}"));
                if std::env::var_os("CI").is_some() { Outcome::Failed } else { Outcome::Skipped }
            }
        });
    }

    /// A command, whose tests are counted where it runs any.
    fn command(&mut self, name: &str, command: &mut Command) {
        self.step(name, |suite| {
            run_and_see(command, |line| {
                if let Some((passed, failed)) = closing_line(line) {
                    suite.passed += passed;
                    suite.failed += failed;
                }
            })
        });
    }

    /// The page's tests without a build of the page.
    fn test_page_only(&mut self, options: &Options) {
        let mut model = None;
        self.optional("set-up: SmolLM2", || smollm2::gguf().map(|path| model = Some(path)));
        self.command("set-up: native program", cargo().args(["build", "--bin", "espalier"]));
        self.step("tests of the page", |suite| suite.test_page(&page_tests::Tools::find()?, model.as_deref(), options));
    }

    /// The page's tests, which Playwright runs and counts.
    fn test_page(&mut self, tools: &page_tests::Tools, model: Option<&Path>, options: &Options) -> Result<bool> {
        let espalier = page_tests::built("debug")?;
        let mut tests = page_tests::PageTests::start(tools, &espalier, model, "tests")?;
        if let Some(filter) = &options.filter {
            tests.command.args(["--grep", filter]);
        }
        run_and_see(&mut tests.command, |line| {
            if let Some((passed, failed)) = page_tests::closing_line(line) {
                self.passed += passed;
                self.failed += failed;
            }
        })
    }

    fn record(&mut self, name: &str, run: impl FnOnce(&mut Suite) -> Outcome) {
        say(format_args!("── {name}"));
        let started = Instant::now();
        let outcome = run(self);
        self.steps.push((name.to_string(), outcome, started.elapsed()));
    }

    /// The summary, and true where nothing failed.
    fn finish(self) -> Result<bool> {
        let failed_steps = self.steps.iter().filter(|(_, outcome, _)| *outcome == Outcome::Failed).count() as u64;
        println!();
        for (name, outcome, time) in &self.steps {
            let word = match outcome {
                Outcome::Passed => "passed",
                Outcome::Failed => "FAILED",
                Outcome::Skipped => "skipped (see above for what to install)",
            };
            println!("{:>7.1} s  {name}: {word}", time.as_secs_f64());
        }
        println!("{:>7.1} s  in all", self.started.elapsed().as_secs_f64());
        // A step may fail without a failed test: a lint, code that does not compile.
        println!("{} passed, {} failed", self.passed, self.failed.max(failed_steps));
        Ok(failed_steps == 0)
    }
}

/// The counts in `test result: ok. 3 passed; 0 failed; ...`, cargo's closing line for one test binary.
fn closing_line(line: &str) -> Option<(u64, u64)> {
    let (_, counts) = line.split_once("test result: ")?;
    let count = |word: &str| -> Option<u64> {
        counts
            .split([';', '.'])
            .find_map(|part| part.trim().strip_suffix(word)?.trim().rsplit(' ').next()?.parse().ok())
    };
    Some((count("passed")?, count("failed")?))
}

#[cfg(test)]
mod tests {
    use super::closing_line;

    #[test]
    fn closing_lines_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s";
        assert_eq!(closing_line(line), Some((12, 3)));
        assert_eq!(
            closing_line("test result: \u{1b}[32mok\u{1b}(B\u{1b}[m. 5 passed; 0 failed; 0 ignored"),
            Some((5, 0))
        );
        assert_eq!(closing_line("test a::b ... ok"), None);
    }
}
