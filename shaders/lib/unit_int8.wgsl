// 16 int8 codes a unit of four words, one scale a row.
@group(0) @binding(WEIGHT + 1) var<storage, read> b_scale: array<f32>;

fn scale_of(unit: u32) -> f32 {
    return b_scale[unit * 16u / params.in_features];
}

fn part4(words: vec4<u32>, part: u32) -> vec4<f32> {
    let word = bitcast<i32>(words[part]);
    return vec4<f32>(vec4<i32>(word << 24u, word << 16u, word << 8u, word) >> vec4<u32>(24u));
}
