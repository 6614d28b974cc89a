// b is a weight stored as f16, its rows whole groups of four.
@group(0) @binding(WEIGHT) var<storage, read> b: array<vec2<u32>>;

fn b4(row: u32, col: u32, limit: u32) -> vec4<f32> {
    let words = b[(row * params.in_features + col) / 4u];
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
