// The 16 levels of bitsandbytes' FP4: 0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4, and the same below zero. The low four bits of
// `code` count.
fn level_of(code: u32) -> f32 {
    let b0 = (code & 1u) != 0u;
    let b1 = (code & 2u) != 0u;
    let magnitude = select(
        select(select(0.0, 0.005208333333333333, b0), select(0.6666666666666666, 1.0, b0), b1),
        select(select(0.3333333333333333, 0.5, b0), select(0.16666666666666666, 0.25, b0), b1),
        (code & 4u) != 0u);
    return select(magnitude, -magnitude, (code & 8u) != 0u);
}
