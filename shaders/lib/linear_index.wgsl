// One index from a dispatch that is spread over two dimensions because one holds at most 65,535 groups.
fn linear_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * WG_SIZE;
}
