//! What a run costs before it starts, and which change makes it fit into less memory.

use super::run_config::{GradCheckpointing, MethodName, RunConfig};
use super::trainer::{RunPlan, Shape, TrainerSetup, plan_run};
use crate::Result;
use crate::graph::{Checkpointing, Target};
use crate::model::device::ModelSetup;
use crate::model::{ModelConfig, WeightPolicy};
use crate::ops::adamw::AdamW;
use crate::quant::WeightFormat;

/// `auto` keeps activations up to this sum of all bytes, and computes them again above it: what a GPU of a laptop can
/// usually spare.
const AUTO_BYTES: u64 = 4 << 30;

/// The shapes of a run's batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shapes {
    pub train: Vec<Shape>,
    pub eval: Vec<Shape>,
    /// Most tokens that an answer during the run looks back on, its prompt included; 0 without such answers.
    pub sample: usize,
}

impl Shapes {
    /// What a run of this configuration has at most.
    pub fn largest(config: &RunConfig, model: &ModelConfig) -> Shapes {
        Shapes { train: vec![(config.batch_size, config.context(model))], ..Shapes::default() }
    }
}

/// The setup of a trainer for these shapes.
pub fn setup(config: &RunConfig, model: &ModelConfig, shapes: &Shapes, checkpointing: Checkpointing) -> TrainerSetup {
    let longest = shapes.train.iter().chain(&shapes.eval).map(|shape| shape.1).max().unwrap_or(1);
    TrainerSetup {
        model: ModelSetup {
            config: model.clone(),
            policy: WeightPolicy { linears: config.weights(), embedding: config.embedding() },
            method: config.method(),
            positions: longest.max(shapes.sample),
            seed: config.seed,
        },
        optimizer: AdamW {
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            weight_decay: config.weight_decay,
        },
        max_grad_norm: config.max_grad_norm as f32,
        checkpointing,
        train_shapes: shapes.train.clone(),
        eval_shapes: shapes.eval.clone(),
        accumulation: config.grad_accumulation,
    }
}

/// Plans a run without a GPU, and decides what `auto` leaves open.
pub fn plan(
    config: &RunConfig,
    model: &ModelConfig,
    shapes: &Shapes,
    target: &Target,
) -> Result<(TrainerSetup, RunPlan)> {
    let with = |checkpointing| {
        let setup = setup(config, model, shapes, checkpointing);
        plan_run(&setup, target).map(|plan| (setup, plan))
    };
    match config.grad_checkpointing {
        GradCheckpointing::On => with(Checkpointing::On),
        GradCheckpointing::Off => with(Checkpointing::Off),
        GradCheckpointing::Auto => {
            let kept = with(Checkpointing::Off)?;
            if kept.1.memory.total() <= AUTO_BYTES {
                return Ok(kept);
            }
            let again = with(Checkpointing::On)?;
            Ok(if again.1.memory.total() < kept.1.memory.total() { again } else { kept })
        }
    }
}

/// A change of a run, or several, and what it then needs.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Change {
    /// As options of the command line.
    pub options: String,
    pub config: RunConfig,
    /// Bytes on the GPU.
    pub bytes: u64,
}

/// What can be changed, the least harmful first: each step says the option, or `None` where there is nothing to gain.
type Step = fn(&mut RunConfig, &ModelConfig) -> Option<String>;
const STEPS: [Step; 6] = [checkpointing, one_row, nf4, adapter, small_embedding, half_context];

fn checkpointing(config: &mut RunConfig, _: &ModelConfig) -> Option<String> {
    let off = config.grad_checkpointing != GradCheckpointing::On;
    config.grad_checkpointing = GradCheckpointing::On;
    off.then(|| "--grad-checkpointing on".into())
}

fn one_row(config: &mut RunConfig, _: &ModelConfig) -> Option<String> {
    let rows = config.batch_size;
    config.batch_size = 1;
    config.grad_accumulation *= rows;
    (rows > 1).then(|| format!("--batch-size 1 --grad-accumulation {}", config.grad_accumulation))
}

fn nf4(config: &mut RunConfig, _: &ModelConfig) -> Option<String> {
    let nf4 = WeightFormat::Nf4 { double_quant: true };
    if config.method == MethodName::Full || config.weights() == nf4 {
        return None;
    }
    // The embedding's format follows the weights' where it was not chosen.
    config.weights = Some(nf4);
    Some("--weights nf4".into())
}

fn adapter(config: &mut RunConfig, _: &ModelConfig) -> Option<String> {
    let full = config.method == MethodName::Full;
    if full {
        (config.method, config.weights, config.embedding) = (MethodName::Lora, None, None);
    }
    full.then(|| "--method lora".into())
}

fn small_embedding(config: &mut RunConfig, _: &ModelConfig) -> Option<String> {
    if config.method == MethodName::Full || config.embedding() == WeightFormat::Int8 {
        return None;
    }
    config.embedding = Some(WeightFormat::Int8);
    Some("--embedding int8".into())
}

fn half_context(config: &mut RunConfig, model: &ModelConfig) -> Option<String> {
    let context = config.context(model) / 2;
    if context < 64 {
        return None;
    }
    config.context = Some(context);
    Some(format!("--context {context}"))
}

/// What makes a run fit into `budget` bytes: every single change that is enough or, where none is, as many as it takes, the
/// least harmful first. The last of the answers may still be too large; the list is empty where nothing can be changed.
pub fn advise(config: &RunConfig, model: &ModelConfig, target: &Target, budget: u64) -> Result<Vec<Change>> {
    let cost = |options: String, config: RunConfig| -> Result<Change> {
        let (_, plan) = plan(&config, model, &Shapes::largest(&config, model), target)?;
        Ok(Change { options, bytes: plan.memory.total(), config })
    };
    let mut enough = vec![];
    for step in STEPS {
        let mut changed = config.clone();
        if let Some(options) = step(&mut changed, model) {
            let change = cost(options, changed)?;
            if change.bytes <= budget {
                enough.push(change);
            }
        }
    }
    if !enough.is_empty() {
        return Ok(enough);
    }
    let (mut together, mut options) = (config.clone(), vec![]);
    let mut last = None;
    // The context can be halved more than once.
    for step in STEPS.into_iter().chain([half_context as Step; 4]) {
        let Some(option) = step(&mut together, model) else { continue };
        // A later value of an option replaces the earlier one.
        let name = option.split(' ').next().unwrap_or_default().to_string();
        options.retain(|earlier: &String| !earlier.starts_with(&name));
        options.push(option);
        let change = cost(options.join(" "), together.clone())?;
        let fits = change.bytes <= budget;
        last = Some(change);
        if fits {
            break;
        }
    }
    Ok(last.into_iter().collect())
}
