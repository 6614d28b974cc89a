//! int4: 15 even steps for each block of 64 weights.
//!
//! ```text
//! scale[b] = max |w[i]| / 7            over the block b = i / 64
//! code[i]  = round(w[i] / scale[b]) + 8, halves to even
//! w'[i]    = (code[i] - 8) * scale[b]
//! ```
//!
//! 4.5 bits a weight. Blocks run along the flat, row-major tensor, codes are packed two a byte with the high nibble first, as in
//! [NF4](super::nf4), so that one kernel unpacks both. Code 0 is never written.

use super::block4::{self, pack};
pub use super::block4::{BLOCK, blocks, code_bytes};
use super::{check_len, magnitude_bits, quotient};
use crate::Result;

/// What a code stands for, in units of its block's scale.
pub const LEVELS: [f32; 16] = [-8., -7., -6., -5., -4., -3., -2., -1., 0., 1., 2., 3., 4., 5., 6., 7.];

/// `codes, scales = int4(weights)`; overwrites both. Shapes and errors as [`nf4::quantize`](super::nf4::quantize), with `scales` in
/// the place of absmax.
pub fn quantize(weights: &[f32], codes: &mut [u8], scales: &mut [f32]) -> Result<()> {
    check_len("int4::quantize", "bytes of codes", codes.len(), code_bytes(weights.len()))?;
    check_len("int4::quantize", "scales", scales.len(), blocks(weights.len()))?;
    for ((block, packed), scale) in weights.chunks(BLOCK).zip(codes.chunks_mut(BLOCK / 2)).zip(scales) {
        *scale = f32::from_bits(magnitude_bits(block)) / 7.0;
        let mut codes = [0; BLOCK];
        for (code, &w) in codes.iter_mut().zip(block) {
            *code = (quotient(w, *scale, 7) + 8) as u8;
        }
        pack(&codes[..block.len()], packed, 8);
    }
    Ok(())
}

/// `out[i] = (code[i] - 8) * scale[i / 64]`; overwrites `out [n] f32`. Shapes and errors as [`quantize`].
pub fn dequantize(codes: &[u8], scales: &[f32], out: &mut [f32]) -> Result<()> {
    block4::dequantize("int4::dequantize", &LEVELS, codes, scales, out)
}
