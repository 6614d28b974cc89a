//! Every op: the GPU against the CPU reference at awkward sizes, the reference's gradients against finite differences, and
//! every shader variant against naga's validator.

#[path = "ops/cases.rs"]
mod cases;
#[path = "ops/optimizer.rs"]
mod optimizer;
#[path = "support"]
mod support {
    pub mod on_gpu;
}

use std::rc::Rc;

use cases::{Case, all, linear};
use espalier::Result;
use espalier::gpu::Gpu;
use espalier::graph::reference::{Real, StepScalars};
use espalier::graph::{Operands, Role, Target, TensorId, Value};
use espalier::ops::LaunchContext;
use rustc_hash::FxHashMap;

crate::gpu_tests!(
    plain_kernels_match_reference,
    tiled_kernels_match_reference,
    every_kind_of_product_matches_reference,
    sharded_tables_and_heads_match_reference,
    cross_entropy_adds_to_the_metrics,
);

fn run<R: Real>(
    case: &Case,
    values: &FxHashMap<TensorId, Value<f64>>,
    step: &StepScalars,
) -> FxHashMap<TensorId, Value<R>> {
    let mut converted: FxHashMap<TensorId, Value<R>> = values
        .iter()
        .map(|(id, value)| {
            let value = match value {
                Value::Real(v) => Value::Real(v.iter().map(|x| R::of(*x)).collect()),
                Value::Int(v) => Value::Int(v.clone()),
            };
            (*id, value)
        })
        .collect();
    case.graph.run_reference(&mut converted, step).unwrap();
    converted
}

fn real<R: Real>(values: &FxHashMap<TensorId, Value<R>>, id: TensorId) -> &[R] {
    match &values[&id] {
        Value::Real(v) => v,
        Value::Int(_) => panic!("{id:?} holds integers"),
    }
}

/// Sum of outputs times their seeds: the function whose gradient the backward pass computes.
fn loss(case: &Case, values: &FxHashMap<TensorId, Value<f64>>) -> f64 {
    let done = run::<f64>(case, values, &case.step);
    case.losses.iter().map(|(y, dy)| real(&done, *y).iter().zip(dy).map(|(a, b)| a * b).sum::<f64>()).sum()
}

#[test]
fn reference_gradients_match_finite_differences() {
    for case in all().into_iter().filter(|c| c.differentiable) {
        let done = run::<f64>(&case, &case.values, &case.step);
        for (param, grad) in &case.graph.grads {
            let (tensor, grad) = (case.graph.get(*param), real(&done, *grad));
            let stride = tensor.elements().div_ceil(40);
            for i in (0..tensor.elements()).step_by(stride) {
                let at = |h: f64| {
                    let mut values = case.values.clone();
                    let Some(Value::Real(v)) = values.get_mut(param) else { panic!("a real parameter") };
                    v[i] += h;
                    loss(&case, &values)
                };
                // Central differences in f64: the error is about h^2 times the third derivative, plus rounding over h.
                let h = 1e-5;
                let wanted = (at(h) - at(-h)) / (2.0 * h);
                assert!(
                    (grad[i] - wanted).abs() <= 1e-6 * (1.0 + wanted.abs()),
                    "{}: d {} [{i}] is {}, by finite differences {wanted}",
                    case.name,
                    tensor.name,
                    grad[i]
                );
            }
        }
    }
}

/// Kernels of both kinds run on any adapter.
async fn compare(gpu: &Gpu, cases: &[Case], target: Target) -> Result<()> {
    for case in cases {
        let wanted = run::<f64>(case, &case.values, &case.step);
        let mut values: FxHashMap<TensorId, Value<f32>> = case
            .values
            .iter()
            .map(|(id, value)| {
                let value = match value {
                    Value::Real(v) => Value::Real(v.iter().map(|x| *x as f32).collect()),
                    Value::Int(v) => Value::Int(v.clone()),
                };
                (*id, value)
            })
            .collect();
        values.extend(case.unrounded.iter().map(|(id, data)| (*id, Value::Real(data.clone()))));
        let got = espalier::exec::run_once_for(gpu, target, &case.graph, &values, &case.step).await?;
        let states = case.graph.nodes.iter().flat_map(|n| &n.outputs);
        let states = states.filter(|id| case.graph.get(**id).role == Role::State);
        for id in case.graph.kept.iter().chain(case.graph.grads.values()).chain(states) {
            let (got, wanted, name) = (&got[id], real(&wanted, *id), &case.graph.get(*id).name);
            let largest = wanted.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            // f32 against f64: sums of up to a few thousand terms, each rounded to 2^-24, relative to the largest value.
            let tolerance = 1e-5 * largest.max(1e-3);
            for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
                assert!(
                    (f64::from(*got) - wanted).abs() <= tolerance,
                    "{}: {name} {:?} [{i}]: gpu {got}, reference {wanted}, tolerance {tolerance:.1e}",
                    case.name,
                    case.graph.get(*id).shape
                );
            }
        }
    }
    Ok(())
}

async fn plain_kernels_match_reference(gpu: Rc<Gpu>) -> Result<()> {
    compare(&gpu, &all(), Target { software: true, ..espalier::exec::target(&gpu) }).await
}

async fn tiled_kernels_match_reference(gpu: Rc<Gpu>) -> Result<()> {
    compare(&gpu, &all(), Target { software: false, ..espalier::exec::target(&gpu) }).await
}

/// Bindings so small that weights of more than 64 rows are split by rows.
async fn sharded_tables_and_heads_match_reference(gpu: Rc<Gpu>) -> Result<()> {
    let target = Target { max_binding_bytes: 4096, ..espalier::exec::target(&gpu) };
    let sharded = cases::sharded();
    for case in &sharded {
        let weights = case.graph.with_role(|r| matches!(r, Role::Weight(_)));
        let most = weights.iter().map(|w| espalier::ops::weight::shards(case.graph.get(*w), &target).len()).max();
        assert!(most > Some(1), "{}: nothing is split", case.name);
    }
    compare(&gpu, &sharded, target).await
}

async fn cross_entropy_adds_to_the_metrics(gpu: Rc<Gpu>) -> Result<()> {
    use espalier::exec::{Memory, ParamLayout, Program, target};
    use espalier::ops::ArenaKind;
    use espalier::ops::adamw::add_loss;
    use espalier::ops::{Bind, adamw::metric};
    let mut memory = Memory::new(&gpu, target(&gpu));
    let layout = ParamLayout { segments: vec![4 * 131], decayed: vec![0], ..Default::default() };
    memory.add_params(&gpu, &layout, false)?;
    let nll: Vec<f32> = (0..131).map(|i| (i % 8) as f32 * 0.25).collect();
    gpu.write(&memory.arena(ArenaKind::Params)[0].region(), 0, bytemuck::cast_slice(&nll));
    let program = Program::of_dispatches(
        &gpu,
        vec![add_loss(Bind::Arena { kind: ArenaKind::Params, segment: 0 }, nll.len())],
        &memory,
    )?;
    program.write_step(&gpu, &memory, &StepScalars { supervised: 17, ..Default::default() });
    // Two micro-batches.
    program.run(&gpu, 17)?;
    program.run(&gpu, 17)?;
    let metrics = gpu.read_f32(&memory.arena(ArenaKind::Metrics)[0].region()).await?;
    // Quarters: every sum is exact.
    assert_eq!(metrics[metric::NLL], 2.0 * nll.iter().sum::<f32>());
    assert_eq!(metrics[metric::SUPERVISED], 34.0);
    Ok(())
}

/// What a product may be told of its device: which kernels it gets.
fn kinds(target: Target) -> [Target; 3] {
    let with = |software, operands| Target { software, operands, ..target };
    [with(false, Operands::Buffers), with(true, Operands::StorageImages), with(true, Operands::SampledImages)]
}

async fn every_kind_of_product_matches_reference(gpu: Rc<Gpu>) -> Result<()> {
    let (cases, target) = (linear(true), espalier::exec::target(&gpu));
    // A browser is slow enough with the one kind that its adapter gets.
    let kinds = if espalier::platform::IN_BROWSER { vec![target] } else { kinds(target).to_vec() };
    for target in kinds {
        compare(&gpu, &cases, target).await?;
    }
    Ok(())
}

fn validate(name: &str, dispatch: &espalier::ops::Dispatch) {
    let text = dispatch.shader.compose(&dispatch.prelude);
    let place = format!("{name}: {}.{}", dispatch.shader.name, dispatch.entry);
    let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{place}: {}", e.emit_to_string(&text)));
    let mut validator = naga::valid::Validator::new(
        naga::valid::ValidationFlags::all(),
        naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32,
    );
    if let Err(e) = validator.validate(&module) {
        panic!("{place}: {}", e.emit_to_string(&text));
    }
    assert!(module.entry_points.iter().any(|e| e.name == dispatch.entry), "{place}: no such entry point");
    use espalier::gpu::Access;
    let storage = dispatch.bindings.iter().filter(|b| matches!(b.0, Access::Read | Access::ReadWrite)).count();
    assert!(storage <= 8, "{place}: {storage} storage buffers");
    for (_, variable) in module.global_variables.iter() {
        if variable.space == naga::AddressSpace::Uniform && variable.binding.is_some_and(|b| b.binding == 0) {
            let size = module.types[variable.ty].inner.size(module.to_ctx());
            assert_eq!(size as usize, dispatch.params.len(), "{place}: size of Params in WGSL and in Rust");
        }
    }
    let workgroup: u32 = module
        .global_variables
        .iter()
        .filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup)
        .map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx()))
        .sum();
    assert!(workgroup <= 16 << 10, "{place}: {workgroup} bytes of workgroup memory");
}

#[test]
fn every_shader_variant_is_valid_within_the_default_limits() {
    for target in kinds(Target::default()) {
        for case in all().into_iter().chain(linear(true)) {
            for node in &case.graph.nodes {
                let (inputs, outputs) = (&node.inputs, &node.outputs);
                let mut cx = LaunchContext { graph: &case.graph, inputs, outputs, target: &target, dispatches: vec![] };
                node.op.launch(&mut cx).unwrap();
                cx.dispatches.iter().for_each(|d| validate(&case.name, d));
            }
        }
    }
    use espalier::ops::adamw::{AdamW, Segment, grad_norm};
    let segments = [Segment { elements: 100, decayed: 40 }; 2];
    let update = AdamW::default().update(&segments, &Target::default());
    grad_norm(&segments).iter().chain(&update).for_each(|d| validate("adamw", d));
}
