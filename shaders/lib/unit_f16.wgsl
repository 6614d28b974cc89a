// Eight f16 a unit of four words.
fn scale_of(unit: u32) -> f32 {
    return 1.0;
}

fn part4(words: vec4<u32>, part: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(words[2u * part]), unpack2x16float(words[2u * part + 1u]));
}
