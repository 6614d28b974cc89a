// Even steps from -8 to 7. The low four bits of `code` count.
fn level_of(code: u32) -> f32 {
    return f32(code & 15u) - 8.0;
}
