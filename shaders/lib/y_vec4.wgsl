// y in a buffer, its rows whole vec4s.
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

fn store4(row: u32, col: u32, value: vec4<f32>) {
    if row < params.rows && col < params.cols {
        let i = (params.y_first + row * params.y_stride + col) / 4u;
        var v = params.scale * value;
        if ACCUMULATE { v += y[i]; }
        y[i] = v;
    }
}
