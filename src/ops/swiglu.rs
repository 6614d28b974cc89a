//! The gated activation of the feed-forward block: `h = act(gate) up` (Shazeer 2020), and `h = act(gate)` without a gate.

use super::{Dispatch, LaunchContext, Op, Rule, expect_inputs, expect_same_shape};
use crate::Result;
use crate::gpu::Prelude;
use crate::graph::{DType, GradContext, Real, ReferenceContext, Tensor};

const WG_SIZE: u32 = 64;

/// The nonlinearity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// `z sigmoid(z)`.
    Silu,
    /// `z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) / 2`: `gelu_pytorch_tanh`.
    GeluTanh,
    /// `max(z, 0)`.
    Relu,
}

/// `gate [N, F], up [N, F]` to `h [N, F] = act(gate) up`; `gate` alone to `h = act(gate)`.
#[derive(Clone, Debug)]
pub struct SwiGlu {
    pub act: Act,
}

/// `gate, up, dh` to `dgate = dh up act'(gate)` in place of `gate` and `dup = dh act(gate)` in place of `up`;
/// `gate, dh` to `dgate = dh act'(gate)`.
#[derive(Clone, Debug)]
pub struct SwiGluBackward {
    pub act: Act,
}

impl Act {
    /// `act(z)` and `act'(z)`.
    fn eval<R: Real>(self, z: R) -> (R, R) {
        let (one, half) = (R::one(), R::of(0.5));
        match self {
            Act::Silu => {
                let s = one / (one + (-z).exp());
                (z * s, s * (one + z * (one - s)))
            }
            Act::GeluTanh => {
                let (a, b) = (R::of((2.0 / std::f64::consts::PI).sqrt()), R::of(0.044715));
                let t = (a * (z + b * z * z * z)).tanh();
                let slope = a * (one + R::of(3.0) * b * z * z);
                (half * z * (one + t), half * (one + t) + half * z * (one - t * t) * slope)
            }
            Act::Relu if z > R::zero() => (z, one),
            Act::Relu => (R::zero(), R::zero()),
        }
    }

    fn prelude(self) -> Prelude {
        Prelude::default().u32("WG_SIZE", WG_SIZE).u32("ACT", self as u32)
    }
}

fn dispatch(cx: &LaunchContext<'_>, act: Act, entry: &'static str) -> Dispatch {
    let elements = cx.input(0).elements();
    Dispatch::new(crate::shader!("swiglu", ["linear_index"]), entry)
        .prelude(act.prelude())
        .params(&[elements as u32, 0, 0, 0])
        .groups(cx.linear_groups(elements, WG_SIZE))
}

impl Rule for SwiGlu {
    const NAME: &'static str = "swiglu";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[1, 2])?;
        inputs[1..].iter().try_for_each(|t| expect_same_shape(Self::NAME, inputs[0], t))?;
        Ok(vec![(inputs[0].shape.clone(), DType::F32)])
    }

    fn grad(&self, cx: &mut GradContext<'_, Op>) -> Result<()> {
        let Some(dh) = cx.d_output(0) else { return Ok(()) };
        let gated = cx.inputs() == 2;
        let mut inputs = vec![cx.input(0)];
        if gated {
            inputs.push(cx.input(1));
        }
        inputs.push(dh);
        let d_inputs = cx.emit(SwiGluBackward { act: self.act }.into(), &inputs)?;
        for (i, d) in d_inputs.into_iter().enumerate() {
            if cx.wants(i) {
                cx.set(i, d)?;
            }
        }
        Ok(())
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        5 * inputs[0].elements() as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let h = cx.real(0).iter().map(|z| self.act.eval(*z).0);
        Ok(vec![match cx.values.len() {
            2 => h.zip(cx.real(1)).map(|(h, up)| h * *up).collect(),
            _ => h.collect(),
        }])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let d = if cx.inputs.len() == 2 {
            dispatch(cx, self.act, "forward").write(cx.in_(0)).write(cx.in_(1)).write(cx.out(0))
        } else {
            dispatch(cx, self.act, "forward_plain").write(cx.in_(0)).write(cx.out(0))
        };
        cx.push(d)
    }
}

impl Rule for SwiGluBackward {
    const NAME: &'static str = "swiglu_backward";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[2, 3])?;
        inputs[1..].iter().try_for_each(|t| expect_same_shape(Self::NAME, inputs[0], t))?;
        Ok(vec![(inputs[0].shape.clone(), DType::F32); inputs.len() - 1])
    }

    fn aliases(&self, inputs: usize) -> Vec<(usize, usize)> {
        (0..inputs - 1).map(|i| (i, i)).collect()
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        10 * inputs[0].elements() as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let gate = cx.real(0).iter().map(|z| self.act.eval(*z));
        if cx.values.len() == 2 {
            return Ok(vec![gate.zip(cx.real(1)).map(|((_, slope), dh)| slope * *dh).collect()]);
        }
        let (up, dh) = (cx.real(1), cx.real(2));
        Ok(gate.enumerate().map(|(i, (h, slope))| (dh[i] * up[i] * slope, dh[i] * h)).unzip::<R, R, Vec<R>, Vec<R>>())
            .map(|(dgate, dup)| vec![dgate, dup])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let d = if cx.inputs.len() == 3 {
            dispatch(cx, self.act, "backward").write(cx.out(0)).write(cx.out(1)).write(cx.in_(2))
        } else {
            dispatch(cx, self.act, "backward_plain").write(cx.out(0)).write(cx.in_(1))
        };
        cx.push(d)
    }
}
