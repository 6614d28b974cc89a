// Rows of any other length are read value by value.
alias Vector = f32;
const DEPTH = HEAD_DIM;

fn inner(a: Vector, b: Vector) -> f32 {
    return a * b;
}
