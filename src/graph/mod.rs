//! A computation as a list of ops over tensors, built once for one shape; differentiated by [`grad`], laid out by [`plan`],
//! run on the CPU by [`mod@reference`]. Knows ops only through the trait [`Op`].

pub mod grad;
pub mod plan;
pub mod reference;

use std::collections::BTreeMap;

pub use grad::{Checkpointing, GradContext};
pub use plan::{Category, MemoryTable, Operands, Placement, Plan, Target};
pub use reference::{Real, ReferenceContext, Value};

use crate::quant::WeightFormat;
use crate::{Error, Result};

/// Names one tensor of a [`Graph`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TensorId(pub u32);

impl TensorId {
    /// Position in [`Graph::tensors`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Element type of everything that is not a frozen weight.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DType {
    F32,
    U32,
}

/// Who writes a tensor, and how long it lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Written by the host before each replay: token ids, positions, masks.
    Input,
    /// A frozen weight `[rows, cols]`, in its storage format.
    Weight(WeightFormat),
    /// A trained parameter in f32, in the parameter arena. `decay`: weight decay applies to it.
    Param { decay: bool },
    /// The gradient of a parameter: accumulated over micro-batches, cleared once an optimizer step.
    Grad,
    /// Lives from one replay to the next: a KV cache.
    State,
    /// Lives from the node that writes it to the last node that reads it.
    Activation,
}

/// What is known of a tensor before it exists.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    /// Slowest axis first.
    pub shape: Vec<usize>,
    pub dtype: DType,
    pub role: Role,
}

impl Tensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Size on the device in bytes (frozen weights in their own format).
    pub fn bytes(&self) -> u64 {
        match self.role {
            Role::Weight(format) => {
                let cols = self.shape.last().copied().unwrap_or(1);
                format.bytes_for(self.elements() / cols.max(1), cols).total()
            }
            _ => 4 * self.elements() as u64,
        }
    }

    /// All axes but the last, multiplied.
    pub fn rows(&self) -> usize {
        self.elements() / self.cols().max(1)
    }

    /// The last axis.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// One op applied to tensors.
#[derive(Clone, Debug)]
pub struct Node<O> {
    pub op: O,
    pub inputs: Vec<TensorId>,
    pub outputs: Vec<TensorId>,
    /// Recomputed as a unit under gradient checkpointing (one decoder layer, say).
    pub segment: Option<u32>,
}

/// What the graph has to know of an op. Implemented once, by the enum of all ops in [`crate::ops`].
pub trait Op: Clone + std::fmt::Debug {
    /// Short name for profiles and messages.
    fn name(&self) -> &'static str;

    /// Shape rule: shape and element type of each output; errs when the inputs do not fit.
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>>;

    /// Pairs (input, output) that share storage: the op updates the input in place.
    fn aliases(&self, inputs: usize) -> Vec<(usize, usize)>;

    /// Gradient rule: emits the nodes that compute the gradients [`GradContext::wants`] asks for.
    fn grad(&self, cx: &mut GradContext<'_, Self>) -> Result<()>;

    /// Floating-point operations of one execution.
    fn flops(&self, inputs: &[&Tensor], outputs: &[&Tensor]) -> u64;

    /// Bytes of each temporary buffer the kernel launch asks for on such a device.
    fn scratch(&self, inputs: &[&Tensor], outputs: &[&Tensor], target: &Target) -> Vec<u64>;

    /// The same computation in plain Rust.
    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>>;

    /// `y = a + b`, in place on `b`.
    fn add() -> Self;

    /// `y = a`.
    fn copy() -> Self;
}

/// Tensors and the ops between them, in execution order.
#[derive(Clone, Debug)]
pub struct Graph<O> {
    pub tensors: Vec<Tensor>,
    pub nodes: Vec<Node<O>>,
    /// Read back or reused after the replay: never shares storage with a later tensor.
    pub kept: Vec<TensorId>,
    /// Newest version of the gradient of each trained parameter.
    pub grads: BTreeMap<TensorId, TensorId>,
    segment: Option<u32>,
}

impl<O: Op> Default for Graph<O> {
    fn default() -> Self {
        Graph { tensors: vec![], nodes: vec![], kept: vec![], grads: BTreeMap::new(), segment: None }
    }
}

impl<O: Op> Graph<O> {
    /// Adds a tensor that no node writes.
    pub fn tensor(&mut self, name: impl Into<String>, shape: &[usize], dtype: DType, role: Role) -> TensorId {
        let id = TensorId(self.tensors.len() as u32);
        self.tensors.push(Tensor { name: name.into(), shape: shape.to_vec(), dtype, role });
        id
    }

    /// Adds a u32 input `shape`, written by the host.
    pub fn input(&mut self, name: &str, shape: &[usize]) -> TensorId {
        self.tensor(name, shape, DType::U32, Role::Input)
    }

    /// The tensor of an id.
    pub fn get(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.index()]
    }

    /// Nodes emitted from here on belong to this recomputation segment.
    pub fn set_segment(&mut self, segment: Option<u32>) {
        self.segment = segment;
    }

    /// Applies an op; the ids of its outputs.
    pub fn emit(&mut self, op: O, inputs: &[TensorId]) -> Result<Vec<TensorId>> {
        self.emit_named(op, inputs, "")
    }

    /// Applies an op and names its outputs (`label`, `label.1`, ...).
    pub fn emit_named(&mut self, op: O, inputs: &[TensorId], label: &str) -> Result<Vec<TensorId>> {
        let specs = {
            let tensors: Vec<&Tensor> = inputs.iter().map(|&i| self.get(i)).collect();
            op.infer(&tensors)?
        };
        let aliases = op.aliases(inputs.len());
        let label = if label.is_empty() { op.name() } else { label };
        let mut outputs = Vec::with_capacity(specs.len());
        for (k, (shape, dtype)) in specs.into_iter().enumerate() {
            // A gradient or a state updated in place stays what it was.
            let role = match aliases.iter().find(|a| a.1 == k).map(|a| self.get(inputs[a.0]).role) {
                Some(role @ (Role::Grad | Role::State)) => role,
                Some(Role::Input | Role::Weight(_) | Role::Param { .. }) => {
                    return Err(Error::shape(op.name(), "updates in place a tensor that ops may only read"));
                }
                _ => Role::Activation,
            };
            let name = if k == 0 { label.to_string() } else { format!("{label}.{k}") };
            outputs.push(self.tensor(name, &shape, dtype, role));
        }
        let segment = self.segment;
        self.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: outputs.clone(), segment });
        Ok(outputs)
    }

    /// Applies an op with one output.
    pub fn apply(&mut self, op: O, inputs: &[TensorId]) -> Result<TensorId> {
        Ok(self.emit(op, inputs)?[0])
    }

    /// Newest version of the gradient of a trained parameter, made (as zeros) on first use.
    pub fn param_grad(&mut self, param: TensorId) -> TensorId {
        if let Some(&grad) = self.grads.get(&param) {
            return grad;
        }
        let (name, shape) = (format!("d {}", self.get(param).name), self.get(param).shape.clone());
        let grad = self.tensor(name, &shape, DType::F32, Role::Grad);
        self.grads.insert(param, grad);
        grad
    }

    /// Marks a tensor to be read after the replay.
    pub fn keep(&mut self, id: TensorId) {
        self.kept.push(id);
    }

    /// Floating-point operations of all nodes.
    pub fn flops(&self) -> u64 {
        self.nodes.iter().map(|n| self.node_flops(n)).sum()
    }

    /// Floating-point operations of one node.
    pub fn node_flops(&self, node: &Node<O>) -> u64 {
        let tensors = |ids: &[TensorId]| ids.iter().map(|&i| self.get(i)).collect::<Vec<_>>();
        node.op.flops(&tensors(&node.inputs), &tensors(&node.outputs))
    }

    /// Ids of all tensors of a role.
    pub fn with_role(&self, wanted: impl Fn(Role) -> bool) -> Vec<TensorId> {
        (0..self.tensors.len() as u32).map(TensorId).filter(|&i| wanted(self.get(i).role)).collect()
    }

    /// Drops every node whose outputs nobody reads (what recomputation repeats without need).
    pub fn eliminate_dead_nodes(&mut self) {
        let mut live = vec![false; self.tensors.len()];
        for &k in &self.kept {
            live[k.index()] = true;
        }
        let mut keep = vec![false; self.nodes.len()];
        for (n, node) in self.nodes.iter().enumerate().rev() {
            let persistent = |t: &TensorId| matches!(self.tensors[t.index()].role, Role::Grad | Role::State);
            keep[n] = node.outputs.iter().any(|o| live[o.index()] || persistent(o));
            if keep[n] {
                node.inputs.iter().for_each(|i| live[i.index()] = true);
            }
        }
        let mut n = 0;
        self.nodes.retain(|_| (keep[n], n += 1).0);
    }

    /// Copies every tensor that an op would overwrite while somebody still needs it.
    pub fn copy_before_overwrite(&mut self) -> Result<()> {
        let mut last_use = vec![0usize; self.tensors.len()];
        for (n, node) in self.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|i| last_use[i.index()] = n);
        }
        self.kept.iter().for_each(|k| last_use[k.index()] = usize::MAX);
        let nodes = std::mem::take(&mut self.nodes);
        for (n, mut node) in nodes.into_iter().enumerate() {
            for (input, _) in node.op.aliases(node.inputs.len()) {
                let id = node.inputs[input];
                let read_twice = node.inputs.iter().filter(|&&i| i == id).count() > 1;
                if last_use[id.index()] > n || read_twice {
                    if matches!(self.get(id).role, Role::Grad | Role::State) {
                        return Err(Error::shape(
                            node.op.name(),
                            "an old version of a gradient or state is read later",
                        ));
                    }
                    self.segment = node.segment;
                    node.inputs[input] = self.apply(O::copy(), &[id])?;
                }
            }
            self.nodes.push(node);
        }
        self.segment = None;
        Ok(())
    }
}
