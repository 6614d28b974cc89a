//! A whole training run: data to batches, steps, evaluations, answers to a fixed prompt, checkpoints. The page and the command
//! line share it; what differs between them (where a checkpoint goes, what is shown) is their [`Host`].

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::advice::{self, Shapes};
use super::checkpoint::{Checkpoint, Evaluated, RunState};
use super::inputs::{batches_by_length, data_identity, model_identity, prompt_tokens};
use super::metrics::StepMetrics;
use super::run_config::{GradCheckpointing, RunConfig};
use super::schedule::LearningRate;
use super::trainer::{RunPlan, Trainer, TrainerSetup};
use crate::data::{Batch, BatchOptions, BatchOrder, Dataset, RowOrder};
use crate::generate::{Generator, Sampling};
use crate::gpu::Gpu;
use crate::graph::{Checkpointing, MemoryTable, Target};
use crate::model::ModelFiles;
use crate::model::device::LoadProgress;
use crate::peft::NamedTensor;
use crate::platform::{clock, yield_now};
use crate::{Error, Result};

/// Tokens of an answer to the fixed prompt.
const SAMPLE_TOKENS: usize = 64;

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// An optimizer step was made.
    Step { metrics: &'a StepMetrics, total_steps: u64 },
    /// The held-out data was evaluated.
    Evaluated { evaluated: Evaluated, is_best: bool },
    /// The fixed prompt was answered.
    Sample { step: u64, text: &'a str },
    /// A checkpoint was kept.
    Checkpoint { step: u64 },
}

/// Where a run happens.
pub trait Host {
    /// Shows or writes down what happened; an error (a full disk, say) ends the run.
    fn event(&mut self, event: Event<'_>) -> Result<()>;

    /// Keeps a checkpoint in the place of the one before.
    fn keep(&mut self, checkpoint: &Checkpoint) -> impl Future<Output = Result<()>>;
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps were made.
    Complete,
    /// The held-out loss no longer fell.
    Early,
    /// The user stopped it; it can be resumed.
    Cancelled,
}

/// A run, looked back on.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    pub ending: Ending,
    /// Optimizer steps made, those before a resume included.
    pub steps: u64,
    /// Loss of the last step, nats.
    pub loss: Option<f64>,
    pub first_eval: Option<Evaluated>,
    pub last_eval: Option<Evaluated>,
    pub best_eval: Option<Evaluated>,
    /// Tokens of this session's steps, padding left out, and the seconds these steps took.
    pub tokens: u64,
    pub seconds: f64,
    /// Most bytes allocated on the GPU.
    pub peak_bytes: u64,
}

/// A fixed prompt, as tokens.
#[derive(Clone, Debug)]
struct Prompt {
    tokens: Vec<u32>,
    every: u64,
}

/// A run with its data laid out, before anything is on the GPU.
pub struct Prepared<'m> {
    files: &'m ModelFiles,
    config: RunConfig,
    order: BatchOrder,
    eval: Vec<Batch>,
    eval_every: u64,
    prompt: Option<Prompt>,
    rates: LearningRate,
    shapes: Shapes,
    /// As before the first step.
    state: RunState,
}

impl<'m> Prepared<'m> {
    /// Checks the choices against model and data, and lays the data out. `eval` is held-out data.
    pub fn new(
        files: &'m ModelFiles,
        config: &RunConfig,
        data: Arc<Dataset>,
        eval: Option<Arc<Dataset>>,
    ) -> Result<Prepared<'m>> {
        config.validate()?;
        config.check_model(files.config())?;
        let config = config.decided(files.config());
        if config.patience > 0 && eval.is_none() {
            return Err(Error::Option {
                name: "patience".into(),
                value: config.patience.to_string(),
                expected: "stopping early needs held-out data: eval-data or eval-fraction".into(),
            });
        }
        let context = config.context(files.config());
        let pad = files.tokenizer().map_or(0, |tokenizer| tokenizer.pad());
        let options = BatchOptions {
            grad_accumulation: config.grad_accumulation,
            order: if config.shuffle { RowOrder::Shuffled } else { RowOrder::AsGiven },
            pack: config.pack,
            seed: config.seed,
            pad,
            ..BatchOptions::new(config.batch_size, context)
        };
        let (data_identity, eval_data) = (data_identity(&data), eval.as_deref().map(data_identity));
        let order = BatchOrder::new(data, options)?;
        let (eval, eval_shapes) = match eval {
            Some(eval) => batches_by_length(eval, config.batch_size, context, pad)?,
            None => (vec![], vec![]),
        };
        let per_epoch = order.steps_in_epoch(0) as u64;
        let rates = config.learning_rate(config.total_steps(per_epoch));
        let eval_every = config.eval_every.unwrap_or(per_epoch);
        let prompt = match &config.sample_prompt {
            Some(text) => {
                Some(Prompt { tokens: prompt_tokens(files, text)?, every: config.sample_every.unwrap_or(eval_every) })
            }
            None => None,
        };
        let train = order.buckets().iter().map(|&bucket| (config.batch_size, bucket)).collect();
        let longest = files.config().max_position_embeddings;
        let prompt_length = prompt.as_ref().map_or(0, |prompt| prompt.tokens.len());
        if prompt_length >= longest {
            return Err(Error::Option {
                name: "sample-prompt".into(),
                value: format!("{prompt_length} tokens"),
                expected: format!("expected fewer than the {longest} tokens that this model reads"),
            });
        }
        let sample = if prompt.is_some() { longest.min(prompt_length + SAMPLE_TOKENS) } else { 0 };
        let shapes = Shapes { train, eval: eval_shapes, sample };
        let state = RunState {
            format: RunState::FORMAT,
            config: config.clone(),
            model: model_identity(files)?,
            data: data_identity,
            eval_data,
            step: 0,
            total_steps: rates.total_steps,
            tokens: 0,
            position: order.position(),
            first_eval: None,
            best_eval: None,
            evals_since_best: 0,
            eval_due: false,
        };
        Ok(Prepared { files, config, order, eval, eval_every, prompt, rates, shapes, state })
    }

    /// The choices, with those that the model or the method made.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// Optimizer steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.rates.total_steps
    }

    /// Highest learning rate.
    pub fn peak_lr(&self) -> f64 {
        self.rates.peak
    }

    /// What the run will allocate and compute, and the setup that does.
    pub fn plan(&self, target: &Target) -> Result<(TrainerSetup, RunPlan)> {
        advice::plan(&self.config, self.files.config(), &self.shapes, target)
    }

    /// Errs where `checkpoint`, read from `file`, does not belong to this run.
    pub fn check(&self, file: &str, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.state.check(file, &self.state)
    }

    /// Brings the model to the GPU and makes the run ready, from the first step or from a checkpoint. Where `auto` kept the
    /// activations and the GPU has no room for them, they are computed again instead. `progress` ends it by returning
    /// false, which errs with [`Error::Cancelled`].
    pub async fn start(
        self,
        gpu: Rc<Gpu>,
        setup: TrainerSetup,
        from: Option<(&str, Checkpoint)>,
        progress: &mut dyn FnMut(LoadProgress) -> bool,
    ) -> Result<Run<'m>> {
        if let Some((file, checkpoint)) = &from {
            self.check(file, checkpoint)?;
        }
        let may_recompute =
            self.config.grad_checkpointing == GradCheckpointing::Auto && setup.checkpointing == Checkpointing::Off;
        let again = TrainerSetup { checkpointing: Checkpointing::On, ..setup.clone() };
        let mut trainer = match Trainer::new(gpu.clone(), self.files, setup, progress).await {
            Err(Error::OutOfMemory(_)) if may_recompute => Trainer::new(gpu, self.files, again, progress).await?,
            trainer => trainer?,
        };
        let generator = match &self.prompt {
            Some(_) => Some(Generator::new(&mut trainer.model, self.shapes.sample).await?),
            None => None,
        };
        let mut run = Run {
            state: self.state.clone(),
            prepared: self,
            trainer,
            generator,
            best: None,
            last_eval: None,
            last_loss: None,
            kept: None,
        };
        if let Some((file, checkpoint)) = from {
            run.trainer.restore(file, &checkpoint.parameters, &checkpoint.optimizer)?;
            run.prepared.order.resume(&checkpoint.state.position)?;
            run.best = checkpoint.best;
            let now = run.state;
            run.state = RunState { config: now.config, total_steps: now.total_steps, ..checkpoint.state };
            run.kept = Some(run.state.clone());
        }
        Ok(run)
    }
}

/// A run on the GPU.
pub struct Run<'m> {
    prepared: Prepared<'m>,
    trainer: Trainer,
    generator: Option<Generator>,
    state: RunState,
    best: Option<Vec<NamedTensor>>,
    last_eval: Option<Evaluated>,
    last_loss: Option<f64>,
    /// What the newest checkpoint says.
    kept: Option<RunState>,
}

impl Run<'_> {
    /// What was planned for the GPU, and what has been allocated.
    pub fn memory(&self) -> (&MemoryTable, u64) {
        (self.trainer.planned(), self.trainer.model.gpu.bytes())
    }

    /// The device side of the run.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// Gives the trained parameters other first values: those of an adapter. Before the first step only.
    pub fn set_parameters(&self, file: &str, tensors: &[NamedTensor]) -> Result<()> {
        self.trainer.model.set_parameters(file, tensors)
    }

    /// Trains until the run is complete, the held-out loss no longer falls, or `cancel` is set. That takes effect within a
    /// few dispatches and leaves a checkpoint of the last whole step.
    ///
    /// Errs where the loss or the gradient is no longer a number, and where the GPU fails; the newest checkpoint is kept.
    pub async fn run(&mut self, host: &mut impl Host, cancel: &AtomicBool) -> Result<Summary> {
        let (mut tokens, mut seconds) = (0, 0.0);
        let is_cancelled = || cancel.load(Ordering::Relaxed);
        self.state.eval_due |= self.state.step == 0 && self.kept.is_none();
        let total = self.prepared.rates.total_steps;
        let every = |n: u64, step: u64| n > 0 && step.is_multiple_of(n);
        let ending = loop {
            if self.is_enough() {
                break Ending::Early;
            }
            if self.state.step >= total && !self.state.eval_due {
                break Ending::Complete;
            }
            if is_cancelled() {
                if self.kept.as_ref() != Some(&self.state) {
                    self.keep(host).await?;
                }
                break Ending::Cancelled;
            }
            if self.state.eval_due {
                let first = unless_cancelled(self.evaluate(host, &is_cancelled).await)?;
                if self.state.step == 0 && first.is_some() {
                    self.sample(host, &is_cancelled).await?;
                }
                continue;
            }
            let begun = clock::now();
            let Some(mut metrics) = unless_cancelled(self.step(&is_cancelled).await)? else { continue };
            let elapsed = begun.elapsed().as_secs_f64().max(1e-9);
            metrics.tokens_per_s = metrics.tokens as f64 / elapsed;
            tokens += metrics.tokens;
            seconds += elapsed;
            let step = self.state.step;
            let last = step == total;
            if last || every(self.prepared.eval_every, step) {
                self.state.eval_due = true;
                let evaluated = unless_cancelled(self.evaluate(host, &is_cancelled).await)?.flatten();
                metrics.eval_loss = evaluated.map(|e| e.loss);
                metrics.perplexity = evaluated.map(|e| e.loss.exp());
            }
            host.event(Event::Step { metrics: &metrics, total_steps: total })?;
            if last || self.prepared.prompt.as_ref().is_some_and(|prompt| every(prompt.every, step)) {
                self.sample(host, &is_cancelled).await?;
            }
            let checkpoints = self.prepared.config.checkpoint_every;
            if every(checkpoints, step) || (checkpoints > 0 && (last || self.is_enough())) {
                self.keep(host).await?;
            }
            yield_now().await;
        };
        Ok(Summary {
            ending,
            steps: self.state.step,
            loss: self.last_loss,
            first_eval: self.state.first_eval,
            last_eval: self.last_eval,
            best_eval: self.state.best_eval,
            tokens,
            seconds,
            peak_bytes: self.trainer.model.gpu.peak_bytes(),
        })
    }

    /// What was trained: the parameters of the best evaluation where early stopping keeps them, else the present ones.
    pub async fn result(&self) -> Result<Vec<NamedTensor>> {
        match &self.best {
            Some(best) => Ok(best.clone()),
            None => self.trainer.model.parameters().await,
        }
    }

    /// Whether the held-out loss has not fallen for as many evaluations as the user is patient.
    fn is_enough(&self) -> bool {
        let patience = self.prepared.config.patience;
        patience > 0 && self.state.evals_since_best >= patience
    }

    /// Makes one optimizer step, or none where it is cancelled; how long it took is for the caller to fill in.
    async fn step(&mut self, is_cancelled: &dyn Fn() -> bool) -> Result<StepMetrics> {
        let lr = self.prepared.rates.at(self.state.step);
        let step = self.prepared.order.next_step();
        let report = self.trainer.step(&step.batches, lr as f32, is_cancelled).await;
        if let Err(Error::Cancelled) = report {
            self.prepared.order.resume(&self.state.position)?;
        }
        let report = report.map_err(|error| match error {
            Error::NonFinite { step, what, .. } => {
                let kept = match &self.kept {
                    Some(kept) => {
                        format!("the checkpoint of step {} is kept; a lower learning rate may help", kept.step)
                    }
                    None => "no checkpoint had been written; a lower learning rate may help".into(),
                };
                Error::NonFinite { step, what, kept }
            }
            other => other,
        })?;
        self.state.step += 1;
        self.state.tokens += step.tokens as u64;
        self.state.position = self.prepared.order.position();
        self.last_loss = Some(report.loss);
        if let Some(generator) = &mut self.generator {
            generator.reset();
        }
        Ok(StepMetrics {
            step: self.state.step,
            loss: report.loss,
            lr,
            grad_norm: report.grad_norm,
            tokens: step.tokens as u64,
            tokens_per_s: 0.0,
            gpu_bytes: self.trainer.model.gpu.bytes(),
            eval_loss: None,
            perplexity: None,
        })
    }

    /// Evaluates the held-out data, if there is any, and keeps the parameters where that is wanted and they are the best yet.
    async fn evaluate(&mut self, host: &mut impl Host, is_cancelled: &dyn Fn() -> bool) -> Result<Option<Evaluated>> {
        if self.prepared.eval.is_empty() {
            self.state.eval_due = false;
            return Ok(None);
        }
        let loss = self.trainer.evaluate(&self.prepared.eval, is_cancelled).await?.loss();
        self.state.eval_due = false;
        let evaluated = Evaluated { step: self.state.step, loss };
        if evaluated.step == 0 {
            self.state.first_eval = Some(evaluated);
        }
        let is_best = self.state.best_eval.is_none_or(|best| loss < best.loss);
        if is_best {
            self.state.best_eval = Some(evaluated);
            self.state.evals_since_best = 0;
            if self.prepared.config.patience > 0 {
                self.best = Some(self.trainer.model.parameters().await?);
            }
        } else {
            self.state.evals_since_best += 1;
        }
        self.last_eval = Some(evaluated);
        host.event(Event::Evaluated { evaluated, is_best })?;
        Ok(Some(evaluated))
    }

    /// Answers the fixed prompt, if there is one; an answer that is cancelled is not told.
    async fn sample(&mut self, host: &mut impl Host, is_cancelled: &dyn Fn() -> bool) -> Result<()> {
        let (Some(generator), Some(prompt)) = (&mut self.generator, &self.prepared.prompt) else { return Ok(()) };
        let tokenizer = self.prepared.files.tokenizer()?;
        let sampling = Sampling { max_new_tokens: SAMPLE_TOKENS, ..Sampling::default() };
        let stop = tokenizer.eos_ids();
        let answer =
            generator.generate(&self.trainer.model, &prompt.tokens, &sampling, stop, |_| !is_cancelled()).await?;
        if is_cancelled() {
            return Ok(());
        }
        let text = tokenizer.decode(&answer, true)?;
        host.event(Event::Sample { step: self.state.step, text: text.trim() })
    }

    async fn keep(&mut self, host: &mut impl Host) -> Result<()> {
        let checkpoint = Checkpoint {
            state: self.state.clone(),
            parameters: self.trainer.model.parameters().await?,
            optimizer: self.trainer.optimizer_state().await?,
            best: self.best.clone(),
        };
        host.keep(&checkpoint).await?;
        self.kept = Some(checkpoint.state);
        host.event(Event::Checkpoint { step: self.state.step })
    }
}

/// Nothing where the user stopped it.
fn unless_cancelled<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Cancelled) => Ok(None),
        Err(error) => Err(error),
    }
}
