//! What happens to the flat arenas of trained parameters once a step: the gradients' norm, clipping as
//! `torch.nn.utils.clip_grad_norm_` does it, and AdamW (Loshchilov and Hutter 2019) as `torch.optim.AdamW` does it; and the
//! few numbers that are read back. Described as dispatches like an op, but no part of a graph.
//!
//! An arena is one or more segments, each one buffer: parameters, gradients and both moments are split alike.

use super::launch::{ArenaKind, Bind, Dispatch, METRICS, linear_groups};
use crate::gpu::Prelude;
use crate::graph::reference::StepScalars;
use crate::graph::{Real, Target};

const WG_SIZE: u32 = 64;
/// Most workgroups that sum the squares of one segment.
const PARTIALS: usize = 256;

/// Positions in the metrics buffer [f32]; partial sums follow them.
pub mod metric {
    /// Sum of the negative log-likelihoods of the optimizer step's micro-batches so far, nats.
    pub const NLL: usize = 0;
    /// Their supervised tokens.
    pub const SUPERVISED: usize = 1;
    /// Norm of the gradient, before clipping.
    pub const GRAD_NORM: usize = 2;
    /// What the gradient is multiplied by; negative when the norm is not finite, and then nothing is updated.
    pub const CLIP: usize = 3;
    /// How many there are: what is read back.
    pub const COUNT: usize = 8;
}

/// Hyperparameters; learning rate, bias corrections and the largest norm are in [`StepScalars`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamW {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

/// One buffer of each arena, in elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    pub elements: usize,
    /// Weight decay applies to so many elements from its start.
    pub decayed: usize,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n: u32,
    /// Elements of this segment that decay.
    decay_end: u32,
    partials: u32,
    first_partial: u32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    eps: f32,
    weight_decay: f32,
    pad: [u32; 3],
}

const METRICS_BIND: Bind = Bind::Arena { kind: ArenaKind::Metrics, segment: 0 };

fn dispatch(entry: &'static str, params: Params) -> Dispatch {
    Dispatch::new(crate::shader!("adamw", ["linear_index", "reduce", "step"]), entry)
        .prelude(Prelude::default().u32("WG_SIZE", WG_SIZE))
        .params(&params)
}

/// Adds a micro-batch's `nll [tokens]` and its supervised tokens to the metrics; one workgroup, in one order.
pub fn add_loss(nll: Bind, tokens: usize) -> Dispatch {
    let params = Params { n: tokens as u32, ..bytemuck::Zeroable::zeroed() };
    dispatch("add_loss", params).write(nll).write(METRICS_BIND).step()
}

/// The norm of all gradients and the factor that clips it to `step.max_grad_norm`, into the metrics.
pub fn grad_norm(segments: &[Segment]) -> Vec<Dispatch> {
    // The partial sums share what the metrics buffer has left.
    let each = ((METRICS - metric::COUNT) / segments.len().max(1)).clamp(1, PARTIALS) as u32;
    let squares = segments.iter().enumerate().map(|(segment, s)| {
        let first_partial = metric::COUNT as u32 + each * segment as u32;
        let n = s.elements as u32;
        let params = Params { n, partials: each, first_partial, ..bytemuck::Zeroable::zeroed() };
        let grads = Bind::Arena { kind: ArenaKind::Grads, segment };
        dispatch("sum_squares", params).write(grads).write(METRICS_BIND).groups([each, 1, 1])
    });
    let first_partial = metric::COUNT as u32;
    let params = Params { partials: each * segments.len() as u32, first_partial, ..bytemuck::Zeroable::zeroed() };
    squares.chain([dispatch("finish_norm", params).write(METRICS_BIND).step()]).collect()
}

impl AdamW {
    /// One update of every parameter. Gradients count for nothing where the norm was not finite.
    pub fn update(&self, segments: &[Segment], target: &Target) -> Vec<Dispatch> {
        let one = |(segment, s): (usize, &Segment)| {
            let params = Params {
                n: s.elements as u32,
                decay_end: s.decayed as u32,
                one_minus_beta1: (1.0 - self.beta1) as f32,
                beta2: self.beta2 as f32,
                one_minus_beta2: (1.0 - self.beta2) as f32,
                eps: self.eps as f32,
                weight_decay: self.weight_decay as f32,
                ..bytemuck::Zeroable::zeroed()
            };
            let bind = |kind| Bind::Arena { kind, segment };
            dispatch("update", params)
                .write(bind(ArenaKind::Grads))
                .write(METRICS_BIND)
                .step()
                .write(bind(ArenaKind::Params))
                .write(bind(ArenaKind::Moment1))
                .write(bind(ArenaKind::Moment2))
                .groups(linear_groups(target, s.elements, WG_SIZE))
        };
        segments.iter().enumerate().map(one).collect()
    }

    /// The same update on the CPU, with the gradients multiplied by `clip`.
    pub fn reference<R: Real>(
        &self,
        step: &StepScalars,
        clip: R,
        decay_end: usize,
        grads: &[R],
        [params, moment1, moment2]: [&mut [R]; 3],
    ) {
        let of = |value: f32| R::of(f64::from(value));
        let (lr, eps) = (of(step.lr), R::of(self.eps));
        let denominator = of(step.bias_correction2).sqrt();
        for i in 0..grads.len() {
            let grad = grads[i] * clip;
            if i < decay_end {
                params[i] = params[i] * (R::one() - lr * R::of(self.weight_decay));
            }
            moment1[i] += R::of(1.0 - self.beta1) * (grad - moment1[i]);
            moment2[i] = R::of(self.beta2) * moment2[i] + R::of(1.0 - self.beta2) * grad * grad;
            let size = lr / of(step.bias_correction1);
            params[i] += -size * moment1[i] / (moment2[i].sqrt() / denominator + eps);
        }
    }
}

/// Norm of the gradients and the clipping factor, as the kernels compute them.
pub fn reference_norm<R: Real>(step: &StepScalars, grads: &[R]) -> (R, R) {
    let norm = grads.iter().map(|g| *g * *g).sum::<R>().sqrt();
    if step.max_grad_norm <= 0.0 {
        return (norm, R::one());
    }
    (norm, (R::of(f64::from(step.max_grad_norm)) / (norm + R::of(1e-6))).min(R::one()))
}
