//! NormalFloat4, the 4-bit type of QLoRA: 16 levels that a standard normal distribution would fill evenly.
//!
//! Weights are cut into blocks of [`BLOCK`] = 64 along the flat, row-major tensor. Each block keeps the largest magnitude in
//! it, and each weight the index of the nearest level once the block is scaled to [-1, 1]:
//!
//! ```text
//! absmax[b] = max |w[i]|               over the block b = i / 64
//! code[i]   = nearest level to w[i] / absmax[b]
//! w'[i]     = LEVELS[code[i]] * absmax[b]
//! ```
//!
//! 4 bits a weight, and 32 bits of absmax for 64 of them: 4.5 bits; with [double quantization](super::double_quant) 4.127.
//! Weights of trained layers are close to normal within a block, which is why these levels lose less than 16 even steps.
//!
//! Source: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs" (arXiv 2305.14314), section 3. Codes and absmax
//! equal, byte for byte, those that bitsandbytes 0.50 makes on a CPU from the same f32 weights.

use super::block4::{self, Codebook};
pub use super::block4::{BLOCK, blocks, code_bytes};
use super::double_quant::DoubleQuant;
use crate::Result;

/// The 16 levels by code, ascending (QLoRA appendix E; `get_4bit_type("nf4")` of bitsandbytes).
pub const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

const CODEBOOK: Codebook = Codebook::new(LEVELS, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

/// `codes, absmax = nf4(weights)`; overwrites both.
///
/// - `weights [n] f32`: a whole tensor, or a piece of one that starts at a multiple of 64 elements and, unless it is the
///   last, ends at one: pieces quantized apart equal the tensor quantized at once.
/// - `codes [code_bytes(n)]`: two a byte, the earlier weight in the high nibble.
/// - `absmax [blocks(n)] f32`. A NaN among the weights makes its block's absmax NaN, so that it is not lost.
///
/// Errs when a length does not fit.
pub fn quantize(weights: &[f32], codes: &mut [u8], absmax: &mut [f32]) -> Result<()> {
    CODEBOOK.quantize("nf4::quantize", weights, codes, absmax)
}

/// `out[i] = LEVELS[code[i]] * absmax[i / 64]`; overwrites `out [n] f32`. Shapes and errors as [`quantize`].
pub fn dequantize(codes: &[u8], absmax: &[f32], out: &mut [f32]) -> Result<()> {
    block4::dequantize("nf4::dequantize", &LEVELS, codes, absmax, out)
}

/// A tensor in NF4.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4 {
    /// Weights (elements).
    pub len: usize,
    /// `[code_bytes(len)]`, high nibble first.
    pub codes: Vec<u8>,
    /// One value a block, plain or quantized in its turn.
    pub absmax: Absmax,
}

/// The absmax of every block.
#[derive(Clone, Debug, PartialEq)]
pub enum Absmax {
    /// `[blocks(len)] f32`.
    F32(Vec<f32>),
    /// 8 bits a value.
    Double(DoubleQuant),
}

impl Nf4 {
    /// Quantizes a whole tensor, `weights` flat and row-major.
    pub fn quantize(weights: &[f32], double_quant: bool) -> Nf4 {
        let mut codes = vec![0; code_bytes(weights.len())];
        let mut absmax = vec![0.0; blocks(weights.len())];
        quantize(weights, &mut codes, &mut absmax).expect("both buffers were sized for these weights");
        let absmax = if double_quant { Absmax::Double(DoubleQuant::quantize(&absmax)) } else { Absmax::F32(absmax) };
        Nf4 { len: weights.len(), codes, absmax }
    }

    /// The weights as the model sees them, `[len] f32`. Errs when the fields do not fit together.
    pub fn dequantize(&self) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.len];
        match &self.absmax {
            Absmax::F32(absmax) => dequantize(&self.codes, absmax, &mut out)?,
            Absmax::Double(absmax) => dequantize(&self.codes, &absmax.dequantize()?, &mut out)?,
        }
        Ok(out)
    }
}
