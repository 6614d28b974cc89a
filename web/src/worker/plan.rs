//! What the choices on the page cost, whether that fits, and what would.

use espalier::graph::Category;
use espalier::train::run::Prepared;
use espalier::train::{RunConfig, Shapes, advice};
use espalier::{Error, Result};

use super::post::post;
use super::session::Session;
use crate::protocol::{Event, Fit, Plan};

/// Order in which memory is drawn.
const ORDER: [Category; 7] = [
    Category::Weights,
    Category::Parameters,
    Category::Gradients,
    Category::Optimizer,
    Category::Activations,
    Category::State,
    Category::Inputs,
];
/// Share of what the GPU gave that a run may take and still be called to fit well.
const EASY: f64 = 0.8;
/// Most parameters that are trained in full in a page, whose memory holds them several times over.
const MAX_FULL: u64 = 30_000_000;

impl Session {
    /// Counts what `config` costs; encodes the data anew where it asks for that.
    pub async fn configure(&mut self, config: &RunConfig) -> Result<()> {
        if let Err(error) = self.encode(config).await {
            // Under these choices nothing is left to learn: the page says why, and does not start.
            if let (Error::Data { .. }, Some(data)) = (&error, &mut self.data) {
                data.forget_examples();
                let blocked = Some(error.to_string());
                post(&Event::Plan(Plan { blocked, ..self.plan(config)? }));
            }
            return Err(error);
        }
        self.show_data(config)?;
        post(&Event::Plan(self.plan(config)?));
        Ok(())
    }

    /// What `config` costs on the loaded model.
    pub fn plan(&self, config: &RunConfig) -> Result<Plan> {
        let files = self.model()?.files.clone();
        let (model, target) = (files.config(), self.target());
        let mut blocked = None;
        let mut chosen = config.clone();
        if let Err(error) = config.validate().and_then(|()| config.check_model(model)) {
            blocked = Some(error.to_string());
            chosen = RunConfig::default();
        }
        let split = self.split(&chosen).ok();
        let prepared = split.map(|(data, held_out)| Prepared::new(&files, &chosen, data, held_out));
        let (decided, steps, peak_lr, run) = match prepared {
            Some(Ok(prepared)) => {
                let (_, run) = prepared.plan(&target)?;
                (prepared.config().clone(), prepared.total_steps(), prepared.peak_lr(), run)
            }
            other => {
                if let Some(Err(error)) = other {
                    blocked.get_or_insert(error.to_string());
                }
                let (_, run) = advice::plan(&chosen, model, &Shapes::largest(&chosen, model), &target)?;
                let steps = chosen.total_steps(1);
                (chosen.decided(model), steps, chosen.peak_lr(steps), run)
            }
        };
        if decided.method().trains_base() && run.trained_parameters > MAX_FULL {
            blocked.get_or_insert_with(|| {
                format!(
                    "training all {} M weights needs more memory than a page has: choose LoRA here, or the native build",
                    run.trained_parameters / 1_000_000
                )
            });
        }
        let total_bytes = run.memory.total();
        let fit = match self.capacity {
            Some((bytes, _)) if total_bytes as f64 <= EASY * bytes as f64 => Fit::Fits,
            Some((bytes, _)) if total_bytes <= bytes => Fit::Tight,
            Some((_, true)) => Fit::DoesNot,
            _ => Fit::Unknown,
        };
        let remedy = match (fit, self.capacity) {
            (Fit::DoesNot | Fit::Tight, Some((bytes, _))) => {
                let changes = advice::advise(config, model, &target, (EASY * bytes as f64) as u64)?;
                let change = changes.into_iter().rfind(|change| change.bytes < total_bytes);
                change.map(|change| (change.options, change.config))
            }
            _ => None,
        };
        Ok(Plan {
            trained_parameters: run.trained_parameters,
            total_parameters: model.parameters(),
            memory: ORDER.iter().filter_map(|&category| Some((category, *run.memory.0.get(&category)?))).collect(),
            total_bytes,
            result_bytes: 4 * run.trained_parameters,
            steps,
            peak_lr,
            step_flops: run.flops as f64 * decided.grad_accumulation as f64,
            fit,
            remedy,
            blocked,
            config: decided,
        })
    }

    /// Errs where the choices may not be trained with.
    pub fn check_plan(&self, config: &RunConfig) -> Result<()> {
        match self.plan(config)?.blocked {
            Some(why) => Err(Error::Option { name: "run".into(), value: "blocked".into(), expected: why }),
            None => Ok(()),
        }
    }
}
