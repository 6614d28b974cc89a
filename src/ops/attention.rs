//! Softmax attention over a range of visible keys, with grouped key/value heads and an online softmax: memory is linear in
//! T, forward and backward (Dao et al. 2022). The backward pass is in [`super::attention_grad`].

use super::attention_grad::{AttentionKeyValueGrad, AttentionQueryGrad, AttentionStats};
use super::{Dispatch, LaunchContext, Op, Rule, expect_index, expect_inputs, expect_same_shape};
use crate::gpu::{Groups, Prelude, Shader};
use crate::graph::{DType, GradContext, Real, ReferenceContext, Target, Tensor};
use crate::{Error, Result};

pub(super) const WG_SIZE: u32 = 64;
/// Rows and keys of a tile in workgroup memory.
const TILE: usize = 32;

/// `q [B T, heads D], k [B S, kv_heads D], v [B S, kv_heads D], first [B T] u32, last [B T] u32` to
/// `o [B T, heads D] = softmax(scale q k^T) v` and `lse [B T, heads]`, the log of the sum of the exponentials.
///
/// `first` and `last`, counted within the batch row, are the first and last key each query sees; a query with
/// `first > last` sees none and gives 0. Query head `h` reads key/value head `h kv_heads / heads`. In training `S = T`;
/// with a KV cache, `k` and `v` are the caches.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Attention {
    /// `B`.
    pub batch: u32,
    pub heads: u32,
    pub kv_heads: u32,
    /// `D`.
    pub head_dim: u32,
    /// `1 / sqrt(D)` unless the model says otherwise.
    pub scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    batch: u32,
    queries: u32,
    keys: u32,
    heads: u32,
    kv_heads: u32,
    scale: f32,
    pad: [u32; 2],
}

impl Attention {
    /// Query heads that read one key/value head.
    pub(super) fn group(&self) -> usize {
        (self.heads / self.kv_heads) as usize
    }

    /// `T` and `S`.
    pub(super) fn lengths(&self, q: &Tensor, k: &Tensor) -> (usize, usize) {
        (q.rows() / self.batch as usize, k.rows() / self.batch as usize)
    }

    /// Errs unless q, k and v fit the heads and the batch.
    pub(super) fn check(&self, op: &'static str, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
        expect_same_shape(op, k, v)?;
        let (batch, heads, kv_heads, dim) = (self.batch, self.heads, self.kv_heads, self.head_dim);
        let fields = batch > 0 && kv_heads > 0 && dim > 0 && heads.is_multiple_of(kv_heads.max(1));
        let fits = |t: &Tensor, heads: u32| {
            t.cols() == (heads * dim) as usize && t.rows() > 0 && t.rows().is_multiple_of(batch as usize)
        };
        if fields && fits(q, heads) && fits(k, kv_heads) {
            return Ok(());
        }
        Err(Error::shape(op, format!("q {:?}, k {:?} for {self:?}", q.shape, k.shape)))
    }

    /// Whether to use the kernels with tiles in workgroup memory.
    pub(super) fn tiled(target: &Target) -> bool {
        !target.software
    }

    /// Rows (or keys) of one invocation of the kernels without workgroup memory, which keeps `vectors` vectors of D values
    /// for each, but no more than there are. More would load less, but compile for many seconds on a CPU.
    pub(super) fn rows_per_invocation(&self, vectors: usize, available: usize) -> u32 {
        (512 / (vectors * self.head_dim as usize)).clamp(1, 4).min(available) as u32
    }

    /// The kernels read four values at a time where the head dimension allows it.
    pub(super) fn by_vector(&self) -> bool {
        self.head_dim.is_multiple_of(4)
    }

    /// A dispatch of an attention kernel.
    pub(super) fn dispatch(
        &self,
        shader: &'static Shader,
        entry: &'static str,
        lengths: (usize, usize),
        rows: u32,
    ) -> Dispatch {
        let params = Params {
            batch: self.batch,
            queries: lengths.0 as u32,
            keys: lengths.1 as u32,
            heads: self.heads,
            kv_heads: self.kv_heads,
            scale: self.scale,
            pad: [0; 2],
        };
        let prelude = Prelude::default()
            .u32("WG_SIZE", WG_SIZE)
            .u32("HEAD_DIM", self.head_dim)
            .u32("GROUP", self.group() as u32)
            .u32("ROWS", rows);
        Dispatch::new(shader, entry).prelude(prelude).params(&params)
    }

    /// Workgroups for `items` rows or keys of each batch row and key/value head, `rows` to an invocation or tile.
    pub(super) fn groups(&self, cx: &LaunchContext<'_>, items: usize, rows: Option<u32>) -> Groups {
        let lanes = (self.batch * self.kv_heads) as usize;
        match rows {
            Some(rows) => cx.linear_groups(lanes * items.div_ceil(rows as usize), WG_SIZE),
            None => cx.linear_groups(lanes * items.div_ceil(TILE), 1),
        }
    }

    /// Calls `f(row, kv_head, visible)` for each query head: its row among `[B T heads]`, the key/value head it reads, and
    /// the rows among `[B S]` of the keys it sees.
    pub(super) fn for_each_row<R: Real>(
        &self,
        cx: &ReferenceContext<'_, R>,
        bounds: (&[u32], &[u32]),
        mut f: impl FnMut(usize, usize, std::ops::Range<usize>),
    ) {
        let (queries, keys) = self.lengths(cx.inputs[0], cx.inputs[1]);
        let heads = self.heads as usize;
        for row in 0..cx.inputs[0].rows() {
            let start = row / queries * keys;
            let first = bounds.0[row] as usize;
            let end = (bounds.1[row] as usize).saturating_add(1).min(keys).max(first.min(keys));
            for head in 0..heads {
                f(row * heads + head, head / self.group(), start + first.min(keys)..start + end);
            }
        }
    }
}

impl Rule for Attention {
    const NAME: &'static str = "attention";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[5])?;
        let rows = inputs[0].rows();
        self.check(Self::NAME, inputs[0], inputs[1], inputs[2])?;
        expect_index(Self::NAME, inputs[3], rows)?;
        expect_index(Self::NAME, inputs[4], rows)?;
        Ok(vec![(inputs[0].shape.clone(), DType::F32), (vec![rows, self.heads as usize], DType::F32)])
    }

    fn grad(&self, cx: &mut GradContext<'_, Op>) -> Result<()> {
        let Some(d_o) = cx.d_output(0) else { return Ok(()) };
        let (q, k, v, first, last) = (cx.input(0), cx.input(1), cx.input(2), cx.input(3), cx.input(4));
        let (o, lse) = (cx.output(0), cx.output(1));
        let stats = cx.apply(AttentionStats(*self).into(), &[o, d_o, lse, first, last])?;
        if cx.wants(1) || cx.wants(2) {
            let d_kv = cx.emit(AttentionKeyValueGrad(*self).into(), &[q, k, v, d_o, stats])?;
            for (i, d) in [1, 2].into_iter().zip(d_kv) {
                if cx.wants(i) {
                    cx.set(i, d)?;
                }
            }
        }
        if cx.wants(0) {
            let dq = cx.apply(AttentionQueryGrad(*self).into(), &[q, k, v, d_o, stats])?;
            cx.set(0, dq)?;
        }
        Ok(())
    }

    fn flops(&self, inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        // Two products over all keys; how many a query sees is data.
        let (_, keys) = self.lengths(inputs[0], inputs[1]);
        4 * (inputs[0].elements() * keys) as u64
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (q, k, v, dim) = (cx.real(0), cx.real(1), cx.real(2), self.head_dim as usize);
        let (kv_heads, scale) = (self.kv_heads as usize, R::of(f64::from(self.scale)));
        let mut o = vec![R::zero(); q.len()];
        let mut lse = vec![R::zero(); q.len() / dim];
        self.for_each_row(cx, (cx.int(3), cx.int(4)), |head, kv_head, visible| {
            let query = &q[head * dim..][..dim];
            let at = |key: usize| (key * kv_heads + kv_head) * dim;
            let dot = |key: usize| (0..dim).map(|d| query[d] * k[at(key) + d]).sum::<R>() * scale;
            let scores: Vec<R> = visible.clone().map(dot).collect();
            let Some(largest) = scores.iter().copied().reduce(R::max) else { return };
            let sum: R = scores.iter().map(|s| (*s - largest).exp()).sum();
            for (key, score) in visible.zip(scores) {
                let p = (score - largest).exp() / sum;
                (0..dim).for_each(|d| o[head * dim + d] += p * v[at(key) + d]);
            }
            lse[head] = largest + sum.ln();
        });
        Ok(vec![o, lse])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        use crate::shader;
        let lengths = self.lengths(cx.input(0), cx.input(1));
        let rows = lengths.0 * self.group();
        let d = if Self::tiled(cx.target) {
            let shader = shader!("attention_tiled", ["attention", "attention_tile"]);
            self.dispatch(shader, "forward", lengths, 0).groups(self.groups(cx, rows, None))
        } else {
            let each = self.rows_per_invocation(2, rows);
            let shader = if self.by_vector() {
                shader!("attention", ["linear_index", "vector4", "attention"])
            } else {
                shader!("attention", ["linear_index", "vector1", "attention"])
            };
            self.dispatch(shader, "forward", lengths, each).groups(self.groups(cx, rows, Some(each)))
        };
        let d = d.write(cx.in_(0)).write(cx.in_(1)).write(cx.in_(2)).read(cx.in_(3)).read(cx.in_(4));
        cx.push(d.write(cx.out(0)).write(cx.out(1)))
    }
}
