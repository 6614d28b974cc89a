// What the attention kernels share. The GROUP query heads that read one key/value head are flattened with the queries into
// `rows`: row = query GROUP + head within the group, so that they share each load of a key.

struct Params { batch: u32, queries: u32, keys: u32, heads: u32, kv_heads: u32, scale: f32, pad0: u32, pad1: u32 }

@group(0) @binding(0) var<uniform> params: Params;

const HIDDEN = -1e30;  // score of a key that the query does not see

// One batch row and key/value head.
struct Lane { batch: u32, kv_head: u32 }

fn rows_per_lane() -> u32 {
    return params.queries * GROUP;
}

fn lane_of(index: u32) -> Lane {
    return Lane(index / params.kv_heads, index % params.kv_heads);
}

// Position of a row among queries [batch queries].
fn query_of(at: Lane, row: u32) -> u32 {
    return at.batch * params.queries + row / GROUP;
}

// Position of a row among query heads [batch queries, heads].
fn query_head(at: Lane, row: u32) -> u32 {
    return query_of(at, row) * params.heads + at.kv_head * GROUP + row % GROUP;
}

// Position of a key among [batch keys, kv_heads].
fn key_head(at: Lane, key: u32) -> u32 {
    return (at.batch * params.keys + key) * params.kv_heads + at.kv_head;
}
