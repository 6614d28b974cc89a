// The optimizer step over one segment of the flat arenas, the gradients' norm before it, and the loss of a micro-batch.

struct Params {
    n: u32,
    decay_end: u32,
    partials: u32,
    first_partial: u32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    eps: f32,
    weight_decay: f32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

// Positions in the metrics; partial sums follow.
const NLL = 0u;
const SUPERVISED = 1u;
const GRAD_NORM = 2u;
const CLIP = 3u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> grads: array<f32>;    // [n]; nll in add_loss
@group(0) @binding(2) var<storage, read_write> metrics: array<f32>;
@group(0) @binding(3) var<uniform> step: Step;

// metrics += (sum of nll, supervised tokens); one workgroup
@compute @workgroup_size(WG_SIZE)
fn add_loss(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < params.n; i += WG_SIZE) { sum += grads[i]; }
    let total = reduce_sum(sum, lane);
    if lane == 0u {
        metrics[NLL] += total;
        metrics[SUPERVISED] += f32(step.supervised);
    }
}

// One partial sum of squares a workgroup.
@compute @workgroup_size(WG_SIZE)
fn sum_squares(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = group.x * WG_SIZE + lane; i < params.n; i += params.partials * WG_SIZE) { sum += grads[i] * grads[i]; }
    let total = reduce_sum(sum, lane);
    if lane == 0u { metrics[params.first_partial + group.x] = total; }
}

@group(0) @binding(1) var<storage, read_write> norm_metrics: array<f32>;
@group(0) @binding(2) var<uniform> norm_step: Step;

// Norm and clipping factor from the partial sums; one workgroup
@compute @workgroup_size(WG_SIZE)
fn finish_norm(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < params.partials; i += WG_SIZE) { sum += norm_metrics[params.first_partial + i]; }
    let norm = sqrt(reduce_sum(sum, lane));
    if lane == 0u {
        var clip = 1.0;
        if norm_step.max_grad_norm > 0.0 { clip = min(norm_step.max_grad_norm / (norm + 1e-6), 1.0); }
        norm_metrics[GRAD_NORM] = norm;
        // False for infinity and NaN.
        norm_metrics[CLIP] = select(-1.0, clip, norm < 3e38);
    }
}

@group(0) @binding(4) var<storage, read_write> weights: array<f32>;  // [n]
@group(0) @binding(5) var<storage, read_write> moment1: array<f32>;  // [n]
@group(0) @binding(6) var<storage, read_write> moment2: array<f32>;  // [n]

// Decoupled decay, then Adam; one invocation an element
@compute @workgroup_size(WG_SIZE)
fn update(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = linear_index(id, groups);
    let clip = metrics[CLIP];
    if i >= params.n || clip < 0.0 { return; }
    let grad = grads[i] * clip;
    var weight = weights[i];
    if i < params.decay_end { weight *= 1.0 - step.lr * params.weight_decay; }
    let m = moment1[i] + params.one_minus_beta1 * (grad - moment1[i]);
    let v = params.beta2 * moment2[i] + params.one_minus_beta2 * grad * grad;
    let denominator = sqrt(v) / sqrt(step.bias_correction2) + params.eps;
    weights[i] = weight - step.lr / step.bias_correction1 * m / denominator;
    moment1[i] = m;
    moment2[i] = v;
}
