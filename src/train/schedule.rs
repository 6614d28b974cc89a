//! The learning rate of each optimizer step, as transformers' `get_*_schedule_with_warmup` give it.

use serde::{Deserialize, Serialize};

/// How the learning rate moves after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Schedule {
    /// Stays.
    Constant,
    /// Falls to zero in a straight line.
    Linear,
    /// Falls to zero along half a cosine.
    #[default]
    Cosine,
}

/// A schedule with its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    pub schedule: Schedule,
    /// The rate at the end of the warm-up.
    pub peak: f64,
    /// Optimizer steps over which the rate rises from zero in a straight line.
    pub warmup_steps: u64,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
}

impl LearningRate {
    /// The rate of optimizer step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        self.peak * self.share(step)
    }

    /// The share of the peak at optimizer step `step`, counted from 0: `step / warmup` during the warm-up, then 1,
    /// `(total - step) / (total - warmup)`, or `(1 + cos(pi (step - warmup) / (total - warmup))) / 2`.
    pub fn share(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps.max(1) as f64;
        }
        let decay = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => self.total_steps.saturating_sub(step) as f64 / decay,
            Schedule::Cosine => {
                let progress = (step - self.warmup_steps) as f64 / decay;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }
}

/// Steps of a warm-up given as a share of the run (below 1; rounded up, as transformers does) or as a number of steps.
pub fn warmup_steps(warmup: f64, total_steps: u64) -> u64 {
    let steps = if warmup < 1.0 { (warmup * total_steps as f64).ceil() } else { warmup };
    steps as u64
}
