// b is a weight in blocks of 64 four-bit codes, its rows whole groups of four. `level_of` and `absmax_of` as in weight_4bit.
@group(0) @binding(WEIGHT) var<storage, read> b_codes: array<u32>;

fn b4(row: u32, col: u32, limit: u32) -> vec4<f32> {
    let i = row * params.in_features + col;
    let codes = b_codes[i / 8u] >> (i % 8u * 4u);
    let levels = vec4<f32>(level_of(codes >> 4u), level_of(codes), level_of(codes >> 12u), level_of(codes >> 8u));
    return levels * absmax_of(i / 64u);
}
