// Products of matrices without workgroup memory: a thread keeps a tile of y in registers and reads its operands itself. The
// variant for software adapters, where barriers and workgroup memory are slow, and for products with few rows or columns.
// A thread has ROWS rows, LANE_ROWS apart, and COLS4 groups of four columns, LANE_COLS groups apart.

fn first_row(group: vec3<u32>, lane: u32) -> u32 { return group.x * (ROWS * LANE_ROWS) + lane / LANE_COLS; }
fn first_col(group: vec3<u32>, lane: u32) -> u32 { return (group.y * (COLS4 * LANE_COLS) + lane % LANE_COLS) * 4u; }

// Rows and columns past the end are computed again from the last ones, and not stored.
fn clamp_row(row: u32) -> u32 { return min(row, params.rows - 1u); }
fn clamp_col(col: u32) -> u32 { return min(col, params.cols - 1u); }
fn clamp_depth(k: u32) -> u32 { return min(k, params.depth - 1u); }
fn clamp_col4(col: u32) -> u32 { return min(col, (params.cols - 1u) / 4u * 4u); }
fn clamp_row4(row: u32) -> u32 { return min(row, (params.rows - 1u) / 4u * 4u); }

// y = a b^T: a [rows, depth], b [cols, depth]
@compute @workgroup_size(WG_SIZE)
fn nt(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = first_row(group, lane);
    let col = first_col(group, lane);
//: for i in ROWS
    let row$i = clamp_row(row + $iu * LANE_ROWS);
//: for j in COLS4
    var y$i_$j = vec4<f32>();
//: end
//: end
//: for j in COLS4
//: for q in 4
    let col$j_$q = clamp_col(col + $ju * 4u * LANE_COLS + $qu);
//: end
//: end
    for (var k = 0u; k < params.depth; k += 4u) {
//: for j in COLS4
//: for q in 4
        let b$j_$q = b4(col$j_$q, k, params.depth);
//: end
//: end
//: for i in ROWS
        let left$i = a4(row$i, k, params.depth);
//: for j in COLS4
        y$i_$j += vec4<f32>(dot(left$i, b$j_0), dot(left$i, b$j_1), dot(left$i, b$j_2), dot(left$i, b$j_3));
//: end
//: end
    }
//: for i in ROWS
//: for j in COLS4
    store4(row + $iu * LANE_ROWS, col + $ju * 4u * LANE_COLS, y$i_$j);
//: end
//: end
}

// y = a b: a [rows, depth], b [depth, cols]
@compute @workgroup_size(WG_SIZE)
fn nn(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = first_row(group, lane);
    let col = first_col(group, lane);
//: for i in ROWS
    let row$i = clamp_row(row + $iu * LANE_ROWS);
//: for j in COLS4
    var y$i_$j = vec4<f32>();
//: end
//: end
//: for j in COLS4
    let col$j = clamp_col4(col + $ju * 4u * LANE_COLS);
//: end
    for (var k = 0u; k < params.depth; k += 4u) {
//: for q in 4
//: for j in COLS4
        let b$q_$j = b4(clamp_depth(k + $qu), col$j, params.cols);
//: end
//: end
//: for i in ROWS
        let left$i = a4(row$i, k, params.depth);
//: for j in COLS4
        y$i_$j += left$i.x * b0_$j + left$i.y * b1_$j + left$i.z * b2_$j + left$i.w * b3_$j;
//: end
//: end
    }
//: for i in ROWS
//: for j in COLS4
    store4(row + $iu * LANE_ROWS, col + $ju * 4u * LANE_COLS, y$i_$j);
//: end
//: end
}

// y = a^T b: a [depth, rows], b [depth, cols]. A thread's rows come in ROWS4 groups of four, LANE_ROWS groups apart.
@compute @workgroup_size(WG_SIZE)
fn tn(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = (group.x * (ROWS4 * LANE_ROWS) + lane / LANE_COLS) * 4u;
    let col = first_col(group, lane);
//: for i in ROWS4
    let row$i = clamp_row4(row + $iu * 4u * LANE_ROWS);
//: for r in 4
//: for j in COLS4
    var y$i_$r_$j = vec4<f32>();
//: end
//: end
//: end
//: for j in COLS4
    let col$j = clamp_col4(col + $ju * 4u * LANE_COLS);
//: end
    for (var k = 0u; k < params.depth; k += 4u) {
//: for q in 4
        let k$q = clamp_depth(k + $qu);
//: for j in COLS4
        let b$q_$j = b4(k$q, col$j, params.cols);
//: end
//: end
//: for i in ROWS4
//: for q in 4
        var a$i_$q = a4(k$q, row$i, params.rows);
        if DEPTH_TAIL && k + $qu >= params.depth { a$i_$q = vec4<f32>(); }
//: end
//: for r in 4
//: for j in COLS4
        y$i_$r_$j += a$i_0[$r] * b0_$j + a$i_1[$r] * b1_$j + a$i_2[$r] * b2_$j + a$i_3[$r] * b3_$j;
//: end
//: end
//: end
    }
//: for i in ROWS4
//: for r in 4
//: for j in COLS4
    store4(row + $iu * 4u * LANE_ROWS + $ru, col + $ju * 4u * LANE_COLS, y$i_$r_$j);
//: end
//: end
//: end
}
