//! Super-blocks of 256 weights ("k-quants"): f16 scales for the whole, short integer scales for its sub-blocks, and 4, 5 or 6
//! bits a weight.

use super::f16_at;

const LEN: usize = 256;

/// `d`, `dmin` f16; 12 bytes of 6-bit scales and minima; 128 bytes of nibbles.
pub(super) const Q4_K_BYTES: usize = 4 + SCALES + LEN / 2;
/// `d`, `dmin` f16; 12 bytes of 6-bit scales and minima; 32 bytes of fifth bits; 128 bytes of nibbles.
pub(super) const Q5_K_BYTES: usize = 4 + SCALES + LEN / 8 + LEN / 2;
/// 128 bytes of low nibbles; 64 bytes of upper bit pairs; 16 scales i8; `d` f16.
pub(super) const Q6_K_BYTES: usize = LEN / 2 + LEN / 4 + LEN / 16 + 2;

/// Bytes of the eight 6-bit scales and eight 6-bit minima of Q4_K and Q5_K.
const SCALES: usize = 12;

/// The 6-bit scale and minimum of sub-block `j` (0..8).
///
/// Those of 0..4 stand in the low six bits of bytes j (scale) and j + 4 (minimum). Those of 4..8 have their low four bits in
/// byte j + 4 (scale low, minimum high) and their upper two in the free bits of bytes j - 4 and j.
pub(super) fn scale_and_min(scales: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        (scales[j + 4] & 15 | scales[j - 4] >> 6 << 4, scales[j + 4] >> 4 | scales[j] >> 6 << 4)
    }
}

/// `w[i] = d sc[j] q[i] - dmin m[j]`, j = i / 32.
///
/// Nibbles run in 64s: 32 bytes hold sub-block 2k in their low nibbles and 2k + 1 in their high ones.
pub(super) fn decode_q4_k(block: &[u8; Q4_K_BYTES], out: &mut [f32; LEN]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let (scales, packed) = block[4..].split_at(SCALES);
    for (k, (out, packed)) in out.chunks_mut(64).zip(packed.chunks(32)).enumerate() {
        let (low, high) = out.split_at_mut(32);
        for (j, shift, out) in [(2 * k, 0, low), (2 * k + 1, 4, high)] {
            let (scale, min) = scale_and_min(scales, j);
            let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
            for (out, byte) in out.iter_mut().zip(packed) {
                *out = scale * f32::from(byte >> shift & 15) - min;
            }
        }
    }
}

/// As [`decode_q4_k`], with bit j of fifth-bit byte i % 32 on top of the nibble.
pub(super) fn decode_q5_k(block: &[u8; Q5_K_BYTES], out: &mut [f32; LEN]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let (scales, codes) = block[4..].split_at(SCALES);
    let (fifth, packed) = codes.split_at(LEN / 8);
    for (k, (out, packed)) in out.chunks_mut(64).zip(packed.chunks(32)).enumerate() {
        let (low, high) = out.split_at_mut(32);
        for (j, shift, out) in [(2 * k, 0, low), (2 * k + 1, 4, high)] {
            let (scale, min) = scale_and_min(scales, j);
            let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
            for ((out, byte), fifth) in out.iter_mut().zip(packed).zip(fifth) {
                let q = byte >> shift & 15 | (fifth >> j & 1) << 4;
                *out = scale * f32::from(q) - min;
            }
        }
    }
}

/// `w[i] = d sc[i / 16] (q[i] - 32)`, q of 6 bits.
///
/// Each half of 128 weights is four runs of 32: run r has its low four bits in nibble r / 2 of bytes 32 (r % 2) + l, and its
/// upper two in bit pair r of byte l.
pub(super) fn decode_q6_k(block: &[u8; Q6_K_BYTES], out: &mut [f32; LEN]) {
    let (low, rest) = block.split_at(LEN / 2);
    let (upper, rest) = rest.split_at(LEN / 4);
    let (scales, d) = rest.split_at(LEN / 16);
    let d = f16_at(d, 0);
    for (r, (out, scales)) in out.chunks_mut(32).zip(scales.chunks(2)).enumerate() {
        let (half, r) = (r / 4, r % 4);
        let low = &low[64 * half + 32 * (r % 2)..][..32];
        let upper = &upper[32 * half..][..32];
        for (l, ((out, low), upper)) in out.iter_mut().zip(low).zip(upper).enumerate() {
            let q = low >> (4 * (r / 2)) & 15 | (upper >> (2 * r) & 3) << 4;
            *out = d * f32::from(scales[l / 16] as i8) * f32::from(q as i8 - 32);
        }
    }
}
