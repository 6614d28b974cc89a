//! Writes new keys or values into a KV cache.

use super::{Dispatch, LaunchContext, Rule, expect_index, expect_inputs};
use crate::gpu::Prelude;
use crate::graph::{DType, Real, ReferenceContext, Tensor};
use crate::{Error, Result};

const WG_SIZE: u32 = 64;

/// `new [B T, C], position [B T] u32, cache [B S, C]` to the cache with row `b S + position[b T + t] = new[b T + t]`, in
/// place. A position of S or more (padding: `u32::MAX`) writes nothing; within one batch row, positions differ.
#[derive(Clone, Debug)]
pub struct CacheWrite {
    /// `B`.
    pub batch: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    cols: u32,
    rows_per_batch: u32,
    slots: u32,
}

impl CacheWrite {
    fn check(&self, new: &Tensor, cache: &Tensor) -> Result<()> {
        let batch = self.batch as usize;
        if batch > 0
            && new.cols() == cache.cols()
            && new.rows().is_multiple_of(batch)
            && cache.rows().is_multiple_of(batch)
        {
            return Ok(());
        }
        let problem = format!("new {:?}, cache {:?}, batch {batch}", new.shape, cache.shape);
        Err(Error::shape(Self::NAME, problem))
    }
}

impl Rule for CacheWrite {
    const NAME: &'static str = "cache_write";

    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<(Vec<usize>, DType)>> {
        expect_inputs(Self::NAME, inputs, &[3])?;
        expect_index(Self::NAME, inputs[1], inputs[0].rows())?;
        self.check(inputs[0], inputs[2])?;
        Ok(vec![(inputs[2].shape.clone(), DType::F32)])
    }

    fn aliases(&self, _inputs: usize) -> Vec<(usize, usize)> {
        vec![(2, 0)]
    }

    fn flops(&self, _inputs: &[&Tensor], _outputs: &[&Tensor]) -> u64 {
        0
    }

    fn reference<R: Real>(&self, cx: &ReferenceContext<'_, R>) -> Result<Vec<Vec<R>>> {
        let (new, position, mut cache) = (cx.real(0), cx.int(1), cx.real(2).to_vec());
        let (cols, batch) = (cx.inputs[0].cols(), self.batch as usize);
        let (rows, slots) = (cx.inputs[0].rows() / batch, cx.inputs[2].rows() / batch);
        for (n, row) in new.chunks(cols).enumerate().filter(|(n, _)| (position[*n] as usize) < slots) {
            cache[(n / rows * slots + position[n] as usize) * cols..][..cols].copy_from_slice(row);
        }
        Ok(vec![cache])
    }

    fn launch(&self, cx: &mut LaunchContext<'_>) -> Result<()> {
        let (new, cache) = (cx.input(0), cx.input(2));
        let params = Params {
            rows: new.rows() as u32,
            cols: new.cols() as u32,
            rows_per_batch: new.rows() as u32 / self.batch,
            slots: cache.rows() as u32 / self.batch,
        };
        let d = Dispatch::new(crate::shader!("cache", ["linear_index"]), "write")
            .prelude(Prelude::default().u32("WG_SIZE", WG_SIZE))
            .params(&params)
            .write(cx.in_(0))
            .read(cx.in_(1))
            .write(cx.out(0))
            .groups(cx.linear_groups(new.elements(), WG_SIZE));
        cx.push(d)
    }
}
