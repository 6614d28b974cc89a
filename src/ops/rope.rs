//! Rotary position embedding in the half-split layout (Su et al. 2021; `apply_rotary_pos_emb` of transformers): within the
//! first `R` values of each head, `x1 = x[..R/2]` and `x2 = x[R/2..R]` become `x1 cos - x2 sin` and `x2 cos + x1 sin`.

use super::{Dispatch, LaunchContext, Op, Rule, expect_index, expect_inputs};
use crate::gpu::Prelude;
use crate::graph::{DType, GradContext, Real, ReferenceContext, Tensor};
use crate::{Error, Result};

const WG_SIZE: u32 = 64;

/// `x [N, heads D], positions [N] u32, cos_sin [P, R]` to the rotated `x`, in place. A row of `cos_sin` ([`table`]) belongs
/// to one position: R/2 cosines, then R/2 sines. `R <= D`; the rest of each head stays. Positions are below `P`.
#[derive(Clone, Debug)]
pub struct Rope {
    /// `D`.
    pub head_dim: u32,
    /// Rotates by the negative angle: the backward pass.
    pub inverse: bool,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    heads: u32,
    head_dim: u32,
    half: u32,
    positions: u32,
    sign: f32,
    pad: [u32; 2],
}

/// `1 / theta^(2i/R)` for `i < R/2`, each operation rounded to f32 as transformers does it.
pub fn default_inv_freq(theta: f32, rotary_dim: usize) -> Vec<f32> {
    (0..rotary_dim / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / rotary_dim as f32)).collect()
}

/// `cos_sin [positions, 2 len(inv_freq)]` f32: cosines and sines of `position * inv_freq` (a product in f32), times
/// `scale` (`attention_scaling` of transformers; 1 unless the model says otherwise).
pub fn table(inv_freq: &[f32], positions: usize, scale: f32) -> Vec<f32> {
    let mut table = Vec::with_capacity(positions * 2 * inv_freq.len());
    for position in 0..positions {
        let angle = |f: &f32| position as f32 * f;
        table.extend(inv_freq.iter().map(|f| angle(f).cos() * scale));
        table.extend(inv_freq.iter().map(|f| angle(f).sin() * scale));
    }
    table
}

impl Rule for Rope {
    const NAME: &'static str = "rope";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[3])?;
        let (x, table, head_dim) = (inputs[0], inputs[2], self.head_dim as usize);
        expect_index(Self::NAME, inputs[1], x.rows())?;
        if head_dim == 0
            || !x.cols().is_multiple_of(head_dim)
            || table.cols() > head_dim
            || !table.cols().is_multiple_of(2)
        {
            let problem = format!("x {:?}, heads of {head_dim}, table {:?}", x.shape, table.shape);
            return Err(Error::shape(Self::NAME, problem));
        }
        Ok(vec![(x.shape.clone(), DType::F32)])
    }

    fn aliases(&self, _inputs: usize) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }

    fn grad(&self, cx: &mut GradContext<'_, Op>) -> Result<()> {
        let Some(dy) = cx.d_output(0) else { return Ok(()) };
        if cx.wants(0) {
            let inverse = Rope { inverse: !self.inverse, ..*self };
            let (positions, table) = (cx.input(1), cx.input(2));
            let dx = cx.apply(inverse.into(), &[dy, positions, table])?;
            cx.set(0, dx)?;
        }
        Ok(())
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        3 * inputs[0].elements() as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (positions, table, head_dim) = (cx.int(1), cx.real(2), self.head_dim as usize);
        let (cols, half, rows) = (cx.inputs[0].cols(), cx.inputs[2].cols() / 2, cx.inputs[2].rows());
        let mut x = cx.real(0).to_vec();
        let sign = if self.inverse { -R::one() } else { R::one() };
        for (row, &position) in x.chunks_mut(cols).zip(positions) {
            let (cos, sin) = table[(position as usize).min(rows - 1) * 2 * half..][..2 * half].split_at(half);
            for head in row.chunks_mut(head_dim) {
                for i in 0..half {
                    let (a, b) = (head[i], head[half + i]);
                    head[i] = a * cos[i] - sign * b * sin[i];
                    head[half + i] = b * cos[i] + sign * a * sin[i];
                }
            }
        }
        Ok(vec![x])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let (x, table) = (cx.input(0), cx.input(2));
        let half = table.cols() / 2;
        let params = Params {
            rows: x.rows() as u32,
            heads: (x.cols() / self.head_dim as usize) as u32,
            head_dim: self.head_dim,
            half: half as u32,
            positions: table.rows() as u32,
            sign: if self.inverse { -1.0 } else { 1.0 },
            pad: [0; 2],
        };
        let d = Dispatch::new(crate::shader!("rope", ["linear_index"]), "rotate")
            .prelude(Prelude::default().u32("WG_SIZE", WG_SIZE))
            .params(&params)
            .write(cx.out(0))
            .read(cx.in_(1))
            .read(cx.in_(2))
            .groups(cx.linear_groups(x.rows() * half, WG_SIZE));
        cx.push(d)
    }
}
