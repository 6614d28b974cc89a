//! The way to the device and back: buffers, a kernel, what it wrote, and the counts of what was allocated.
//! Natively and in a browser.

mod support;

use std::rc::Rc;

use espalier::Result;
use espalier::gpu::{Access, Gpu, Prelude, Shader};

gpu_tests!(bytes_written_are_read_back, a_kernel_sees_its_parameters_and_bindings, allocations_are_counted);

static SCALE: Shader = Shader {
    name: "scale",
    fragments: &[],
    source: "
        struct Params { n: u32, factor: f32 }
        @group(0) @binding(0) var<uniform> params: Params;
        @group(0) @binding(1) var<storage, read> x: array<f32>; // [n]
        @group(0) @binding(2) var<storage, read_write> y: array<f32>; // [n]

        @compute @workgroup_size(WG_SIZE)
        fn forward(@builtin(global_invocation_id) id: vec3<u32>) {
            if (id.x < params.n) { y[id.x] = params.factor * x[id.x]; }
        }",
};

async fn bytes_written_are_read_back(gpu: Rc<Gpu>) -> Result<()> {
    let buffer = gpu.alloc("test", 64)?;
    let bytes: Vec<u8> = (0..32).collect();
    gpu.write(&buffer.slice(16, 48), 8, &bytes);
    let read = gpu.read(&[buffer.slice(24, 32), buffer.slice(0, 24), buffer.slice(56, 8)]).await?;
    assert_eq!(read, [bytes, vec![0; 24], vec![0; 8]]);
    Ok(())
}

async fn a_kernel_sees_its_parameters_and_bindings(gpu: Rc<Gpu>) -> Result<()> {
    // One more than a multiple of the workgroup, so that the last one is mostly idle.
    let (wg_size, n) = (32_u32, 97_u32);
    let x: Vec<f32> = (0..n).map(|i| i as f32 - 40.0).collect();
    let bytes = u64::from(4 * n);
    let (params, source, target) =
        (gpu.alloc_uniform("params", 16)?, gpu.alloc("x", bytes)?, gpu.alloc("y", bytes + 4)?);
    gpu.write(&params.region(), 0, bytemuck::cast_slice(&[n, 0.25_f32.to_bits(), 0, 0]));
    gpu.write(&source.region(), 0, bytemuck::cast_slice(&x));
    let prelude = Prelude::default().u32("WG_SIZE", wg_size);
    let pipeline = gpu.pipeline(&SCALE, "forward", &prelude, &[Access::Uniform, Access::Read, Access::ReadWrite]);
    let regions = [params.region(), source.region(), target.region()];
    let prepared = gpu.prepare(pipeline, &regions, [n.div_ceil(wg_size), 1, 1]);
    gpu.submit(&[], [&prepared], &[])?;
    let y = gpu.read_f32(&target.region()).await?;
    let expected: Vec<f32> = x.iter().map(|x| 0.25 * x).chain([0.0]).collect();
    assert_eq!(y, expected);
    Ok(())
}

async fn allocations_are_counted(gpu: Rc<Gpu>) -> Result<()> {
    let before = gpu.bytes();
    let buffer = gpu.alloc("test", 1 << 20)?;
    assert_eq!(gpu.bytes() - before, 1 << 20);
    drop(buffer);
    assert_eq!(gpu.bytes(), before);
    assert!(gpu.peak_bytes() >= before + (1 << 20));
    Ok(())
}
