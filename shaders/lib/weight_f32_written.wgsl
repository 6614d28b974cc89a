// An activation in the place of a weight [out, in].
@group(0) @binding(WEIGHT) var<storage, read_write> w_data: array<f32>;

fn weight_at(row: u32, col: u32) -> f32 {
    return w_data[params.b_first + row * params.in_features + col];
}
