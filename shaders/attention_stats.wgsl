// What the gradients of attention need of each query head, one invocation each: (lse, delta = do . o, first, end), the last
// two as f32, which holds positions up to 2^24 exactly.

struct Params { queries: u32, heads: u32, head_dim: u32, pad: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> o: array<f32>;           // [queries, heads, head_dim]
@group(0) @binding(2) var<storage, read_write> d_o: array<f32>;         // [queries, heads, head_dim]
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;         // [queries, heads]
@group(0) @binding(4) var<storage, read> first: array<u32>;             // [queries]
@group(0) @binding(5) var<storage, read> last: array<u32>;              // [queries]
@group(0) @binding(6) var<storage, read_write> stats: array<vec4<f32>>; // [queries, heads]

@compute @workgroup_size(WG_SIZE)
fn backward_stats(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i >= params.queries * params.heads { return; }
    var delta = 0.0;
    for (var d = 0u; d < params.head_dim; d++) { delta += o[i * params.head_dim + d] * d_o[i * params.head_dim + d]; }
    let query = i / params.heads;
    stats[i] = vec4(lse[i], delta, f32(first[query]), f32(last[query]) + 1.0);
}
