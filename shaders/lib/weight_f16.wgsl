// A weight [out, in] stored as f16, two to a u32.
@group(0) @binding(WEIGHT) var<storage, read> w_data: array<u32>;

fn weight_at(row: u32, col: u32) -> f32 {
    let i = row * params.in_features + col;
    let pair = unpack2x16float(w_data[i / 2u]);
    return select(pair.x, pair.y, (i & 1u) == 1u);
}
