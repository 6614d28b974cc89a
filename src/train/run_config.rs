//! Every choice of a training run in one struct, which the command line, the page and checkpoints share as JSON or TOML.
//!
//! Where a choice is absent, the method, the model or the length of the run decides: see the methods of [`RunConfig`].

use serde::{Deserialize, Serialize};

use super::schedule::{LearningRate, Schedule, warmup_steps};
use crate::data::Supervise;
use crate::model::ModelConfig;
use crate::model::config::LINEAR_MODULES;
use crate::peft::{LoraConfig, Method, TargetModules};
use crate::quant::WeightFormat;
use crate::{Error, Result};

/// What is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum MethodName {
    /// A low-rank update beside chosen linear layers of a frozen model (QLoRA where that is quantized).
    #[default]
    Lora,
    /// Every weight.
    Full,
}

/// What people are told of a method, and where it starts: one row a method.
#[derive(Debug)]
pub struct MethodFacts {
    pub name: MethodName,
    /// Its name in files and on the command line
    pub id: &'static str,
    /// In plain words
    pub title: &'static str,
    /// The term of art
    pub term: &'static str,
    /// What it does, and when to take it, in a sentence
    pub sentence: &'static str,
    /// Peak learning rate, and that of short runs (below 100 steps)
    pub lr: f64,
    pub short_lr: f64,
    /// How the linear layers of the base are stored by default
    pub weights: WeightFormat,
    /// Whether the base may be quantized
    pub quantized_base: bool,
}

impl MethodFacts {
    /// Every method, the one to start with first.
    pub const ALL: &'static [MethodFacts] = &[
        MethodFacts {
            name: MethodName::Lora,
            id: "lora",
            title: "A small addition",
            term: "LoRA, QLoRA",
            sentence: "Learns a thin change beside each layer and leaves the model as it is: little memory, a small file, \
                       and right for most things.",
            lr: 2e-4,
            short_lr: 5e-4,
            weights: WeightFormat::Nf4 { double_quant: true },
            quantized_base: true,
        },
        MethodFacts {
            name: MethodName::Full,
            id: "full",
            title: "Everything",
            term: "full fine-tuning",
            sentence: "Changes every number of the model: learns most, takes about sixteen bytes for each, and forgets \
                       more easily what it knew.",
            lr: 5e-5,
            short_lr: 5e-5,
            weights: WeightFormat::F32,
            quantized_base: false,
        },
    ];

    /// The row of a method.
    pub fn of(name: MethodName) -> &'static MethodFacts {
        MethodFacts::ALL.iter().find(|facts| facts.name == name).expect("every method has a row")
    }

    /// The choices to start with.
    pub fn preset(&self) -> RunConfig {
        RunConfig { method: self.name, ..RunConfig::default() }
    }

    /// The choices to start with, in words: what the method itself is made of, and its learning rate.
    pub fn preset_words(&self) -> String {
        let preset = self.preset();
        let rate = match self.lr == self.short_lr {
            true => format!("learning rate {:e}", self.lr),
            false => format!("learning rate {:e}, in runs under {SHORT_RUN} steps {:e}", self.lr, self.short_lr),
        };
        match self.name {
            MethodName::Lora => format!("Rank {}, alpha {}, all linear layers, {rate}.", preset.rank, preset.alpha()),
            MethodName::Full => format!("All weights in 32 bits, {rate}."),
        }
    }
}

/// Whether activations inside the layers are computed again in the backward pass instead of being kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum GradCheckpointing {
    /// On where a run without it would take more memory than the GPU is likely to have to spare.
    #[default]
    Auto,
    On,
    Off,
}

/// Every choice of a training run. Names are those of the command line's options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    pub method: MethodName,
    /// How the linear layers of the frozen model are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightFormat>,
    /// How the embedding and the head are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding: Option<WeightFormat>,

    /// LoRA's rank r.
    pub rank: usize,
    /// LoRA's alpha.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Share of a LoRA layer's inputs that is dropped while training.
    pub dropout: f64,
    /// LoRA is scaled by `alpha / sqrt(r)` and not by `alpha / r`.
    pub rslora: bool,
    /// Which linear layers get a LoRA: `all-linear`, or names.
    #[serde(with = "target_modules")]
    pub target_modules: TargetModules,

    /// Optimizer steps of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// How often the data is gone through, where `steps` does not say how long the run is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of an optimizer step.
    pub grad_accumulation: usize,
    /// Most tokens of a row; longer rows are cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,

    /// Peak learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    pub schedule: Schedule,
    /// Warm-up: a share of the steps below 1, else a number of steps.
    pub warmup: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Gradients are scaled down to at most this norm; 0 switches that off.
    pub max_grad_norm: f64,

    /// Makes the run: first values, dropout, order of the data, held-out rows.
    pub seed: u64,
    pub shuffle: bool,
    /// Several short examples share a row.
    pub pack: bool,
    pub supervise: Supervise,
    pub grad_checkpointing: GradCheckpointing,

    /// Share of the rows that is held out for evaluation.
    pub eval_fraction: f64,
    /// Optimizer steps between evaluations; 0 evaluates at the start and at the end only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<u64>,
    /// Evaluations without a lower loss after which the run stops and keeps the best; 0 never stops.
    pub patience: u32,
    /// Optimizer steps between checkpoints; 0 writes one only where the run is interrupted.
    pub checkpoint_every: u64,
    /// A prompt answered now and then, to see the model change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_prompt: Option<String>,
    /// Optimizer steps between such answers; 0 answers at the start and at the end only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_every: Option<u64>,
}

impl Default for RunConfig {
    /// QLoRA on all linear layers: r 16, alpha 32, AdamW, 5 % warm-up, cosine, 8 rows a step, 3 epochs, clipped at 1.0.
    fn default() -> RunConfig {
        RunConfig {
            method: MethodName::Lora,
            weights: None,
            embedding: None,
            rank: 16,
            alpha: None,
            dropout: 0.0,
            rslora: false,
            target_modules: TargetModules::AllLinear,
            steps: None,
            epochs: None,
            batch_size: 2,
            grad_accumulation: 4,
            context: None,
            lr: None,
            schedule: Schedule::Cosine,
            warmup: 0.05,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            max_grad_norm: 1.0,
            seed: 0,
            shuffle: true,
            pack: false,
            supervise: Supervise::Answers,
            grad_checkpointing: GradCheckpointing::Auto,
            eval_fraction: 0.0,
            eval_every: None,
            patience: 0,
            checkpoint_every: 50,
            sample_prompt: None,
            sample_every: None,
        }
    }
}

/// Runs shorter than this, in optimizer steps, start LoRA at the higher of its two rates.
const SHORT_RUN: u64 = 100;
/// Tokens of a row where neither the user nor the model asks for fewer.
const DEFAULT_CONTEXT: usize = 512;
const DEFAULT_EPOCHS: f64 = 3.0;

impl RunConfig {
    /// Reads JSON; `file` names it in errors. Errs on unknown names and values, and on what [`RunConfig::validate`] refuses.
    pub fn from_json(file: &str, text: &str) -> Result<RunConfig> {
        let value = serde_json::from_str(text).map_err(|e| Error::malformed(file, format!("is not JSON: {e}")))?;
        RunConfig::from_value(file, value)
    }

    /// Reads TOML, as [`RunConfig::from_json`].
    #[cfg(feature = "cli")]
    pub fn from_toml(file: &str, text: &str) -> Result<RunConfig> {
        let value = toml::from_str(text).map_err(|e| Error::malformed(file, format!("is not TOML: {e}")))?;
        RunConfig::from_value(file, value)
    }

    /// Reads a parsed object, as [`RunConfig::from_json`].
    pub fn from_value(file: &str, value: serde_json::Value) -> Result<RunConfig> {
        let config: RunConfig =
            serde_json::from_value(value.clone()).map_err(|error| wrong_choice(file, value, error))?;
        config.validate()?;
        Ok(config)
    }

    /// As JSON, one choice a line; choices left to the method or the model are absent.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers, strings and lists are JSON")
    }

    /// As TOML, one choice a line.
    #[cfg(feature = "cli")]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("numbers, strings and lists are TOML")
    }

    /// Errs on the first choice that is out of range, naming what is right.
    pub fn validate(&self) -> Result<()> {
        let check = |right: bool, name: &str, value: &dyn std::fmt::Display, expected: &str| match right {
            true => Ok(()),
            false => Err(option(name, value, format!("expected {expected}"))),
        };
        let at_least_one = "a whole number of 1 or more";
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let not_negative = |x: f64| x >= 0.0 && x.is_finite();
        check(self.rank >= 1, "rank", &self.rank, at_least_one)?;
        check(positive(self.alpha()), "alpha", &self.alpha(), "a number above 0")?;
        check((0.0..1.0).contains(&self.dropout), "dropout", &self.dropout, "a share of 0 (off) to below 1")?;
        check(self.batch_size >= 1, "batch-size", &self.batch_size, at_least_one)?;
        check(self.grad_accumulation >= 1, "grad-accumulation", &self.grad_accumulation, at_least_one)?;
        if let Some(context) = self.context {
            check(context >= 2, "context", &context, "2 tokens or more: one to read and one to predict")?;
        }
        if let Some(steps) = self.steps {
            check(steps >= 1, "steps", &steps, at_least_one)?;
            let epochs = self.epochs.map(|e| e.to_string()).unwrap_or_default();
            check(self.epochs.is_none(), "epochs", &epochs, &format!("either epochs or steps, and steps = {steps}"))?;
        }
        if let Some(epochs) = self.epochs {
            check(positive(epochs), "epochs", &epochs, "a number above 0")?;
        }
        if let Some(lr) = self.lr {
            check(positive(lr), "lr", &lr, "a number above 0, such as 2e-4")?;
        }
        check(
            not_negative(self.warmup) && (self.warmup < 1.0 || self.warmup.fract() == 0.0),
            "warmup",
            &self.warmup,
            "0 (off), a share of the steps below 1, or a whole number of steps",
        )?;
        check(not_negative(self.weight_decay), "weight-decay", &self.weight_decay, "0 (off) or a number above")?;
        check((0.0..1.0).contains(&self.beta1), "beta1", &self.beta1, "a number from 0 to below 1")?;
        check((0.0..1.0).contains(&self.beta2), "beta2", &self.beta2, "a number from 0 to below 1")?;
        check(positive(self.eps), "eps", &self.eps, "a number above 0, such as 1e-8")?;
        check(not_negative(self.max_grad_norm), "max-grad-norm", &self.max_grad_norm, "0 (off) or a number above")?;
        check(
            (0.0..1.0).contains(&self.eval_fraction),
            "eval-fraction",
            &self.eval_fraction,
            "a share of 0 (none) to below 1",
        )?;
        if let TargetModules::Names(names) = &self.target_modules {
            check(
                !names.is_empty() && names.iter().all(|n| !n.trim().is_empty()),
                "target-modules",
                &names.join(","),
                &format!("all-linear or some of {}", module_names().join(", ")),
            )?;
        }
        let full = self.method == MethodName::Full;
        if let (true, Some(weights)) = (full, self.weights) {
            check(weights == WeightFormat::F32, "weights", &weights, "f32 with method full, which trains the weights")?;
        }
        if let (true, Some(embedding)) = (full, self.embedding) {
            check(embedding == WeightFormat::F32, "embedding", &embedding, "f32 with method full, which trains it")?;
        }
        if let Some(embedding) = self.embedding {
            let formats = [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16, WeightFormat::Int8];
            check(formats.contains(&embedding), "embedding", &embedding, "one of f32, f16, bf16, int8")?;
        }
        Ok(())
    }

    /// Errs where the model cannot do what was chosen: a context longer than its own, target modules it has not.
    pub fn check_model(&self, model: &ModelConfig) -> Result<()> {
        let longest = model.max_position_embeddings;
        if let Some(context) = self.context.filter(|&context| context > longest) {
            return Err(option("context", &context, format!("this model reads at most {longest} tokens")));
        }
        self.target_modules.resolve(&module_names()).map(|_| ())
    }

    /// LoRA's alpha: twice the rank where it is not given.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(2.0 * self.rank as f64)
    }

    /// How linear layers are stored: NF4 with double quantization under LoRA, f32 under full fine-tuning.
    pub fn weights(&self) -> WeightFormat {
        self.weights.unwrap_or(MethodFacts::of(self.method).weights)
    }

    /// How embedding and head are stored: f32 where the linear layers are, else f16.
    pub fn embedding(&self) -> WeightFormat {
        self.embedding.unwrap_or(match self.weights() {
            WeightFormat::F32 => WeightFormat::F32,
            _ => WeightFormat::F16,
        })
    }

    /// With every choice made that the method or the model makes: what a checkpoint keeps, so that a later default does not
    /// change a run. The learning rate stays open where it depends on the length of the run.
    pub fn decided(&self, model: &ModelConfig) -> RunConfig {
        RunConfig {
            weights: Some(self.weights()),
            embedding: Some(self.embedding()),
            alpha: Some(self.alpha()),
            context: Some(self.context(model)),
            ..self.clone()
        }
    }

    /// Most tokens of a row: 512, or the model's own context where that is shorter.
    pub fn context(&self, model: &ModelConfig) -> usize {
        self.context.unwrap_or(DEFAULT_CONTEXT.min(model.max_position_embeddings))
    }

    /// Optimizer steps of the run, where going through the data once takes `steps_per_epoch`.
    pub fn total_steps(&self, steps_per_epoch: u64) -> u64 {
        let of_epochs = (self.epochs.unwrap_or(DEFAULT_EPOCHS) * steps_per_epoch as f64).ceil() as u64;
        self.steps.unwrap_or(of_epochs.max(1))
    }

    /// Peak learning rate of a run of `total_steps`.
    pub fn peak_lr(&self, total_steps: u64) -> f64 {
        let facts = MethodFacts::of(self.method);
        self.lr.unwrap_or(if total_steps < SHORT_RUN { facts.short_lr } else { facts.lr })
    }

    /// The learning rates of a run of `total_steps`.
    pub fn learning_rate(&self, total_steps: u64) -> LearningRate {
        LearningRate {
            schedule: self.schedule,
            peak: self.peak_lr(total_steps),
            warmup_steps: warmup_steps(self.warmup, total_steps),
            total_steps,
        }
    }

    /// What is trained, with its numbers.
    pub fn method(&self) -> Method {
        match self.method {
            MethodName::Full => Method::Full,
            MethodName::Lora => Method::Lora(LoraConfig {
                r: self.rank,
                lora_alpha: self.alpha() as f32,
                lora_dropout: self.dropout as f32,
                target_modules: self.target_modules.clone(),
                use_rslora: self.rslora,
            }),
        }
    }
}

/// Says which of the choices in `value` is the wrong one, which `error` does not always tell.
fn wrong_choice(file: &str, value: serde_json::Value, error: serde_json::Error) -> Error {
    let alone = |choice: (String, serde_json::Value)| serde_json::Map::from_iter([choice]);
    let choices = value.as_object().cloned().unwrap_or_default();
    let wrong = choices.into_iter().find_map(|(name, value)| {
        let error = serde_json::from_value::<RunConfig>(alone((name.clone(), value)).into()).err()?;
        Some(if error.to_string().contains(&name) { error.to_string() } else { format!("{name}: {error}") })
    });
    Error::malformed(file, wrong.unwrap_or_else(|| error.to_string()))
}

fn option(name: &str, value: &dyn std::fmt::Display, expected: String) -> Error {
    Error::Option { name: name.into(), value: value.to_string(), expected }
}

/// Names of the linear layers that can be targets.
fn module_names() -> Vec<&'static str> {
    LINEAR_MODULES.iter().map(|(name, _)| *name).collect()
}

/// `all-linear`, or names: as one string with commas, or as a list.
pub fn parse_target_modules(text: &str) -> TargetModules {
    match text.trim() {
        "all-linear" => TargetModules::AllLinear,
        names => TargetModules::Names(names.split(',').map(|name| name.trim().to_string()).collect()),
    }
}

mod target_modules {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{TargetModules, parse_target_modules};

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected \"all-linear\" or a list of layer names")]
    enum Written {
        One(String),
        Many(Vec<String>),
    }

    pub fn serialize<S: Serializer>(modules: &TargetModules, out: S) -> Result<S::Ok, S::Error> {
        match modules {
            TargetModules::AllLinear => out.serialize_str("all-linear"),
            TargetModules::Names(names) => names.serialize(out),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<TargetModules, D::Error> {
        Ok(match Written::deserialize(input)? {
            Written::One(text) => parse_target_modules(&text),
            Written::Many(names) => TargetModules::Names(names),
        })
    }
}
