// Eight independent chains of multiply-adds in registers: what the adapter's arithmetic can do without memory.

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;  // [invocations]

@compute @workgroup_size(WG_SIZE)
fn ceiling(@builtin(global_invocation_id) id: vec3<u32>) {
    let scale = vec4<f32>(0.999 + f32(id.x) * 1e-9);
    let shift = vec4<f32>(1e-3);
    var a = vec4<f32>(f32(id.x));
    var b = a + 1.0;
    var c = a + 2.0;
    var d = a + 3.0;
    var e = a + 4.0;
    var f = a + 5.0;
    var g = a + 6.0;
    var h = a + 7.0;
    for (var i = 0u; i < LOOPS; i++) {
        a = fma(a, scale, shift);
        b = fma(b, scale, shift);
        c = fma(c, scale, shift);
        d = fma(d, scale, shift);
        e = fma(e, scale, shift);
        f = fma(f, scale, shift);
        g = fma(g, scale, shift);
        h = fma(h, scale, shift);
    }
    out[id.x] = ((a + b) + (c + d)) + ((e + f) + (g + h));
}
