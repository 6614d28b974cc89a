//! Inverted dropout `y = x mask / (1 - p)`. The mask is a hash of (seed, salt, element), so that the backward pass, and a
//! recomputed forward pass, make the same one without storing it.

use super::{Dispatch, LaunchContext, Op, Rule, expect_inputs};
use crate::gpu::Prelude;
use crate::graph::{DType, GradContext, Real, ReferenceContext, Tensor};
use crate::{Error, Result};

const WG_SIZE: u32 = 64;

/// `x`, any shape, to `y = x / (1 - p)` with probability `1 - p`, else 0. The gradient is the same op on `dy`.
#[derive(Clone, Debug)]
pub struct Dropout {
    /// Probability of zero, in `[0, 1)`.
    pub p: f32,
    /// Tells apart the dropouts of one graph.
    pub salt: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n: u32,
    salt: u32,
    threshold: u32,
    scale: f32,
}

/// `pcg_hash` of Jarzynski and Olano 2020 ("Hash functions for GPU rendering").
fn pcg(value: u32) -> u32 {
    let state = value.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

impl Dropout {
    /// Hashes below this are dropped.
    fn threshold(&self) -> u32 {
        (f64::from(self.p) * 4_294_967_296.0) as u32
    }

    fn scale(&self) -> f32 {
        1.0 / (1.0 - self.p)
    }
}

impl Rule for Dropout {
    const NAME: &'static str = "dropout";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[1])?;
        if !(0.0..1.0).contains(&self.p) {
            return Err(Error::shape(Self::NAME, format!("p = {}, expected 0 <= p < 1", self.p)));
        }
        Ok(vec![(inputs[0].shape.clone(), DType::F32)])
    }

    fn grad(&self, cx: &mut GradContext<'_, Op>) -> Result<()> {
        let Some(dy) = cx.d_output(0) else { return Ok(()) };
        if cx.wants(0) {
            let dx = cx.apply(self.clone().into(), &[dy])?;
            cx.set(0, dx)?;
        }
        Ok(())
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        inputs[0].elements() as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let key = pcg(cx.step.dropout_seed ^ pcg(self.salt));
        let scale = R::of(f64::from(self.scale()));
        let y = cx.real(0).iter().enumerate().map(|(i, x)| {
            let dropped = pcg(pcg(i as u32) ^ key) < self.threshold();
            if dropped { R::zero() } else { *x * scale }
        });
        Ok(vec![y.collect()])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let n = cx.input(0).elements();
        let params = Params { n: n as u32, salt: self.salt, threshold: self.threshold(), scale: self.scale() };
        let d = Dispatch::new(crate::shader!("dropout", ["linear_index", "step"]), "mask")
            .prelude(Prelude::default().u32("WG_SIZE", WG_SIZE))
            .params(&params)
            .write(cx.in_(0))
            .write(cx.out(0))
            .step()
            .groups(cx.linear_groups(n, WG_SIZE));
        cx.push(d)
    }
}
