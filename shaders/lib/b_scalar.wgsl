// b in any format with `weight_at`, rows of any length: zero at and past column `limit`.
fn b4(row: u32, col: u32, limit: u32) -> vec4<f32> {
    var v = vec4<f32>();
    if col < limit { v.x = weight_at(row, col); }
    if col + 1u < limit { v.y = weight_at(row, col + 1u); }
    if col + 2u < limit { v.z = weight_at(row, col + 2u); }
    if col + 3u < limit { v.w = weight_at(row, col + 3u); }
    return v;
}
