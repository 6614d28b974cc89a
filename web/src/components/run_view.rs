//! What is seen of a run: where it is, its curves, the fixed prompt's answers.

use espalier::train::{Evaluated, StepMetrics};
use leptos::prelude::*;

use crate::protocol::{Ending, Finished, Started};

/// Where the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is none.
    None,
    /// Asked for, not yet at its first step.
    Starting,
    Running,
    /// Asked to hold, not yet held.
    Pausing,
    Paused,
    /// Asked to end.
    Ending,
    /// Ended, with what was trained.
    Finished,
    /// Ended without: thrown away, or broken off.
    Broken,
}

impl Phase {
    /// Whether leaving the page now would cost work.
    pub fn is_live(self) -> bool {
        use Phase::{Ending, Paused, Pausing, Running, Starting};
        matches!(self, Starting | Running | Pausing | Paused | Ending)
    }

    /// In a word or two.
    pub fn word(self) -> &'static str {
        match self {
            Phase::None => "Not started",
            Phase::Starting => "Starting",
            Phase::Running => "Training",
            Phase::Pausing => "Pausing after the present rows",
            Phase::Paused => "Paused",
            Phase::Ending => "Ending",
            Phase::Finished => "Finished",
            Phase::Broken => "Ended",
        }
    }
}

/// Points of a curve: (step, value).
pub type Points = RwSignal<Vec<(f64, f64)>>;

/// The signals of a run.
#[derive(Clone, Copy)]
pub struct RunView {
    pub phase: RwSignal<Phase>,
    pub started: RwSignal<Option<Started>>,
    pub finished: RwSignal<Option<Finished>>,
    pub step: RwSignal<u64>,
    pub history: RwSignal<Vec<StepMetrics>>,
    /// The step of the newest checkpoint.
    pub kept: RwSignal<Option<u64>>,
    /// The fixed prompt's answers: (step, text).
    pub samples: RwSignal<Vec<(u64, String)>>,
    pub first_eval: RwSignal<Option<f64>>,
    pub last_eval: RwSignal<Option<f64>>,
    pub allocated: RwSignal<u64>,
    pub loss: Points,
    pub eval_loss: Points,
    pub lr: Points,
    pub grad_norm: Points,
    pub tokens_per_s: Points,
    /// Bytes on the GPU, MB
    pub memory: Points,
    /// Seconds a step, a running mean; the clock's reading at the last step.
    pace: StoredValue<(Option<f64>, Option<f64>)>,
    pub seconds_left: RwSignal<Option<f64>>,
}

impl RunView {
    pub fn new() -> RunView {
        RunView {
            phase: RwSignal::new(Phase::None),
            started: RwSignal::new(None),
            finished: RwSignal::new(None),
            step: RwSignal::new(0),
            history: RwSignal::new(vec![]),
            kept: RwSignal::new(None),
            samples: RwSignal::new(vec![]),
            first_eval: RwSignal::new(None),
            last_eval: RwSignal::new(None),
            allocated: RwSignal::new(0),
            loss: RwSignal::new(vec![]),
            eval_loss: RwSignal::new(vec![]),
            lr: RwSignal::new(vec![]),
            grad_norm: RwSignal::new(vec![]),
            tokens_per_s: RwSignal::new(vec![]),
            memory: RwSignal::new(vec![]),
            pace: StoredValue::new((None, None)),
            seconds_left: RwSignal::new(None),
        }
    }

    /// A run begins or goes on: the curves are those of its history.
    pub fn begin(self, started: Started) {
        self.finished.set(None);
        self.samples.update(|samples| samples.retain(|(step, _)| *step <= started.step && started.step > 0));
        self.pace.set_value((None, None));
        self.seconds_left.set(None);
        for points in [self.loss, self.eval_loss, self.lr, self.grad_norm, self.tokens_per_s, self.memory] {
            points.set(vec![]);
        }
        self.history.set(vec![]);
        self.kept.set((started.step > 0).then_some(started.step));
        self.first_eval.set(None);
        self.last_eval.set(None);
        if let Some(first) = started.first_eval {
            self.evaluated(first);
        }
        for metrics in &started.history {
            self.point(metrics);
            if let Some(loss) = metrics.eval_loss {
                self.evaluated(Evaluated { step: metrics.step, loss });
            }
        }
        self.history.set(started.history.clone());
        self.step.set(started.step);
        self.allocated.set(started.allocated_bytes);
        self.phase.set(Phase::Running);
        self.started.set(Some(started));
    }

    /// A step was made, at `now` (seconds of a clock that only goes forward).
    pub fn stepped(self, metrics: StepMetrics, now: f64) {
        self.point(&metrics);
        self.step.set(metrics.step);
        self.allocated.set(metrics.gpu_bytes);
        let (mean, last) = self.pace.get_value();
        let took = last.map(|last| now - last);
        let mean = match (mean, took) {
            (Some(mean), Some(took)) => Some(mean * 0.9 + took * 0.1),
            (mean, took) => took.or(mean),
        };
        self.pace.set_value((mean, Some(now)));
        let total = self.started.with_untracked(|started| started.as_ref().map_or(0, |s| s.total_steps));
        self.seconds_left.set(mean.map(|mean| mean * total.saturating_sub(metrics.step) as f64));
        if matches!(self.phase.get_untracked(), Phase::None | Phase::Starting | Phase::Broken) {
            self.phase.set(Phase::Running);
        }
        self.history.update(|history| history.push(metrics));
    }

    fn point(self, metrics: &StepMetrics) {
        let x = metrics.step as f64;
        let add = |points: Points, y: f64| points.update(|points| points.push((x, y)));
        add(self.loss, metrics.loss);
        add(self.lr, metrics.lr);
        add(self.grad_norm, metrics.grad_norm);
        add(self.tokens_per_s, metrics.tokens_per_s);
        add(self.memory, metrics.gpu_bytes as f64 / 1e6);
    }

    /// The held-out loss was measured.
    pub fn evaluated(self, evaluated: Evaluated) {
        let point = (evaluated.step as f64, evaluated.loss);
        self.eval_loss.update(|points| {
            points.retain(|p| p.0 < point.0);
            points.push(point);
        });
        if self.first_eval.get_untracked().is_none() {
            self.first_eval.set(Some(evaluated.loss));
        }
        self.last_eval.set(Some(evaluated.loss));
    }

    /// Steps come no more for a while: the clock must not count it.
    pub fn held(self) {
        self.pace.update_value(|pace| pace.1 = None);
        self.phase.set(Phase::Paused);
    }

    /// The run has ended.
    pub fn finish(self, finished: Finished) {
        let kept = finished.how != Ending::Discarded;
        self.phase.set(if kept { Phase::Finished } else { Phase::Broken });
        self.seconds_left.set(None);
        if kept {
            if finished.first_eval.is_some() {
                self.first_eval.set(finished.first_eval);
            }
            if finished.last_eval.is_some() {
                self.last_eval.set(finished.last_eval);
            }
        }
        self.finished.set(Some(finished));
    }

    /// The whole table, one line a step.
    pub fn csv(self) -> String {
        let mut out = String::from("step,loss,lr,grad_norm,tokens,tokens_per_s,gpu_bytes,eval_loss\n");
        let evals = self.eval_loss.get_untracked();
        self.history.with_untracked(|history| {
            for m in history {
                let eval = evals.iter().find(|p| p.0 == m.step as f64).map(|p| p.1).or(m.eval_loss);
                let eval = eval.map(|loss| loss.to_string()).unwrap_or_default();
                let (step, loss, lr, norm) = (m.step, m.loss, m.lr, m.grad_norm);
                out += &format!("{step},{loss},{lr},{norm},{},{},{},{eval}\n", m.tokens, m.tokens_per_s, m.gpu_bytes);
            }
        });
        out
    }
}

impl Default for RunView {
    fn default() -> RunView {
        RunView::new()
    }
}
