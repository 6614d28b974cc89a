//! Runs the binary, and makes the small files it is given.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// What a finished command left.
pub struct Finished {
    output: Output,
    called: String,
}

/// The command, not yet started.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_espalier"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn espalier(arguments: &[&str]) -> Finished {
    finish(command(arguments))
}

/// Runs a command to its end.
pub fn finish(mut command: Command) -> Finished {
    let called = format!("{command:?}");
    Finished { output: command.output().unwrap(), called }
}

impl Finished {
    pub fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Standard output of a command that succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code(), Some(0), "{}\n{}{}", self.called, self.stdout(), self.stderr());
        self.stdout()
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// The one sentence of a command that failed with exit code 1.
    #[track_caller]
    pub fn sentence(self) -> String {
        let stderr = self.stderr();
        assert_eq!(self.code(), Some(1), "{}\n{}{stderr}", self.called, self.stdout());
        let at = stderr.rfind("\nerror: ").map_or(0, |at| at + 1);
        assert!(stderr[at..].starts_with("error: "), "{}\n{stderr}", self.called);
        assert!(!stderr.contains("panicked"), "{}\n{stderr}", self.called);
        stderr[at + "error: ".len()..].trim_end().to_string()
    }
}

/// A folder of its own for one test.
pub struct Workplace {
    folder: tempfile::TempDir,
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_llama").join(name)
}

impl Workplace {
    pub fn new() -> Workplace {
        Workplace { folder: tempfile::tempdir().unwrap() }
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }

    pub fn exists(&self, name: &str) -> bool {
        self.folder.path().join(name).exists()
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// One of the tiny models.
    pub fn model(&self, name: &str) -> String {
        fixture(name).to_str().unwrap().to_string()
    }

    /// A copy of a tiny model whose token `n` is written `tn`.
    pub fn with_tokenizer(&self, name: &str) -> String {
        let folder = self.path(&format!("{name}-with-tokenizer"));
        std::fs::create_dir_all(&folder).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture(name).join(file), Path::new(&folder).join(file)).unwrap();
        }
        let vocab: serde_json::Map<String, Value> = (0..131).map(|id| (format!("t{id}"), json!(id))).collect();
        let tokenizer = json!({
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": { "type": "WhitespaceSplit" },
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "t0" },
        });
        std::fs::write(Path::new(&folder).join("tokenizer.json"), tokenizer.to_string()).unwrap();
        folder
    }

    /// A data set of token ids with a pattern that can be learned: each token is the one before plus 3.
    pub fn tokens(&self, name: &str, rows: usize) -> String {
        let row = |i: usize| {
            let ids: Vec<usize> = (0..6 + i * 7 % 23).map(|t| (i * 31 + 3 * t) % 128 + 3).collect();
            json!({ "input_ids": ids }).to_string() + "\n"
        };
        self.write(name, &(0..rows).map(row).collect::<String>())
    }

    /// Metrics of a run, one object a step.
    pub fn metrics(&self, run: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(&format!("{run}/metrics.jsonl"))).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The losses of a run, every bit of them.
    pub fn losses(&self, run: &str) -> Vec<(u64, u64)> {
        let pair = |line: &Value| (line["step"].as_u64().unwrap(), line["loss"].as_f64().unwrap().to_bits());
        self.metrics(run).iter().map(pair).collect()
    }
}

/// The loss that `espalier eval` measures.
#[track_caller]
pub fn eval(arguments: &[&str]) -> f64 {
    let report = espalier(&[&["eval"], arguments, &["--json"]].concat()).json();
    let (loss, perplexity) = (report["loss"].as_f64().unwrap(), report["perplexity"].as_f64().unwrap());
    assert!((perplexity - loss.exp()).abs() < 1e-9 * perplexity && report["tokens"].as_u64() > Some(0), "{report}");
    loss
}

#[track_caller]
pub fn assert_close(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((found - expected).abs() <= tolerance, "{what}: {found}, expected {expected} within {tolerance}");
}
