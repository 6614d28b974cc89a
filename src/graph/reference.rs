//! Runs a graph on the CPU in f32 or f64: the oracle of the tests, and of the self-test a user can run on their own GPU.

use num_traits::{Float, FromPrimitive};
use rustc_hash::FxHashMap;

use super::{Graph, Op, Tensor, TensorId};
use crate::{Error, Result};

/// The scalar a reference run computes in: f32 or f64.
pub trait Real:
    Float + FromPrimitive + std::fmt::Debug + std::iter::Sum + std::ops::AddAssign + Send + Sync + 'static
{
    /// Converts from f64, rounding.
    fn of(value: f64) -> Self {
        Self::from_f64(value).expect("every f64 converts to f32 and f64")
    }

    /// Converts to f64.
    fn f64(self) -> f64 {
        self.to_f64().expect("every f32 and f64 converts to f64")
    }
}

impl Real for f32 {}
impl Real for f64 {}

/// A tensor's elements on the CPU, slowest axis first.
#[derive(Clone, Debug)]
pub enum Value<R> {
    Real(Vec<R>),
    Int(Vec<u32>),
}

/// What an op's reference sees.
pub struct ReferenceContext<'a, R> {
    pub inputs: Vec<&'a Tensor>,
    pub outputs: Vec<&'a Tensor>,
    pub values: Vec<&'a Value<R>>,
    /// The scalars of the step.
    pub step: &'a crate::graph::reference::StepScalars,
}

/// Scalars that change from step to step; also what a kernel reads from its step block.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct StepScalars {
    /// Learning rate of this optimizer step.
    pub lr: f32,
    /// `1 - beta1^t`, `1 - beta2^t` of Adam at optimizer step `t` (from 1).
    pub bias_correction1: f32,
    pub bias_correction2: f32,
    /// Gradient of the loss with respect to one supervised token's negative log-likelihood: 1 / supervised tokens of the
    /// whole optimizer step.
    pub loss_scale: f32,
    /// Seed of this micro-batch's dropout masks.
    pub dropout_seed: u32,
    /// Supervised tokens of this micro-batch: the length of the used part of `rows`.
    pub supervised: u32,
    /// Gradients are scaled to at most this norm; 0 switches clipping off.
    pub max_grad_norm: f32,
    pub pad: f32,
}

impl<R: Real> ReferenceContext<'_, R> {
    /// Input `i` as reals.
    pub fn real(&self, i: usize) -> &[R] {
        match self.values[i] {
            Value::Real(v) => v,
            Value::Int(_) => panic!("input {i} is u32; the shape rule admits only f32"),
        }
    }

    /// Input `i` as integers.
    pub fn int(&self, i: usize) -> &[u32] {
        match self.values[i] {
            Value::Int(v) => v,
            Value::Real(_) => panic!("input {i} is f32; the shape rule admits only u32"),
        }
    }
}

impl<O: Op> Graph<O> {
    /// Runs every node. `values` holds inputs, weights (decoded), parameters and states, and receives the rest; gradients
    /// start at zero where absent.
    pub fn run_reference<R: Real>(&self, values: &mut FxHashMap<TensorId, Value<R>>, step: &StepScalars) -> Result<()> {
        for node in &self.nodes {
            for &input in &node.inputs {
                let tensor = self.get(input);
                if let std::collections::hash_map::Entry::Vacant(e) = values.entry(input) {
                    if tensor.role != super::Role::Grad {
                        return Err(Error::shape("reference", format!("no value for {} ({input:?})", tensor.name)));
                    }
                    e.insert(Value::Real(vec![R::zero(); tensor.elements()]));
                }
            }
            let outputs = {
                let cx = ReferenceContext {
                    inputs: node.inputs.iter().map(|&i| self.get(i)).collect(),
                    outputs: node.outputs.iter().map(|&o| self.get(o)).collect(),
                    values: node.inputs.iter().map(|i| &values[i]).collect(),
                    step,
                };
                node.op.reference(&cx)?
            };
            for (&id, value) in node.outputs.iter().zip(outputs) {
                debug_assert_eq!(value.len(), self.get(id).elements(), "{} output {id:?}", node.op.name());
                values.insert(id, Value::Real(value));
            }
        }
        Ok(())
    }
}
