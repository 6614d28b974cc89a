// panel = some rows of a weight, decoded to f32. A unit is four words of codes and becomes 4 PARTS values; `scale_of` and
// `part4` come from the fragment of the weight's format.

struct Params { first: u32, units: u32, in_features: u32, pad: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> panel: array<vec4<f32>>;  // [rows, in]
@group(0) @binding(WEIGHT) var<storage, read> b_words: array<vec4<u32>>;

@compute @workgroup_size(WG_SIZE)
fn dequantize(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    for (var n = 0u; n < UNITS; n++) {
        let unit = (group.x * UNITS + n) * WG_SIZE + lane;
        if unit < params.units {
            let words = b_words[params.first + unit];
            let scale = scale_of(params.first + unit);
//: for p in PARTS
            panel[unit * PARTS + $p] = part4(words, $pu) * scale;
//: end
        }
    }
}
