// y in a buffer, rows of any length.
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

fn store1(row: u32, col: u32, value: f32) {
    if row < params.rows && col < params.cols {
        let i = params.y_first + row * params.y_stride + col;
        var v = params.scale * value;
        if ACCUMULATE { v += y[i]; }
        y[i] = v;
    }
}

fn store4(row: u32, col: u32, value: vec4<f32>) {
    store1(row, col, value.x);
    store1(row, col + 1u, value.y);
    store1(row, col + 2u, value.z);
    store1(row, col + 3u, value.w);
}
