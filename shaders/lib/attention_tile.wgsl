// Tiles of TILE rows by TILE columns in workgroup memory, for WG_SIZE = 64 invocations: each owns 4 by 4 values of a product,
// rows ty + 8 i, columns tx + 8 j. A row takes STRIDE values so that columns fall into different banks.
const TILE = 32u;
const STRIDE = 33u;
const CHUNKS = (HEAD_DIM + TILE - 1u) / TILE;

var<workgroup> tile_a: array<f32, TILE * STRIDE>;
var<workgroup> tile_b: array<f32, TILE * STRIDE>;
var<workgroup> tile_p: array<f32, TILE * STRIDE>;

alias Block = array<f32, 16>;

// block + tile_a tile_b^T
fn add_a_bt(block: Block, lane: u32) -> Block {
    var sum = block;
    let ty = lane / 8u;
    let tx = lane % 8u;
    for (var d = 0u; d < TILE; d++) {
        var b: array<f32, 4>;
        for (var j = 0u; j < 4u; j++) { b[j] = tile_b[(tx + 8u * j) * STRIDE + d]; }
        for (var i = 0u; i < 4u; i++) {
            let a = tile_a[(ty + 8u * i) * STRIDE + d];
            for (var j = 0u; j < 4u; j++) { sum[i * 4u + j] += a * b[j]; }
        }
    }
    return sum;
}

// block + tile_p tile_b
fn add_p_b(block: Block, lane: u32) -> Block {
    var sum = block;
    let ty = lane / 8u;
    let tx = lane % 8u;
    for (var d = 0u; d < TILE; d++) {
        var b: array<f32, 4>;
        for (var j = 0u; j < 4u; j++) { b[j] = tile_b[d * STRIDE + tx + 8u * j]; }
        for (var i = 0u; i < 4u; i++) {
            let a = tile_p[(ty + 8u * i) * STRIDE + d];
            for (var j = 0u; j < 4u; j++) { sum[i * 4u + j] += a * b[j]; }
        }
    }
    return sum;
}

// block + tile_p^T tile_a
fn add_pt_a(block: Block, lane: u32) -> Block {
    var sum = block;
    let ty = lane / 8u;
    let tx = lane % 8u;
    for (var d = 0u; d < TILE; d++) {
        var b: array<f32, 4>;
        for (var j = 0u; j < 4u; j++) { b[j] = tile_a[d * STRIDE + tx + 8u * j]; }
        for (var i = 0u; i < 4u; i++) {
            let a = tile_p[d * STRIDE + ty + 8u * i];
            for (var j = 0u; j < 4u; j++) { sum[i * 4u + j] += a * b[j]; }
        }
    }
    return sum;
}
