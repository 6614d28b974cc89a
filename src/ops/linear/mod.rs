//! Products with a weight matrix `W [out, in]` in any storage format: `y = x W^T`, its input gradient `dx = dy W` from the
//! same packing, and the weight gradient `dW += dy^T x` of a trained matrix.

pub mod format;
mod images;
mod product;

use super::{Bind, LaunchContext, Op, Rule, expect_inputs};
use crate::gpu::Access;
use crate::graph::{DType, GradContext, Real, ReferenceContext, Role, Target, Tensor, TensorId};
use crate::{Error, Result};
pub use images::panel_bytes;
use product::{Left, Matrix, Order, Product, Right};

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
    /// Scratch buffer of [`panel_bytes`], where the product asks for one.
    pub panel: Bind,
}

fn check(op: &'static str, a: &Tensor, w: &Tensor, contracted: usize) -> Result<()> {
    if w.shape.len() == 2 && a.cols() == w.shape[contracted] {
        return Ok(());
    }
    Err(Error::shape(op, format!("{} {:?} with weight {} {:?}", a.name, a.shape, w.name, w.shape)))
}

/// A matrix of f32 that fills its tensor or buffer.
fn activation(bind: Bind, stride: usize) -> Matrix {
    Matrix { bind, access: Access::ReadWrite, first: 0, stride }
}

/// One product for each row shard of the weight.
fn launch_product(
    cx: &mut LaunchContext<'_>,
    order: Order,
    from: Bind,
    weight: TensorId,
    to: Bind,
    rows: usize,
    epilogue: Epilogue,
) -> Result<()> {
    let w = cx.graph.get(weight);
    let (out_features, in_features) = (w.rows(), w.cols());
    for (k, shard) in cx.shards(weight).into_iter().enumerate() {
        let b = match w.role {
            Role::Weight(format) => {
                let parts = (0..shard.parts.len()).map(|part| Bind::Part { weight, shard: k, part }).collect();
                Right::Weight { format, parts }
            }
            _ => Right::F32(Matrix { access: cx.access(weight), ..activation(Bind::Tensor(weight), in_features) }),
        };
        let product = match order {
            Order::Nt => Product {
                order,
                rows,
                cols: shard.rows.len(),
                depth: in_features,
                a: Left::Buffer(activation(from, in_features)),
                b,
                y: Matrix { first: shard.rows.start, ..activation(to, out_features) },
                scale: epilogue.scale,
                accumulate: epilogue.accumulate,
                supervised_above: epilogue.supervised_above,
                copies: vec![],
            },
            _ => Product {
                order,
                rows,
                cols: in_features,
                depth: shard.rows.len(),
                a: Left::Buffer(Matrix { first: shard.rows.start, ..activation(from, out_features) }),
                b,
                y: activation(to, in_features),
                scale: epilogue.scale,
                // The input gradient sums over the shards.
                accumulate: epilogue.accumulate || k > 0,
                supervised_above: epilogue.supervised_above,
                copies: vec![],
            },
        };
        images::launch(cx, product, epilogue.panel)?;
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
    launch_product(cx, Order::Nt, x, weight, y, rows, epilogue)
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
    launch_product(cx, Order::Nn, dy, weight, dx, rows, epilogue)
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
    let (out_features, in_features) = (w.rows(), w.cols());
    let product = Product {
        order: Order::Tn,
        rows: out_features,
        cols: in_features,
        depth: rows,
        a: Left::Buffer(activation(dy, out_features)),
        b: Right::F32(activation(x, in_features)),
        y: activation(Bind::Tensor(dw), in_features),
        scale: epilogue.scale,
        accumulate: true,
        supervised_above: epilogue.supervised_above,
        copies: vec![],
    };
    images::launch(cx, product, epilogue.panel)
}

/// The one scratch buffer of an op that is one product with a weight.
fn panel(inputs: &[&Tensor], target: &Target) -> Vec<u64> {
    panel_bytes(inputs[1], inputs[0].rows(), target).into_iter().collect()
}

/// How an op that is one product finishes it.
fn epilogue(scale: f32, accumulate: bool) -> Epilogue {
    Epilogue { scale, accumulate, supervised_above: None, panel: Bind::Scratch(0) }
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

    fn scratch(&self, inputs: &[&Tensor], _outputs: &[&Tensor], target: &Target) -> Vec<u64> {
        panel(inputs, target)
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
        let rows = cx.input(0).rows();
        let epilogue = epilogue(self.scale, cx.inputs.len() == 3);
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

    fn scratch(&self, inputs: &[&Tensor], _outputs: &[&Tensor], target: &Target) -> Vec<u64> {
        panel(inputs, target)
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
        let rows = cx.input(0).rows();
        let epilogue = epilogue(self.scale, cx.inputs.len() == 3);
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
        let rows = cx.input(0).rows();
        launch_weight_grad(cx, cx.in_(0), cx.in_(1), cx.outputs[0], rows, epilogue(self.scale, true))
    }
}
