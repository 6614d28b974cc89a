//! `y = a + b` and `y = a`.

use super::{Bind, Dispatch, LaunchContext, Op, Rule, expect_inputs, expect_same_shape};
use crate::Result;
use crate::gpu::Prelude;
use crate::graph::{DType, GradContext, Real, ReferenceContext, Tensor};

const WG_SIZE: u32 = 64;

/// `y = a + b`, any shape, in place on `b`.
#[derive(Clone, Debug)]
pub struct Add;

impl Rule for Add {
    const NAME: &'static str = "add";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[2])?;
        expect_same_shape(Self::NAME, inputs[0], inputs[1])?;
        Ok(vec![(inputs[0].shape.clone(), DType::F32)])
    }

    fn aliases(&self, _inputs: usize) -> Vec<(usize, usize)> {
        vec![(1, 0)]
    }

    fn grad(&self, cx: &mut GradContext<'_, Op>) -> Result<()> {
        let Some(dy) = cx.d_output(0) else { return Ok(()) };
        for i in (0..2).filter(|&i| cx.wants(i)).collect::<Vec<_>>() {
            cx.set(i, dy)?;
        }
        Ok(())
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        inputs[0].elements() as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        Ok(vec![cx.real(0).iter().zip(cx.real(1)).map(|(a, b)| *a + *b).collect()])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let n = cx.output(0).elements();
        launch(cx, "add", n)
    }
}

/// `y = a`, any shape: keeps a tensor that the next op overwrites.
#[derive(Clone, Debug)]
pub struct Copy;

impl Rule for Copy {
    const NAME: &'static str = "copy";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[1])?;
        Ok(vec![(inputs[0].shape.clone(), DType::F32)])
    }

    fn grad(&self, cx: &mut GradContext<'_, Op>) -> Result<()> {
        match cx.d_output(0) {
            Some(dy) if cx.wants(0) => cx.set(0, dy),
            _ => Ok(()),
        }
    }

    fn flops(&self, _inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        0
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        Ok(vec![cx.real(0).to_vec()])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let n = cx.output(0).elements();
        launch(cx, "copy", n)
    }
}

/// Both kernels read `a` and write (or update) `y`.
fn launch(cx: &mut LaunchContext<'_>, entry: &'static str, elements: usize) -> Result<()> {
    let (a, y): (Bind, Bind) = (cx.in_(0), cx.out(0));
    let groups = cx.linear_groups(elements, WG_SIZE);
    let dispatch = Dispatch::new(crate::shader!("elementwise", ["linear_index"]), entry)
        .prelude(Prelude::default().u32("WG_SIZE", WG_SIZE))
        .params(&[elements as u32, 0, 0, 0])
        .write(a)
        .write(y)
        .groups(groups);
    cx.push(dispatch)
}
