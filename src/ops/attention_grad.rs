//! The backward pass of [`super::attention`]: the probabilities are computed again from the saved log-sum-exp; every sum has
//! one fixed order.

use super::attention::{Attention, WG_SIZE};
use super::{Dispatch, LaunchContext, Rule, expect_index, expect_inputs, expect_same_shape};
use crate::gpu::Prelude;
use crate::graph::{DType, Real, ReferenceContext, Tensor};
use crate::{Error, Result};

/// `o, do [B T, heads D], lse [B T, heads], first, last [B T] u32` to `stats [B T, heads, 4]`: lse, `delta = do . o`, and
/// the range of visible keys (first, end) as f32.
#[derive(Clone, Debug)]
pub struct AttentionStats(pub Attention);

/// `q, k, v, do, stats` to `dq [B T, heads D] = scale ds k` with `ds = p (do v^T - delta)`, `p = exp(scale q k^T - lse)`.
#[derive(Clone, Debug)]
pub struct AttentionQueryGrad(pub Attention);

/// `q, k, v, do, stats` to `dk = scale ds^T q` and `dv = p^T do`, both `[B S, kv_heads D]`.
#[derive(Clone, Debug)]
pub struct AttentionKeyValueGrad(pub Attention);

impl Rule for AttentionStats {
    const NAME: &'static str = "attention_stats";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[5])?;
        let (rows, heads) = (inputs[0].rows(), self.0.heads as usize);
        expect_same_shape(Self::NAME, inputs[0], inputs[1])?;
        expect_index(Self::NAME, inputs[3], rows)?;
        expect_index(Self::NAME, inputs[4], rows)?;
        if inputs[0].cols() != heads * self.0.head_dim as usize || inputs[2].elements() != rows * heads {
            let problem = format!("o {:?}, lse {:?} for {:?}", inputs[0].shape, inputs[2].shape, self.0);
            return Err(Error::shape(Self::NAME, problem));
        }
        Ok(vec![(vec![rows, heads, 4], DType::F32)])
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        2 * inputs[0].elements() as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (o, d_o, lse, first, last) = (cx.real(0), cx.real(1), cx.real(2), cx.int(3), cx.int(4));
        let (dim, heads) = (self.0.head_dim as usize, self.0.heads as usize);
        let stats = lse.iter().enumerate().flat_map(|(i, lse)| {
            let delta = (i * dim..(i + 1) * dim).map(|d| o[d] * d_o[d]).sum::<R>();
            let (first, end) = (f64::from(first[i / heads]), f64::from(last[i / heads]) + 1.0);
            [*lse, delta, R::of(first), R::of(end)]
        });
        Ok(vec![stats.collect()])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let rows = cx.input(0).rows();
        let params = [rows as u32, self.0.heads, self.0.head_dim, 0];
        let d = Dispatch::new(crate::shader!("attention_stats", ["linear_index"]), "backward_stats")
            .prelude(Prelude::default().u32("WG_SIZE", WG_SIZE))
            .params(&params)
            .write(cx.in_(0))
            .write(cx.in_(1))
            .write(cx.in_(2))
            .read(cx.in_(3))
            .read(cx.in_(4))
            .write(cx.out(0))
            .groups(cx.linear_groups(rows * self.0.heads as usize, WG_SIZE));
        cx.push(d)
    }
}

/// The shape rule both gradients share.
fn check(attention: &Attention, op: &'static str, inputs: &[&Tensor]) -> Result<()> {
    expect_inputs(op, inputs, &[5])?;
    attention.check(op, inputs[0], inputs[1], inputs[2])?;
    expect_same_shape(op, inputs[0], inputs[3])?;
    if inputs[4].elements() == inputs[0].rows() * attention.heads as usize * 4 {
        return Ok(());
    }
    Err(Error::shape(op, format!("stats {:?} for q {:?}", inputs[4].shape, inputs[0].shape)))
}

/// Calls `f(query head, key head, p, scale ds)` for every visible pair; heads are positions of rows of D values.
fn for_each_pair<R: Real>(attention: &Attention, cx: &ReferenceContext<'_, R>, mut f: impl FnMut(usize, usize, R, R)) {
    let (q, k, v, d_o, stats) = (cx.real(0), cx.real(1), cx.real(2), cx.real(3), cx.real(4));
    let (dim, heads, scale) =
        (attention.head_dim as usize, attention.heads as usize, R::of(f64::from(attention.scale)));
    let bound = |i: usize| stats.chunks(4 * heads).map(|row| row[i].f64() as u32).collect::<Vec<_>>();
    let last: Vec<u32> = bound(3).iter().map(|end| end - 1).collect();
    attention.for_each_row(cx, (&bound(2), &last), |head, kv_head, visible| {
        let (lse, delta) = (stats[4 * head], stats[4 * head + 1]);
        for key in visible {
            let key_head = key * attention.kv_heads as usize + kv_head;
            let dot = |a: &[R], b: &[R]| (0..dim).map(|d| a[head * dim + d] * b[key_head * dim + d]).sum::<R>();
            let p = (dot(q, k) * scale - lse).exp();
            f(head, key_head, p, scale * p * (dot(d_o, v) - delta));
        }
    });
}

/// The dispatch of either gradient for `items` rows or keys, without its outputs.
fn dispatch(
    attention: &Attention,
    cx: &LaunchContext<'_>,
    entry: &'static str,
    items: usize,
    vectors: usize,
) -> Dispatch {
    use crate::shader;
    let lengths = attention.lengths(cx.input(0), cx.input(1));
    let d = if Attention::tiled(cx.target) {
        let shader = shader!("attention_grad_tiled", ["attention", "attention_tile"]);
        attention.dispatch(shader, entry, lengths, 0).groups(attention.groups(cx, items, None))
    } else {
        let each = attention.rows_per_invocation(vectors, items);
        let shader = if attention.by_vector() {
            shader!("attention_grad", ["linear_index", "vector4", "attention"])
        } else {
            shader!("attention_grad", ["linear_index", "vector1", "attention"])
        };
        attention.dispatch(shader, entry, lengths, each).groups(attention.groups(cx, items, Some(each)))
    };
    (0..5).fold(d, |d, i| d.write(cx.in_(i)))
}

impl Rule for AttentionQueryGrad {
    const NAME: &'static str = "attention_query_grad";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        check(&self.0, Self::NAME, inputs)?;
        Ok(vec![(inputs[0].shape.clone(), DType::F32)])
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        6 * (inputs[0].elements() * self.0.lengths(inputs[0], inputs[1]).1) as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (k, dim) = (cx.real(1), self.0.head_dim as usize);
        let mut dq = vec![R::zero(); cx.inputs[0].elements()];
        for_each_pair(&self.0, cx, |head, key_head, _, ds| {
            (0..dim).for_each(|d| dq[head * dim + d] += ds * k[key_head * dim + d]);
        });
        Ok(vec![dq])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let items = self.0.lengths(cx.input(0), cx.input(1)).0 * self.0.group();
        let d = dispatch(&self.0, cx, "backward_query", items, 3);
        cx.push(d.write(cx.out(0)))
    }
}

impl Rule for AttentionKeyValueGrad {
    const NAME: &'static str = "attention_key_value_grad";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        check(&self.0, Self::NAME, inputs)?;
        Ok(vec![(inputs[1].shape.clone(), DType::F32), (inputs[2].shape.clone(), DType::F32)])
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        8 * (inputs[0].elements() * self.0.lengths(inputs[0], inputs[1]).1) as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (q, d_o, dim) = (cx.real(0), cx.real(3), self.0.head_dim as usize);
        let mut dk = vec![R::zero(); cx.inputs[1].elements()];
        let mut dv = dk.clone();
        for_each_pair(&self.0, cx, |head, key_head, p, ds| {
            for d in 0..dim {
                dk[key_head * dim + d] += ds * q[head * dim + d];
                dv[key_head * dim + d] += p * d_o[head * dim + d];
            }
        });
        Ok(vec![dk, dv])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let items = self.0.lengths(cx.input(0), cx.input(1)).1;
        let d = dispatch(&self.0, cx, "backward_key_value", items, 4);
        cx.push(d.write(cx.out(0)).write(cx.out(1)))
    }
}
