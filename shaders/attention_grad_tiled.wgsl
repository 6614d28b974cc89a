// Gradients of attention in tiles of 32 rows by 32 keys, from p = exp(scale q k^T - lse) computed again and
// ds = p (do v^T - delta): dq = scale ds k; dk = scale ds^T q; dv = p^T do. One workgroup of 64 a tile of rows or keys.

@group(0) @binding(1) var<storage, read_write> q: array<f32>;            // [batch queries, heads, HEAD_DIM]
@group(0) @binding(2) var<storage, read_write> k: array<f32>;            // [batch keys, kv_heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read_write> v: array<f32>;            // [batch keys, kv_heads, HEAD_DIM]
@group(0) @binding(4) var<storage, read_write> d_o: array<f32>;          // [batch queries, heads, HEAD_DIM]
@group(0) @binding(5) var<storage, read_write> stats: array<vec4<f32>>;  // [batch queries, heads]
@group(0) @binding(6) var<storage, read_write> dq: array<f32>;           // [batch queries, heads, HEAD_DIM]

var<workgroup> row_head: array<u32, TILE>;
var<workgroup> row_stat: array<vec4<f32>, TILE>;
var<workgroup> bounds: vec2<u32>;

// Stats of the rows from row0 on, and the range of keys that any of them sees; rows past the end see none.
fn load_rows(at: Lane, row0: u32, rows: u32, lane: u32) -> vec2<u32> {
    if lane < TILE {
        let used = row0 + lane < rows;
        row_head[lane] = query_head(at, select(0u, row0 + lane, used));
        let stat = stats[row_head[lane]];
        row_stat[lane] = select(vec4(0.0), vec4(stat.xyz, min(stat.w, f32(params.keys))), used);
    }
    workgroupBarrier();
    if lane == 0u {
        var lowest = f32(params.keys);
        var highest = 0.0;
        for (var r = 0u; r < TILE; r++) {
            if row_stat[r].z < row_stat[r].w {
                lowest = min(lowest, row_stat[r].z);
                highest = max(highest, row_stat[r].w);
            }
        }
        bounds = vec2(u32(lowest), u32(highest));
    }
    return workgroupUniformLoad(&bounds);
}

// p and scale ds of a tile.
struct Pair { p: Block, ds: Block }

// (q k^T, do v^T) for the rows loaded and the keys from key0 on.
fn products(at: Lane, key0: u32, lane: u32) -> Pair {
    var pair = Pair();
    for (var c = 0u; c < 2u * CHUNKS; c++) {
        for (var e = lane; e < TILE * TILE; e += WG_SIZE) {
            let r = e / TILE;
            let d = c / 2u * TILE + e % TILE;
            var a = 0.0;
            var b = 0.0;
            if d < HEAD_DIM {
                let from_row = row_head[r] * HEAD_DIM + d;
                let from_key = key_head(at, key0 + r) * HEAD_DIM + d;
                let inside = key0 + r < params.keys;
                if c % 2u == 0u {
                    a = q[from_row];
                    if inside { b = k[from_key]; }
                } else {
                    a = d_o[from_row];
                    if inside { b = v[from_key]; }
                }
            }
            tile_a[r * STRIDE + e % TILE] = a;
            tile_b[r * STRIDE + e % TILE] = b;
        }
        workgroupBarrier();
        if c % 2u == 0u {
            pair.p = add_a_bt(pair.p, lane);
        } else {
            pair.ds = add_a_bt(pair.ds, lane);
        }
        workgroupBarrier();
    }
    return pair;
}

// (p, scale ds) from (q k^T, do v^T)
fn probabilities(products: Pair, key0: u32, lane: u32) -> Pair {
    var pair = products;
    for (var i = 0u; i < 16u; i++) {
        let stat = row_stat[lane / 8u + 8u * (i / 4u)];
        let key = f32(key0 + lane % 8u + 8u * (i % 4u));
        let visible = stat.z <= key && key < stat.w;
        let p = exp(select(HIDDEN, pair.p[i] * params.scale - stat.x, visible));
        pair.p[i] = p;
        pair.ds[i] = p * (pair.ds[i] - stat.y) * params.scale;
    }
    return pair;
}

// tile_p = block
fn store_p(block: Block, lane: u32) {
    var values = block;
    for (var i = 0u; i < 16u; i++) {
        tile_p[(lane / 8u + 8u * (i / 4u)) * STRIDE + lane % 8u + 8u * (i % 4u)] = values[i];
    }
}

@compute @workgroup_size(WG_SIZE)
fn backward_query(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let blocks = (rows_per_lane() + TILE - 1u) / TILE;
    let index = group.x + group.y * groups.x;
    let inside = index < params.batch * params.kv_heads * blocks;
    let at = lane_of(select(0u, index / blocks, inside));
    let row0 = index % blocks * TILE;
    let rows = select(0u, rows_per_lane(), inside);
    let range = load_rows(at, row0, rows, lane);

    var sum: array<Block, CHUNKS>;
    for (var c = 0u; c < CHUNKS; c++) { sum[c] = Block(); }
    for (var key0 = range.x; key0 < range.y; key0 += TILE) {
        let pair = probabilities(products(at, key0, lane), key0, lane);
        store_p(pair.ds, lane);
        for (var c = 0u; c < CHUNKS; c++) {
            for (var e = lane; e < TILE * TILE; e += WG_SIZE) {
                let r = e / TILE;
                let d = c * TILE + e % TILE;
                var b = 0.0;
                if d < HEAD_DIM && key0 + r < params.keys { b = k[key_head(at, key0 + r) * HEAD_DIM + d]; }
                tile_b[r * STRIDE + e % TILE] = b;
            }
            workgroupBarrier();
            sum[c] = add_p_b(sum[c], lane);
            workgroupBarrier();
        }
    }
    for (var c = 0u; c < CHUNKS; c++) {
        for (var i = 0u; i < 16u; i++) {
            let r = lane / 8u + 8u * (i / 4u);
            let d = c * TILE + lane % 8u + 8u * (i % 4u);
            if row0 + r < rows && d < HEAD_DIM { dq[row_head[r] * HEAD_DIM + d] = sum[c][i]; }
        }
    }
}

@group(0) @binding(6) var<storage, read_write> dk: array<f32>;  // [batch keys, kv_heads, HEAD_DIM]
@group(0) @binding(7) var<storage, read_write> dv: array<f32>;  // [batch keys, kv_heads, HEAD_DIM]

@compute @workgroup_size(WG_SIZE)
fn backward_key_value(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let blocks = (params.keys + TILE - 1u) / TILE;
    let index = group.x + group.y * groups.x;
    let inside = index < params.batch * params.kv_heads * blocks;
    let at = lane_of(select(0u, index / blocks, inside));
    let key0 = index % blocks * TILE;
    let rows = select(0u, rows_per_lane(), inside);

    var sum_k: array<Block, CHUNKS>;
    var sum_v: array<Block, CHUNKS>;
    for (var c = 0u; c < CHUNKS; c++) {
        sum_k[c] = Block();
        sum_v[c] = Block();
    }
    for (var row0 = 0u; row0 < rows; row0 += TILE) {
        let range = load_rows(at, row0, rows, lane);
        if range.x >= key0 + TILE || range.y <= key0 { continue; }
        let pair = probabilities(products(at, key0, lane), key0, lane);
        store_p(pair.p, lane);
        for (var c = 0u; c < 2u * CHUNKS; c++) {
            for (var e = lane; e < TILE * TILE; e += WG_SIZE) {
                let r = e / TILE;
                let d = c % CHUNKS * TILE + e % TILE;
                var a = 0.0;
                if d < HEAD_DIM {
                    if c < CHUNKS {
                        a = d_o[row_head[r] * HEAD_DIM + d];
                    } else {
                        a = q[row_head[r] * HEAD_DIM + d];
                    }
                }
                tile_a[r * STRIDE + e % TILE] = a;
            }
            workgroupBarrier();
            if c < CHUNKS {
                sum_v[c] = add_pt_a(sum_v[c], lane);
            } else {
                sum_k[c - CHUNKS] = add_pt_a(sum_k[c - CHUNKS], lane);
            }
            workgroupBarrier();
            if c == CHUNKS - 1u { store_p(pair.ds, lane); }
        }
    }
    for (var c = 0u; c < CHUNKS; c++) {
        for (var i = 0u; i < 16u; i++) {
            let key = key0 + lane / 8u + 8u * (i / 4u);
            let d = c * TILE + lane % 8u + 8u * (i % 4u);
            if inside && key < params.keys && d < HEAD_DIM {
                let to = key_head(at, key) * HEAD_DIM + d;
                dk[to] = sum_k[c][i];
                dv[to] = sum_v[c][i];
            }
        }
    }
}
