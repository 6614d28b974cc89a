//! Options that commands share: the choices of a run, which are [`RunConfig`]'s, and how they merge with a file's.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use espalier::Error;
use espalier::data::Supervise;
use espalier::export::FloatType;
use espalier::model::{ModelFiles, WeightPolicy};
use espalier::quant::WeightFormat;
use espalier::train::{GradCheckpointing, MethodName, RunConfig, Schedule};
use serde::Serialize;
use serde_json::{Map, Value};

fn weight_formats() -> impl TypedValueParser<Value = WeightFormat> {
    PossibleValuesParser::new(WeightFormat::ALL.map(WeightFormat::name)).try_map(|name| WeightFormat::from_str(&name))
}

fn embedding_formats() -> impl TypedValueParser<Value = WeightFormat> {
    PossibleValuesParser::new(["f32", "f16", "bf16", "int8"]).try_map(|name| WeightFormat::from_str(&name))
}

/// For options that say which tokens count.
pub fn supervise() -> impl TypedValueParser<Value = Supervise> {
    PossibleValuesParser::new(["answers", "all"]).try_map(|name| Supervise::from_str(&name))
}

/// For options that take a whole number.
pub fn whole(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a whole number".to_string())
}

/// For options that take a number.
pub fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "expected a number, such as 0.05 or 2e-4".to_string())
}

/// Which GPU to use.
#[derive(Args, Debug)]
pub struct GpuChoice {
    /// The GPU adapter, by part of its name or by its index in `espalier gpus` [default: the fastest]
    #[arg(long, value_name = "NAME|INDEX")]
    pub gpu: Option<String>,
}

/// How the weights of a model are stored while it is measured or generates.
#[derive(Args, Debug)]
pub struct Storage {
    /// How the linear layers are stored on the GPU [default: as in the file; f32 where that is quantized]
    #[arg(long, value_name = "FORMAT", value_parser = weight_formats())]
    pub weights: Option<WeightFormat>,
    /// With --weights nf4: keep the block scales in f32 rather than quantize them as well
    #[arg(long)]
    pub no_double_quant: bool,
    /// How embedding and head are stored on the GPU [default: as in the file; f32 with --weights f32 or where the file is
    /// quantized]
    #[arg(long, value_name = "FORMAT", value_parser = embedding_formats())]
    pub embedding: Option<WeightFormat>,
}

impl Storage {
    /// Storage formats for this model: by default those that change none of its numbers.
    pub fn policy(&self, model: &ModelFiles) -> WeightPolicy {
        let stored = match FloatType::of(model) {
            FloatType::F32 => WeightFormat::F32,
            FloatType::F16 => WeightFormat::F16,
            FloatType::Bf16 => WeightFormat::Bf16,
        };
        let linears = without_double_quant(self.weights.unwrap_or(stored), self.no_double_quant);
        let beside = if linears == WeightFormat::F32 { WeightFormat::F32 } else { stored };
        WeightPolicy { linears, embedding: self.embedding.unwrap_or(beside) }
    }
}

/// NF4 without double quantization where that is asked for.
pub fn without_double_quant(weights: WeightFormat, without: bool) -> WeightFormat {
    match weights {
        WeightFormat::Nf4 { .. } if without => WeightFormat::Nf4 { double_quant: false },
        other => other,
    }
}

/// The choices of a run. Names, meaning and defaults are those of [`RunConfig`]; what is absent here, the configuration file,
/// the resumed run or the default decides.
#[derive(Args, Serialize, Debug, Default)]
#[serde(rename_all = "snake_case")]
pub struct RunOptions {
    /// Read choices from this JSON or TOML file; options given here come before the file's
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// What is trained [default: lora]
    #[arg(long, value_enum, help_heading = "Method")]
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<MethodName>,
    /// How the frozen linear layers are stored [default: nf4; f32 with --method full]
    #[arg(long, value_name = "FORMAT", value_parser = weight_formats(), help_heading = "Method")]
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<WeightFormat>,
    /// Keep NF4's block scales in f32 rather than quantize them as well
    #[arg(long, help_heading = "Method")]
    #[serde(skip)]
    no_double_quant: bool,
    /// How embedding and head are stored [default: f16; f32 with --weights f32]
    #[arg(long, value_name = "FORMAT", value_parser = embedding_formats(), help_heading = "Method")]
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<WeightFormat>,
    /// LoRA's rank r [default: 16]
    #[arg(long, value_name = "N", value_parser = whole, help_heading = "Method")]
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<u64>,
    /// LoRA's alpha: the update is scaled by alpha / rank [default: twice the rank]
    #[arg(long, value_name = "X", value_parser = number, help_heading = "Method")]
    #[serde(skip_serializing_if = "Option::is_none")]
    alpha: Option<f64>,
    /// Share of a LoRA layer's inputs dropped while training; 0 is off [default: 0]
    #[arg(long, value_name = "SHARE", value_parser = number, help_heading = "Method")]
    #[serde(skip_serializing_if = "Option::is_none")]
    dropout: Option<f64>,
    /// Scale LoRA by alpha / sqrt(rank) (rank stabilisation)
    #[arg(long, help_heading = "Method")]
    #[serde(skip_serializing_if = "is_false")]
    rslora: bool,
    /// Layers that get a LoRA: all-linear, or some of q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj
    /// [default: all-linear]
    #[arg(long, value_name = "NAMES", help_heading = "Method")]
    #[serde(skip_serializing_if = "Option::is_none")]
    target_modules: Option<String>,

    /// Optimizer steps of the run [default: as --epochs says]
    #[arg(long, value_name = "N", value_parser = whole, conflicts_with = "epochs", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<u64>,
    /// How often to go through the data [default: 3]
    #[arg(long, value_name = "X", value_parser = number, help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    epochs: Option<f64>,
    /// Rows computed at a time [default: 2]
    #[arg(long, value_name = "N", value_parser = whole, help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_size: Option<u64>,
    /// Batches that make an optimizer step [default: 4]
    #[arg(long, value_name = "N", value_parser = whole, help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    grad_accumulation: Option<u64>,
    /// Most tokens of a row; longer rows are cut [default: 512, or the model's own context where that is shorter]
    #[arg(long, value_name = "N", value_parser = whole, help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<u64>,
    /// Makes the run: first values, dropout, order of the data, held-out rows [default: 0]
    #[arg(long, value_name = "N", value_parser = whole, help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    /// Compute activations again in the backward pass instead of keeping them; auto switches this on for large runs
    /// [default: auto]
    #[arg(long, value_enum, help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    grad_checkpointing: Option<GradCheckpointing>,

    /// Peak learning rate [default: 2e-4, under 100 steps 5e-4; with --method full 5e-5]
    #[arg(long, value_name = "X", value_parser = number, help_heading = "Optimizer (AdamW)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lr: Option<f64>,
    /// How the learning rate moves after the warm-up [default: cosine]
    #[arg(long, value_enum, help_heading = "Optimizer (AdamW)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<Schedule>,
    /// Warm-up: a share of the steps below 1, else a number of steps; 0 is off [default: 0.05]
    #[arg(long, value_name = "X", value_parser = number, help_heading = "Optimizer (AdamW)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    warmup: Option<f64>,
    /// Decoupled weight decay; 0 is off [default: 0]
    #[arg(long, value_name = "X", value_parser = number, help_heading = "Optimizer (AdamW)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    weight_decay: Option<f64>,
    /// Decay of the first moment [default: 0.9]
    #[arg(long, value_name = "X", value_parser = number, help_heading = "Optimizer (AdamW)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    beta1: Option<f64>,
    /// Decay of the second moment [default: 0.999]
    #[arg(long, value_name = "X", value_parser = number, help_heading = "Optimizer (AdamW)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    beta2: Option<f64>,
    /// Keeps the division by the second moment finite [default: 1e-8]
    #[arg(long, value_name = "X", value_parser = number, help_heading = "Optimizer (AdamW)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    eps: Option<f64>,
    /// Gradients are scaled down to at most this norm; 0 is off [default: 1]
    #[arg(long, value_name = "X", value_parser = number, help_heading = "Optimizer (AdamW)")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_grad_norm: Option<f64>,

    /// Keep the order of the data
    #[arg(long, help_heading = "Data")]
    #[serde(skip)]
    no_shuffle: bool,
    /// Put several short examples into one row
    #[arg(long, help_heading = "Data")]
    #[serde(skip_serializing_if = "is_false")]
    pack: bool,
    /// Which tokens are learned: only answers, or all [default: answers]
    #[arg(long, value_name = "WHICH", value_parser = supervise(), help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    supervise: Option<Supervise>,
    /// Share of the rows that is held out for evaluation [default: 0]
    #[arg(long, value_name = "SHARE", value_parser = number, help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    eval_fraction: Option<f64>,
    /// Optimizer steps between evaluations; 0 evaluates at the start and at the end only [default: once an epoch]
    #[arg(long, value_name = "N", value_parser = whole, help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    eval_every: Option<u64>,
    /// Stop after this many evaluations without a lower loss, and keep the best; 0 is off [default: 0]
    #[arg(long, value_name = "N", value_parser = whole, help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    patience: Option<u64>,
    /// Optimizer steps between checkpoints; 0 writes one only where the run is interrupted [default: 50]
    #[arg(long, value_name = "N", value_parser = whole, help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint_every: Option<u64>,
    /// Answer this prompt now and then, to see the model change
    #[arg(long, value_name = "TEXT", help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    sample_prompt: Option<String>,
    /// Optimizer steps between such answers; 0 answers at the start and at the end only [default: with evaluations]
    #[arg(long, value_name = "N", value_parser = whole, help_heading = "Evaluation")]
    #[serde(skip_serializing_if = "Option::is_none")]
    sample_every: Option<u64>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl RunOptions {
    /// The run's choices: those given as options, before those of the configuration file, before those of `base` (the run
    /// that is resumed, or the defaults).
    pub fn resolve(&self, base: &RunConfig) -> Result<RunConfig> {
        let mut choices = object(serde_json::to_value(base)?);
        if let Some(path) = &self.config {
            overlay(&mut choices, read_config(path)?);
        }
        let mut given = object(serde_json::to_value(self)?);
        if self.no_shuffle {
            given.insert("shuffle".into(), false.into());
        }
        overlay(&mut choices, given);
        let mut config = RunConfig::from_value("the options", Value::Object(choices))?;
        if self.no_double_quant {
            config.weights = Some(without_double_quant(config.weights(), true));
        }
        Ok(config)
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Puts `above` over `choices`. A run is as long as its steps or its epochs say: what was said last counts.
fn overlay(choices: &mut Map<String, Value>, above: Map<String, Value>) {
    for (one, other) in [("steps", "epochs"), ("epochs", "steps")] {
        if above.contains_key(one) && !above.contains_key(other) {
            choices.shift_remove(other);
        }
    }
    choices.extend(above);
}

/// A configuration file: TOML where its name ends so, else JSON. Only the choices that are in it.
fn read_config(path: &Path) -> Result<Map<String, Value>> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {file}"))?;
    let is_toml = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("toml"));
    let value: Value = if is_toml {
        toml::from_str(&text).map_err(|e| Error::malformed(&file, format!("is not TOML: {e}")))?
    } else {
        serde_json::from_str(&text).map_err(|e| Error::malformed(&file, format!("is not JSON: {e}")))?
    };
    // Unknown names and wrong values are told with the file's name here, before the merge hides where they came from.
    RunConfig::from_value(&file, value.clone()).with_context(|| format!("the configuration {file}"))?;
    Ok(object(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    struct OnlyRun {
        #[command(flatten)]
        run: RunOptions,
    }

    fn resolve(arguments: &[&str], base: &RunConfig) -> Result<RunConfig> {
        let parsed = OnlyRun::try_parse_from([&["x"], arguments].concat())?;
        parsed.run.resolve(base)
    }

    #[test]
    fn no_options_are_the_defaults() {
        assert_eq!(resolve(&[], &RunConfig::default()).unwrap(), RunConfig::default());
    }

    #[test]
    fn the_defaults_in_the_help_are_those_of_the_run() {
        let defaults = object(serde_json::to_value(RunConfig::default()).unwrap());
        let mut checked = 0;
        for argument in OnlyRun::command().get_arguments() {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            let told = help.split_once("[default: ").map(|(_, rest)| rest.trim_end_matches(']').to_string());
            if let (Some(told), Some(value)) = (told, defaults.get(argument.get_id().as_str())) {
                let same = match value {
                    Value::String(text) => *text == told,
                    Value::Number(number) => number.as_f64() == told.parse().ok(),
                    _ => false,
                };
                assert!(same, "{}: the help says {told}, the default is {value}", argument.get_id());
                checked += 1;
            }
        }
        assert!(checked >= 18, "{checked}");
    }

    #[test]
    fn every_choice_of_a_run_has_an_option() {
        let all = RunConfig {
            weights: Some(WeightFormat::F16),
            embedding: Some(WeightFormat::F16),
            alpha: Some(1.0),
            steps: Some(1),
            epochs: Some(1.0),
            context: Some(8),
            lr: Some(1.0),
            eval_every: Some(1),
            sample_prompt: Some("x".into()),
            sample_every: Some(1),
            ..RunConfig::default()
        };
        let command = OnlyRun::command();
        let options: Vec<&str> = command.get_arguments().map(|a| a.get_id().as_str()).collect();
        for name in object(serde_json::to_value(all).unwrap()).keys() {
            let option = if name == "shuffle" { "no_shuffle" } else { name.as_str() };
            assert!(options.contains(&option), "{name}");
        }
    }

    #[test]
    fn options_come_before_the_file_before_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        std::fs::write(&file, "rank = 4\nepochs = 2.0\ntarget_modules = [\"q_proj\"]\nschedule = \"linear\"\n")
            .unwrap();
        let file = file.to_str().unwrap();
        let config = resolve(&["--config", file, "--rank", "8", "--steps", "7", "--no-shuffle"], &RunConfig::default());
        let config = config.unwrap();
        assert_eq!((config.rank, config.steps, config.epochs, config.shuffle), (8, Some(7), None, false));
        assert_eq!(config.schedule, Schedule::Linear);
        let resumed = RunConfig { rank: 2, steps: Some(3), ..RunConfig::default() };
        let config = resolve(&["--config", file], &resumed).unwrap();
        assert_eq!((config.rank, config.steps, config.epochs), (4, None, Some(2.0)));
    }

    #[test]
    fn wrong_values_name_the_right_ones() {
        let told = |arguments: &[&str]| resolve(arguments, &RunConfig::default()).unwrap_err().to_string();
        assert!(told(&["--method", "qlora"]).contains("lora, full"));
        assert!(told(&["--weights", "int3"]).contains("nf4"));
        assert!(told(&["--rank", "many"]).contains("expected a whole number"));
        assert!(told(&["--rank", "0"]).contains("rank = 0: expected a whole number of 1 or more"));
        assert!(told(&["--lr", "fast"]).contains("expected a number"));
        assert!(told(&["--method", "full", "--weights", "nf4"]).contains("f32 with method full"));
        assert!(told(&["--steps", "3", "--epochs", "2"]).contains("cannot be used with"));
        assert!(told(&["--warmup", "2.5"]).contains("a whole number of steps"));
    }

    #[test]
    fn a_wrong_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.json");
        std::fs::write(&file, r#"{"rnak": 4}"#).unwrap();
        let error = resolve(&["--config", file.to_str().unwrap()], &RunConfig::default()).unwrap_err();
        let told = super::super::sentence(&error);
        assert!(told.contains("run.json") && told.contains("rnak") && told.contains("`rank`"), "{told}");
    }

    #[test]
    fn double_quantization_can_be_left_out() {
        let config = resolve(&["--no-double-quant"], &RunConfig::default()).unwrap();
        assert_eq!(config.weights(), WeightFormat::Nf4 { double_quant: false });
    }
}
