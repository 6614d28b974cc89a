// One f32 a block.
@group(0) @binding(WEIGHT + 1) var<storage, read> w_absmax: array<f32>;

fn absmax_of(block: u32) -> f32 {
    return w_absmax[block];
}
