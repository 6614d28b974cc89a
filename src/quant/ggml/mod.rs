//! The tensor types of GGUF files: their names and sizes, and their conversion to and from f32.
//!
//! Every type but the plain floats cuts a row into blocks; a block's bytes hold its scales and its packed codes. What each block
//! means stands in `q32.rs` (blocks of 32) and `k_quants.rs` (blocks of 256). Source: `ggml-common.h` and `ggml-quants.c` of ggml
//! (the `quantize_row_*_ref` and `dequantize_row_*` functions); decoded values are equal to theirs, bit for bit.

mod k_quants;
mod q32;
mod q4_k_search;

use std::fmt;

use super::{check_len, float16, magnitude_bits};
use crate::{Error, Result};

/// A tensor type that Espalier reads.
#[expect(non_camel_case_types, reason = "the format's own names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GgmlType {
    F32,
    F16,
    BF16,
    /// 8.5 bits a weight: `d q`.
    Q8_0,
    /// 4.5 bits: `d (q - 8)`.
    Q4_0,
    /// 5 bits: `d q + m`.
    Q4_1,
    /// 5.5 bits: `d (q - 16)`.
    Q5_0,
    /// 6 bits: `d q + m`.
    Q5_1,
    /// 4.5 bits: `d sc q - dmin m`, with 6-bit `sc`, `m` for each 32 of 256.
    Q4_K,
    /// 5.5 bits: as Q4_K, with one more bit a weight.
    Q5_K,
    /// 6.5625 bits: `d sc (q - 32)`, with 8-bit `sc` for each 16 of 256.
    Q6_K,
}

struct Row {
    ggml: GgmlType,
    id: u32,
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
}

const fn row(ggml: GgmlType, id: u32, name: &'static str, block_len: usize, block_bytes: usize) -> Row {
    Row { ggml, id, name, block_len, block_bytes }
}

/// In the order of the enum, which is how [`GgmlType::row`] finds one.
const TYPES: [Row; 11] = [
    row(GgmlType::F32, 0, "F32", 1, 4),
    row(GgmlType::F16, 1, "F16", 1, 2),
    row(GgmlType::BF16, 30, "BF16", 1, 2),
    row(GgmlType::Q8_0, 8, "Q8_0", 32, q32::Q8_0_BYTES),
    row(GgmlType::Q4_0, 2, "Q4_0", 32, q32::Q4_0_BYTES),
    row(GgmlType::Q4_1, 3, "Q4_1", 32, q32::Q4_1_BYTES),
    row(GgmlType::Q5_0, 6, "Q5_0", 32, q32::Q5_0_BYTES),
    row(GgmlType::Q5_1, 7, "Q5_1", 32, q32::Q5_1_BYTES),
    row(GgmlType::Q4_K, 12, "Q4_K", 256, k_quants::Q4_K_BYTES),
    row(GgmlType::Q5_K, 13, "Q5_K", 256, k_quants::Q5_K_BYTES),
    row(GgmlType::Q6_K, 14, "Q6_K", 256, k_quants::Q6_K_BYTES),
];

/// Types that exist and are not read, so that a refusal can name them (`enum ggml_type` in `ggml.h`).
const UNSUPPORTED: [(u32, &str); 24] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (42, "Q2_0"),
];

impl GgmlType {
    /// Every type that [`decode`] reads.
    pub const ALL: [GgmlType; 11] = {
        let mut all = [GgmlType::F32; 11];
        let mut i = 0;
        while i < 11 {
            all[i] = TYPES[i].ggml;
            i += 1;
        }
        all
    };

    /// Every type that [`encode`] writes.
    pub const WRITABLE: [GgmlType; 6] =
        [GgmlType::F32, GgmlType::F16, GgmlType::BF16, GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::Q4_K];

    const fn row(self) -> &'static Row {
        &TYPES[self as usize]
    }

    /// The type number in a GGUF tensor header.
    pub const fn id(self) -> u32 {
        self.row().id
    }

    /// The name that llama.cpp gives it, `Q4_K` for instance.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Weights in a block (elements); a row's length is a multiple of it.
    pub const fn block_len(self) -> usize {
        self.row().block_len
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.row().block_bytes
    }

    /// The type with this number. Errs with the name of a type that is not read, or with the number where there is none.
    pub fn from_id(id: u32) -> Result<GgmlType> {
        if let Some(row) = TYPES.iter().find(|row| row.id == id) {
            return Ok(row.ggml);
        }
        let what = match UNSUPPORTED.iter().find(|(known, _)| *known == id) {
            Some((_, name)) => format!("GGML tensor type {name}"),
            None => format!("GGML tensor type number {id}"),
        };
        Err(Error::Unsupported { what, supported: names(&GgmlType::ALL) })
    }

    /// Bytes of `elements` weights: `elements / block_len * block_bytes`. None where `elements` is no multiple of the block, or
    /// the product exceeds 64 bits.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        let block_len = self.block_len() as u64;
        elements.is_multiple_of(block_len).then(|| (elements / block_len).checked_mul(self.block_bytes() as u64))?
    }

    /// Whether [`encode`] writes it.
    pub fn is_writable(self) -> bool {
        GgmlType::WRITABLE.contains(&self)
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for GgmlType {
    type Err = Error;

    /// By name, in either case: `q8_0`, `Q8_0`.
    fn from_str(name: &str) -> Result<GgmlType> {
        let found = TYPES.iter().find(|row| row.name.eq_ignore_ascii_case(name)).map(|row| row.ggml);
        found.ok_or_else(|| Error::Unsupported {
            what: format!("GGML tensor type {name}"),
            supported: names(&GgmlType::ALL),
        })
    }
}

fn names(types: &[GgmlType]) -> String {
    types.iter().map(|ggml| ggml.name()).collect::<Vec<_>>().join(", ")
}

/// Decodes whole blocks: `bytes [out.len() / block_len * block_bytes]` into `out [n] f32`, which it overwrites.
///
/// Any piece that starts and ends at a block may be decoded on its own. Errs when `n` is no multiple of the block or `bytes` has
/// another length; any bytes of the right length decode to something (infinite or NaN where their f16 scales are).
pub fn decode(ggml: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    check_blocks("ggml::decode", ggml, out.len(), bytes.len())?;
    match ggml {
        GgmlType::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        GgmlType::F16 => float16::decode_f16(bytes, out)?,
        GgmlType::BF16 => float16::decode_bf16(bytes, out)?,
        GgmlType::Q8_0 => decode_blocks(q32::decode_q8_0, bytes, out),
        GgmlType::Q4_0 => decode_blocks(q32::decode_q4_0, bytes, out),
        GgmlType::Q4_1 => decode_blocks(q32::decode_q4_1, bytes, out),
        GgmlType::Q5_0 => decode_blocks(q32::decode_q5_0, bytes, out),
        GgmlType::Q5_1 => decode_blocks(q32::decode_q5_1, bytes, out),
        GgmlType::Q4_K => decode_blocks(k_quants::decode_q4_k, bytes, out),
        GgmlType::Q5_K => decode_blocks(k_quants::decode_q5_k, bytes, out),
        GgmlType::Q6_K => decode_blocks(k_quants::decode_q6_k, bytes, out),
    }
    Ok(())
}

/// Encodes whole blocks: `weights [n] f32` into `bytes [n / block_len * block_bytes]`, which it overwrites.
///
/// The bytes are those of llama.cpp's reference functions. Errs for types outside [`GgmlType::WRITABLE`], when a length does not
/// fit, when a weight is too large for F16, and when one is NaN or infinite and the type has codes, which cannot show it.
pub fn encode(ggml: GgmlType, weights: &[f32], bytes: &mut [u8]) -> Result<()> {
    check_blocks("ggml::encode", ggml, weights.len(), bytes.len())?;
    if ggml.block_len() > 1 && magnitude_bits(weights) >= f32::INFINITY.to_bits() {
        return Err(Error::Unsupported {
            what: format!("a NaN or infinite weight in GGML tensor type {ggml}"),
            supported: "F32, BF16".to_owned(),
        });
    }
    match ggml {
        GgmlType::F32 => {
            for (bytes, w) in bytes.as_chunks_mut().0.iter_mut().zip(weights) {
                *bytes = w.to_le_bytes();
            }
        }
        GgmlType::F16 => float16::encode_f16(weights, bytes)?,
        GgmlType::BF16 => float16::encode_bf16(weights, bytes)?,
        GgmlType::Q8_0 => encode_blocks(q32::encode_q8_0, weights, bytes),
        GgmlType::Q4_0 => encode_blocks(q32::encode_q4_0, weights, bytes),
        GgmlType::Q4_K => encode_blocks(q4_k_search::encode_q4_k, weights, bytes),
        GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q5_K | GgmlType::Q6_K => {
            return Err(Error::Unsupported {
                what: format!("writing GGML tensor type {ggml}"),
                supported: names(&GgmlType::WRITABLE),
            });
        }
    }
    Ok(())
}

fn check_blocks(op: &'static str, ggml: GgmlType, elements: usize, bytes: usize) -> Result<()> {
    let block_len = ggml.block_len();
    if !elements.is_multiple_of(block_len) {
        return Err(Error::shape(op, format!("{elements} weights are no multiple of {ggml}'s block of {block_len}")));
    }
    check_len(op, "bytes", bytes, elements / block_len * ggml.block_bytes())
}

fn decode_blocks<const BYTES: usize, const LEN: usize>(
    decode: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
    bytes: &[u8],
    out: &mut [f32],
) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, out);
    }
}

fn encode_blocks<const BYTES: usize, const LEN: usize>(
    encode: impl Fn(&[f32; LEN], &mut [u8; BYTES]),
    weights: &[f32],
    bytes: &mut [u8],
) {
    for (weights, block) in weights.as_chunks().0.iter().zip(bytes.as_chunks_mut().0) {
        encode(weights, block);
    }
}

/// The f16 at byte `at` of a block.
fn f16_at(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
