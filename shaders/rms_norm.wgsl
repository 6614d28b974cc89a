// y = x rstd w with rstd = 1 / sqrt(mean(x^2) + eps); one workgroup a row, its lanes stride over the columns.

struct Params { rows: u32, cols: u32, eps: f32, pad: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;     // [rows, cols]
@group(0) @binding(2) var<storage, read> w: array<f32>;           // [cols]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;     // [rows, cols]
@group(0) @binding(4) var<storage, read_write> rstd: array<f32>;  // [rows]

@compute @workgroup_size(WG_SIZE)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.x + group.y * groups.x;
    let inside = row < params.rows;
    let base = select(0u, row, inside) * params.cols;
    var squares = 0.0;
    for (var col = lane; col < params.cols; col += WG_SIZE) { squares += x[base + col] * x[base + col]; }
    let scale = 1.0 / sqrt(reduce_sum(squares, lane) / f32(params.cols) + params.eps);
    if inside {
        for (var col = lane; col < params.cols; col += WG_SIZE) { y[base + col] = x[base + col] * scale * w[col]; }
        if lane == 0u { rstd[row] = scale; }
    }
}

@group(0) @binding(3) var<storage, read_write> dy: array<f32>;    // [rows, cols]
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;    // [rows, cols]

// dx (+)= rstd (g - xhat mean(g xhat)), g = w dy, xhat = x rstd
@compute @workgroup_size(WG_SIZE)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.x + group.y * groups.x;
    let inside = row < params.rows;
    let base = select(0u, row, inside) * params.cols;
    let scale = rstd[select(0u, row, inside)];
    var dot = 0.0;
    for (var col = lane; col < params.cols; col += WG_SIZE) { dot += w[col] * dy[base + col] * x[base + col]; }
    let mean = reduce_sum(dot, lane) * scale / f32(params.cols);
    if inside {
        for (var col = lane; col < params.cols; col += WG_SIZE) {
            let i = base + col;
            var sum = scale * (w[col] * dy[i] - x[i] * scale * mean);
            if ACCUMULATE { sum += dx[i]; }
            dx[i] = sum;
        }
    }
}

@group(0) @binding(2) var<storage, read_write> dy_columns: array<f32>;    // [rows, cols]
@group(0) @binding(3) var<storage, read_write> rstd_columns: array<f32>;  // [rows]
@group(0) @binding(4) var<storage, read_write> dw: array<f32>;            // [cols]

// dw += sum over rows of dy xhat; one invocation a column
@compute @workgroup_size(WG_SIZE)
fn backward_weight(@builtin(global_invocation_id) id: vec3<u32>) {
    let col = id.x;
    if col < params.cols {
        var sum = dw[col];
        for (var row = 0u; row < params.rows; row++) {
            let i = row * params.cols + col;
            sum += dy_columns[i] * x[i] * rstd_columns[row];
        }
        dw[col] = sum;
    }
}
