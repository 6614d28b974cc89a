//! f16 and bf16, in little-endian bytes as files and buffers hold them.
//!
//! f16 (IEEE binary16): 1 sign, 5 exponent and 10 fraction bits; to 65504, 3 digits. bf16: the upper half of an f32, 8 exponent
//! and 7 fraction bits; the range of f32, 2 digits. Both take 16 bits a weight, round to nearest with halves to even, and widen
//! to f32 without loss.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::{check_len, magnitude_bits};
use crate::{Error, Result};

/// Elements converted at a time: files need not be aligned, so they pass through an aligned buffer of this size.
const PIECE: usize = 512;

/// The least magnitude that rounds to infinity in f16.
const F16_OVERFLOW: f32 = 65520.0;

/// `out[i] = f32(bytes[2 i ..])`; overwrites `out [n] f32`. Errs unless `bytes` is 2 n long.
pub fn decode_f16(bytes: &[u8], out: &mut [f32]) -> Result<()> {
    check_len("float16::decode_f16", "bytes", bytes.len(), 2 * out.len())?;
    decode::<f16>(bytes, out);
    Ok(())
}

/// `out[i] = f32(bytes[2 i ..])`; overwrites `out [n] f32`. Errs unless `bytes` is 2 n long.
pub fn decode_bf16(bytes: &[u8], out: &mut [f32]) -> Result<()> {
    check_len("float16::decode_bf16", "bytes", bytes.len(), 2 * out.len())?;
    decode::<bf16>(bytes, out);
    Ok(())
}

/// `bytes[2 i ..] = f16(weights[i])`; overwrites. Errs unless `bytes` is 2 n long, and when a finite weight is beyond f16.
pub fn encode_f16(weights: &[f32], bytes: &mut [u8]) -> Result<()> {
    check_len("float16::encode_f16", "bytes", bytes.len(), 2 * weights.len())?;
    let overflows = |w: &&f32| w.is_finite() && w.abs() >= F16_OVERFLOW;
    if magnitude_bits(weights) >= F16_OVERFLOW.to_bits()
        && let Some(w) = weights.iter().find(overflows)
    {
        return Err(Error::Unsupported {
            what: format!("a weight of {w} in f16, whose largest value is 65504,"),
            supported: "bf16, f32".to_owned(),
        });
    }
    encode::<f16>(weights, bytes);
    Ok(())
}

/// `bytes[2 i ..] = bf16(weights[i])`; overwrites. Errs unless `bytes` is 2 n long.
pub fn encode_bf16(weights: &[f32], bytes: &mut [u8]) -> Result<()> {
    check_len("float16::encode_bf16", "bytes", bytes.len(), 2 * weights.len())?;
    encode::<bf16>(weights, bytes);
    Ok(())
}

fn decode<H: bytemuck::Pod>(bytes: &[u8], out: &mut [f32])
where
    [H]: HalfFloatSliceExt,
{
    let mut piece = [H::zeroed(); PIECE];
    for (bytes, out) in bytes.chunks(2 * PIECE).zip(out.chunks_mut(PIECE)) {
        let piece = &mut piece[..out.len()];
        bytemuck::cast_slice_mut(piece).copy_from_slice(bytes);
        piece.convert_to_f32_slice(out);
    }
}

fn encode<H: bytemuck::Pod>(weights: &[f32], bytes: &mut [u8])
where
    [H]: HalfFloatSliceExt,
{
    let mut piece = [H::zeroed(); PIECE];
    for (weights, bytes) in weights.chunks(PIECE).zip(bytes.chunks_mut(2 * PIECE)) {
        let piece = &mut piece[..weights.len()];
        piece.convert_from_f32_slice(weights);
        bytes.copy_from_slice(bytemuck::cast_slice(piece));
    }
}

const _: () = assert!(cfg!(target_endian = "little"), "the casts above take the machine's bytes for the file's");
