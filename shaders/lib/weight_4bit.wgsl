// A weight [out, in] in blocks of 64 four-bit codes, flat row-major, the first of a byte in its high half.
// `level_of(code)` comes from the format, `absmax_of(block)` from how the scales are stored.
@group(0) @binding(WEIGHT) var<storage, read> w_codes: array<u32>;

fn weight_at(row: u32, col: u32) -> f32 {
    let i = row * params.in_features + col;
    let code = extractBits(w_codes[i / 8u], ((i % 8u) ^ 1u) * 4u, 4u);
    return level_of(code) * absmax_of(i / 64u);
}
