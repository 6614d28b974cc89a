// A weight [out, in] stored as int8 codes, four to a u32, and one scale a row.
@group(0) @binding(WEIGHT) var<storage, read> w_codes: array<u32>;
@group(0) @binding(WEIGHT + 1) var<storage, read> w_scale: array<f32>;  // [out]

fn weight_at(row: u32, col: u32) -> f32 {
    let i = row * params.in_features + col;
    let code = extractBits(bitcast<i32>(w_codes[i / 4u]), (i % 4u) * 8u, 8u);
    return f32(code) * w_scale[row];
}
