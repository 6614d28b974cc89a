//! The engine itself: a graph differentiated, planned and replayed on the GPU gives what the CPU reference gives, with and
//! without gradient checkpointing. Natively and in a browser.

mod support;

use std::rc::Rc;

use espalier::Result;
use espalier::gpu::Gpu;
use espalier::graph::reference::StepScalars;
use espalier::graph::{Checkpointing, DType, Role, TensorId, Value};
use espalier::ops::linear::Linear;
use espalier::ops::rms_norm::RmsNorm;
use espalier::ops::{Graph, Op};
use espalier::quant::WeightFormat;
use rustc_hash::FxHashMap;

const ROWS: usize = 5;
const COLS: usize = 12;

/// Deterministic numbers in (-1, 1).
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| ((i.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 8) as f32 / 8_388_608.0) - 1.0)
        .collect()
}

/// Three residual layers `x + norm(x) W^T + norm(x) P^T`, W frozen, P and the norm weight trained.
fn layers(checkpointing: Checkpointing) -> Result<(Graph, FxHashMap<TensorId, Value<f32>>)> {
    let mut g = Graph::default();
    let mut values = FxHashMap::default();
    let mut seed = 0;
    let mut fill = |g: &Graph, values: &mut FxHashMap<TensorId, Value<f32>>, id: TensorId| {
        seed += 1;
        values.insert(id, Value::Real(numbers(g.get(id).elements(), seed)));
    };
    let zero = g.tensor("x0", &[ROWS, COLS], DType::F32, Role::Param { decay: true });
    fill(&g, &mut values, zero);
    let w0 = g.tensor("w0", &[COLS, COLS], DType::F32, Role::Weight(WeightFormat::F32));
    fill(&g, &mut values, w0);
    // A parameter may not be updated in place: the first op makes an activation of it.
    let one = g.tensor("one", &[COLS], DType::F32, Role::Weight(WeightFormat::F32));
    fill(&g, &mut values, one);
    let mut x = g.emit(RmsNorm { eps: 1e-5 }.into(), &[w0, one])?[0];
    for layer in 0..3 {
        g.set_segment(Some(layer));
        let norm = g.tensor(format!("norm{layer}"), &[COLS], DType::F32, Role::Param { decay: false });
        let w = g.tensor(format!("w{layer}.frozen"), &[COLS, COLS], DType::F32, Role::Weight(WeightFormat::F32));
        let p = g.tensor(format!("p{layer}"), &[COLS, COLS], DType::F32, Role::Param { decay: true });
        for id in [norm, w, p] {
            fill(&g, &mut values, id);
        }
        let y = g.emit(RmsNorm { eps: 1e-5 }.into(), &[x, norm])?[0];
        let a = g.apply(Linear { scale: 1.0 }.into(), &[y, w])?;
        let a = g.apply(Linear { scale: 0.5 }.into(), &[y, p, a])?;
        x = g.apply(<Op as espalier::graph::Op>::add(), &[x, a])?;
    }
    g.set_segment(None);
    let dx = g.emit(RmsNorm { eps: 1e-5 }.into(), &[x, one])?[0];
    g.keep(x);
    g.backward(&[(x, dx)], checkpointing)?;
    g.eliminate_dead_nodes();
    g.copy_before_overwrite()?;
    Ok((g, values))
}

async fn gpu_matches_reference(gpu: &Gpu, checkpointing: Checkpointing) -> Result<Vec<Vec<f32>>> {
    let (graph, values) = layers(checkpointing)?;
    let step = StepScalars::default();
    let got = espalier::exec::run_once(gpu, &graph, &values, &step).await?;
    let mut wanted = values.clone();
    graph.run_reference(&mut wanted, &step)?;
    let mut all = vec![];
    assert_eq!(graph.grads.len(), 6);
    for id in graph.kept.iter().chain(graph.grads.values()) {
        let Value::Real(wanted) = &wanted[id] else { panic!("a real") };
        let got = &got[id];
        for (i, (a, b)) in got.iter().zip(wanted).enumerate() {
            // f32 sums of a dozen terms of order one, in another order.
            assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{} [{i}]: gpu {a}, cpu {b}", graph.get(*id).name);
        }
        all.push(got.clone());
    }
    Ok(all)
}

async fn backward_matches_reference_and_checkpointing_changes_nothing(gpu: Rc<Gpu>) -> Result<()> {
    let plain = gpu_matches_reference(&gpu, Checkpointing::Off).await?;
    let again = gpu_matches_reference(&gpu, Checkpointing::On).await?;
    assert_eq!(plain, again, "recomputed activations are the same bits");
    Ok(())
}

gpu_tests!(backward_matches_reference_and_checkpointing_changes_nothing);
