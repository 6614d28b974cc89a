//! Training: the choices of a run, its loop, schedules, evaluation, checkpoints and metrics.

pub mod advice;
pub mod checkpoint;
pub mod inputs;
pub mod metrics;
pub mod run;
pub mod run_config;
pub mod schedule;
pub mod trainer;

pub use advice::Shapes;
pub use checkpoint::{CHECKPOINT_FILE, Checkpoint, Evaluated};
pub use metrics::StepMetrics;
pub use run_config::{GradCheckpointing, MethodFacts, MethodName, RunConfig};
pub use schedule::{LearningRate, Schedule};
