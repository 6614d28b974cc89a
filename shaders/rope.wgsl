// Rotates pairs (x[i], x[half + i]) of each head by the angle of the row's position, in place; one invocation a (row, i)
// goes through the heads, which share the angle.

struct Params { rows: u32, heads: u32, head_dim: u32, half: u32, positions: u32, sign: f32, pad0: u32, pad1: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;   // [rows, heads head_dim]
@group(0) @binding(2) var<storage, read> positions: array<u32>; // [rows]
@group(0) @binding(3) var<storage, read> cos_sin: array<f32>;   // [positions, 2 half]

@compute @workgroup_size(WG_SIZE)
fn rotate(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i >= params.rows * params.half { return; }
    let row = i / params.half;
    let col = i % params.half;
    let angle = min(positions[row], params.positions - 1u) * 2u * params.half + col;
    let c = cos_sin[angle];
    let s = params.sign * cos_sin[angle + params.half];
    var at = row * params.heads * params.head_dim + col;
    for (var head = 0u; head < params.heads; head++) {
        let a = x[at];
        let b = x[at + params.half];
        x[at] = a * c - b * s;
        x[at + params.half] = b * c + a * s;
        at += params.head_dim;
    }
}
