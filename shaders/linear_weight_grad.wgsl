// dW [out, in] += scale dy^T x, one invocation an element.

struct Params { rows: u32, in_features: u32, out_features: u32, scale: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;   // [rows, in]
@group(0) @binding(2) var<storage, read_write> dy: array<f32>;  // [rows, out]
@group(0) @binding(3) var<storage, read_write> dw: array<f32>;  // [out, in]

@compute @workgroup_size(WG_SIZE)
fn backward_weight(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i >= params.in_features * params.out_features { return; }
    let row = i / params.in_features;
    let col = i % params.in_features;
    var sum = 0.0;
    for (var n = 0u; n < params.rows; n++) {
        sum += dy[n * params.out_features + row] * x[n * params.in_features + col];
    }
    dw[i] += params.scale * sum;
}
