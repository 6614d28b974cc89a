//! `espalier train`

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use clap::Args;
use espalier::Error;
use espalier::data::Dataset;
use espalier::export::{self, FloatType, Trained};
use espalier::gpu::Gpu;
use espalier::io::{FileSource, write_atomically};
use espalier::model::ModelFiles;
use espalier::model::config::LINEAR_MODULES;
use espalier::model::device::LoadProgress;
use espalier::peft::{Adapter, Method, NamedTensor};
use espalier::platform::block_on;
use espalier::quant::WeightFormat;
use espalier::train::run::{Ending, Event, Host, Prepared, Run, Summary};
use espalier::train::{CHECKPOINT_FILE, Checkpoint, MethodName, RunConfig, Shapes, advice, metrics};
use espalier::{exec, peft};

use super::open::{self, WithoutWeights};
use super::options::RunOptions;
use super::report::{Progress, Unit, bytes, duration};
use super::{Outcome, cancel_on_ctrl_c, merge, plan};

#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct Options {
    /// A Hugging Face folder, a .gguf file, or owner/name[@revision][:file.gguf] on the hub; with --method full also a
    /// config.json, for a random start
    #[arg(value_name = "MODEL")]
    model: String,
    /// The data set: JSONL, JSON, CSV or plain text
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    data: PathBuf,
    /// Where the adapter (or, with --method full, the model), the metrics and the checkpoint go [default: the folder of
    /// --resume]
    #[arg(long, value_name = "DIR", required_unless_present = "resume", help_heading = "Files")]
    out: Option<PathBuf>,
    /// Held-out data to evaluate on
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    eval_data: Option<PathBuf>,
    /// Start from this adapter instead of a new one
    #[arg(long, value_name = "DIR", conflicts_with = "resume", help_heading = "Files")]
    init_adapter: Option<PathBuf>,
    /// Go on with the run that left a checkpoint in this folder; its choices hold unless given anew
    #[arg(long, value_name = "DIR", help_heading = "Files")]
    resume: Option<PathBuf>,
    /// Where each step's numbers go, one line of JSON a step [default: metrics.jsonl in the folder of --out]
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    metrics: Option<PathBuf>,
    /// How a model trained with --method full is stored [default: f32]
    #[arg(long, value_enum, help_heading = "Files")]
    dtype: Option<FloatType>,
    /// Replace what an earlier run left at --out
    #[arg(long, help_heading = "Files")]
    overwrite: bool,
    /// The GPU adapter, by part of its name or by its index in `espalier gpus` [default: the fastest]
    #[arg(long, value_name = "NAME|INDEX", help_heading = "Run")]
    gpu: Option<String>,
    /// GPU memory to get along with, such as 6GiB [default: all there is]
    #[arg(long, value_name = "BYTES", value_parser = plan::parse_bytes, help_heading = "Run")]
    budget: Option<u64>,
    #[command(flatten)]
    run: RunOptions,
}

/// The choices of the run, as a file that --config reads.
const CONFIG_FILE: &str = "run.json";
const METRICS_FILE: &str = "metrics.jsonl";

pub fn run(options: &Options) -> Result<Outcome> {
    let cancel = cancel_on_ctrl_c()?;
    let resumed = options.resume.as_deref().map(read_checkpoint).transpose()?;
    let folder = match (&options.out, &resumed) {
        (Some(out), _) => out.clone(),
        (None, Some((path, _))) => path.parent().unwrap_or(Path::new(".")).to_path_buf(),
        (None, None) => bail!("--out is missing"),
    };
    let initial = options.init_adapter.as_deref().map(|path| open::adapter(path).map(|a| (path, a))).transpose()?;
    let config = choices(options, resumed.as_ref().map(|(_, checkpoint)| checkpoint), initial.as_ref())?;
    if config.eval_fraction > 0.0 && options.eval_data.is_some() {
        bail!("give either --eval-data or --eval-fraction, not both");
    }
    check_folder(options, &folder, resumed.as_ref().map(|(path, _)| path.as_path()))?;

    let without = match config.method {
        MethodName::Full => WithoutWeights::Random(config.seed),
        MethodName::Lora => WithoutWeights::Refuse,
    };
    let files = open::model(&options.model, without, &cancel)?;
    config.check_model(files.config())?;
    let (data, eval) = data_sets(options, &files, &config)?;
    let prepared = Prepared::new(&files, &config, data, eval)?;
    if let Some((path, checkpoint)) = &resumed {
        prepared.check(&path.display().to_string(), checkpoint)?;
    }

    let gpu = open::gpu_within(options.gpu.as_deref(), options.budget)?;
    let (setup, costs) = prepared.plan(&exec::target(&gpu))?;
    eprintln!("{} on {}", files.location(), gpu.summary().name);
    eprint!("{}", plan::describe(prepared.config(), files.config(), &setup, &costs));
    eprintln!("{} steps, learning rate up to {:.1e}", prepared.total_steps(), prepared.peak_lr());

    let config = prepared.config().clone();
    let total_steps = prepared.total_steps();
    let elsewhere = resumed.as_ref().filter(|(path, _)| path.parent() != Some(&folder)).map(|(_, c)| c.clone());
    let Some(mut run) = start(options, gpu, &files, prepared, setup, resumed, &cancel)? else {
        eprintln!("stopped before the first step");
        return Ok(Outcome::Interrupted);
    };
    if let Some((path, adapter)) = &initial {
        run.set_parameters(&path.display().to_string(), &adapter.tensors)?;
    }
    let mut terminal = Terminal::new(options, &folder, &config, run.trainer().steps(), total_steps)?;
    if let Some(checkpoint) = elsewhere {
        // The new folder is complete from the start: an interruption before its first checkpoint loses nothing.
        block_on(terminal.keep(&checkpoint))?;
    }
    let outcome = block_on(run.run(&mut terminal, &cancel));
    terminal.progress.finish();
    let summary = outcome.map_err(|error| terminal.explain(error))?;
    if summary.ending == Ending::Cancelled {
        eprintln!("stopped after step {}; go on with: {}", summary.steps, terminal.resume);
        return Ok(Outcome::Interrupted);
    }
    let result = block_on(run.result())?;
    save(options, &folder, &files, &config, result)?;
    conclude(&summary, run.memory().0.total(), &folder, &config);
    Ok(Outcome::Done)
}

/// The path of a checkpoint, and what it holds.
fn read_checkpoint(path: &Path) -> Result<(PathBuf, Checkpoint)> {
    let path = if path.is_dir() { path.join(CHECKPOINT_FILE) } else { path.to_path_buf() };
    if !path.exists() {
        bail!("there is no checkpoint {}", path.display());
    }
    let checkpoint = Checkpoint::read(Box::new(FileSource::open(&path)?))?;
    Ok((path, checkpoint))
}

/// The run's choices: options, then the configuration file, then the checkpoint's or the initial adapter's.
fn choices(options: &Options, resumed: Option<&Checkpoint>, initial: Option<&(&Path, Adapter)>) -> Result<RunConfig> {
    let mut base = resumed.map_or_else(RunConfig::default, |checkpoint| checkpoint.state.config.clone());
    let Some((path, Adapter { method: Method::Lora(lora), .. })) = initial else {
        return options.run.resolve(&base);
    };
    base.rank = lora.r;
    base.alpha = Some(lora.lora_alpha.into());
    base.rslora = lora.use_rslora;
    base.target_modules = lora.target_modules.clone();
    let config = options.run.resolve(&base)?;
    let known: Vec<&str> = LINEAR_MODULES.iter().map(|(name, _)| *name).collect();
    // `all-linear` and a list of them all are the same.
    let targets = |config: &RunConfig| config.target_modules.resolve(&known).map(BTreeSet::from_iter);
    let same_targets = targets(&config)? == targets(&base)?;
    let kept = (config.rank, config.alpha(), config.rslora) == (base.rank, base.alpha(), base.rslora) && same_targets;
    if !kept || config.method != MethodName::Lora {
        bail!(
            "the adapter in {} has method lora, rank {}, alpha {}, and its own target modules, which cannot be changed",
            path.display(),
            lora.r,
            lora.lora_alpha
        );
    }
    Ok(config)
}

/// Errs where the folder holds what must not be lost.
fn check_folder(options: &Options, folder: &Path, resumed: Option<&Path>) -> Result<()> {
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if same(folder, Path::new(&options.model)) {
        bail!("--out {} is the model's own folder; choose another", folder.display());
    }
    let occupied = [peft::format::CONFIG_FILE, export::WEIGHTS_FILE, "config.json", CHECKPOINT_FILE]
        .into_iter()
        .find(|name| folder.join(name).exists());
    let goes_on = resumed.and_then(Path::parent).is_some_and(|from| same(from, folder));
    match occupied {
        Some(name) if !goes_on && !options.overwrite => bail!(
            "{} holds the {name} of an earlier run; choose another --out, go on with --resume, or replace it with --overwrite",
            folder.display()
        ),
        _ => Ok(()),
    }
}

/// The data to train on, and the held-out data.
fn data_sets(
    options: &Options,
    files: &ModelFiles,
    config: &RunConfig,
) -> Result<(Arc<Dataset>, Option<Arc<Dataset>>)> {
    let context = config.context(files.config());
    let data = open::dataset(files, &options.data, context, config.supervise)?;
    if let Some(path) = &options.eval_data {
        let eval = open::dataset(files, path, context, config.supervise)?;
        return Ok((Arc::new(data), Some(Arc::new(eval))));
    }
    if config.eval_fraction > 0.0 {
        let (data, eval) = data.split(config.eval_fraction, config.seed)?;
        eprintln!("{} examples are held out", eval.examples.len());
        return Ok((Arc::new(data), Some(Arc::new(eval))));
    }
    Ok((Arc::new(data), None))
}

/// Loads the model; where the GPU has no room for it, says what would fit.
fn start<'m>(
    options: &Options,
    gpu: Rc<Gpu>,
    files: &'m ModelFiles,
    prepared: Prepared<'m>,
    setup: espalier::train::trainer::TrainerSetup,
    resumed: Option<(PathBuf, Checkpoint)>,
    cancel: &AtomicBool,
) -> Result<Option<Run<'m>>> {
    let config = prepared.config().clone();
    let target = exec::target(&gpu);
    let name = resumed.as_ref().map(|(path, _)| path.display().to_string());
    let from = name.as_deref().zip(resumed.map(|(_, checkpoint)| checkpoint));
    let mut bar = Progress::new(&format!("loading ({})", config.weights()), 0, Unit::Bytes);
    let mut show = |progress: LoadProgress| {
        bar.set_total(progress.total_bytes);
        bar.set(progress.done_bytes, "");
        !cancel.load(Ordering::Relaxed)
    };
    let run = block_on(prepared.start(gpu, setup, from, &mut show));
    bar.finish();
    match run {
        Ok(run) => Ok(Some(run)),
        Err(Error::Cancelled) => Ok(None),
        Err(error @ (Error::OutOfMemory(_) | Error::TooLarge { .. })) => {
            let advice = smaller(&config, files, &target, options.budget).unwrap_or_default();
            Err(anyhow::Error::from(error).context(format!("the run does not fit on this GPU{advice}")))
        }
        Err(other) => Err(other.into()),
    }
}

/// Which changes make the run fit into the budget, or save a good part of the memory, as the end of a sentence.
fn smaller(
    config: &RunConfig,
    files: &ModelFiles,
    target: &espalier::graph::Target,
    budget: Option<u64>,
) -> Result<String> {
    let model = files.config();
    let (_, plan) = advice::plan(config, model, &Shapes::largest(config, model), target)?;
    let needed = plan.memory.total();
    let changes = advice::advise(config, model, target, budget.unwrap_or(needed / 10 * 8))?;
    let told: Vec<String> =
        changes.iter().map(|change| format!("with {} {}", change.options, bytes(change.bytes))).collect();
    Ok(format!("; it needs {}, {}", bytes(needed), told.join(", ")))
}

/// Shows a run on the terminal, and keeps its metrics and checkpoints in the run's folder.
struct Terminal {
    progress: Progress,
    folder: PathBuf,
    metrics: File,
    metrics_name: String,
    /// How to go on after an interruption.
    resume: String,
    /// The steps of the newest checkpoint and of the last step made.
    kept: Option<u64>,
    step: u64,
    text: String,
}

impl Terminal {
    /// Makes the folder and opens the metrics; after a resume at step `step`, these go on from there.
    fn new(options: &Options, folder: &Path, config: &RunConfig, step: u64, total_steps: u64) -> Result<Terminal> {
        std::fs::create_dir_all(folder).map_err(Error::io(format!("make the folder {}", folder.display())))?;
        let path = options.metrics.clone().unwrap_or_else(|| folder.join(METRICS_FILE));
        let name = path.display().to_string();
        let before = if step > 0 { std::fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        write_text(&path, &metrics::lines_until(&before, step))?;
        if step == 0 && options.overwrite {
            // A checkpoint of the run that is replaced would be resumed by mistake.
            let _ = std::fs::remove_file(folder.join(CHECKPOINT_FILE));
        }
        write_text(&folder.join(CONFIG_FILE), &config.to_json())?;
        let metrics = File::options().append(true).open(&path).map_err(Error::io(format!("write {name}")))?;
        let mut resume = format!("espalier train {} --data {}", quoted(&options.model), quoted_path(&options.data));
        if let Some(path) = &options.eval_data {
            resume += &format!(" --eval-data {}", quoted_path(path));
        }
        resume += &format!(" --resume {}", quoted_path(folder));
        let mut progress = Progress::new("training", total_steps, Unit::Steps);
        progress.set(step, "");
        let kept = (step > 0).then_some(step);
        let folder = folder.to_path_buf();
        Ok(Terminal { progress, folder, metrics, metrics_name: name, resume, kept, step, text: String::new() })
    }

    /// What stopped the run, where it stopped, and how to go on.
    fn explain(&self, error: Error) -> anyhow::Error {
        let stopped = format!("training stopped after step {}", self.step);
        match (&error, self.kept) {
            (Error::NonFinite { .. }, _) => error.into(),
            (_, Some(kept)) => {
                let go_on = format!("{stopped} (go on from the checkpoint of step {kept} with: {})", self.resume);
                anyhow::Error::from(error).context(go_on)
            }
            (_, None) => anyhow::Error::from(error).context(format!("{stopped}, before the first checkpoint")),
        }
    }
}

impl Host for Terminal {
    fn event(&mut self, event: Event<'_>) -> espalier::Result<()> {
        match event {
            Event::Step { metrics, .. } => {
                metrics.write_line(&mut self.metrics, &self.metrics_name)?;
                self.step = metrics.step;
                self.text = format!(
                    "loss {:.4}  lr {:.2e}  norm {:.2}  {:.0} tokens/s",
                    metrics.loss, metrics.lr, metrics.grad_norm, metrics.tokens_per_s
                );
                self.progress.set(metrics.step, &self.text);
            }
            Event::Evaluated { evaluated, is_best } => {
                let best = if is_best && evaluated.step > 0 { ", the best so far" } else { "" };
                let perplexity = evaluated.loss.exp();
                self.progress.say(&format!(
                    "step {}: held-out loss {:.4}, perplexity {perplexity:.2}{best}",
                    evaluated.step, evaluated.loss
                ));
            }
            Event::Sample { step, text } => self.progress.say(&format!("step {step}: {text}")),
            Event::Checkpoint { step } => self.kept = Some(step),
        }
        Ok(())
    }

    async fn keep(&mut self, checkpoint: &Checkpoint) -> espalier::Result<()> {
        let path = self.folder.join(CHECKPOINT_FILE);
        // Metrics up to the checkpoint have to be on the disk before it is.
        self.metrics.sync_data().map_err(Error::io(format!("write {}", self.metrics_name)))?;
        write_atomically(&path, |out| checkpoint.write(&path.display().to_string(), out).map(|_| ()))
    }
}

fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-@:+=".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

fn write_text(path: &Path, text: &str) -> espalier::Result<()> {
    write_atomically(path, |out| out.write_all(text.as_bytes()).map_err(Error::io(format!("write {}", path.display()))))
}

/// Writes what was trained: a PEFT adapter, or a Hugging Face folder. The file that others look for comes last.
fn save(
    options: &Options,
    folder: &Path,
    files: &ModelFiles,
    config: &RunConfig,
    result: Vec<NamedTensor>,
) -> Result<()> {
    if config.method == MethodName::Full {
        let stored = options.dtype.unwrap_or(FloatType::F32);
        let mut progress = Progress::new("writing", files.config().parameters(), Unit::Parameters);
        let path = folder.join(export::WEIGHTS_FILE);
        merge::write_weights(&path, files, &Trained::new(&result), stored, &mut progress)?;
        progress.finish();
        let texts = export::folder_texts(files, stored)?;
        let (last, first): (Vec<_>, Vec<_>) = texts.iter().partition(|(name, _)| *name == "config.json");
        for (name, text) in first.into_iter().chain(last) {
            write_text(&folder.join(name), text)?;
        }
        return Ok(());
    }
    let base_model = files.location().to_string();
    let adapter = Adapter { method: config.method(), base_model, tensors: result };
    let mut adapter_files = adapter.to_files()?;
    adapter_files.sort_by_key(|(name, _)| name == peft::format::CONFIG_FILE);
    for (name, bytes) in adapter_files {
        let path = folder.join(name);
        write_atomically(&path, |out| out.write_all(&bytes).map_err(Error::io(format!("write {}", path.display()))))
            .context("cannot keep the adapter")?;
    }
    Ok(())
}

/// What came of the run, in a few lines on standard output.
fn conclude(summary: &Summary, planned: u64, folder: &Path, config: &RunConfig) {
    let time = std::time::Duration::from_secs_f64(summary.seconds);
    let rate = summary.tokens as f64 / summary.seconds.max(1e-9);
    let early = if summary.ending == Ending::Early { ", stopped early" } else { "" };
    println!("{} steps in {} ({rate:.1} tokens/s){early}", summary.steps, duration(time));
    if let Some(loss) = summary.loss {
        println!("loss {loss:.4} at the last step");
    }
    let kept = if config.patience > 0 { summary.best_eval } else { summary.last_eval };
    if let (Some(first), Some(last)) = (summary.first_eval, kept) {
        println!(
            "held-out loss {:.4} before, {:.4} after step {} (perplexity {:.2}, then {:.2})",
            first.loss,
            last.loss,
            last.step,
            first.loss.exp(),
            last.loss.exp()
        );
    }
    if kept.is_some() && !matches!(config.weights(), WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16) {
        println!("(with the model in {0}; `espalier eval --weights {0}` measures it so, too)", config.weights());
    }
    println!("{} on the GPU at most, {} planned", bytes(summary.peak_bytes), bytes(planned));
    let what = if config.method == MethodName::Full { "model" } else { "adapter" };
    println!("{what} in {}", folder.display());
}
