//! Encoding to Q4_K: a search for the scale and minimum of each 32 weights that lose least.
//!
//! The reference is `quantize_row_q4_K_ref` with `make_qkx2_quants` of `ggml-quants.c`; sums run in the same order, in f32, so
//! that the bytes agree.

use super::k_quants::{Q4_K_BYTES, scale_and_min};

const SUB: usize = 32;
const SUB_BLOCKS: usize = 8;
const MAX_CODE: f32 = 15.0;
const MAX_SCALE: f32 = 63.0;

/// `w[i] ~ d sc[j] q[i] - dmin m[j]` for j = i / 32: scales and minima searched one sub-block at a time, then rounded to 6 bits
/// of the largest, and the codes chosen anew for what the rounded ones stand for.
pub(super) fn encode_q4_k(weights: &[f32; SUB * SUB_BLOCKS], block: &mut [u8; Q4_K_BYTES]) {
    let subs = weights.as_chunks::<SUB>().0;
    let mut codes = [[0u8; SUB]; SUB_BLOCKS];
    let mut scales = [0.0f32; SUB_BLOCKS];
    let mut mins = [0.0f32; SUB_BLOCKS];
    for j in 0..SUB_BLOCKS {
        (scales[j], mins[j]) = search(&subs[j], &mut codes[j]);
    }
    let max_scale = largest(&scales);
    let max_min = largest(&mins);

    block.fill(0);
    block[..2].copy_from_slice(&half::f16::from_f32(max_scale / MAX_SCALE).to_le_bytes());
    block[2..4].copy_from_slice(&half::f16::from_f32(max_min / MAX_SCALE).to_le_bytes());
    let (d, dmin) = (super::f16_at(block, 0), super::f16_at(block, 2));
    let (packed_scales, packed) = block[4..].split_at_mut(12);
    let to_scale = |max: f32| if max > 0.0 { MAX_SCALE / max } else { 0.0 };
    for j in 0..SUB_BLOCKS {
        let scale = nearest(to_scale(max_scale) * scales[j], MAX_SCALE);
        let min = nearest(to_scale(max_min) * mins[j], MAX_SCALE);
        if j < 4 {
            packed_scales[j] = scale;
            packed_scales[j + 4] = min;
        } else {
            packed_scales[j + 4] = scale & 15 | (min & 15) << 4;
            packed_scales[j - 4] |= scale >> 4 << 6;
            packed_scales[j] |= min >> 4 << 6;
        }
    }
    for j in 0..SUB_BLOCKS {
        let (scale, min) = scale_and_min(packed_scales, j);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        if scale != 0.0 {
            codes[j] = subs[j].map(|w| nearest((w + min) / scale, MAX_CODE));
        }
    }
    for (packed, pair) in packed.chunks_mut(SUB).zip(codes.as_chunks::<2>().0) {
        for (byte, (low, high)) in packed.iter_mut().zip(pair[0].iter().zip(&pair[1])) {
            *byte = low | high << 4;
        }
    }
}

/// The scale, and the minimum with its sign turned, that make `scale * code - minimum` come nearest to `weights`.
///
/// The error is squared and weighed by `|w| + rms(weights)`. Starting from the full range, 21 ranges a little narrower and
/// wider give codes; for each set of codes the best scale and minimum are the solution of a 2 x 2 linear system. A range starts
/// at the best minimum so far.
fn search(weights: &[f32; SUB], codes: &mut [u8; SUB]) -> (f32, f32) {
    let rms = (weights.iter().fold(0.0, |sum, w| sum + w * w) / SUB as f32).sqrt();
    let importance = weights.map(|w| rms + w.abs());
    let (mut min, mut max) = (weights[0], weights[0]);
    let (mut sum_w, mut sum_x) = (0.0, 0.0);
    for (&x, w) in weights.iter().zip(importance) {
        min = if x < min { x } else { min };
        max = if x > max { x } else { max };
        sum_w += w;
        sum_x += w * x;
    }
    if min > 0.0 {
        min = 0.0;
    }
    if max == min {
        *codes = [0; SUB];
        return (0.0, -min);
    }
    let codes_for = |range: f32, min: f32| {
        let inverse = range / (max - min);
        weights.map(|x| nearest(inverse * (x - min), MAX_CODE))
    };
    let error = |codes: &[u8; SUB], scale: f32, min: f32| {
        let terms = weights.iter().zip(importance).zip(codes);
        terms.fold(0.0, |sum, ((x, w), &code)| {
            let difference = scale * f32::from(code) + min - x;
            sum + w * (difference * difference)
        })
    };

    *codes = codes_for(MAX_CODE, min);
    let mut scale = 1.0 / (MAX_CODE / (max - min));
    let mut least = error(codes, scale, min);
    for step in 0..=20 {
        let candidate = codes_for(-1.0 + 0.1 * step as f32 + MAX_CODE, min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0, 0.0, 0.0);
        for ((x, w), &code) in weights.iter().zip(importance).zip(&candidate) {
            let code = f32::from(code);
            sum_l += w * code;
            sum_l2 += w * code * code;
            sum_xl += w * code * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if this_min > 0.0 {
                this_min = 0.0;
                this_scale = sum_xl / sum_l2;
            }
            let this_error = error(&candidate, this_scale, this_min);
            if this_error < least {
                (least, scale, min) = (this_error, this_scale, this_min);
                *codes = candidate;
            }
        }
    }
    (scale, -min)
}

fn largest(values: &[f32; SUB_BLOCKS]) -> f32 {
    values.iter().fold(0.0, |most, &x| if x > most { x } else { most })
}

/// `x` rounded to an integer, halves to even, and brought into `0..=max`; 0 for a NaN.
fn nearest(x: f32, max: f32) -> u8 {
    crate::quant::round_ties_even(x.clamp(0.0, max)) as u8
}
