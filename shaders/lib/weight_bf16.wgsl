// A weight [out, in] stored as bf16, two to a u32.
@group(0) @binding(WEIGHT) var<storage, read> w_data: array<u32>;

fn weight_at(row: u32, col: u32) -> f32 {
    let i = row * params.in_features + col;
    let word = w_data[i / 2u];
    return bitcast<f32>(select(word << 16u, word & 0xffff0000u, (i & 1u) == 1u));
}
