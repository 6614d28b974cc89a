// y[n] = table[tokens[n]], one invocation an element; a dispatch for each row shard of the table writes the tokens in it.
// `weight_at(row, col)` comes from the fragment of the table's format.

struct Params { tokens: u32, in_features: u32, first_row: u32, shard_rows: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;   // [tokens]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;  // [tokens, in_features]

@compute @workgroup_size(WG_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i >= params.tokens * params.in_features { return; }
    // Below the shard the difference wraps to a large number.
    let row = tokens[i / params.in_features] - params.first_row;
    if row < params.shard_rows {
        y[i] = weight_at(row, i % params.in_features);
    } else if FIRST {
        y[i] = 0.0;
    }
}
