//! What the 4-bit formats share: weights in blocks of 64 along the flat tensor, two codes a byte, high nibble first; and,
//! for NF4 and FP4, codes that are the index of the nearest of 16 levels after the block is scaled to [-1, 1].

use super::{check_len, magnitude_bits};
use crate::Result;

/// Weights that share one absmax or scale (elements).
pub const BLOCK: usize = 64;

/// The smallest absmax that is divided by: keeps the reciprocal of an all-zero block finite, as bitsandbytes does.
const TINY: f32 = 1e-38;

/// Bytes of packed codes for `len` weights.
pub const fn code_bytes(len: usize) -> usize {
    len.div_ceil(2)
}

/// Blocks, each with one absmax or scale, for `len` weights.
pub const fn blocks(len: usize) -> usize {
    len.div_ceil(BLOCK)
}

/// Packs codes (0..16) two a byte, the earlier one in the high nibble; an odd last one is paired with `pad`.
pub(super) fn pack(codes: &[u8], packed: &mut [u8], pad: u8) {
    for (byte, pair) in packed.iter_mut().zip(codes.chunks(2)) {
        *byte = pair[0] << 4 | pair.get(1).copied().unwrap_or(pad);
    }
}

/// `out[i] = levels[code i] * scale` for one block.
pub(super) fn decode_block(packed: &[u8], levels: &[f32; 16], scale: f32, out: &mut [f32]) {
    for (pair, &byte) in out.chunks_mut(2).zip(packed) {
        pair[0] = levels[usize::from(byte >> 4)] * scale;
        if let Some(second) = pair.get_mut(1) {
            *second = levels[usize::from(byte & 15)] * scale;
        }
    }
}

/// Checks the three lengths that belong together, then `out[i] = levels[code i] * scales[i / 64]`.
pub(super) fn dequantize(
    op: &'static str,
    levels: &[f32; 16],
    codes: &[u8],
    scales: &[f32],
    out: &mut [f32],
) -> Result<()> {
    check_len(op, "bytes of codes", codes.len(), code_bytes(out.len()))?;
    check_len(op, "scales", scales.len(), blocks(out.len()))?;
    for ((out, packed), &scale) in out.chunks_mut(BLOCK).zip(codes.chunks(BLOCK / 2)).zip(scales) {
        decode_block(packed, levels, scale, out);
    }
    Ok(())
}

/// How a weight scaled to [-1, 1] finds the nearest of 16 levels.
pub(super) struct Codebook {
    /// The midpoints between neighbouring levels, ascending; a value on a midpoint takes the lower level.
    thresholds: [f32; 15],
    /// The code of the n-th smallest level.
    code_of_rank: [u8; 16],
}

impl Codebook {
    /// `levels` by code, and their codes in ascending order of level.
    pub(super) const fn new(levels: [f32; 16], code_of_rank: [u8; 16]) -> Codebook {
        let mut thresholds = [0.0; 15];
        let mut i = 0;
        while i < 15 {
            thresholds[i] = (levels[code_of_rank[i] as usize] + levels[code_of_rank[i + 1] as usize]) / 2.0;
            i += 1;
        }
        Codebook { thresholds, code_of_rank }
    }

    /// The code of the level nearest to `x`. Counting thresholds instead of searching leaves no branch, so a loop of this
    /// vectorizes; a NaN counts them all.
    #[inline(always)]
    fn nearest(&self, x: f32) -> u32 {
        let mut rank = 0;
        for threshold in &self.thresholds {
            #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "a NaN must count")]
            let above = !(x <= *threshold);
            rank += u32::from(above);
        }
        rank
    }

    /// Quantizes as bitsandbytes' CPU code does: whole blocks are scaled by the reciprocal of absmax, a partial last block is
    /// divided by it, which decides some ties.
    #[inline(always)]
    pub(super) fn quantize(
        &self,
        op: &'static str,
        weights: &[f32],
        codes: &mut [u8],
        absmax: &mut [f32],
    ) -> Result<()> {
        check_len(op, "bytes of codes", codes.len(), code_bytes(weights.len()))?;
        check_len(op, "absmax", absmax.len(), blocks(weights.len()))?;
        let (whole, rest) = weights.as_chunks::<BLOCK>();
        let (whole_codes, rest_codes) = codes.split_at_mut(whole.len() * (BLOCK / 2));
        let (whole_codes, _) = whole_codes.as_chunks_mut::<{ BLOCK / 2 }>();
        for ((block, packed), absmax) in whole.iter().zip(whole_codes).zip(absmax.iter_mut()) {
            *absmax = f32::from_bits(magnitude_bits(block));
            let inverse = 1.0 / at_least_tiny(*absmax);
            let mut ranks = [0u32; BLOCK];
            for (rank, &w) in ranks.iter_mut().zip(block) {
                *rank = self.nearest(w * inverse);
            }
            for (byte, pair) in packed.iter_mut().zip(ranks.as_chunks::<2>().0) {
                *byte = self.code(pair[0]) << 4 | self.code(pair[1]);
            }
        }
        if let (false, Some(absmax)) = (rest.is_empty(), absmax.last_mut()) {
            *absmax = at_least_tiny(f32::from_bits(magnitude_bits(rest)));
            let mut codes = [0; BLOCK];
            for (code, &w) in codes.iter_mut().zip(rest) {
                *code = self.code(self.nearest(w / *absmax));
            }
            pack(&codes[..rest.len()], rest_codes, self.code(self.nearest(0.0)));
        }
        Ok(())
    }

    #[inline(always)]
    fn code(&self, rank: u32) -> u8 {
        self.code_of_rank[rank as usize & 15]
    }
}

/// `max(x, 1e-38)` that keeps a NaN.
fn at_least_tiny(x: f32) -> f32 {
    if x < TINY { TINY } else { x }
}
