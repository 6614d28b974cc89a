// o = softmax(scale q k^T) v over the visible keys, in tiles of 32 rows by 32 keys with an online softmax (Dao et al. 2022);
// one workgroup of 64 a tile of rows.

@group(0) @binding(1) var<storage, read_write> q: array<f32>;    // [batch queries, heads, HEAD_DIM]
@group(0) @binding(2) var<storage, read_write> k: array<f32>;    // [batch keys, kv_heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read_write> v: array<f32>;    // [batch keys, kv_heads, HEAD_DIM]
@group(0) @binding(4) var<storage, read> first: array<u32>;      // [batch queries]
@group(0) @binding(5) var<storage, read> last: array<u32>;       // [batch queries]
@group(0) @binding(6) var<storage, read_write> o: array<f32>;    // [batch queries, heads, HEAD_DIM]
@group(0) @binding(7) var<storage, read_write> lse: array<f32>;  // [batch queries, heads]

var<workgroup> row_head: array<u32, TILE>;
var<workgroup> row_begin: array<u32, TILE>;
var<workgroup> row_end: array<u32, TILE>;
var<workgroup> row_largest: array<f32, TILE>;
var<workgroup> row_sum: array<f32, TILE>;
var<workgroup> row_shrink: array<f32, TILE>;
var<workgroup> bounds: vec2<u32>;

@compute @workgroup_size(WG_SIZE)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let blocks = (rows_per_lane() + TILE - 1u) / TILE;
    let index = group.x + group.y * groups.x;
    let inside = index < params.batch * params.kv_heads * blocks;
    let at = lane_of(select(0u, index / blocks, inside));
    let row0 = index % blocks * TILE;
    let ty = lane / 8u;
    let tx = lane % 8u;

    if lane < TILE {
        let row = row0 + lane;
        let used = inside && row < rows_per_lane();
        let query = query_of(at, select(0u, row, used));
        row_head[lane] = query_head(at, select(0u, row, used));
        row_begin[lane] = first[query];
        row_end[lane] = select(0u, min(last[query], params.keys - 1u) + 1u, used);
        row_largest[lane] = HIDDEN;
        row_sum[lane] = 0.0;
    }
    workgroupBarrier();
    if lane == 0u {
        var lowest = params.keys;
        var highest = 0u;
        for (var r = 0u; r < TILE; r++) {
            if row_begin[r] < row_end[r] {
                lowest = min(lowest, row_begin[r]);
                highest = max(highest, row_end[r]);
            }
        }
        bounds = vec2(lowest, highest);
    }
    let range = workgroupUniformLoad(&bounds);

    var sum_v: array<Block, CHUNKS>;
    for (var c = 0u; c < CHUNKS; c++) { sum_v[c] = Block(); }

    for (var key0 = range.x; key0 < range.y; key0 += TILE) {
        var score = Block();
        for (var c = 0u; c < CHUNKS; c++) {
            for (var e = lane; e < TILE * TILE; e += WG_SIZE) {
                let r = e / TILE;
                let d = c * TILE + e % TILE;
                var a = 0.0;
                var b = 0.0;
                if d < HEAD_DIM {
                    a = q[row_head[r] * HEAD_DIM + d];
                    if key0 + r < range.y { b = k[key_head(at, key0 + r) * HEAD_DIM + d]; }
                }
                tile_a[r * STRIDE + e % TILE] = a;
                tile_b[r * STRIDE + e % TILE] = b;
            }
            workgroupBarrier();
            score = add_a_bt(score, lane);
            workgroupBarrier();
        }
        for (var i = 0u; i < 4u; i++) {
            let r = ty + 8u * i;
            for (var j = 0u; j < 4u; j++) {
                let key = key0 + tx + 8u * j;
                let visible = row_begin[r] <= key && key < row_end[r];
                tile_p[r * STRIDE + tx + 8u * j] = select(HIDDEN, score[i * 4u + j] * params.scale, visible);
            }
        }
        workgroupBarrier();
        if lane < TILE {
            let from_ = lane * STRIDE;
            var larger = row_largest[lane];
            for (var j = 0u; j < TILE; j++) { larger = max(larger, tile_p[from_ + j]); }
            var sum = 0.0;
            for (var j = 0u; j < TILE; j++) {
                let s = tile_p[from_ + j];
                let p = select(0.0, exp(s - larger), s > HIDDEN);
                tile_p[from_ + j] = p;
                sum += p;
            }
            let shrink = exp(row_largest[lane] - larger);
            row_shrink[lane] = shrink;
            row_sum[lane] = row_sum[lane] * shrink + sum;
            row_largest[lane] = larger;
        }
        for (var c = 0u; c < CHUNKS; c++) {
            for (var e = lane; e < TILE * TILE; e += WG_SIZE) {
                let r = e / TILE;
                let d = c * TILE + e % TILE;
                var b = 0.0;
                if d < HEAD_DIM && key0 + r < range.y { b = v[key_head(at, key0 + r) * HEAD_DIM + d]; }
                tile_b[r * STRIDE + e % TILE] = b;
            }
            workgroupBarrier();
            for (var i = 0u; i < 16u; i++) { sum_v[c][i] *= row_shrink[ty + 8u * (i / 4u)]; }
            sum_v[c] = add_p_b(sum_v[c], lane);
            workgroupBarrier();
        }
    }

    for (var i = 0u; i < 4u; i++) {
        let r = ty + 8u * i;
        if inside && row0 + r < rows_per_lane() {
            let seen = row_sum[r] > 0.0;
            let total = select(1.0, row_sum[r], seen);
            let scale = select(0.0, 1.0 / total, seen);
            for (var c = 0u; c < CHUNKS; c++) {
                for (var j = 0u; j < 4u; j++) {
                    let d = c * TILE + tx + 8u * j;
                    if d < HEAD_DIM { o[row_head[r] * HEAD_DIM + d] = sum_v[c][i * 4u + j] * scale; }
                }
            }
            if tx == 0u { lse[row_head[r]] = select(0.0, row_largest[r] + log(total), seen); }
        }
    }
}
