// 32 four-bit codes a unit of four words. `level_of` and `absmax_of` as in weight_4bit.
fn scale_of(unit: u32) -> f32 {
    return absmax_of(unit / 2u);
}

fn part4(words: vec4<u32>, part: u32) -> vec4<f32> {
    let codes = words[part / 2u] >> (part % 2u * 16u);
    return vec4<f32>(level_of(codes >> 4u), level_of(codes), level_of(codes >> 12u), level_of(codes >> 8u));
}
