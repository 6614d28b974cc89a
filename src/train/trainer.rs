//! The device side of training: one optimizer step over micro-batches, evaluation, and the state that a checkpoint keeps.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::data::Batch;
use crate::exec::{self, ParamLayout, Program};
use crate::gpu::{Buffer, Gpu, Pace, Region};
use crate::graph::reference::StepScalars;
use crate::graph::{Category, Checkpointing, MemoryTable, Role, Target};
use crate::model::decoder::input;
use crate::model::device::{DeviceModel, LoadProgress, ModelSetup, Planned, Ready};
use crate::model::{ModelFiles, Purpose};
use crate::ops::ArenaKind;
use crate::ops::adamw::{self, AdamW, metric};
use crate::ops::launch::METRICS;
use crate::peft::NamedTensor;
use crate::platform::yield_now;
use crate::{Error, Result};

/// Shape of a micro-batch: rows and tokens of a row.
pub type Shape = (usize, usize);

/// Everything that decides what a run allocates and computes.
#[derive(Clone, Debug)]
pub struct TrainerSetup {
    pub model: ModelSetup,
    pub optimizer: AdamW,
    /// Gradients are scaled to at most this norm; 0 switches clipping off.
    pub max_grad_norm: f32,
    pub checkpointing: Checkpointing,
    /// Every shape that training batches have.
    pub train_shapes: Vec<Shape>,
    /// Every shape that evaluation batches have.
    pub eval_shapes: Vec<Shape>,
    /// Micro-batches of an optimizer step.
    pub accumulation: usize,
}

/// What one optimizer step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Mean negative log-likelihood of the supervised tokens of the whole step, before the update; nats.
    pub loss: f64,
    /// Norm of the whole gradient, before clipping.
    pub grad_norm: f64,
    /// Tokens, padding included.
    pub tokens: u64,
    pub supervised: u64,
}

/// Loss over an evaluation set.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EvalReport {
    /// Sum of the negative log-likelihood, nats.
    pub nll: f64,
    /// Supervised tokens.
    pub tokens: u64,
}

impl EvalReport {
    /// Mean nats per supervised token.
    pub fn loss(&self) -> f64 {
        self.nll / self.tokens.max(1) as f64
    }

    /// `exp(loss)`
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }
}

/// Adam's state: optimizer steps taken, and the moments by parameter name.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerState {
    pub step: u64,
    pub moment1: Vec<NamedTensor>,
    pub moment2: Vec<NamedTensor>,
}

/// What a run needs, known without a GPU.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RunPlan {
    /// Bytes by category.
    pub memory: MemoryTable,
    /// Numbers that are trained.
    pub trained_parameters: u64,
    /// Floating-point operations of one micro-batch of the largest shape.
    pub flops: u64,
    /// Dispatches of the same.
    pub dispatches: usize,
}

fn plan_all(setup: &TrainerSetup, target: &Target) -> Result<(BTreeMap<Shape, Planned>, BTreeMap<Shape, Planned>)> {
    let plan = |shapes: &[Shape], purpose: Purpose| -> Result<BTreeMap<Shape, Planned>> {
        shapes.iter().map(|&(b, t)| Ok(((b, t), Planned::new(&setup.model, b, t, purpose, target)?))).collect()
    };
    let train = plan(&setup.train_shapes, Purpose::Train { checkpointing: setup.checkpointing })?;
    Ok((train, plan(&setup.eval_shapes, Purpose::Evaluate)?))
}

fn table_of<'p>(
    train: impl Iterator<Item = &'p Planned>,
    eval: impl Iterator<Item = &'p Planned>,
    setup: &TrainerSetup,
    target: &Target,
) -> Result<MemoryTable> {
    let mut table = MemoryTable::default();
    let mut inputs = 0;
    for planned in train.chain(eval) {
        for (category, bytes) in planned.memory(target)?.0 {
            match category {
                // Every program has inputs of its own; all else is shared and as large as the largest asks for.
                Category::Inputs => inputs += bytes,
                _ => {
                    let most = table.0.entry(category).or_default();
                    *most = (*most).max(bytes);
                }
            }
        }
    }
    let parameters = table.0.get(&Category::Parameters).copied().unwrap_or(0);
    table.add(Category::Optimizer, 2 * parameters);
    table.add(Category::Inputs, inputs + 4 * METRICS as u64 + readback_bytes(setup));
    Ok(table)
}

/// Room for the losses of every micro-batch of a step, and the metrics.
fn readback_bytes(setup: &TrainerSetup) -> u64 {
    let tokens = setup.train_shapes.iter().chain(&setup.eval_shapes).map(|s| s.0 * s.1).max().unwrap_or(1);
    4 * (METRICS + setup.accumulation.max(1) * tokens) as u64
}

/// Plans a run without a GPU: bytes by category, operations, parameters trained.
pub fn plan_run(setup: &TrainerSetup, target: &Target) -> Result<RunPlan> {
    let (train, eval) = plan_all(setup, target)?;
    let memory = table_of(train.values(), eval.values(), setup, target)?;
    let largest = train
        .values()
        .max_by_key(|p| p.model.graph.flops())
        .ok_or_else(|| Error::shape("plan", "a run needs at least one training shape"))?;
    let graph = &largest.model.graph;
    let trained = graph.with_role(|r| matches!(r, Role::Param { .. }));
    let trained: u64 = trained.iter().map(|&i| graph.get(i).elements() as u64).sum();
    Ok(RunPlan {
        memory,
        trained_parameters: trained,
        flops: graph.flops(),
        dispatches: exec::program::describe(graph, target)?.len(),
    })
}

/// A model being trained.
pub struct Trainer {
    pub model: DeviceModel,
    setup: TrainerSetup,
    train: BTreeMap<Shape, Ready>,
    eval: BTreeMap<Shape, Ready>,
    optimizer: Program,
    readback: Buffer,
    clear: Vec<Region>,
    step: u64,
    planned: MemoryTable,
}

impl Trainer {
    /// Loads the model and compiles every graph of the run. Errs with [`Error::Cancelled`] when `progress` returns false.
    pub async fn new(
        gpu: Rc<Gpu>,
        files: &ModelFiles,
        setup: TrainerSetup,
        progress: &mut dyn FnMut(LoadProgress) -> bool,
    ) -> Result<Trainer> {
        let target = exec::target(&gpu);
        let (train, eval) = plan_all(&setup, &target)?;
        let planned = table_of(train.values(), eval.values(), &setup, &target)?;
        gpu.check_budget("the run", planned.total())?;
        let mut loaded = None;
        let mut note = |now| {
            loaded = Some(now);
            progress(now)
        };
        let mut model = DeviceModel::load(gpu, files, setup.model.clone(), true, &mut note).await?;
        model.reserve(train.values().chain(eval.values())).await?;
        let mut ready = [BTreeMap::new(), BTreeMap::new()];
        for (kind, plans) in [train, eval].into_iter().enumerate() {
            for (shape, planned) in plans {
                if loaded.is_some_and(|now| !progress(now)) {
                    return Err(Error::Cancelled);
                }
                ready[kind].insert(shape, model.ready(&planned).await?);
            }
        }
        let [train, eval] = ready;
        let layout: ParamLayout = model.memory.layout().clone();
        let segments: Vec<adamw::Segment> = layout
            .segments
            .iter()
            .zip(&layout.decayed)
            .map(|(bytes, decayed)| adamw::Segment { elements: *bytes as usize / 4, decayed: *decayed as usize / 4 })
            .collect();
        let mut dispatches = adamw::grad_norm(&segments);
        dispatches.extend(setup.optimizer.update(&segments, &target));
        let optimizer = Program::of_dispatches(&model.gpu, dispatches, &model.memory)?;
        let readback = model.gpu.alloc_readback("losses", readback_bytes(&setup))?;
        let clear = model.memory.arena(ArenaKind::Grads).iter().map(Buffer::region).collect();
        model.gpu.check()?;
        Ok(Trainer { model, setup, train, eval, optimizer, readback, clear, step: 0, planned })
    }

    /// Optimizer steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// What was planned, by category.
    pub fn planned(&self) -> &MemoryTable {
        &self.planned
    }

    /// The setup this trainer was made with.
    pub fn setup(&self) -> &TrainerSetup {
        &self.setup
    }

    /// One optimizer step: gradients of all micro-batches, averaged over their supervised tokens, clipped, applied with
    /// AdamW at learning rate `lr`. Errs when the loss or the gradient is not finite, and with [`Error::Cancelled`] when
    /// `is_cancelled`, asked every few dispatches until the update, says so: parameters and moments are then those of
    /// before.
    pub async fn step(
        &mut self,
        micro_batches: &[Batch],
        lr: f32,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<StepReport> {
        let gpu = self.model.gpu.clone();
        let supervised: u64 = micro_batches.iter().map(|b| b.supervised as u64).sum();
        let t = self.step + 1;
        let config = &self.setup.optimizer;
        let correction = |beta: f64| (1.0 - beta.powi(i32::try_from(t).unwrap_or(i32::MAX))) as f32;
        let mut scalars = StepScalars {
            lr,
            bias_correction1: correction(config.beta1),
            bias_correction2: correction(config.beta2),
            loss_scale: 1.0 / supervised.max(1) as f32,
            max_grad_norm: self.setup.max_grad_norm,
            ..Default::default()
        };
        let mut pace = Pace::new(is_cancelled);
        gpu.submit(&self.clear, [], &[])?;
        let mut at = 4 * METRICS as u64;
        for (k, batch) in micro_batches.iter().enumerate() {
            let ready = pick(&self.train, batch)?;
            write_batch(&gpu, &ready.program, batch)?;
            scalars.supervised = batch.supervised as u32;
            scalars.dropout_seed = dropout_seed(self.setup.model.seed, t, k as u64);
            ready.program.write_step(&gpu, &self.model.memory, &scalars);
            ready.program.run_paced(&gpu, scalars.supervised, &mut pace).await?;
            let nll = ready.nll.clone().ok_or_else(|| Error::shape("step", "the graph has no loss"))?;
            let bytes = nll.bytes;
            gpu.submit(&[], [], &[(nll, self.readback.clone(), at)])?;
            at += bytes;
            yield_now().await;
        }
        pace.check()?;
        self.optimizer.run(&gpu, 0)?;
        let metrics = self.model.memory.arena(ArenaKind::Metrics)[0].region();
        gpu.submit(&[], [], &[(metrics, self.readback.clone(), 0)])?;
        let read: Vec<f32> = bytemuck::pod_collect_to_vec(&gpu.read_mapped(&self.readback, at).await?);
        let loss = read[METRICS..].iter().map(|v| f64::from(*v)).sum::<f64>() / supervised.max(1) as f64;
        let grad_norm = f64::from(read[metric::GRAD_NORM]);
        for (what, value) in [("the loss", loss), ("the gradient", grad_norm)] {
            if !value.is_finite() {
                let kept = "the parameters are those of the step before".into();
                return Err(Error::NonFinite { step: t, what: what.into(), kept });
            }
        }
        self.step = t;
        let tokens = micro_batches.iter().map(|b| (b.batch_size * b.context) as u64).sum();
        Ok(StepReport { loss, grad_norm, tokens, supervised })
    }

    /// Loss over batches, the parameters left as they are. Errs with [`Error::Cancelled`] when `is_cancelled` says so.
    pub async fn evaluate(&mut self, batches: &[Batch], is_cancelled: &dyn Fn() -> bool) -> Result<EvalReport> {
        evaluate(&self.model, &self.eval, &self.readback, batches, is_cancelled).await
    }

    /// Adam's moments and step.
    pub async fn optimizer_state(&self) -> Result<OptimizerState> {
        Ok(OptimizerState {
            step: self.step,
            moment1: self.model.read_arena(ArenaKind::Moment1).await?,
            moment2: self.model.read_arena(ArenaKind::Moment2).await?,
        })
    }

    /// Continues from a checkpoint; `file` names it in errors.
    pub fn restore(&mut self, file: &str, parameters: &[NamedTensor], optimizer: &OptimizerState) -> Result<()> {
        self.model.write_arena(ArenaKind::Params, file, parameters)?;
        self.model.write_arena(ArenaKind::Moment1, file, &optimizer.moment1)?;
        self.model.write_arena(ArenaKind::Moment2, file, &optimizer.moment2)?;
        self.step = optimizer.step;
        Ok(())
    }

    /// The gradients of the last step, by parameter name, before clipping.
    pub async fn gradients(&self) -> Result<Vec<NamedTensor>> {
        self.model.read_arena(ArenaKind::Grads).await
    }

    /// Nanoseconds and operations of every dispatch of one micro-batch of this shape, and of the optimizer.
    pub async fn profile(&self, batch: &Batch) -> Result<Vec<(usize, String, f64, u64)>> {
        let ready = pick(&self.train, batch)?;
        write_batch(&self.model.gpu, &ready.program, batch)?;
        let mut all = ready.program.profile(&self.model.gpu, batch.supervised as u32).await?;
        all.extend(self.optimizer.profile(&self.model.gpu, 0).await?);
        Ok(all)
    }

    /// Dispatches and floating-point operations of one micro-batch of a shape.
    pub fn cost(&self, shape: Shape) -> Option<(usize, u64)> {
        self.train.get(&shape).map(|r| (r.program.dispatches(), r.flops))
    }
}

/// Loss of held-out data under a model that is not being trained.
pub struct Evaluator {
    eval: BTreeMap<Shape, Ready>,
    readback: Buffer,
}

impl Evaluator {
    /// Compiles the graphs for these shapes.
    pub async fn new(model: &mut DeviceModel, shapes: &[Shape]) -> Result<Evaluator> {
        let target = model.memory.target;
        let mut plans = BTreeMap::new();
        for &(b, t) in shapes {
            plans.insert((b, t), Planned::new(&model.setup, b, t, Purpose::Evaluate, &target)?);
        }
        model.reserve(plans.values()).await?;
        let mut eval = BTreeMap::new();
        for (shape, planned) in plans {
            eval.insert(shape, model.ready(&planned).await?);
        }
        let tokens = shapes.iter().map(|s| s.0 * s.1).max().unwrap_or(1) as u64;
        let readback = model.gpu.alloc_readback("losses", 4 * (METRICS as u64 + tokens))?;
        Ok(Evaluator { eval, readback })
    }

    /// Loss over batches. Errs with [`Error::Cancelled`] when `is_cancelled` says so.
    pub async fn evaluate(
        &self,
        model: &DeviceModel,
        batches: &[Batch],
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<EvalReport> {
        evaluate(model, &self.eval, &self.readback, batches, is_cancelled).await
    }

    /// Negative log-likelihood of every token of one batch, `[N]`, 0 where nothing is predicted.
    pub async fn per_token(&self, model: &DeviceModel, batch: &Batch) -> Result<Vec<f32>> {
        losses(model, pick(&self.eval, batch)?, &self.readback, batch, &mut Pace::new(&|| false)).await
    }
}

async fn evaluate(
    model: &DeviceModel,
    eval: &BTreeMap<Shape, Ready>,
    readback: &Buffer,
    batches: &[Batch],
    is_cancelled: &dyn Fn() -> bool,
) -> Result<EvalReport> {
    let mut report = EvalReport::default();
    let mut pace = Pace::new(is_cancelled);
    for batch in batches {
        let losses = losses(model, pick(eval, batch)?, readback, batch, &mut pace).await?;
        report.nll += losses.iter().map(|v| f64::from(*v)).sum::<f64>();
        report.tokens += batch.supervised as u64;
    }
    Ok(report)
}

/// `[N]`, of one batch.
async fn losses(
    model: &DeviceModel,
    ready: &Ready,
    readback: &Buffer,
    batch: &Batch,
    pace: &mut Pace<'_>,
) -> Result<Vec<f32>> {
    write_batch(&model.gpu, &ready.program, batch)?;
    let scalars = StepScalars { supervised: batch.supervised as u32, loss_scale: 1.0, ..Default::default() };
    ready.program.write_step(&model.gpu, &model.memory, &scalars);
    ready.program.run_paced(&model.gpu, scalars.supervised, pace).await?;
    let nll = ready.nll.clone().ok_or_else(|| Error::shape("evaluate", "the graph has no loss"))?;
    let bytes = nll.bytes;
    model.gpu.submit(&[], [], &[(nll, readback.clone(), 0)])?;
    Ok(bytemuck::pod_collect_to_vec(&model.gpu.read_mapped(readback, bytes).await?))
}

fn pick<'r>(ready: &'r BTreeMap<Shape, Ready>, batch: &Batch) -> Result<&'r Ready> {
    let shape = (batch.batch_size, batch.context);
    ready.get(&shape).ok_or_else(|| {
        Error::shape("batch", format!("{shape:?} was not planned; planned: {:?}", ready.keys().collect::<Vec<_>>()))
    })
}

/// Writes a batch into the inputs of a program.
pub fn write_batch(gpu: &Gpu, program: &Program, batch: &Batch) -> Result<()> {
    let n = batch.batch_size * batch.context;
    let last: Vec<u32> = (0..n).map(|i| (i % batch.context.max(1)) as u32).collect();
    let targets: &[u32] = bytemuck::cast_slice(&batch.targets);
    let mut rows: Vec<u32> = (0..n as u32).filter(|&i| batch.targets[i as usize] >= 0).collect();
    rows.resize(n, 0);
    let all: [(&str, &[u32]); 6] = [
        (input::TOKENS, &batch.input_ids),
        (input::POSITIONS, &batch.positions),
        (input::FIRST, &batch.segment_start),
        (input::LAST, &last),
        (input::TARGETS, targets),
        (input::ROWS, &rows),
    ];
    all.iter().try_for_each(|(name, data)| program.write_input(gpu, name, data))
}

/// Dropout's seed of one micro-batch: a hash of run, step and micro-batch.
fn dropout_seed(seed: u64, step: u64, micro: u64) -> u32 {
    let mut x = seed ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ micro.wrapping_mul(0xD1B5_4A32_D192_ED03);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (x ^ (x >> 31)) as u32
}
