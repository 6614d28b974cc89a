// Double-quantized absmax: u8 codes; the 256 values they stand for, the mean, and one scale for each 256 blocks.
@group(0) @binding(WEIGHT + 1) var<storage, read> w_absmax_codes: array<u32>;
@group(0) @binding(WEIGHT + 2) var<storage, read> w_absmax2: array<f32>;

fn absmax_of(block: u32) -> f32 {
    let code = extractBits(w_absmax_codes[block / 4u], (block % 4u) * 8u, 8u);
    return w_absmax2[code] * w_absmax2[257u + block / 256u] + w_absmax2[256u];
}
