// b in an image, four values a texel.
@group(0) @binding(3) var b: Operand;

fn b4(row: u32, col: u32, limit: u32) -> vec4<f32> {
    return texel(b, col / 4u, row);
}
