//! Training: the device side of a step, and evaluation.

pub mod trainer;
