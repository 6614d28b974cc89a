// a in an image, four values a texel.
@group(0) @binding(1) var a: Operand;

fn a4(row: u32, col: u32, limit: u32) -> vec4<f32> {
    return texel(a, col / 4u, row);
}
