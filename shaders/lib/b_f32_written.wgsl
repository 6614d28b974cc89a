// b is an activation, its rows whole vec4s.
@group(0) @binding(WEIGHT) var<storage, read_write> b: array<vec4<f32>>;

fn b4(row: u32, col: u32, limit: u32) -> vec4<f32> {
    return b[(params.b_first + row * params.in_features + col) / 4u];
}
