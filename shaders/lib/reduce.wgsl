// Sum over a workgroup of WG_SIZE (a power of two), the same bits in every invocation and every run.
var<workgroup> reduce_slots: array<f32, WG_SIZE>;

fn reduce_sum(value: f32, lane: u32) -> f32 {
    reduce_slots[lane] = value;
    workgroupBarrier();
    for (var half = WG_SIZE / 2u; half > 0u; half = half / 2u) {
        if lane < half { reduce_slots[lane] += reduce_slots[lane + half]; }
        workgroupBarrier();
    }
    let sum = reduce_slots[0];
    workgroupBarrier();
    return sum;
}

// Largest value over a workgroup.
fn reduce_max(value: f32, lane: u32) -> f32 {
    reduce_slots[lane] = value;
    workgroupBarrier();
    for (var half = WG_SIZE / 2u; half > 0u; half = half / 2u) {
        if lane < half { reduce_slots[lane] = max(reduce_slots[lane], reduce_slots[lane + half]); }
        workgroupBarrier();
    }
    let largest = reduce_slots[0];
    workgroupBarrier();
    return largest;
}
