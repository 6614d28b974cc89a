// o = softmax(scale q k^T) v over the visible keys, with an online softmax (Milakov and Gimelshein 2018). No barriers: each
// invocation keeps ROWS rows in registers, so that a key or value loaded once serves all of them.

@group(0) @binding(1) var<storage, read_write> q: array<Vector>;  // [batch queries, heads, HEAD_DIM]
@group(0) @binding(2) var<storage, read_write> k: array<Vector>;  // [batch keys, kv_heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read_write> v: array<Vector>;  // [batch keys, kv_heads, HEAD_DIM]
@group(0) @binding(4) var<storage, read> first: array<u32>;       // [batch queries]
@group(0) @binding(5) var<storage, read> last: array<u32>;        // [batch queries]
@group(0) @binding(6) var<storage, read_write> o: array<Vector>;  // [batch queries, heads, HEAD_DIM]
@group(0) @binding(7) var<storage, read_write> lse: array<f32>;   // [batch queries, heads]

@compute @workgroup_size(WG_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let blocks = (rows_per_lane() + ROWS - 1u) / ROWS;
    let i = linear_index(id, groups);
    if i >= params.batch * params.kv_heads * blocks { return; }
    let at = lane_of(i / blocks);
    let row0 = i % blocks * ROWS;

    var query: array<array<Vector, DEPTH>, ROWS>;
    var sum_v: array<array<Vector, DEPTH>, ROWS>;
    var sum: array<f32, ROWS>;
    var largest: array<f32, ROWS>;
    var begin: array<u32, ROWS>;
    var end: array<u32, ROWS>;
    var lowest = params.keys;
    var highest = 0u;
    for (var r = 0u; r < ROWS; r++) {
        // Rows past the end repeat the last one; they are not stored.
        let row = min(row0 + r, rows_per_lane() - 1u);
        begin[r] = first[query_of(at, row)];
        end[r] = min(last[query_of(at, row)], params.keys - 1u) + 1u;
        if begin[r] < end[r] {
            lowest = min(lowest, begin[r]);
            highest = max(highest, end[r]);
        }
        let from_ = query_head(at, row) * DEPTH;
        for (var d = 0u; d < DEPTH; d++) { query[r][d] = q[from_ + d]; }
        for (var d = 0u; d < DEPTH; d++) { sum_v[r][d] = Vector(); }
        sum[r] = 0.0;
        largest[r] = HIDDEN;
    }

    for (var key = lowest; key < highest; key++) {
        let from_ = key_head(at, key) * DEPTH;
        var score: array<f32, ROWS>;
        for (var r = 0u; r < ROWS; r++) { score[r] = 0.0; }
        for (var d = 0u; d < DEPTH; d++) {
            let part = k[from_ + d];
            for (var r = 0u; r < ROWS; r++) { score[r] += inner(query[r][d], part); }
        }
        var shrink: array<f32, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            let visible = begin[r] <= key && key < end[r];
            let scaled = select(HIDDEN, score[r] * params.scale, visible);
            let larger = max(largest[r], scaled);
            shrink[r] = exp(largest[r] - larger);
            score[r] = select(0.0, exp(scaled - larger), visible);
            sum[r] = sum[r] * shrink[r] + score[r];
            largest[r] = larger;
        }
        for (var d = 0u; d < DEPTH; d++) {
            let part = v[from_ + d];
            for (var r = 0u; r < ROWS; r++) { sum_v[r][d] = sum_v[r][d] * shrink[r] + score[r] * part; }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        if row0 + r < rows_per_lane() {
            let head = query_head(at, row0 + r);
            let seen = sum[r] > 0.0;
            let total = select(1.0, sum[r], seen);
            let scale = select(0.0, 1.0 / total, seen);
            for (var d = 0u; d < DEPTH; d++) { o[head * DEPTH + d] = sum_v[r][d] * scale; }
            lse[head] = select(0.0, largest[r] + log(total), seen);
        }
    }
}
