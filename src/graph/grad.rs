//! Reverse-mode differentiation, graph to graph: appends the backward pass, only along paths from the loss to what is
//! trained. Gradient checkpointing is part of it: a segment's forward nodes are repeated just before its backward nodes,
//! so that between the passes only the tensors that cross segments stay alive.

use rustc_hash::FxHashMap;

use super::{Graph, Node, Op, Role, TensorId};
use crate::{Error, Result};

/// Whether the activations inside a segment are kept for the backward pass or computed again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checkpointing {
    Off,
    On,
}

/// What an op's gradient rule sees: its tensors, the gradients of its outputs, and where to put those of its inputs.
pub struct GradContext<'g, O: Op> {
    graph: &'g mut Graph<O>,
    partials: &'g mut FxHashMap<TensorId, TensorId>,
    needs_grad: &'g [bool],
    /// Inputs as the forward pass named them: keys of `partials`.
    forward_inputs: &'g [TensorId],
    /// Inputs as the backward pass reads them (recomputed versions under checkpointing).
    inputs: Vec<TensorId>,
    outputs: Vec<TensorId>,
    d_outputs: Vec<Option<TensorId>>,
}

impl<O: Op> GradContext<'_, O> {
    /// The tensor to read as input `i`.
    pub fn input(&self, i: usize) -> TensorId {
        self.inputs[i]
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// The tensor to read as output `i` of the forward op.
    pub fn output(&self, i: usize) -> TensorId {
        self.outputs[i]
    }

    /// Gradient of output `i`, or none when nothing depends on it.
    pub fn d_output(&self, i: usize) -> Option<TensorId> {
        self.d_outputs[i]
    }

    /// Whether the gradient of input `i` leads to something trained.
    pub fn wants(&self, i: usize) -> bool {
        self.needs_grad[self.forward_inputs[i].index()]
    }

    /// Whether input `i` is a trained parameter, whose gradient accumulates in its own place.
    pub fn is_param(&self, i: usize) -> bool {
        matches!(self.graph.get(self.forward_inputs[i]).role, Role::Param { .. })
    }

    /// Takes the gradient gathered so far for input `i`: the rule must add to it and give the sum to [`Self::set`].
    pub fn take_partial(&mut self, i: usize) -> Option<TensorId> {
        let key = self.forward_inputs[i];
        match self.graph.get(key).role {
            Role::Param { .. } => Some(self.graph.param_grad(key)),
            _ => self.partials.remove(&key),
        }
    }

    /// Gives the gradient of input `i`; added to what other ops gave before unless the rule took that itself.
    pub fn set(&mut self, i: usize, grad: TensorId) -> Result<()> {
        let key = self.forward_inputs[i];
        if let Role::Param { .. } = self.graph.get(key).role {
            if self.graph.get(grad).role != Role::Grad {
                let sum = self.graph.param_grad(key);
                let sum = self.graph.apply(O::add(), &[grad, sum])?;
                self.graph.grads.insert(key, sum);
            } else {
                self.graph.grads.insert(key, grad);
            }
            return Ok(());
        }
        let sum = match self.partials.remove(&key) {
            Some(partial) => self.graph.apply(O::add(), &[grad, partial])?,
            None => grad,
        };
        self.partials.insert(key, sum);
        Ok(())
    }

    /// Adds a node to the backward pass.
    pub fn emit(&mut self, op: O, inputs: &[TensorId]) -> Result<Vec<TensorId>> {
        self.graph.emit(op, inputs)
    }

    /// Adds a node with one output to the backward pass.
    pub fn apply(&mut self, op: O, inputs: &[TensorId]) -> Result<TensorId> {
        self.graph.apply(op, inputs)
    }
}

impl<O: Op> Graph<O> {
    /// Appends the backward pass from `seeds`, pairs (tensor, gradient of the loss with respect to it). Afterwards
    /// [`Graph::grads`] names the gradient of each trained parameter the seeds depend on.
    pub fn backward(&mut self, seeds: &[(TensorId, TensorId)], checkpointing: Checkpointing) -> Result<()> {
        let forward: Vec<Node<O>> = self.nodes.clone();
        let mut needs_grad: Vec<bool> = self.tensors.iter().map(|t| matches!(t.role, Role::Param { .. })).collect();
        for node in &forward {
            if node.inputs.iter().any(|i| needs_grad[i.index()]) {
                node.outputs.iter().for_each(|o| needs_grad[o.index()] = true);
            }
        }
        let mut partials: FxHashMap<TensorId, TensorId> = seeds.iter().copied().collect();
        // Forward tensor -> its recomputed version, for the segment being differentiated.
        let mut recomputed: FxHashMap<TensorId, TensorId> = FxHashMap::default();
        let mut current = None;
        self.set_segment(None);
        for node in forward.iter().rev() {
            let d_outputs: Vec<Option<TensorId>> = node.outputs.iter().map(|o| partials.remove(o)).collect();
            let wanted = node.inputs.iter().any(|i| needs_grad[i.index()]);
            if !wanted || d_outputs.iter().all(Option::is_none) {
                continue;
            }
            if checkpointing == Checkpointing::On && node.segment.is_some() && node.segment != current {
                current = node.segment;
                recomputed.clear();
                for again in forward.iter().filter(|n| n.segment == current) {
                    let inputs = read_as(&again.inputs, &recomputed);
                    let outputs = self.emit(again.op.clone(), &inputs)?;
                    recomputed.extend(again.outputs.iter().copied().zip(outputs));
                }
            }
            let mut cx = GradContext {
                inputs: read_as(&node.inputs, &recomputed),
                outputs: read_as(&node.outputs, &recomputed),
                forward_inputs: &node.inputs,
                graph: self,
                partials: &mut partials,
                needs_grad: &needs_grad,
                d_outputs,
            };
            node.op.grad(&mut cx)?;
        }
        if partials.keys().any(|t| matches!(self.get(*t).role, Role::Param { .. })) {
            return Err(Error::shape("grad", "the gradient of a parameter was not accumulated in its place"));
        }
        Ok(())
    }
}

fn read_as(ids: &[TensorId], recomputed: &FxHashMap<TensorId, TensorId>) -> Vec<TensorId> {
    ids.iter().map(|i| recomputed.get(i).copied().unwrap_or(*i)).collect()
}
