//! Products with a weight matrix `W [out, in]` in any storage format: `y = x W^T`, its input gradient `dx = dy W` from the
//! same packing, and the weight gradient `dW += dy^T x` of a trained matrix.

use super::{Bind, Dispatch, LaunchContext, Op, Rule, expect_inputs};
use crate::gpu::{Prelude, Shader};
use crate::graph::{DType, GradContext, Real, ReferenceContext, Role, Tensor, TensorId};
use crate::quant::WeightFormat;
use crate::{Error, Result};

const WG_SIZE: u32 = 64;

/// `x [N, in], W [out, in]` (and `y0 [N, out]`, updated in place) to `y [N, out] = y0 + scale x W^T`.
#[derive(Clone, Debug)]
pub struct Linear {
    pub scale: f32,
}

/// `dy [N, out], W [out, in]` (and the gradient so far, updated in place) to `dx [N, in] = dx0 + scale dy W`.
#[derive(Clone, Debug)]
pub struct LinearInputGrad {
    pub scale: f32,
}

/// `x [N, in], dy [N, out], dW [out, in]` to `dW += scale dy^T x`, in place.
#[derive(Clone, Debug)]
pub struct LinearWeightGrad {
    pub scale: f32,
}

/// What is done with the product: scaled, then stored or added to what is there.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue {
    pub scale: f32,
    pub accumulate: bool,
    /// Skips the product unless the micro-batch has more supervised tokens than this.
    pub supervised_above: Option<u32>,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    in_features: u32,
    out_features: u32,
    first_out: u32,
    shard_out: u32,
    scale: f32,
    pad: [u32; 2],
}

fn check(op: &'static str, a: &Tensor, w: &Tensor, contracted: usize) -> Result<()> {
    if w.shape.len() == 2 && a.cols() == w.shape[contracted] {
        return Ok(());
    }
    Err(Error::shape(op, format!("{} {:?} with weight {} {:?}", a.name, a.shape, w.name, w.shape)))
}

/// The naive kernels with the decoder of a format.
fn shader(format: WeightFormat) -> Result<&'static Shader> {
    use crate::shader;
    Ok(match format {
        WeightFormat::F32 => shader!("linear", ["linear_index", "weight_f32"]),
        WeightFormat::F16 => shader!("linear", ["linear_index", "weight_f16"]),
        WeightFormat::Bf16 => shader!("linear", ["linear_index", "weight_bf16"]),
        WeightFormat::Int8 => shader!("linear", ["linear_index", "weight_int8"]),
        WeightFormat::Nf4 { double_quant: false } => {
            shader!("linear", ["linear_index", "weight_4bit", "levels_nf4", "absmax_f32"])
        }
        WeightFormat::Nf4 { double_quant: true } => {
            shader!("linear", ["linear_index", "weight_4bit", "levels_nf4", "absmax_double"])
        }
        other => {
            return Err(Error::Unsupported {
                what: format!("computing with {other} weights"),
                supported: "f32, f16, bf16, int8, nf4, nf4-dq".into(),
            });
        }
    })
}

fn format_of(w: &Tensor) -> WeightFormat {
    match w.role {
        Role::Weight(format) => format,
        _ => WeightFormat::F32,
    }
}

/// One dispatch for each row shard of the weight.
fn launch_product(
    cx: &mut LaunchContext<'_>,
    entry: &'static str,
    from: Bind,
    weight: TensorId,
    to: Bind,
    rows: usize,
    epilogue: Epilogue,
) -> Result<()> {
    let w = cx.graph.get(weight);
    let (out_features, in_features) = (w.rows(), w.cols());
    for (k, shard) in cx.shards(weight).into_iter().enumerate() {
        let forward = entry == "forward";
        // The input gradient sums over the shards.
        let accumulate = epilogue.accumulate || (!forward && k > 0);
        let params = Params {
            rows: rows as u32,
            in_features: in_features as u32,
            out_features: out_features as u32,
            first_out: shard.rows.start as u32,
            shard_out: shard.rows.len() as u32,
            scale: epilogue.scale,
            pad: [0; 2],
        };
        let prelude = Prelude::default().u32("WG_SIZE", WG_SIZE).bool("ACCUMULATE", accumulate);
        let items = rows * if forward { shard.rows.len() } else { in_features };
        let mut d = Dispatch::new(shader(format_of(w))?, entry)
            .prelude(prelude)
            .params(&params)
            .write(from)
            .write(to)
            .groups(cx.linear_groups(items, WG_SIZE));
        match w.role {
            Role::Weight(_) => {
                for part in 0..shard.parts.len() {
                    d = d.read(Bind::Part { weight, shard: k, part });
                }
            }
            _ => d = d.read(Bind::Tensor(weight)),
        }
        d.supervised_above = epilogue.supervised_above;
        cx.push(d)?;
    }
    Ok(())
}

/// `y [rows, out] (+)= scale x [rows, in] W^T`.
pub fn launch_forward(
    cx: &mut LaunchContext<'_>,
    x: Bind,
    weight: TensorId,
    y: Bind,
    rows: usize,
    epilogue: Epilogue,
) -> Result<()> {
    launch_product(cx, "forward", x, weight, y, rows, epilogue)
}

/// `dx [rows, in] (+)= scale dy [rows, out] W`.
pub fn launch_input_grad(
    cx: &mut LaunchContext<'_>,
    dy: Bind,
    weight: TensorId,
    dx: Bind,
    rows: usize,
    epilogue: Epilogue,
) -> Result<()> {
    launch_product(cx, "backward_input", dy, weight, dx, rows, epilogue)
}

/// `dw [out, in] += scale dy [rows, out]^T x [rows, in]`; always accumulates.
pub fn launch_weight_grad(
    cx: &mut LaunchContext<'_>,
    x: Bind,
    dy: Bind,
    dw: TensorId,
    rows: usize,
    epilogue: Epilogue,
) -> Result<()> {
    let w = cx.graph.get(dw);
    let (out_features, in_features) = (w.rows() as u32, w.cols() as u32);
    let mut d = Dispatch::new(crate::shader!("linear_weight_grad", ["linear_index"]), "backward_weight")
        .prelude(Prelude::default().u32("WG_SIZE", WG_SIZE))
        .params(&[rows as u32, in_features, out_features, epilogue.scale.to_bits()])
        .write(x)
        .write(dy)
        .write(Bind::Tensor(dw))
        .groups(cx.linear_groups(w.elements(), WG_SIZE));
    d.supervised_above = epilogue.supervised_above;
    cx.push(d)
}

impl Rule for Linear {
    const NAME: &'static str = "linear";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[2, 3])?;
        check(Self::NAME, inputs[0], inputs[1], 1)?;
        let shape = vec![inputs[0].rows(), inputs[1].shape[0]];
        if let Some(y0) = inputs.get(2).filter(|y0| y0.shape != shape) {
            return Err(Error::shape(Self::NAME, format!("adds {shape:?} to {} {:?}", y0.name, y0.shape)));
        }
        Ok(vec![(shape, DType::F32)])
    }

    fn aliases(&self, inputs: usize) -> Vec<(usize, usize)> {
        if inputs == 3 { vec![(2, 0)] } else { vec![] }
    }

    fn grad(&self, cx: &mut GradContext<'_, Op>) -> Result<()> {
        let Some(dy) = cx.d_output(0) else { return Ok(()) };
        let (x, w, scale) = (cx.input(0), cx.input(1), self.scale);
        if cx.inputs() == 3 && cx.wants(2) {
            cx.set(2, dy)?;
        }
        if cx.is_param(1) {
            let dw = cx.take_partial(1).ok_or_else(|| Error::shape(Self::NAME, "the weight is no parameter"))?;
            let dw = cx.apply(LinearWeightGrad { scale }.into(), &[x, dy, dw])?;
            cx.set(1, dw)?;
        }
        if cx.wants(0) {
            let mut inputs = vec![dy, w];
            inputs.extend(cx.take_partial(0));
            let dx = cx.apply(LinearInputGrad { scale }.into(), &inputs)?;
            cx.set(0, dx)?;
        }
        Ok(())
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        2 * (inputs[0].rows() * inputs[1].elements()) as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (x, w) = (cx.real(0), cx.real(1));
        let (rows, out, inner) = (cx.inputs[0].rows(), cx.inputs[1].shape[0], cx.inputs[1].shape[1]);
        let scale = R::of(f64::from(self.scale));
        let mut y = if cx.values.len() == 3 { cx.real(2).to_vec() } else { vec![R::zero(); rows * out] };
        for n in 0..rows {
            for o in 0..out {
                let dot: R = (0..inner).map(|k| x[n * inner + k] * w[o * inner + k]).sum();
                y[n * out + o] += scale * dot;
            }
        }
        Ok(vec![y])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let epilogue = Epilogue { scale: self.scale, accumulate: cx.inputs.len() == 3, supervised_above: None };
        let rows = cx.input(0).rows();
        launch_forward(cx, cx.in_(0), cx.inputs[1], cx.out(0), rows, epilogue)
    }
}

impl Rule for LinearInputGrad {
    const NAME: &'static str = "linear_input_grad";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[2, 3])?;
        check(Self::NAME, inputs[0], inputs[1], 0)?;
        Ok(vec![(vec![inputs[0].rows(), inputs[1].shape[1]], DType::F32)])
    }

    fn aliases(&self, inputs: usize) -> Vec<(usize, usize)> {
        if inputs == 3 { vec![(2, 0)] } else { vec![] }
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        2 * (inputs[0].rows() * inputs[1].elements()) as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (dy, w) = (cx.real(0), cx.real(1));
        let (rows, out, inner) = (cx.inputs[0].rows(), cx.inputs[1].shape[0], cx.inputs[1].shape[1]);
        let scale = R::of(f64::from(self.scale));
        let mut dx = if cx.values.len() == 3 { cx.real(2).to_vec() } else { vec![R::zero(); rows * inner] };
        for n in 0..rows {
            for k in 0..inner {
                let dot: R = (0..out).map(|o| dy[n * out + o] * w[o * inner + k]).sum();
                dx[n * inner + k] += scale * dot;
            }
        }
        Ok(vec![dx])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let epilogue = Epilogue { scale: self.scale, accumulate: cx.inputs.len() == 3, supervised_above: None };
        let rows = cx.input(0).rows();
        launch_input_grad(cx, cx.in_(0), cx.inputs[1], cx.out(0), rows, epilogue)
    }
}

impl Rule for LinearWeightGrad {
    const NAME: &'static str = "linear_weight_grad";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[3])?;
        let (x, dy, dw) = (inputs[0], inputs[1], inputs[2]);
        if x.rows() != dy.rows() || dw.shape != [dy.cols(), x.cols()] {
            let problem = format!("x {:?}, dy {:?}, dW {:?}", x.shape, dy.shape, dw.shape);
            return Err(Error::shape(Self::NAME, problem));
        }
        Ok(vec![(dw.shape.clone(), DType::F32)])
    }

    fn aliases(&self, _inputs: usize) -> Vec<(usize, usize)> {
        vec![(2, 0)]
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        2 * (inputs[0].rows() * inputs[2].elements()) as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (x, dy) = (cx.real(0), cx.real(1));
        let (rows, out, inner) = (cx.inputs[0].rows(), cx.inputs[1].cols(), cx.inputs[0].cols());
        let scale = R::of(f64::from(self.scale));
        let mut dw = cx.real(2).to_vec();
        for o in 0..out {
            for k in 0..inner {
                let dot: R = (0..rows).map(|n| dy[n * out + o] * x[n * inner + k]).sum();
                dw[o * inner + k] += scale * dot;
            }
        }
        Ok(vec![dw])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let epilogue = Epilogue { scale: self.scale, accumulate: true, supervised_above: None };
        let rows = cx.input(0).rows();
        launch_weight_grad(cx, cx.in_(0), cx.in_(1), cx.outputs[0], rows, epilogue)
    }
}
