//! How an op says what the GPU must do: plain data, so that a launch can be described, counted and tested without a GPU.

use crate::Result;
use crate::gpu::{Access, Groups, Prelude, Shader};
use crate::graph::{Target, Tensor, TensorId};
use crate::ops::Graph;
use crate::ops::weight::{self, Shard};

/// What a kernel's binding refers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bind {
    /// All of a tensor.
    Tensor(TensorId),
    /// One buffer (codes, absmax ...) of one row shard of a frozen weight; see [`weight::parts`].
    Part { weight: TensorId, shard: usize, part: usize },
    /// A temporary buffer of this node, by position in what `scratch` asked for.
    Scratch(usize),
    /// The scalars of the step ([`crate::graph::reference::StepScalars`]), a uniform.
    Step,
    /// One of the device's two images that hold operands while a product is computed: 0 for the left, 1 for the right.
    Image(usize),
    /// One buffer of an arena that spans the trained parameters, or the metrics of the step.
    Arena { kind: ArenaKind, segment: usize },
}

/// What the optimizer works on: arenas of the same layout, each in as few buffers as bindings allow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ArenaKind {
    Params,
    Grads,
    Moment1,
    Moment2,
    /// f32: [`METRICS`] numbers that are read back after a step.
    Metrics,
}

/// Floats in the metrics buffer: sum of the supervised tokens' negative log-likelihood, gradient norm, and room for partial sums.
pub const METRICS: usize = 1024;

/// Rows of f32 that are copied into an image before a dispatch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copy {
    pub from: Bind,
    /// Byte offset of the first row, a multiple of 16.
    pub offset: u64,
    /// Bytes from one row to the next, a multiple of 256.
    pub pitch: u32,
    /// Number of the image.
    pub image: usize,
    /// Texels (four values each) in a row.
    pub width: u32,
    pub height: u32,
}

/// One dispatch. Binding 0 is the uniform `params` where there are any; the others follow in order.
#[derive(Clone, Debug)]
pub struct Dispatch {
    pub shader: &'static Shader,
    pub entry: &'static str,
    pub prelude: Prelude,
    pub params: Vec<u8>,
    pub bindings: Vec<(Access, Bind)>,
    pub groups: Groups,
    /// Made before it, in order.
    pub copies: Vec<Copy>,
    /// Skipped unless the micro-batch has more supervised tokens than this.
    pub supervised_above: Option<u32>,
}

impl Dispatch {
    /// A dispatch of `shader`'s entry point.
    pub fn new(shader: &'static Shader, entry: &'static str) -> Dispatch {
        Dispatch {
            shader,
            entry,
            prelude: Prelude::default(),
            params: vec![],
            bindings: vec![],
            groups: [1, 1, 1],
            copies: vec![],
            supervised_above: None,
        }
    }

    /// Specialises the shader.
    pub fn prelude(mut self, prelude: Prelude) -> Self {
        self.prelude = prelude;
        self
    }

    /// The uniform at binding 0: u32 and f32 only, as the shader's `Params` lays them out.
    pub fn params<P: bytemuck::NoUninit>(mut self, params: &P) -> Self {
        self.params = bytemuck::bytes_of(params).to_vec();
        self
    }

    /// A binding declared `var<storage, read>`: inputs, frozen weights, parameters.
    pub fn read(mut self, bind: Bind) -> Self {
        self.bindings.push((Access::Read, bind));
        self
    }

    /// A binding declared `var<storage, read_write>`: activations (also those only read), gradients, states, scratch.
    pub fn write(mut self, bind: Bind) -> Self {
        self.bindings.push((Access::ReadWrite, bind));
        self
    }

    /// The step scalars, declared `var<uniform>`.
    pub fn step(mut self) -> Self {
        self.bindings.push((Access::Uniform, Bind::Step));
        self
    }

    /// Numbers of workgroups.
    pub fn groups(mut self, groups: Groups) -> Self {
        self.groups = groups;
        self
    }

    /// Runs only when the micro-batch has more than `rows` supervised tokens.
    pub fn when_supervised_above(mut self, rows: u32) -> Self {
        self.supervised_above = Some(rows);
        self
    }
}

/// What a launch sees: the node's tensors and the device's limits.
pub struct LaunchContext<'a> {
    pub graph: &'a Graph,
    pub inputs: &'a [TensorId],
    pub outputs: &'a [TensorId],
    pub target: &'a Target,
    pub dispatches: Vec<Dispatch>,
}

impl<'a> LaunchContext<'a> {
    /// Shape and role of input `i`.
    pub fn input(&self, i: usize) -> &'a Tensor {
        self.graph.get(self.inputs[i])
    }

    /// Shape and role of output `i`.
    pub fn output(&self, i: usize) -> &'a Tensor {
        self.graph.get(self.outputs[i])
    }

    /// Input `i`, bound as its role asks for: activations, gradients and states read-write (WebGPU wants one usage a
    /// buffer in one dispatch, and the arena is read and written), everything else read-only.
    pub fn bind(&self, i: usize) -> (Access, Bind) {
        (self.access(self.inputs[i]), Bind::Tensor(self.inputs[i]))
    }

    /// How a shader must declare a tensor.
    pub fn access(&self, id: TensorId) -> Access {
        use crate::graph::Role;
        match self.graph.get(id).role {
            Role::Activation | Role::Grad | Role::State => Access::ReadWrite,
            Role::Input | Role::Weight(_) | Role::Param { .. } => Access::Read,
        }
    }

    /// Input `i` as a binding.
    pub fn in_(&self, i: usize) -> Bind {
        Bind::Tensor(self.inputs[i])
    }

    /// Output `i` as a binding.
    pub fn out(&self, i: usize) -> Bind {
        Bind::Tensor(self.outputs[i])
    }

    /// The row shards of a frozen weight.
    pub fn shards(&self, weight: TensorId) -> Vec<Shard> {
        weight::shards(self.graph.get(weight), self.target)
    }

    /// Adds a dispatch.
    pub fn push(&mut self, dispatch: Dispatch) -> Result<()> {
        let groups = dispatch.groups;
        if groups.iter().any(|&g| g > self.target.max_groups) {
            return Err(crate::Error::shape(dispatch.shader.name, format!("needs {groups:?} workgroups")));
        }
        if groups.iter().all(|&g| g > 0) {
            self.dispatches.push(dispatch);
        }
        Ok(())
    }

    /// Workgroups for `items` work items, `per_group` each, spread over two dimensions where one does not hold them;
    /// `shaders/lib/linear_index.wgsl` undoes it.
    pub fn linear_groups(&self, items: usize, per_group: u32) -> Groups {
        linear_groups(self.target, items, per_group)
    }
}

/// See [`LaunchContext::linear_groups`].
pub(super) fn linear_groups(target: &Target, items: usize, per_group: u32) -> Groups {
    let groups = (items as u64).div_ceil(u64::from(per_group)).max(1);
    let x = groups.min(u64::from(target.max_groups));
    [x as u32, groups.div_ceil(x) as u32, 1]
}
