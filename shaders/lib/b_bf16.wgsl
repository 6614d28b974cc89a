// b is a weight stored as bf16, its rows whole groups of four.
@group(0) @binding(WEIGHT) var<storage, read> b: array<vec2<u32>>;

fn b4(row: u32, col: u32, limit: u32) -> vec4<f32> {
    let words = b[(row * params.in_features + col) / 4u];
    let bits = vec4<u32>(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u);
    return bitcast<vec4<f32>>(bits);
}
