// The steps of head and cross-entropy around the products with the head, for chunk rows start.. of the supervised rows.

struct Params { tokens: u32, cols: u32, start: u32, chunk_rows: u32, softcap: f32, pad0: u32, pad1: u32, pad2: u32 }

@group(0) @binding(0) var<uniform> params: Params;

@group(0) @binding(1) var<storage, read_write> cleared: array<f32>;  // [cols]

// cleared = 0
@compute @workgroup_size(WG_SIZE)
fn clear(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i < params.cols { cleared[i] = 0.0; }
}

@group(0) @binding(1) var<storage, read_write> x: array<f32>;      // [tokens, cols]; dx when scattering
@group(0) @binding(2) var<storage, read> row_of: array<u32>;       // [tokens], the first `supervised` are used
@group(0) @binding(3) var<storage, read_write> chunk: array<f32>;  // [chunk_rows, cols]
@group(0) @binding(4) var<uniform> step: Step;

// Whether row `row` of the chunk is a supervised token.
fn is_used(row: u32, supervised: u32) -> bool {
    return row < params.chunk_rows && params.start + row < min(supervised, params.tokens);
}

// chunk = rows of x, zero past the last supervised one
@compute @workgroup_size(WG_SIZE)
fn gather(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i >= params.chunk_rows * params.cols { return; }
    let row = i / params.cols;
    var value = 0.0;
    if is_used(row, step.supervised) { value = x[row_of[params.start + row] * params.cols + i % params.cols]; }
    chunk[i] = value;
}

// rows of x = chunk
@compute @workgroup_size(WG_SIZE)
fn scatter(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    if i >= params.chunk_rows * params.cols { return; }
    let row = i / params.cols;
    if is_used(row, step.supervised) { x[row_of[params.start + row] * params.cols + i % params.cols] = chunk[i]; }
}

@group(0) @binding(1) var<storage, read_write> logits: array<f32>;  // [chunk_rows, cols]; becomes its gradient
@group(0) @binding(3) var<storage, read> targets: array<u32>;       // [tokens]
@group(0) @binding(4) var<storage, read_write> nll: array<f32>;     // [tokens]
@group(0) @binding(5) var<uniform> step_softmax: Step;

fn capped(logit: f32) -> f32 {
    if SOFTCAP { return params.softcap * tanh(clamp(logit / params.softcap, -10.0, 10.0)); }
    return logit;
}

// nll = log(sum exp z) - z[target]; in training z becomes loss_scale (softmax(z) - [col = target]). A workgroup a row.
@compute @workgroup_size(WG_SIZE)
fn softmax(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.x + group.y * groups.x;
    let inside = row < params.chunk_rows;
    let base = select(0u, row, inside) * params.cols;
    var token = 0u;
    var target_col = params.cols;
    if is_used(row, step_softmax.supervised) {
        token = row_of[params.start + row];
        target_col = min(targets[token], params.cols);
    }
    let used = target_col < params.cols;
    let z_target = capped(logits[base + select(0u, target_col, used)]);
    var largest = -1e30;
    var sum = 0.0;
    for (var col = lane; col < params.cols; col += WG_SIZE) {
        let z = capped(logits[base + col]);
        let larger = max(largest, z);
        sum = sum * exp(largest - larger) + exp(z - larger);
        largest = larger;
    }
    let top = reduce_max(largest, lane);
    let total = reduce_sum(sum * exp(largest - top), lane);
    if used && lane == 0u { nll[token] = top + log(total) - z_target; }
    if TRAIN && inside {
        let scale = select(0.0, step_softmax.loss_scale, used);
        for (var col = lane; col < params.cols; col += WG_SIZE) {
            let z = capped(logits[base + col]);
            var dz = scale * (exp(z - top) / total - select(0.0, 1.0, col == target_col));
            if SOFTCAP { dz *= 1.0 - (z / params.softcap) * (z / params.softcap); }
            logits[base + col] = dz;
        }
    }
}
