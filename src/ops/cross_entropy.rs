//! Head and cross-entropy in one op, in chunks of supervised rows: logits exist for one chunk at a time, forward and
//! backward, so that nothing of size N x V is ever stored.

use super::adamw;
use super::linear::{self, Epilogue};
use super::{Bind, Dispatch, Graph, LaunchContext, Rule, expect_index, expect_inputs, expect_same_shape};
use crate::gpu::Prelude;
use crate::graph::{DType, Real, ReferenceContext, Role, Target, Tensor, TensorId};
use crate::{Error, Result};

const WG_SIZE: u32 = 64;
/// Most bytes of logits at a time.
const CHUNK_BYTES: usize = 16 << 20;

/// `x [N, C], head [V, C], targets [N] u32, rows [N] u32` to `nll [N]`, the negative log-likelihood of each supervised
/// token, 0 elsewhere. The first `step.supervised` entries of `rows` are the supervised tokens' rows; `targets` are i32
/// bit patterns of the token each row predicts, and a target outside `0..V` counts as not supervised.
///
/// With `train`, the second output is `dx [N, C]`, the gradient of `step.loss_scale sum(nll)`. With a fifth input
/// `dhead [V, C]`, the third output is that gradient with respect to the head, added in place.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// Rows of logits that exist at a time; see [`rows_per_chunk`].
    pub rows_per_chunk: u32,
    pub train: bool,
    /// Logits become `cap tanh(logits / cap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// Adds the sum of `nll` and the number of supervised tokens to the metrics arena ([`adamw::metric`]).
    pub add_to_metrics: bool,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    tokens: u32,
    cols: u32,
    start: u32,
    chunk_rows: u32,
    softcap: f32,
    pad: [u32; 3],
}

/// Rows of a chunk: at most 16 MB of logits, less than all tokens where there are more than 8, and a multiple of 8.
pub fn rows_per_chunk(vocab: usize, tokens: usize) -> u32 {
    let by_memory = CHUNK_BYTES / (4 * vocab.max(1));
    (by_memory.min(tokens / 2) / 8 * 8).max(8) as u32
}

/// Adds the op to a graph: the id of `nll` and, in training, of `dx`, the seed of the backward pass. A trained head's
/// gradient is accumulated where [`Graph::grads`] finds it.
pub fn emit(
    graph: &mut Graph,
    op: CrossEntropy,
    x: TensorId,
    head: TensorId,
    targets: TensorId,
    rows: TensorId,
) -> Result<(TensorId, Option<TensorId>)> {
    let mut inputs = vec![x, head, targets, rows];
    let trained = op.train && matches!(graph.get(head).role, Role::Param { .. });
    if trained {
        inputs.push(graph.param_grad(head));
    }
    let outputs = graph.emit_named(op.into(), &inputs, "nll")?;
    if trained {
        graph.grads.insert(head, outputs[2]);
    }
    Ok((outputs[0], outputs.get(1).copied()))
}

impl CrossEntropy {
    fn dispatch(&self, cx: &LaunchContext<'_>, entry: &'static str, cols: usize, start: usize) -> Dispatch {
        let params = Params {
            tokens: cx.input(0).rows() as u32,
            cols: cols as u32,
            start: start as u32,
            chunk_rows: self.rows_per_chunk,
            softcap: self.softcap.unwrap_or(0.0),
            pad: [0; 3],
        };
        let prelude = Prelude::default()
            .u32("WG_SIZE", WG_SIZE)
            .bool("TRAIN", self.train)
            .bool("SOFTCAP", self.softcap.is_some());
        let d = Dispatch::new(crate::shader!("cross_entropy", ["linear_index", "reduce", "step"]), entry);
        d.prelude(prelude).params(&params)
    }
}

impl Rule for CrossEntropy {
    const NAME: &'static str = "cross_entropy";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, if self.train { &[4, 5] } else { &[4] })?;
        let (x, head) = (inputs[0], inputs[1]);
        if x.cols() != head.cols() || self.rows_per_chunk == 0 || self.softcap.is_some_and(|cap| cap <= 0.0) {
            return Err(Error::shape(Self::NAME, format!("x {:?}, head {:?} for {self:?}", x.shape, head.shape)));
        }
        expect_index(Self::NAME, inputs[2], x.rows())?;
        expect_index(Self::NAME, inputs[3], x.rows())?;
        let mut outputs = vec![(vec![x.rows()], DType::F32)];
        if self.train {
            outputs.push((x.shape.clone(), DType::F32));
        }
        if let Some(dhead) = inputs.get(4) {
            expect_same_shape(Self::NAME, head, dhead)?;
            outputs.push((dhead.shape.clone(), DType::F32));
        }
        Ok(outputs)
    }

    fn aliases(&self, inputs: usize) -> Vec<(usize, usize)> {
        if inputs == 5 { vec![(4, 2)] } else { vec![] }
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        let products = if self.train { inputs.len() as u64 - 2 } else { 1 };
        2 * products * (inputs[0].rows() * inputs[1].elements()) as u64
    }

    fn scratch(&self, inputs: &[&Tensor], _outputs: &[&Tensor], target: &Target) -> Vec<u64> {
        let bytes = |cols: usize| 4 * u64::from(self.rows_per_chunk) * cols as u64;
        let (cols, vocab) = (inputs[1].cols(), inputs[1].rows());
        let mut scratch = vec![bytes(cols), bytes(vocab)];
        if self.train {
            scratch.push(bytes(cols));
        }
        scratch.extend(linear::panel_bytes(inputs[1], self.rows_per_chunk as usize, target));
        scratch
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (x, head, targets, rows) = (cx.real(0), cx.real(1), cx.int(2), cx.int(3));
        let (cols, vocab) = (cx.inputs[1].cols(), cx.inputs[1].rows());
        let loss_scale = R::of(f64::from(cx.step.loss_scale));
        let mut nll = vec![R::zero(); targets.len()];
        let mut dx = vec![R::zero(); x.len()];
        let mut dhead = cx.values.get(4).map(|_| cx.real(4).to_vec());
        for &row in rows.iter().take(cx.step.supervised as usize) {
            let (n, target) = (row as usize, targets[row as usize] as usize);
            if target >= vocab {
                continue;
            }
            let x = &x[n * cols..][..cols];
            let z: Vec<R> = (0..vocab).map(|v| (0..cols).map(|c| x[c] * head[v * cols + c]).sum()).collect();
            let (capped, slope): (Vec<R>, Vec<R>) = z
                .iter()
                .map(|&z| match self.softcap.map(|cap| R::of(f64::from(cap))) {
                    Some(cap) => (cap * (z / cap).tanh(), R::one() - (z / cap).tanh().powi(2)),
                    None => (z, R::one()),
                })
                .unzip();
            let largest = capped.iter().copied().fold(R::neg_infinity(), R::max);
            let sum: R = capped.iter().map(|z| (*z - largest).exp()).sum();
            nll[n] = largest + sum.ln() - capped[target];
            for v in 0..vocab {
                let hit = if v == target { R::one() } else { R::zero() };
                let dz = loss_scale * ((capped[v] - largest).exp() / sum - hit) * slope[v];
                for c in 0..cols {
                    dx[n * cols + c] += dz * head[v * cols + c];
                    if let Some(dhead) = &mut dhead {
                        dhead[v * cols + c] += dz * x[c];
                    }
                }
            }
        }
        let mut outputs = vec![nll];
        if self.train {
            outputs.push(dx);
        }
        outputs.extend(dhead);
        Ok(outputs)
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let (tokens, cols, vocab) = (cx.input(0).rows(), cx.input(1).cols(), cx.input(1).rows());
        let (head, rows) = (cx.inputs[1], self.rows_per_chunk as usize);
        let (xs, logits, dxs) = (Bind::Scratch(0), Bind::Scratch(1), Bind::Scratch(2));
        let clear = |cx: &mut LaunchContext<'_>, output: usize| {
            let elements = cx.output(output).elements();
            let groups = cx.linear_groups(elements, WG_SIZE);
            let d = self.dispatch(cx, "clear", elements, 0).write(cx.out(output));
            cx.push(d.groups(groups))
        };
        clear(cx, 0)?;
        if self.train {
            clear(cx, 1)?;
        }
        for start in (0..tokens).step_by(rows) {
            let above = start as u32;
            let panel = Bind::Scratch(if self.train { 3 } else { 2 });
            let epilogue = Epilogue { scale: 1.0, accumulate: false, supervised_above: Some(above), panel };
            let by_element = cx.linear_groups(rows * cols, WG_SIZE);
            let by_row = cx.linear_groups(rows, 1);
            let d = self.dispatch(cx, "gather", cols, start).write(cx.in_(0)).read(cx.in_(3)).write(xs).step();
            cx.push(d.groups(by_element).when_supervised_above(above))?;
            linear::launch_forward(cx, xs, head, logits, rows, epilogue)?;
            let d = self.dispatch(cx, "softmax", vocab, start).write(logits).read(cx.in_(3)).read(cx.in_(2));
            cx.push(d.write(cx.out(0)).step().groups(by_row).when_supervised_above(above))?;
            if !self.train {
                continue;
            }
            linear::launch_input_grad(cx, logits, head, dxs, rows, epilogue)?;
            let d = self.dispatch(cx, "scatter", cols, start).write(cx.out(1)).read(cx.in_(3)).write(dxs).step();
            cx.push(d.groups(by_element).when_supervised_above(above))?;
            if cx.inputs.len() == 5 {
                linear::launch_weight_grad(cx, xs, logits, cx.outputs[2], rows, epilogue)?;
            }
        }
        if self.add_to_metrics {
            cx.push(adamw::add_loss(cx.out(0), tokens))?;
        }
        Ok(())
    }
}
