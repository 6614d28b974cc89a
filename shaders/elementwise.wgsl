// y = a + y and y = a over n elements.

struct Params { n: u32, pad0: u32, pad1: u32, pad2: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> a: array<f32>;  // [n]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;  // [n]

@compute @workgroup_size(WG_SIZE)
fn add(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i < params.n { y[i] = a[i] + y[i]; }
}

@compute @workgroup_size(WG_SIZE)
fn copy(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i < params.n { y[i] = a[i]; }
}
