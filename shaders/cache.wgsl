// cache[b slots + position[n]] = new[n] for row n of batch row b; one invocation an element.

struct Params { rows: u32, cols: u32, rows_per_batch: u32, slots: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> fresh: array<f32>;  // [rows, cols]
@group(0) @binding(2) var<storage, read> position: array<u32>;     // [rows]
@group(0) @binding(3) var<storage, read_write> cache: array<f32>;  // [batch slots, cols]

@compute @workgroup_size(WG_SIZE)
fn write(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i >= params.rows * params.cols { return; }
    let row = i / params.cols;
    let slot = position[row];
    if slot < params.slots {
        cache[(row / params.rows_per_batch * params.slots + slot) * params.cols + i % params.cols] = fresh[i];
    }
}
