//! Blocks of 32 weights: one f16 scale `d`, in the `_1` types an f16 minimum `m`, and 4, 5 or 8 bits a weight.
//!
//! Four-bit parts are packed in halves: byte i holds weight i in its low nibble and weight i + 16 in its high one. A fifth
//! bit stands apart, bit i of a little-endian u32 for weight i.

use super::f16_at;

const LEN: usize = 32;
const HALF: usize = LEN / 2;

/// `d` f16, 32 codes i8.
pub(super) const Q8_0_BYTES: usize = 2 + LEN;
/// `d` f16, 16 bytes of nibbles.
pub(super) const Q4_0_BYTES: usize = 2 + HALF;
/// `d`, `m` f16, 16 bytes of nibbles.
pub(super) const Q4_1_BYTES: usize = 4 + HALF;
/// `d` f16, 32 fifth bits, 16 bytes of nibbles.
pub(super) const Q5_0_BYTES: usize = 2 + 4 + HALF;
/// `d`, `m` f16, 32 fifth bits, 16 bytes of nibbles.
pub(super) const Q5_1_BYTES: usize = 4 + 4 + HALF;

/// `w[i] = d q[i]`.
pub(super) fn decode_q8_0(block: &[u8; Q8_0_BYTES], out: &mut [f32; LEN]) {
    let d = f16_at(block, 0);
    for (out, &q) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(q as i8) * d;
    }
}

/// `w[i] = d (q[i] - 8)`.
pub(super) fn decode_q4_0(block: &[u8; Q4_0_BYTES], out: &mut [f32; LEN]) {
    let d = f16_at(block, 0);
    nibbles(&block[2..], out, |_, q| f32::from(q as i8 - 8) * d);
}

/// `w[i] = d q[i] + m`.
pub(super) fn decode_q4_1(block: &[u8; Q4_1_BYTES], out: &mut [f32; LEN]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    nibbles(&block[4..], out, |_, q| f32::from(q) * d + m);
}

/// `w[i] = d (q[i] - 16)`, q of 5 bits.
pub(super) fn decode_q5_0(block: &[u8; Q5_0_BYTES], out: &mut [f32; LEN]) {
    let (d, fifth) = (f16_at(block, 0), fifth_bits(block, 2));
    nibbles(&block[6..], out, |i, q| f32::from(with_fifth(q, fifth, i) as i8 - 16) * d);
}

/// `w[i] = d q[i] + m`, q of 5 bits.
pub(super) fn decode_q5_1(block: &[u8; Q5_1_BYTES], out: &mut [f32; LEN]) {
    let (d, m, fifth) = (f16_at(block, 0), f16_at(block, 2), fifth_bits(block, 4));
    nibbles(&block[8..], out, |i, q| f32::from(with_fifth(q, fifth, i)) * d + m);
}

/// `out[i] = value(i, nibble i)` for the 32 nibbles of 16 bytes.
#[inline(always)]
fn nibbles(packed: &[u8], out: &mut [f32; LEN], value: impl Fn(usize, u8) -> f32) {
    let (low, high) = out.split_at_mut(HALF);
    for (i, ((low, high), &byte)) in low.iter_mut().zip(high).zip(packed).enumerate() {
        *low = value(i, byte & 15);
        *high = value(i + HALF, byte >> 4);
    }
}

fn fifth_bits(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

fn with_fifth(nibble: u8, fifth: u32, i: usize) -> u8 {
    nibble | ((fifth >> i & 1) as u8) << 4
}

/// `d = max |w| / 127`, `q[i] = round(w[i] / d)`, halves away from zero.
pub(super) fn encode_q8_0(weights: &[f32; LEN], block: &mut [u8; Q8_0_BYTES]) {
    let d = weights.iter().fold(0.0, |most: f32, w| most.max(w.abs())) / 127.0;
    let inverse = reciprocal(d);
    block[..2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
    for (q, w) in block[2..].iter_mut().zip(weights) {
        *q = (w * inverse).round() as i8 as u8;
    }
}

/// `d = w[k] / -8` with k the place of the largest magnitude, so that it gets the code 0 exactly; `q[i] = w[i] / d + 8`
/// rounded, at most 15.
pub(super) fn encode_q4_0(weights: &[f32; LEN], block: &mut [u8; Q4_0_BYTES]) {
    let mut extreme = 0.0f32;
    for &w in weights {
        if w.abs() > extreme.abs() {
            extreme = w;
        }
    }
    let d = extreme / -8.0;
    let inverse = reciprocal(d);
    block[..2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
    let code = |w: f32| ((w * inverse + 8.5) as i8).clamp(0, 15) as u8;
    for (i, byte) in block[2..].iter_mut().enumerate() {
        *byte = code(weights[i]) | code(weights[i + HALF]) << 4;
    }
}

fn reciprocal(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}
