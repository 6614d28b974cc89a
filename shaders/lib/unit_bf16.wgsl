// Eight bf16 a unit of four words.
fn scale_of(unit: u32) -> f32 {
    return 1.0;
}

fn part4(words: vec4<u32>, part: u32) -> vec4<f32> {
    let low = words[2u * part];
    let high = words[2u * part + 1u];
    return bitcast<vec4<f32>>(vec4<u32>(low << 16u, low & 0xffff0000u, high << 16u, high & 0xffff0000u));
}
