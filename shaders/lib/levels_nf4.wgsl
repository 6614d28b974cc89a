// The 16 levels of NormalFloat4 (Dettmers et al. 2023, appendix E). The low four bits of `code` count. A tree of selections:
// an array that is indexed at run time lies in memory, which costs more than the whole product.
fn level_of(code: u32) -> f32 {
    let b0 = (code & 1u) != 0u;
    let b1 = (code & 2u) != 0u;
    let b2 = (code & 4u) != 0u;
    let negative = select(
        select(select(-1.0, -0.6961928009986877, b0), select(-0.5250730514526367, -0.39491748809814453, b0), b1),
        select(select(-0.28444138169288635, -0.18477343022823334, b0), select(-0.09105003625154495, 0.0, b0), b1),
        b2);
    let positive = select(
        select(select(0.07958029955625534, 0.16093020141124725, b0), select(0.24611230194568634, 0.33791524171829224, b0), b1),
        select(select(0.44070982933044434, 0.5626170039176941, b0), select(0.7229568362236023, 1.0, b0), b1),
        b2);
    return select(negative, positive, (code & 8u) != 0u);
}
