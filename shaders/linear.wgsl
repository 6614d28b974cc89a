// Products with a weight W [out, in], one invocation an element: correct for every format and shape, and slow.
// `weight_at(row, col)` comes from the fragment of the weight's format.

struct Params { rows: u32, in_features: u32, out_features: u32, first_out: u32, shard_out: u32, scale: f32, pad0: u32, pad1: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;  // [rows, in]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;  // [rows, out]

// y[:, shard] (+)= scale x W^T
@compute @workgroup_size(WG_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i >= params.rows * params.shard_out { return; }
    let row = i / params.shard_out;
    let col = i % params.shard_out;
    var sum = 0.0;
    for (var k = 0u; k < params.in_features; k++) { sum += x[row * params.in_features + k] * weight_at(col, k); }
    let at = row * params.out_features + params.first_out + col;
    sum *= params.scale;
    if ACCUMULATE { sum += y[at]; }
    y[at] = sum;
}

@group(0) @binding(1) var<storage, read_write> dy: array<f32>;  // [rows, out]
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;  // [rows, in]

// dx (+)= scale dy[:, shard] W
@compute @workgroup_size(WG_SIZE)
fn backward_input(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i >= params.rows * params.in_features { return; }
    let row = i / params.in_features;
    let col = i % params.in_features;
    var sum = 0.0;
    for (var k = 0u; k < params.shard_out; k++) {
        sum += dy[row * params.out_features + params.first_out + k] * weight_at(k, col);
    }
    sum *= params.scale;
    if ACCUMULATE { sum += dx[i]; }
    dx[i] = sum;
}
