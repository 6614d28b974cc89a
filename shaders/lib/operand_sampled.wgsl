// Images as sampled textures: what SwiftShader reads fastest.
alias Operand = texture_2d<f32>;

fn texel(image: Operand, x: u32, y: u32) -> vec4<f32> {
    return textureLoad(image, vec2<u32>(x, y), 0);
}
