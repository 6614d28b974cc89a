//! Replays a plan on the GPU. [`Memory`] holds what outlives a replay (weights, parameters, gradients, moments, states, the
//! activation arena); a [`Program`] is one graph made ready: pipelines compiled, bind groups made, inputs placed.

pub mod memory;
pub mod program;

pub use memory::{Memory, ParamLayout};
pub use program::{Images, Program, images, planned_bytes};

use rustc_hash::FxHashMap;

use crate::gpu::Gpu;
use crate::graph::reference::StepScalars;
use crate::graph::{Operands, Plan, Role, Target, TensorId, Value};
use crate::ops::{Graph, weight};
use crate::{Error, Result};

/// The device's limits as plans want to know them.
pub fn target(gpu: &Gpu) -> Target {
    let limits = gpu.limits();
    Target {
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        // One for storage and uniform bindings; both are powers of two.
        alignment: u64::from(
            limits.min_storage_buffer_offset_alignment.max(limits.min_uniform_buffer_offset_alignment).max(16),
        ),
        max_groups: limits.max_compute_workgroups_per_dimension,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        software: gpu.is_software(),
        f16: gpu.summary().f16,
        operands: match gpu.is_software() {
            false => Operands::Buffers,
            true if gpu.summary().name.to_lowercase().contains("llvmpipe") => Operands::StorageImages,
            true => Operands::SampledImages,
        },
    }
}

/// Runs a graph once: every tensor's value from the host, kept tensors, gradients and states back. For tests and the
/// self-test; `values` holds inputs, weights (f32; encoded to their format), parameters, states and gradients so far.
pub async fn run_once(
    gpu: &Gpu,
    graph: &Graph,
    values: &FxHashMap<TensorId, Value<f32>>,
    step: &StepScalars,
) -> Result<FxHashMap<TensorId, Vec<f32>>> {
    run_once_for(gpu, target(gpu), graph, values, step).await
}

/// [`run_once`] with the kernels of another kind of adapter (`target.software`) or tighter limits than the device has.
pub async fn run_once_for(
    gpu: &Gpu,
    target: Target,
    graph: &Graph,
    values: &FxHashMap<TensorId, Value<f32>>,
    step: &StepScalars,
) -> Result<FxHashMap<TensorId, Vec<f32>>> {
    let mut graph = graph.clone();
    graph.copy_before_overwrite()?;
    let plan = Plan::new(&graph, &target)?;
    let mut memory = Memory::new(gpu, target);
    memory.add_params(gpu, &ParamLayout::of(&graph), false)?;
    memory.reserve_arena(gpu, &plan.arena)?;
    memory.reserve_images(gpu, images(&graph, &target)?)?;
    for (&id, value) in values {
        let tensor = graph.get(id);
        let Value::Real(data) = value else { continue };
        match tensor.role {
            Role::Weight(_) => {
                for shard in weight::shards(tensor, &target) {
                    let cols = tensor.cols();
                    memory.upload_shard(gpu, tensor, &data[shard.rows.start * cols..shard.rows.end * cols], &shard)?;
                }
            }
            Role::Param { .. } | Role::Grad => memory.write(gpu, tensor, data)?,
            Role::State => {
                memory.add_state(gpu, tensor)?;
                memory.write(gpu, tensor, data)?;
            }
            Role::Input | Role::Activation => {
                return Err(Error::shape("run_once", format!("{} is an activation; inputs are u32", tensor.name)));
            }
        }
    }
    let program = Program::new(gpu, &graph, &plan, &memory)?;
    for (&id, value) in values {
        if let Value::Int(data) = value {
            program.write_input(gpu, &graph.get(id).name, data)?;
        }
    }
    program.write_step(gpu, &memory, step);
    program.run(gpu, step.supervised)?;
    let mut results = FxHashMap::default();
    for (index, tensor) in graph.tensors.iter().enumerate() {
        let id = TensorId(index as u32);
        if (graph.kept.contains(&id) || matches!(tensor.role, Role::Grad | Role::State))
            && let Some(region) = program.region(&graph, &plan, &memory, id)
        {
            results.insert(id, gpu.read_f32(&region).await?);
        }
    }
    gpu.check()?;
    Ok(results)
}
