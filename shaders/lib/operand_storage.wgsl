// Images as storage textures: what llvmpipe reads fastest.
alias Operand = texture_storage_2d<rgba32float, read>;

fn texel(image: Operand, x: u32, y: u32) -> vec4<f32> {
    return textureLoad(image, vec2<u32>(x, y));
}
