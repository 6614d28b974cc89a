// a in a buffer, its rows whole vec4s.
@group(0) @binding(1) var<storage, read_write> a: array<vec4<f32>>;

fn a4(row: u32, col: u32, limit: u32) -> vec4<f32> {
    return a[(params.a_first + row * params.a_stride + col) / 4u];
}
