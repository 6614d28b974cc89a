//! RMSNorm: `y = x / sqrt(mean(x^2) + eps) * w`, over the last axis (Zhang and Sennrich 2019; Llama's `LlamaRMSNorm`).

use super::{Bind, Dispatch, LaunchContext, Op, Rule, expect_inputs, expect_same_shape};
use crate::gpu::Prelude;
use crate::graph::{DType, GradContext, Real, ReferenceContext, Tensor};
use crate::{Error, Result};

const WG_SIZE: u32 = 64;

/// `x [N, C], w [C]` to `y [N, C]` and `rstd [N] = 1 / sqrt(mean(x^2) + eps)`, which the backward pass reads.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    pub eps: f32,
}

/// `x, w, rstd, dy` (and a gradient of `x` so far, updated in place) to `dx [N, C]`:
/// `dx = rstd (g - xhat mean(g xhat))` with `g = w dy`, `xhat = x rstd`.
#[derive(Clone, Debug)]
pub struct RmsNormBackward;

/// `x, rstd, dy, dw` to `dw [C] += sum over rows of dy xhat`, in place.
#[derive(Clone, Debug)]
pub struct RmsNormWeightGrad;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    cols: u32,
    eps: f32,
    pad: u32,
}

fn dispatch(entry: &'static str, x: &Tensor, eps: f32, accumulate: bool) -> Dispatch {
    Dispatch::new(crate::shader!("rms_norm", ["reduce"]), entry)
        .prelude(Prelude::default().u32("WG_SIZE", WG_SIZE).bool("ACCUMULATE", accumulate))
        .params(&Params { rows: x.rows() as u32, cols: x.cols() as u32, eps, pad: 0 })
}

fn check_weight(op: &'static str, x: &Tensor, w: &Tensor) -> Result<()> {
    if w.elements() == x.cols() {
        return Ok(());
    }
    Err(Error::shape(op, format!("weight {:?} for rows of {}", w.shape, x.cols())))
}

impl Rule for RmsNorm {
    const NAME: &'static str = "rms_norm";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[2])?;
        check_weight(Self::NAME, inputs[0], inputs[1])?;
        Ok(vec![(inputs[0].shape.clone(), DType::F32), (vec![inputs[0].rows()], DType::F32)])
    }

    fn grad(&self, cx: &mut GradContext<'_, Op>) -> Result<()> {
        let Some(dy) = cx.d_output(0) else { return Ok(()) };
        let (x, w, rstd) = (cx.input(0), cx.input(1), cx.output(1));
        if cx.wants(1) {
            let dw = cx.take_partial(1).ok_or_else(|| Error::shape(Self::NAME, "the weight is no parameter"))?;
            let dw = cx.apply(RmsNormWeightGrad.into(), &[x, rstd, dy, dw])?;
            cx.set(1, dw)?;
        }
        if cx.wants(0) {
            let mut inputs = vec![x, w, rstd, dy];
            inputs.extend(cx.take_partial(0));
            let dx = cx.apply(RmsNormBackward.into(), &inputs)?;
            cx.set(0, dx)?;
        }
        Ok(())
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        4 * inputs[0].elements() as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (x, w, cols) = (cx.real(0), cx.real(1), cx.inputs[0].cols());
        let rstd: Vec<R> = x
            .chunks(cols)
            .map(|row| {
                let mean = row.iter().map(|v| *v * *v).sum::<R>() / R::of(cols as f64);
                (mean + R::of(f64::from(self.eps))).sqrt().recip()
            })
            .collect();
        let y = x.iter().enumerate().map(|(i, v)| *v * rstd[i / cols] * w[i % cols]).collect();
        Ok(vec![y, rstd])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let x = cx.input(0);
        let groups = cx.linear_groups(x.rows(), 1);
        let d = dispatch("forward", x, self.eps, false)
            .write(cx.in_(0))
            .read(cx.in_(1))
            .write(cx.out(0))
            .write(cx.out(1))
            .groups(groups);
        cx.push(d)
    }
}

impl Rule for RmsNormBackward {
    const NAME: &'static str = "rms_norm_backward";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[4, 5])?;
        check_weight(Self::NAME, inputs[0], inputs[1])?;
        inputs[3..].iter().try_for_each(|t| expect_same_shape(Self::NAME, inputs[0], t))?;
        Ok(vec![(inputs[0].shape.clone(), DType::F32)])
    }

    fn aliases(&self, inputs: usize) -> Vec<(usize, usize)> {
        if inputs == 5 { vec![(4, 0)] } else { vec![] }
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        8 * inputs[0].elements() as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (x, w, rstd, dy, cols) = (cx.real(0), cx.real(1), cx.real(2), cx.real(3), cx.inputs[0].cols());
        let mut dx = if cx.values.len() == 5 { cx.real(4).to_vec() } else { vec![R::zero(); x.len()] };
        for (row, &rstd) in rstd.iter().enumerate() {
            let at = row * cols;
            let mean = (0..cols).map(|c| w[c] * dy[at + c] * x[at + c] * rstd).sum::<R>() / R::of(cols as f64);
            for c in 0..cols {
                dx[at + c] += rstd * (w[c] * dy[at + c] - x[at + c] * rstd * mean);
            }
        }
        Ok(vec![dx])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let x = cx.input(0);
        let groups = cx.linear_groups(x.rows(), 1);
        let d = dispatch("backward", x, 0.0, cx.inputs.len() == 5)
            .write(cx.in_(0))
            .read(cx.in_(1))
            .write(cx.in_(3))
            .write(cx.in_(2))
            .write(cx.out(0))
            .groups(groups);
        cx.push(d)
    }
}

impl Rule for RmsNormWeightGrad {
    const NAME: &'static str = "rms_norm_weight_grad";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[4])?;
        check_weight(Self::NAME, inputs[0], inputs[3])?;
        Ok(vec![(inputs[3].shape.clone(), DType::F32)])
    }

    fn aliases(&self, _inputs: usize) -> Vec<(usize, usize)> {
        vec![(3, 0)]
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        3 * inputs[0].elements() as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (x, rstd, dy, cols) = (cx.real(0), cx.real(1), cx.real(2), cx.inputs[0].cols());
        let mut dw = cx.real(3).to_vec();
        for i in 0..x.len() {
            dw[i % cols] += dy[i] * x[i] * rstd[i / cols];
        }
        Ok(vec![dw])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let x = cx.input(0);
        let groups = cx.linear_groups(x.cols(), WG_SIZE);
        let (x_, rstd, dy, dw): (Bind, Bind, Bind, Bind) = (cx.in_(0), cx.in_(1), cx.in_(2), cx.out(0));
        cx.push(dispatch("backward_weight", x, 0.0, false).write(x_).write(dy).write(rstd).write(dw).groups(groups))
    }
}
