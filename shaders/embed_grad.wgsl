// dtable[tokens[n]] += dy[n]; one invocation a column goes through the tokens in order, so that the sum has one order.

struct Params { tokens: u32, cols: u32, first_row: u32, rows: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;        // [tokens]
@group(0) @binding(2) var<storage, read_write> dy: array<f32>;      // [tokens, cols]
@group(0) @binding(3) var<storage, read_write> dtable: array<f32>;  // [rows, cols]

@compute @workgroup_size(WG_SIZE)
fn backward_table(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let col = linear_index(id, groups);
    if col >= params.cols { return; }
    for (var n = 0u; n < params.tokens; n++) {
        let token = tokens[n];
        if token < params.rows { dtable[token * params.cols + col] += dy[n * params.cols + col]; }
    }
}
