// Gradients of attention without barriers, from p = exp(scale q k^T - lse) computed again and ds = p (do v^T - delta):
// dq = scale ds k; dk = scale ds^T q; dv = p^T do. ROWS rows (or keys) an invocation share each load.

@group(0) @binding(1) var<storage, read_write> q: array<Vector>;         // [batch queries, heads, HEAD_DIM]
@group(0) @binding(2) var<storage, read_write> k: array<Vector>;         // [batch keys, kv_heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read_write> v: array<Vector>;         // [batch keys, kv_heads, HEAD_DIM]
@group(0) @binding(4) var<storage, read_write> d_o: array<Vector>;       // [batch queries, heads, HEAD_DIM]
@group(0) @binding(5) var<storage, read_write> stats: array<vec4<f32>>;  // [batch queries, heads]
@group(0) @binding(6) var<storage, read_write> dq: array<Vector>;        // [batch queries, heads, HEAD_DIM]

@compute @workgroup_size(WG_SIZE)
fn backward_query(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let blocks = (rows_per_lane() + ROWS - 1u) / ROWS;
    let i = linear_index(id, groups);
    if i >= params.batch * params.kv_heads * blocks { return; }
    let at = lane_of(i / blocks);
    let row0 = i % blocks * ROWS;

    var query: array<array<Vector, DEPTH>, ROWS>;
    var d_out: array<array<Vector, DEPTH>, ROWS>;
    var sum: array<array<Vector, DEPTH>, ROWS>;
    var stat: array<vec4<f32>, ROWS>;
    var lowest = f32(params.keys);
    var highest = 0.0;
    for (var r = 0u; r < ROWS; r++) {
        let head = query_head(at, min(row0 + r, rows_per_lane() - 1u));
        stat[r] = stats[head];
        stat[r].w = min(stat[r].w, f32(params.keys));
        if stat[r].z < stat[r].w {
            lowest = min(lowest, stat[r].z);
            highest = max(highest, stat[r].w);
        }
        for (var d = 0u; d < DEPTH; d++) { query[r][d] = q[head * DEPTH + d]; }
        for (var d = 0u; d < DEPTH; d++) { d_out[r][d] = d_o[head * DEPTH + d]; }
        for (var d = 0u; d < DEPTH; d++) { sum[r][d] = Vector(); }
    }

    for (var key = u32(lowest); key < u32(highest); key++) {
        let from_ = key_head(at, key) * DEPTH;
        var k_row: array<Vector, DEPTH>;
        var score: array<f32, ROWS>;
        var d_p: array<f32, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            score[r] = 0.0;
            d_p[r] = 0.0;
        }
        for (var d = 0u; d < DEPTH; d++) {
            k_row[d] = k[from_ + d];
            let v_part = v[from_ + d];
            for (var r = 0u; r < ROWS; r++) {
                score[r] += inner(query[r][d], k_row[d]);
                d_p[r] += inner(d_out[r][d], v_part);
            }
        }
        for (var r = 0u; r < ROWS; r++) {
            let visible = stat[r].z <= f32(key) && f32(key) < stat[r].w;
            let p = exp(select(HIDDEN, score[r] * params.scale - stat[r].x, visible));
            score[r] = p * (d_p[r] - stat[r].y) * params.scale;
        }
        for (var d = 0u; d < DEPTH; d++) {
            for (var r = 0u; r < ROWS; r++) { sum[r][d] += score[r] * k_row[d]; }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        if row0 + r < rows_per_lane() {
            let head = query_head(at, row0 + r);
            for (var d = 0u; d < DEPTH; d++) { dq[head * DEPTH + d] = sum[r][d]; }
        }
    }
}

@group(0) @binding(6) var<storage, read_write> dk: array<Vector>;  // [batch keys, kv_heads, HEAD_DIM]
@group(0) @binding(7) var<storage, read_write> dv: array<Vector>;  // [batch keys, kv_heads, HEAD_DIM]

@compute @workgroup_size(WG_SIZE)
fn backward_key_value(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let blocks = (params.keys + ROWS - 1u) / ROWS;
    let i = linear_index(id, groups);
    if i >= params.batch * params.kv_heads * blocks { return; }
    let at = lane_of(i / blocks);
    let key0 = i % blocks * ROWS;

    var k_row: array<array<Vector, DEPTH>, ROWS>;
    var v_row: array<array<Vector, DEPTH>, ROWS>;
    var sum_k: array<array<Vector, DEPTH>, ROWS>;
    var sum_v: array<array<Vector, DEPTH>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let head = key_head(at, min(key0 + r, params.keys - 1u));
        for (var d = 0u; d < DEPTH; d++) { k_row[r][d] = k[head * DEPTH + d]; }
        for (var d = 0u; d < DEPTH; d++) { v_row[r][d] = v[head * DEPTH + d]; }
        for (var d = 0u; d < DEPTH; d++) { sum_k[r][d] = Vector(); }
        for (var d = 0u; d < DEPTH; d++) { sum_v[r][d] = Vector(); }
    }

    let low = f32(key0);
    let high = f32(key0 + ROWS);
    for (var row = 0u; row < rows_per_lane(); row++) {
        var head = query_head(at, row);
        var stat = stats[head];
        // On to the next query that sees one of the keys.
        while row + 1u < rows_per_lane() && (stat.z >= high || stat.w <= low) {
            row++;
            head = query_head(at, row);
            stat = stats[head];
        }
        var query: array<Vector, DEPTH>;
        var d_out: array<Vector, DEPTH>;
        var score: array<f32, ROWS>;
        var d_p: array<f32, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            score[r] = 0.0;
            d_p[r] = 0.0;
        }
        for (var d = 0u; d < DEPTH; d++) {
            query[d] = q[head * DEPTH + d];
            d_out[d] = d_o[head * DEPTH + d];
            for (var r = 0u; r < ROWS; r++) {
                score[r] += inner(query[d], k_row[r][d]);
                d_p[r] += inner(d_out[d], v_row[r][d]);
            }
        }
        for (var r = 0u; r < ROWS; r++) {
            let key = low + f32(r);
            let visible = stat.z <= key && key < stat.w;
            let p = exp(select(HIDDEN, score[r] * params.scale - stat.x, visible));
            score[r] = p;
            d_p[r] = p * (d_p[r] - stat.y) * params.scale;
        }
        for (var d = 0u; d < DEPTH; d++) {
            for (var r = 0u; r < ROWS; r++) {
                sum_k[r][d] += d_p[r] * query[d];
                sum_v[r][d] += score[r] * d_out[d];
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        if key0 + r < params.keys {
            let head = key_head(at, key0 + r);
            for (var d = 0u; d < DEPTH; d++) { dk[head * DEPTH + d] = sum_k[r][d]; }
            for (var d = 0u; d < DEPTH; d++) { dv[head * DEPTH + d] = sum_v[r][d]; }
        }
    }
}
