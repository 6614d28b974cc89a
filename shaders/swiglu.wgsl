// h = act(gate) up and its gradient, over n elements; ACT: 0 silu, 1 gelu_tanh, 2 relu.

struct Params { n: u32, pad0: u32, pad1: u32, pad2: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> gate: array<f32>;  // [n]; becomes dgate
@group(0) @binding(2) var<storage, read_write> up: array<f32>;    // [n]; becomes dup
@group(0) @binding(3) var<storage, read_write> h: array<f32>;     // [n]; dh in the backward pass

// (act(z), act'(z))
fn act(z: f32) -> vec2<f32> {
    if ACT == 0u {
        // exp of at most 80 stays finite; beyond, the sigmoid is zero in f32 anyway.
        let s = 1.0 / (1.0 + exp(min(-z, 80.0)));
        return vec2(z * s, s * (1.0 + z * (1.0 - s)));
    }
    if ACT == 1u {
        // Some drivers compute tanh from exp and overflow: its value is 1 in f32 long before 10.
        let t = tanh(clamp(0.7978845608028654 * (z + 0.044715 * z * z * z), -10.0, 10.0));
        let slope = 0.7978845608028654 * (1.0 + 0.134145 * z * z);
        return vec2(0.5 * z * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * slope);
    }
    return vec2(max(z, 0.0), select(0.0, 1.0, z > 0.0));
}

@compute @workgroup_size(WG_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i < params.n { h[i] = act(gate[i]).x * up[i]; }
}

@compute @workgroup_size(WG_SIZE)
fn backward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i < params.n {
        let a = act(gate[i]);
        gate[i] = h[i] * up[i] * a.y;
        up[i] = h[i] * a.x;
    }
}

@group(0) @binding(2) var<storage, read_write> h_plain: array<f32>;  // [n]

@compute @workgroup_size(WG_SIZE)
fn forward_plain(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i < params.n { h_plain[i] = act(gate[i]).x; }
}

@compute @workgroup_size(WG_SIZE)
fn backward_plain(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i < params.n { gate[i] = h_plain[i] * act(gate[i]).y; }
}
