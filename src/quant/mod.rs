//! Weight formats: what a frozen weight is stored as, encode and decode, in plain Rust.
//!
//! A quantized tensor keeps a small integer, the *code*, for each weight, and a *scale* (or the block's largest magnitude,
//! *absmax*) for each group of weights. Decoding is one multiplication, so kernels do it while they read; what is trained stays
//! in f32 beside it.
//!
//! | format | a weight decodes to | group | bits a weight, scales included |
//! |---|---|---|---|
//! | `f32` | itself | | 32 |
//! | `f16`, `bf16` | itself, rounded to 11 or 8 significant bits | | 16 |
//! | [`int8`] | `q scale`, q in -127..=127 | a row | 8 + 32 / columns |
//! | [`int4`] | `(q - 8) scale`, q in 1..=15 | 64 | 4 + 32/64 = 4.5 |
//! | [`fp4`] | `FP4[q] absmax` | 64 | 4.5 |
//! | [`nf4`] without double quantization | `NF4[q] absmax` | 64 | 4.5 |
//! | [`nf4`] with it | `NF4[q] (map[c] absmax2 + offset)` | 64, and 256 of these | 4 + 8/64 + 32/(64 * 256) = 4.127 |
//!
//! Error of the decoded weights, relative to their norm, on layer 0 of SmolLM2-135M (q_proj, down_proj): int8 1.0 %, 0.9 %; nf4
//! 10.1 %, 9.4 %, the same with double quantization to 0.02 %; int4 13.1 %, 11.4 %; fp4 14.1 %, 12.6 %.
//!
//! [`ggml`] holds the block formats of GGUF files, which are decoded while a model is read and encoded when one is exported.
//!
//! Everything works on slices, so that a tensor can be converted piece by piece as it streams in and pieces can be spread over
//! threads. A NaN or infinite weight makes the scale of its group NaN or infinite: decoded values show it.

mod block4;
pub mod double_quant;
pub mod float16;
pub mod fp4;
pub mod ggml;
pub mod int4;
pub mod int8;
pub mod nf4;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What a frozen weight is stored as on the device. By name in text and in serde: `f32 f16 bf16 int8 int4 fp4 nf4`, and
/// `nf4-no-double-quant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum WeightFormat {
    /// 32 bits a weight, as trained.
    F32,
    /// 16 bits: [`float16`].
    F16,
    /// 16 bits with the range of f32: [`float16`].
    Bf16,
    /// 8 bits and a scale a row: [`int8`].
    Int8,
    /// 4 bits and a scale a block of 64: [`int4`].
    Int4,
    /// 4-bit floats and an absmax a block of 64: [`fp4`].
    Fp4,
    /// QLoRA's 4 bits and an absmax a block of 64, which is itself in 8 bits where `double_quant`: [`nf4`], [`double_quant`].
    Nf4 { double_quant: bool },
}

/// Bytes of one weight matrix on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// The weights or their codes.
    pub codes: u64,
    /// Scales, absmax values, offsets.
    pub scales: u64,
}

impl WeightBytes {
    /// Codes and scales together.
    pub const fn total(self) -> u64 {
        self.codes + self.scales
    }
}

/// Device buffers are made of 32-bit words: the last one is filled up.
const WORD: u64 = 4;

impl WeightFormat {
    /// Every format, QLoRA's default first.
    pub const ALL: [WeightFormat; 8] = [
        WeightFormat::Nf4 { double_quant: true },
        WeightFormat::Nf4 { double_quant: false },
        WeightFormat::Fp4,
        WeightFormat::Int4,
        WeightFormat::Int8,
        WeightFormat::F16,
        WeightFormat::Bf16,
        WeightFormat::F32,
    ];

    /// The name in commands and files.
    pub const fn name(self) -> &'static str {
        match self {
            WeightFormat::F32 => "f32",
            WeightFormat::F16 => "f16",
            WeightFormat::Bf16 => "bf16",
            WeightFormat::Int8 => "int8",
            WeightFormat::Int4 => "int4",
            WeightFormat::Fp4 => "fp4",
            WeightFormat::Nf4 { double_quant: true } => "nf4",
            WeightFormat::Nf4 { double_quant: false } => "nf4-no-double-quant",
        }
    }

    /// Bytes that a weight `[rows, cols]` takes on the device, each array filled up to whole 32-bit words.
    ///
    /// With double quantization the scales are the 8-bit codes, one f32 for 256 of them, and the offset; the map that all tensors
    /// share (1 KiB) is not counted. Saturates at `u64::MAX`.
    pub fn bytes_for(self, rows: usize, cols: usize) -> WeightBytes {
        let len = (rows as u64).saturating_mul(cols as u64);
        let words = |bytes: u64| bytes.div_ceil(WORD).saturating_mul(WORD);
        let floats = |count: u64| count.saturating_mul(4);
        let blocks = len.div_ceil(nf4::BLOCK as u64);
        let (codes, scales) = match self {
            WeightFormat::F32 => (floats(len), 0),
            WeightFormat::F16 | WeightFormat::Bf16 => (words(len.saturating_mul(2)), 0),
            WeightFormat::Int8 => (words(len), floats(rows as u64)),
            WeightFormat::Int4 | WeightFormat::Fp4 | WeightFormat::Nf4 { double_quant: false } => {
                (words(len.div_ceil(2)), floats(blocks))
            }
            WeightFormat::Nf4 { double_quant: true } => {
                let second = blocks.div_ceil(double_quant::BLOCK as u64);
                (words(len.div_ceil(2)), words(blocks) + floats(second) + floats(1))
            }
        };
        WeightBytes { codes, scales }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for WeightFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<WeightFormat> {
        let found = WeightFormat::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| Error::Option {
            name: "weights".to_owned(),
            value: name.to_owned(),
            expected: format!("expected one of {}", WeightFormat::ALL.map(WeightFormat::name).join(", ")),
        })
    }
}

impl From<WeightFormat> for &'static str {
    fn from(format: WeightFormat) -> &'static str {
        format.name()
    }
}

impl TryFrom<String> for WeightFormat {
    type Error = Error;

    fn try_from(name: String) -> Result<WeightFormat> {
        name.parse()
    }
}

/// An error unless `what` has the length that the other slices ask for.
fn check_len(op: &'static str, what: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected { Ok(()) } else { Err(Error::shape(op, format!("{found} {what}, expected {expected}"))) }
}

/// The bits of the largest magnitude: of a NaN if there is one, since magnitudes are ordered as their bits are.
fn magnitude_bits(weights: &[f32]) -> u32 {
    // Signed, because the baseline x86-64 has a vector comparison for those only.
    weights.iter().fold(0, |most: i32, w| most.max((w.to_bits() & 0x7fff_ffff) as i32)) as u32
}

/// `x` rounded to an integer, halves to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no fraction bits. (The method of the
/// same name is a library call on the baseline x86-64.)
fn round_ties_even(x: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (x + NO_FRACTION) - NO_FRACTION
}

/// `round(w / scale)`, halves to even, within -max..=max; 0 where the scale is 0.
#[inline(always)]
fn quotient(w: f32, scale: f32, max: i8) -> i8 {
    let max = f32::from(max);
    round_ties_even((w / scale).clamp(-max, max)) as i8
}
