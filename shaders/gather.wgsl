// y[r] = x[row_of[r]]; one invocation an element.

struct Params { rows: u32, cols: u32, gathered: u32, pad: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;  // [rows, cols]
@group(0) @binding(2) var<storage, read> row_of: array<u32>;   // [gathered]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;  // [gathered, cols]

@compute @workgroup_size(WG_SIZE)
fn gather(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i >= params.gathered * params.cols { return; }
    let row = row_of[i / params.cols];
    var value = 0.0;
    if row < params.rows { value = x[row * params.cols + i % params.cols]; }
    y[i] = value;
}
