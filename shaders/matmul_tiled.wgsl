// Products of matrices for GPUs: 16 x 16 threads share a tile of each operand in workgroup memory and keep a tile of y in
// registers, THREAD_ROWS rows by COLS4 groups of four columns each.

const TILE_ROWS = 16u * THREAD_ROWS;
const TILE_COLS = 64u * COLS4;
const TILE_DEPTH = 16u;
const WG_SIZE = 256u;

// Depth-major, so that a step of the sum reads neighbours.
var<workgroup> tile_a: array<f32, TILE_DEPTH * TILE_ROWS>;
var<workgroup> tile_b: array<f32, TILE_DEPTH * TILE_COLS>;

// A tile [size, TILE_DEPTH] of an operand whose rows run along depth is turned while it is loaded.
fn turn_a(at: u32, k: u32, value: vec4<f32>) {
//: for q in 4
    tile_a[(k + $qu) * TILE_ROWS + at] = value[$q];
//: end
}

fn turn_b(at: u32, k: u32, value: vec4<f32>) {
//: for q in 4
    tile_b[(k + $qu) * TILE_COLS + at] = value[$q];
//: end
}

fn put_a(k: u32, at: u32, value: vec4<f32>) {
//: for q in 4
    tile_a[k * TILE_ROWS + at + $qu] = value[$q];
//: end
}

fn put_b(k: u32, at: u32, value: vec4<f32>) {
//: for q in 4
    tile_b[k * TILE_COLS + at + $qu] = value[$q];
//: end
}

// a(row.., k..) of an operand [rows, depth]
fn load_a_by_rows(row: u32, k: u32, thread: u32) {
    for (var i = thread; i < TILE_ROWS * TILE_DEPTH / 4u; i += WG_SIZE) {
        let r = i / (TILE_DEPTH / 4u);
        let d = i % (TILE_DEPTH / 4u) * 4u;
        var value = vec4<f32>();
        if row + r < params.rows && k + d < params.depth { value = a4(row + r, k + d, params.depth); }
        turn_a(r, d, value);
    }
}

// b(col.., k..) of an operand [cols, depth]
fn load_b_by_rows(col: u32, k: u32, thread: u32) {
    for (var i = thread; i < TILE_COLS * TILE_DEPTH / 4u; i += WG_SIZE) {
        let c = i / (TILE_DEPTH / 4u);
        let d = i % (TILE_DEPTH / 4u) * 4u;
        var value = vec4<f32>();
        if col + c < params.cols && k + d < params.depth { value = b4(col + c, k + d, params.depth); }
        turn_b(c, d, value);
    }
}

// a(k.., row..) of an operand [depth, rows]
fn load_a_by_depth(row: u32, k: u32, thread: u32) {
    for (var i = thread; i < TILE_ROWS * TILE_DEPTH / 4u; i += WG_SIZE) {
        let d = i / (TILE_ROWS / 4u);
        let r = i % (TILE_ROWS / 4u) * 4u;
        var value = vec4<f32>();
        if row + r < params.rows && k + d < params.depth { value = a4(k + d, row + r, params.rows); }
        put_a(d, r, value);
    }
}

// b(k.., col..) of an operand [depth, cols]
fn load_b_by_depth(col: u32, k: u32, thread: u32) {
    for (var i = thread; i < TILE_COLS * TILE_DEPTH / 4u; i += WG_SIZE) {
        let d = i / (TILE_COLS / 4u);
        let c = i % (TILE_COLS / 4u) * 4u;
        var value = vec4<f32>();
        if col + c < params.cols && k + d < params.depth { value = b4(k + d, col + c, params.cols); }
        put_b(d, c, value);
    }
}

// y = a b^T: a [rows, depth], b [cols, depth]; y = a b: a [rows, depth], b [depth, cols]; y = a^T b: a [depth, rows], b [depth, cols]
@compute @workgroup_size(16, 16)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
         @builtin(local_invocation_index) thread: u32) {
    let row = group.x * TILE_ROWS;
    let col = group.y * TILE_COLS;
//: for i in THREAD_ROWS
//: for j in COLS4
    var y$i_$j = vec4<f32>();
//: end
//: end
    for (var k = 0u; k < params.depth; k += TILE_DEPTH) {
        if A_BY_ROWS { load_a_by_rows(row, k, thread); } else { load_a_by_depth(row, k, thread); }
        if B_BY_ROWS { load_b_by_rows(col, k, thread); } else { load_b_by_depth(col, k, thread); }
        workgroupBarrier();
        for (var d = 0u; d < TILE_DEPTH; d++) {
            let at_a = d * TILE_ROWS + local.y * THREAD_ROWS;
            let at_b = d * TILE_COLS + local.x * 4u;
//: for j in COLS4
            let right$j = vec4<f32>(tile_b[at_b + $ju * 64u], tile_b[at_b + $ju * 64u + 1u], tile_b[at_b + $ju * 64u + 2u], tile_b[at_b + $ju * 64u + 3u]);
//: end
//: for i in THREAD_ROWS
            let left$i = tile_a[at_a + $iu];
//: for j in COLS4
            y$i_$j += left$i * right$j;
//: end
//: end
        }
        workgroupBarrier();
    }
//: for i in THREAD_ROWS
//: for j in COLS4
    store4(row + local.y * THREAD_ROWS + $iu, col + local.x * 4u + $ju * 64u, y$i_$j);
//: end
//: end
}
