// A weight [out, in] stored as f32.
@group(0) @binding(WEIGHT) var<storage, read> w_data: array<f32>;

fn weight_at(row: u32, col: u32) -> f32 {
    return w_data[row * params.in_features + col];
}
