//! Norm, clipping, AdamW and the metrics on the GPU against the CPU.

use std::rc::Rc;

use espalier::Result;
use espalier::exec::{Memory, ParamLayout, Program, target};
use espalier::gpu::Gpu;
use espalier::graph::reference::StepScalars;
use espalier::ops::ArenaKind;
use espalier::ops::adamw::{AdamW, Segment, grad_norm, metric, reference_norm};

crate::gpu_tests!(adamw_matches_reference, a_norm_that_is_not_finite_updates_nothing);

/// One more than a workgroup, and less than one; the decay ends inside the first.
const SEGMENTS: [Segment; 2] = [Segment { elements: 65, decayed: 40 }, Segment { elements: 7, decayed: 0 }];

fn numbers(seed: usize) -> impl FnMut(usize) -> Vec<f32> {
    move |n| (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0).collect()
}

struct Optimizer {
    memory: Memory,
    program: Program,
}

impl Optimizer {
    fn new(gpu: &Gpu, config: AdamW) -> Result<Optimizer> {
        let bytes = SEGMENTS.map(|s| 4 * s.elements as u64).to_vec();
        let layout = ParamLayout { segments: bytes, decayed: vec![160, 0], ..Default::default() };
        let mut memory = Memory::new(gpu, target(gpu));
        memory.add_params(gpu, &layout, true)?;
        let mut dispatches = grad_norm(&SEGMENTS);
        dispatches.extend(config.update(&SEGMENTS, &memory.target));
        let program = Program::of_dispatches(gpu, dispatches, &memory)?;
        Ok(Optimizer { memory, program })
    }

    fn write(&self, gpu: &Gpu, kind: ArenaKind, mut data: impl FnMut(usize) -> Vec<f32>) -> Vec<f32> {
        let mut all = vec![];
        for (buffer, segment) in self.memory.arena(kind).iter().zip(SEGMENTS) {
            let values = data(segment.elements);
            gpu.write(&buffer.region(), 0, bytemuck::cast_slice(&values));
            all.extend(values);
        }
        all
    }

    async fn read(&self, gpu: &Gpu, kind: ArenaKind) -> Result<Vec<f32>> {
        let mut all = vec![];
        for buffer in self.memory.arena(kind) {
            all.extend(gpu.read_f32(&buffer.region()).await?);
        }
        Ok(all)
    }
}

async fn adamw_matches_reference(gpu: Rc<Gpu>) -> Result<()> {
    let config = AdamW { beta1: 0.8, beta2: 0.99, eps: 1e-6, weight_decay: 0.1 };
    // No clipping, clipping, and a largest norm that is not reached.
    for max_grad_norm in [0.0, 0.5, 1e3] {
        let optimizer = Optimizer::new(&gpu, config)?;
        let params = optimizer.write(&gpu, ArenaKind::Params, numbers(1));
        let mut params: Vec<f64> = params.into_iter().map(f64::from).collect();
        let (mut m, mut v) = (vec![0.0; params.len()], vec![0.0; params.len()]);
        for t in 1..=3 {
            let grads = optimizer.write(&gpu, ArenaKind::Grads, numbers(1 + t as usize));
            let grads: Vec<f64> = grads.into_iter().map(f64::from).collect();
            let step = StepScalars {
                lr: 0.01,
                bias_correction1: (1.0 - config.beta1.powi(t)) as f32,
                bias_correction2: (1.0 - config.beta2.powi(t)) as f32,
                max_grad_norm,
                ..Default::default()
            };
            let (norm, clip) = reference_norm(&step, &grads);
            // Segments follow each other: the first 40 elements decay.
            config.reference(&step, clip, 40, &grads, [&mut params, &mut m, &mut v]);
            optimizer.program.write_step(&gpu, &optimizer.memory, &step);
            optimizer.program.run(&gpu, 0)?;
            let metrics = optimizer.read(&gpu, ArenaKind::Metrics).await?;
            let got = f64::from(metrics[metric::GRAD_NORM]);
            assert!((got - norm).abs() <= 1e-6 * norm, "norm {got}, reference {norm}");
            for (kind, wanted) in [(ArenaKind::Params, &params), (ArenaKind::Moment1, &m), (ArenaKind::Moment2, &v)] {
                for (i, (got, wanted)) in optimizer.read(&gpu, kind).await?.iter().zip(wanted).enumerate() {
                    // A few f32 operations, each within 2^-24, on values of order one.
                    let off = (f64::from(*got) - wanted).abs();
                    assert!(off <= 1e-6, "{kind:?} [{i}] at step {t}, clip {max_grad_norm}: {got}, reference {wanted}");
                }
            }
        }
    }
    Ok(())
}

async fn a_norm_that_is_not_finite_updates_nothing(gpu: Rc<Gpu>) -> Result<()> {
    for bad in [f32::NAN, f32::INFINITY] {
        let optimizer = Optimizer::new(&gpu, AdamW::default())?;
        let before = optimizer.write(&gpu, ArenaKind::Params, numbers(1));
        optimizer.write(&gpu, ArenaKind::Grads, |n| (0..n).map(|i| if i == 3 { bad } else { 1.0 }).collect());
        let step = StepScalars { lr: 0.1, bias_correction1: 0.1, bias_correction2: 0.001, ..Default::default() };
        optimizer.program.write_step(&gpu, &optimizer.memory, &step);
        optimizer.program.run(&gpu, 0)?;
        assert_eq!(optimizer.read(&gpu, ArenaKind::Params).await?, before);
        assert!(optimizer.read(&gpu, ArenaKind::Metrics).await?[metric::CLIP] < 0.0);
    }
    Ok(())
}
