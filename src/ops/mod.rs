//! The ops: one file per family, where shape rule, gradient rule, CPU reference and kernel launch stand together.
//! [`Op`] is the enum of all of them; a [`Graph`] is a graph of these.

pub mod adamw;
pub mod attention;
pub mod attention_grad;
pub mod cache;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod embed;
pub mod gather;
pub mod launch;
pub mod linear;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;
pub mod weight;

pub use launch::{ArenaKind, Bind, Dispatch, LaunchContext};

use crate::graph::{self, DType, GradContext, Real, ReferenceContext, Target, Tensor};
use crate::{Error, Result};

/// A graph of these ops.
pub type Graph = graph::Graph<Op>;

/// What each op family provides. See [`graph::Op`] for the meaning of the methods they share.
pub trait Rule: Clone + std::fmt::Debug {
    /// Short name for profiles and messages.
    const NAME: &'static str;

    /// Shape rule.
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>>;

    /// Pairs (input, output) that share storage.
    fn aliases(&self, inputs: usize) -> Vec<(usize, usize)> {
        let _ = inputs;
        vec![]
    }

    /// Gradient rule. The default is for ops of the backward pass, which are not differentiated again.
    fn grad(&self, cx: &mut GradContext<'_, Op>) -> Result<()> {
        let _ = cx;
        Err(Error::shape(Self::NAME, "has no gradient"))
    }

    /// Floating-point operations.
    fn flops(&self, inputs: &[&Tensor], outputs: &[&Tensor]) -> u64;

    /// Bytes of each temporary buffer.
    fn scratch(&self, inputs: &[&Tensor], outputs: &[&Tensor], target: &Target) -> Vec<u64> {
        let _ = (inputs, outputs, target);
        vec![]
    }

    /// CPU reference; one vector for each output.
    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>>;

    /// Kernel launch: check shapes, parameters, dispatch.
    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()>;
}

/// Declares the enum of all ops and forwards to the family's rule.
macro_rules! ops {
    ($($variant:ident ($rule:ty)),* $(,)?) => {
        /// Every op there is.
        #[derive(Clone, Debug)]
        pub enum Op { $($variant($rule)),* }

        $(impl From<$rule> for Op { fn from(rule: $rule) -> Op { Op::$variant(rule) } })*

        impl graph::Op for Op {
            fn name(&self) -> &'static str {
                match self { $(Op::$variant(_) => <$rule>::NAME),* }
            }
            fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
                match self { $(Op::$variant(rule) => rule.infer(inputs)),* }
            }
            fn aliases(&self, inputs: usize) -> Vec<(usize, usize)> {
                match self { $(Op::$variant(rule) => rule.aliases(inputs)),* }
            }
            fn grad(&self, cx: &mut GradContext<'_, Op>) -> Result<()> {
                match self { $(Op::$variant(rule) => rule.grad(cx)),* }
            }
            fn flops(&self, inputs: &[&Tensor], outputs: &[&Tensor]) -> u64 {
                match self { $(Op::$variant(rule) => rule.flops(inputs, outputs)),* }
            }
            fn scratch(&self, inputs: &[&Tensor], outputs: &[&Tensor], target: &Target) -> Vec<u64> {
                match self { $(Op::$variant(rule) => rule.scratch(inputs, outputs, target)),* }
            }
            fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
                match self { $(Op::$variant(rule) => rule.reference(cx)),* }
            }
            fn add() -> Op { elementwise::Add.into() }
            fn copy() -> Op { elementwise::Copy.into() }
        }

        impl Op {
            /// Describes the dispatches that compute this op.
            pub fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
                match self { $(Op::$variant(rule) => rule.launch(cx)),* }
            }
        }
    };
}

ops! {
    Add(elementwise::Add),
    Attention(attention::Attention),
    AttentionStats(attention_grad::AttentionStats),
    AttentionQueryGrad(attention_grad::AttentionQueryGrad),
    AttentionKeyValueGrad(attention_grad::AttentionKeyValueGrad),
    CacheWrite(cache::CacheWrite),
    Copy(elementwise::Copy),
    CrossEntropy(cross_entropy::CrossEntropy),
    Dropout(dropout::Dropout),
    Embed(embed::Embed),
    EmbedGrad(embed::EmbedGrad),
    GatherRows(gather::GatherRows),
    Linear(linear::Linear),
    LinearInputGrad(linear::LinearInputGrad),
    LinearWeightGrad(linear::LinearWeightGrad),
    RmsNorm(rms_norm::RmsNorm),
    RmsNormBackward(rms_norm::RmsNormBackward),
    RmsNormWeightGrad(rms_norm::RmsNormWeightGrad),
    Rope(rope::Rope),
    SwiGlu(swiglu::SwiGlu),
    SwiGluBackward(swiglu::SwiGluBackward),
}

/// Errs unless the op got `wanted` inputs.
pub(crate) fn expect_inputs(op: &'static str, inputs: &[&Tensor], wanted: &[usize]) -> Result<()> {
    if wanted.contains(&inputs.len()) {
        return Ok(());
    }
    Err(Error::shape(op, format!("has {} inputs, expected {wanted:?}", inputs.len())))
}

/// Errs unless two shapes are equal.
pub(crate) fn expect_same_shape(op: &'static str, a: &Tensor, b: &Tensor) -> Result<()> {
    if a.shape == b.shape {
        return Ok(());
    }
    Err(Error::shape(op, format!("{} is {:?} but {} is {:?}", a.name, a.shape, b.name, b.shape)))
}

/// Errs unless a tensor holds `elements` u32: token ids, positions, row numbers.
pub(crate) fn expect_index(op: &'static str, tensor: &Tensor, elements: usize) -> Result<()> {
    if tensor.dtype == DType::U32 && tensor.elements() == elements {
        return Ok(());
    }
    let found = format!("{} is {:?} {:?}", tensor.name, tensor.dtype, tensor.shape);
    Err(Error::shape(op, format!("{found}, expected {elements} u32")))
}
