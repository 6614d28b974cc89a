// Rows of a multiple of four values are read four at a time.
alias Vector = vec4<f32>;
const DEPTH = HEAD_DIM / 4u;

fn inner(a: Vector, b: Vector) -> f32 {
    return dot(a, b);
}
