//! Double quantization: the absmax values of a 4-bit tensor, themselves stored in 8 bits.
//!
//! The absmax values are all positive and close to each other, so their mean is taken off first; what is left is quantized
//! in blocks of [`BLOCK`] = 256 to the nearest entry of bitsandbytes' 8-bit [dynamic map](dynamic_map):
//!
//! ```text
//! offset     = mean(absmax)                                  one f32 a tensor
//! absmax2[c] = max |absmax[b] - offset|                      over the block c = b / 256
//! code[b]    = nearest map entry to (absmax[b] - offset) / absmax2[c]
//! absmax'[b] = map[code[b]] * absmax2[c] + offset
//! ```
//!
//! 8 bits and 32 / 256 bits for 64 weights: 0.127 bits a weight where f32 takes 0.5.
//!
//! Source: "QLoRA" (arXiv 2305.14314), section 3, and Dettmers, "8-Bit Approximations for Parallelism in Deep Learning"
//! (arXiv 1511.04561). Codes, absmax2 and offset equal, byte for byte, those of bitsandbytes 0.50 on a CPU.

use std::sync::LazyLock;

use super::{check_len, magnitude_bits};
use crate::Result;

/// Absmax values that share one second-level absmax (elements).
pub const BLOCK: usize = 256;

/// Second-level blocks for `len` absmax values.
pub const fn blocks(len: usize) -> usize {
    len.div_ceil(BLOCK)
}

/// The absmax values of one tensor in 8 bits each; `state2` of bitsandbytes.
#[derive(Clone, Debug, PartialEq)]
pub struct DoubleQuant {
    /// `[n]`: indices into [`dynamic_map`].
    pub codes: Vec<u8>,
    /// `[blocks(n)] f32`: the largest magnitude of each block of 256, after the offset is taken off.
    pub absmax: Vec<f32>,
    /// The mean of all absmax values.
    pub offset: f32,
}

impl DoubleQuant {
    /// Quantizes the absmax values of a whole tensor, `values [n] f32`.
    pub fn quantize(values: &[f32]) -> DoubleQuant {
        let offset = mean(values);
        let mut codes = vec![0; values.len()];
        let mut absmax = vec![0.0; blocks(values.len())];
        for ((values, codes), absmax) in values.chunks(BLOCK).zip(codes.chunks_mut(BLOCK)).zip(&mut absmax) {
            let mut centred = [0.0; BLOCK];
            for (centred, value) in centred.iter_mut().zip(values) {
                *centred = value - offset;
            }
            *absmax = f32::from_bits(magnitude_bits(&centred));
            // Every code stands for the same value where absmax is 0; bitsandbytes leaves 0.
            if *absmax != 0.0 {
                let inverse = 1.0 / *absmax;
                for (code, centred) in codes.iter_mut().zip(centred) {
                    *code = nearest(centred * inverse);
                }
            }
        }
        DoubleQuant { codes, absmax, offset }
    }

    /// `out[b] = map[code[b]] * absmax[b / 256] + offset`, `[n] f32`. Errs when the fields do not fit together.
    pub fn dequantize(&self) -> Result<Vec<f32>> {
        check_len("double_quant::dequantize", "absmax", self.absmax.len(), blocks(self.codes.len()))?;
        let map = dynamic_map();
        let scales = self.absmax.iter().flat_map(|scale| [scale; BLOCK]);
        Ok(self.codes.iter().zip(scales).map(|(&code, scale)| map[usize::from(code)] * scale + self.offset).collect())
    }
}

/// The 256 entries of the signed 8-bit dynamic map, ascending: what a code stands for.
///
/// A decade 10^-e with e leading zeros leaves 6 - e bits of fraction, so decade e holds the 2^(6-e) midpoints of as many equal
/// parts of [0.1, 1], scaled by 10^-e, with both signs; 0 and 1 complete the map. Near 0 the steps are as fine as 5e-7, near 1
/// they are 0.014. The same f32 values as `create_dynamic_map` of bitsandbytes.
pub fn dynamic_map() -> &'static [f32; 256] {
    static MAP: LazyLock<[f32; 256]> = LazyLock::new(|| {
        let mut map = [0.0; 256];
        let mut filled = 0;
        for (decade, scale) in [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0f32].into_iter().enumerate() {
            let parts = 1 << decade;
            for part in 0..parts {
                let middle = (boundary(part, parts) + boundary(part + 1, parts)) / 2.0;
                map[filled] = scale * middle;
                map[filled + 1] = -scale * middle;
                filled += 2;
            }
        }
        map[255] = 1.0;
        map.sort_by(f32::total_cmp);
        map
    });
    &MAP
}

/// The `i`-th of `parts + 1` evenly spaced points from 0.1 to 1, as `torch.linspace` rounds them: from the nearer end, in f32
/// steps, with one rounding of the sum (f64 holds the product exactly).
fn boundary(i: usize, parts: usize) -> f32 {
    let step = f64::from((1.0 - 0.1f32) / parts as f32);
    if i < parts.div_ceil(2) {
        (f64::from(0.1f32) + step * i as f64) as f32
    } else {
        (1.0 - step * (parts - i) as f64) as f32
    }
}

/// The code of the map entry nearest to `x` in [-1, 1].
///
/// bitsandbytes' CPU code first rounds `x` to one of 65,536 even steps, and so do we: within half a step (8e-6) of a midpoint
/// the nearer entry may lose to its neighbour.
fn nearest(x: f32) -> u8 {
    const STEPS: f32 = 65_535.0;
    static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let map = dynamic_map();
        let mut code = 0;
        let entry = |step| {
            let x = -1.0 + (2.0 * step as f32) / STEPS;
            while code < 255 && 0.5 * (map[code] + map[code + 1]) < x {
                code += 1;
            }
            code as u8
        };
        (0..=u16::MAX).map(entry).collect()
    });
    // The cast saturates, and takes a NaN to 0.
    TABLE[usize::from(((x + 1.0) * 0.5 * STEPS + 0.5) as u16)]
}

/// `sum(values) / n` in f32, in the order of `torch.mean` on one thread, because the offset must equal the one it yields.
/// (PyTorch, `aten/src/ATen/native/cpu/SumKernel.cpp`.)
fn mean(values: &[f32]) -> f32 {
    let sum = if values.len() < 8 { cascade_sum::<1>(values) } else { cascade_sum::<8>(values) };
    if values.is_empty() { 0.0 } else { sum / values.len() as f32 }
}

/// The sum of `values`: `LANES` beside each other, four rows of them at a time, cascaded. Each of these partial sums is carried
/// into the next of four levels after 2^k additions, so that the error grows with the logarithm of n.
fn cascade_sum<const LANES: usize>(values: &[f32]) -> f32 {
    const ROWS: usize = 4;
    const LEVELS: usize = 4;
    let add = |sum: &mut [[f32; LANES]; ROWS], rows: &[[f32; LANES]; ROWS]| {
        for (sum, row) in sum.iter_mut().zip(rows) {
            add_lanes(sum, row);
        }
    };

    let (lanes, tail) = values.as_chunks::<LANES>();
    let (rows, rest) = lanes.as_chunks::<ROWS>();
    let step_bits = 4.max(rows.len().next_power_of_two().ilog2() as usize / LEVELS);
    let mut sums = [[[0.0; LANES]; ROWS]; LEVELS];
    for (i, rows) in rows.iter().enumerate() {
        add(&mut sums[0], rows);
        let mut level = 1;
        // Level l is full, and carried, every 2^(l step_bits) rows; the last level is never carried.
        while level < LEVELS && (i + 1) % (1 << (level * step_bits)) == 0 {
            let carried = std::mem::replace(&mut sums[level - 1], [[0.0; LANES]; ROWS]);
            add(&mut sums[level], &carried);
            level += 1;
        }
    }
    let [mut sum, upper @ ..] = sums;
    for level in &upper {
        add(&mut sum, level);
    }
    let [mut sum, others @ ..] = sum;
    for lanes in rest.iter().chain(&others) {
        add_lanes(&mut sum, lanes);
    }
    tail.iter().chain(&sum).fold(0.0, |total, x| total + x)
}

fn add_lanes<const N: usize>(sum: &mut [f32; N], lanes: &[f32; N]) {
    for (sum, x) in sum.iter_mut().zip(lanes) {
        *sum += x;
    }
}
