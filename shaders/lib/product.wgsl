// A product of two matrices, y (+)= scale a b, with `depth` terms a sum. The entry point says which operand is transposed; the
// fragments a_*, b_* and y_* say where the operands lie: `a4`, `b4` and `store4` move four neighbours of a row.
struct Params {
    rows: u32, cols: u32, depth: u32,  // y [rows, cols]
    a_first: u32, a_stride: u32,       // a(row, col) lies at a_first + row a_stride + col
    y_first: u32, y_stride: u32,
    in_features: u32,                  // length of b's rows
    scale: f32,
    b_first: u32,                      // where b begins, if it is an activation
    pad0: u32, pad1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
