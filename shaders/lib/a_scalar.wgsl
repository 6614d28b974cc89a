// a in a buffer, rows of any length: zero at and past column `limit`.
@group(0) @binding(1) var<storage, read_write> a: array<f32>;

fn a4(row: u32, col: u32, limit: u32) -> vec4<f32> {
    let i = params.a_first + row * params.a_stride + col;
    var v = vec4<f32>();
    if col < limit { v.x = a[i]; }
    if col + 1u < limit { v.y = a[i + 1u]; }
    if col + 2u < limit { v.z = a[i + 2u]; }
    if col + 3u < limit { v.w = a[i + 3u]; }
    return v;
}
