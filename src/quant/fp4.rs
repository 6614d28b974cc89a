//! FP4, bitsandbytes' 4-bit float: 1 sign, 2 exponent and 1 fraction bit, scaled so that the largest level is 1.
//!
//! Blocks, packing and absmax are those of [NF4](super::nf4), 4.5 bits a weight; only the levels differ: 0, 1/192, 1/6, 1/4, 1/3,
//! 1/2, 2/3 and 1, with both signs. Codes are bit patterns, so they do not ascend with their levels. Measured on trained weights,
//! FP4 loses about 1.4 times as much as NF4; it is here for models that were quantized with it.
//!
//! Source: `get_4bit_type("fp4")` of bitsandbytes; codes and absmax equal those of its 0.50 on a CPU, byte for byte.

use super::block4::{self, Codebook};
pub use super::block4::{BLOCK, blocks, code_bytes};
use crate::Result;

/// The 16 levels by code. Code 8 is a zero too; bitsandbytes gives it to positive weights too small for the next level.
pub const LEVELS: [f32; 16] = [
    0.0,
    0.0625 / 12.0,
    8.0 / 12.0,
    1.0,
    4.0 / 12.0,
    6.0 / 12.0,
    2.0 / 12.0,
    3.0 / 12.0,
    0.0,
    -0.0625 / 12.0,
    -8.0 / 12.0,
    -1.0,
    -4.0 / 12.0,
    -6.0 / 12.0,
    -2.0 / 12.0,
    -3.0 / 12.0,
];

const CODEBOOK: Codebook = Codebook::new(LEVELS, [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3]);

/// `codes, absmax = fp4(weights)`; overwrites both. Shapes and errors as [`nf4::quantize`](super::nf4::quantize).
pub fn quantize(weights: &[f32], codes: &mut [u8], absmax: &mut [f32]) -> Result<()> {
    CODEBOOK.quantize("fp4::quantize", weights, codes, absmax)
}

/// `out[i] = LEVELS[code[i]] * absmax[i / 64]`; overwrites `out [n] f32`. Shapes and errors as [`quantize`].
pub fn dequantize(codes: &[u8], absmax: &[f32], out: &mut [f32]) -> Result<()> {
    block4::dequantize("fp4::dequantize", &LEVELS, codes, absmax, out)
}
