//! Picks rows: the last position of each sequence, say, before the head.

use super::{Dispatch, LaunchContext, Rule, expect_index, expect_inputs};
use crate::Result;
use crate::gpu::Prelude;
use crate::graph::{DType, Real, ReferenceContext, Tensor};

const WG_SIZE: u32 = 64;

/// `x [N, C], rows [R] u32` to `y [R, C] = x[rows]`. A row number of N or more gives zeros. For inference: no gradient.
#[derive(Clone, Debug)]
pub struct GatherRows;

impl Rule for GatherRows {
    const NAME: &'static str = "gather_rows";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[2])?;
        expect_index(Self::NAME, inputs[1], inputs[1].elements())?;
        Ok(vec![(vec![inputs[1].elements(), inputs[0].cols()], DType::F32)])
    }

    fn flops(&self, _inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        0
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (x, rows, cols) = (cx.real(0), cx.int(1), cx.inputs[0].cols());
        let mut y = vec![R::zero(); rows.len() * cols];
        for (to, &row) in y.chunks_mut(cols).zip(rows).filter(|(_, row)| (**row as usize) < cx.inputs[0].rows()) {
            to.copy_from_slice(&x[row as usize * cols..][..cols]);
        }
        Ok(vec![y])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let (x, y) = (cx.input(0), cx.output(0));
        let d = Dispatch::new(crate::shader!("gather", ["linear_index"]), "gather")
            .prelude(Prelude::default().u32("WG_SIZE", WG_SIZE))
            .params(&[x.rows() as u32, x.cols() as u32, y.rows() as u32, 0])
            .write(cx.in_(0))
            .read(cx.in_(1))
            .write(cx.out(0))
            .groups(cx.linear_groups(y.elements(), WG_SIZE));
        cx.push(d)
    }
}
