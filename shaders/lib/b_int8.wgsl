// b is a weight stored as int8 codes and one scale a row, its rows whole groups of four.
@group(0) @binding(WEIGHT) var<storage, read> b_codes: array<u32>;
@group(0) @binding(WEIGHT + 1) var<storage, read> b_scale: array<f32>;

fn b4(row: u32, col: u32, limit: u32) -> vec4<f32> {
    let word = bitcast<i32>(b_codes[(row * params.in_features + col) / 4u]);
    return vec4<f32>(vec4<i32>(word << 24u, word << 16u, word << 8u, word) >> vec4<u32>(24u)) * b_scale[row];
}
