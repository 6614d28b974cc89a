//! Whole models against PyTorch and PEFT: logits, gradients of every trained tensor, losses of ten AdamW steps, greedy text.
//! Natively and in a browser.

mod support;

use std::rc::Rc;

use espalier::Result;
use espalier::generate::{Generator, Sampling};
use espalier::gpu::Gpu;
use espalier::graph::Checkpointing;
use espalier::model::device::{DeviceModel, ModelSetup, Planned};
use espalier::model::{ModelFiles, Purpose, WeightPolicy};
use espalier::ops::adamw::AdamW;
use espalier::peft::{Adapter, Method};
use espalier::quant::WeightFormat;
use espalier::train::trainer::{Trainer, TrainerSetup};
use serde_json::Value as Json;
use support::tiny_llama::{Tiny, batch, load, numbers};

const F32: WeightPolicy = WeightPolicy { linears: WeightFormat::F32, embedding: WeightFormat::F32 };

fn model_setup(files: &ModelFiles, method: Method, policy: WeightPolicy) -> ModelSetup {
    ModelSetup { config: files.config().clone(), policy, method, positions: 32, seed: 1 }
}

fn optimizer(json: &Json) -> (AdamW, f32) {
    let n = |key: &str| json[key].as_f64().expect("a number");
    let betas = numbers(&json["betas"]);
    let adamw = AdamW { beta1: betas[0], beta2: betas[1], eps: n("eps"), weight_decay: n("weight_decay") };
    (adamw, n("max_grad_norm") as f32)
}

/// Norm of the difference over norm.
fn relative(got: &[f32], wanted: &[f32]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(wanted).map(|(a, b)| f64::from(*a) - f64::from(*b)))
        / norm(&mut wanted.iter().map(|b| f64::from(*b))).max(1e-12)
}

/// Logits of every position of a batch.
async fn logits(gpu: &Rc<Gpu>, tiny: &Tiny, setup: ModelSetup, adapter: Option<&Adapter>) -> Result<Vec<f32>> {
    let batch = batch(&tiny.expected["batch"], 0);
    let mut model = DeviceModel::load(gpu.clone(), &tiny.files, setup, false, &mut |_| true).await?;
    if let Some(adapter) = adapter {
        model.set_parameters("adapter", &adapter.tensors)?;
    }
    let target = model.memory.target;
    let planned = Planned::new(&model.setup, batch.batch_size, batch.context, Purpose::Logits, &target)?;
    model.reserve([&planned]).await?;
    let ready = model.ready(&planned).await?;
    for (name, data) in [
        ("tokens", &batch.input_ids),
        ("positions", &batch.positions),
        ("first", &batch.segment_start),
        ("last", &batch.positions),
    ] {
        ready.program.write_input(gpu, name, data)?;
    }
    ready.program.run(gpu, 0)?;
    gpu.read_f32(&ready.logits.expect("the purpose asks for logits")).await
}

/// Largest difference over positions that are not padding, where the fixture is zero throughout.
fn worst(got: &[f32], wanted: &[f32], vocab: usize) -> f32 {
    let mut worst = 0f32;
    for (g, w) in got.chunks(vocab).zip(wanted.chunks(vocab)) {
        if w.iter().any(|v| *v != 0.0) {
            worst = g.iter().zip(w).fold(worst, |m, (a, b)| m.max((a - b).abs()));
        }
    }
    worst
}

async fn logits_match_transformers_and_peft(gpu: Rc<Gpu>) -> Result<()> {
    for name in ["tied", "untied", "blocks64"] {
        let tiny = load(name)?;
        let nf4 =
            |double_quant| WeightPolicy { linears: WeightFormat::Nf4 { double_quant }, embedding: WeightFormat::F32 };
        let cases = [
            ("logits", Method::None, None, F32),
            ("lora.logits", tiny.lora.method.clone(), Some(&tiny.lora), F32),
            ("rslora.logits", tiny.rslora.method.clone(), Some(&tiny.rslora), F32),
            ("nf4.logits", Method::None, None, nf4(false)),
            ("nf4_dq.logits", Method::None, None, nf4(true)),
        ];
        for (what, method, adapter, policy) in cases {
            let got = logits(&gpu, &tiny, model_setup(&tiny.files, method, policy), adapter).await?;
            let difference = worst(&got, &tiny.tensor(what), 131);
            // Logits of order 10 after two layers of f32 sums in another order.
            assert!(difference < 1e-3, "{name} {what}: {difference}");
        }
    }
    Ok(())
}

/// Ten steps on the same batch: gradients of the first, loss and gradient norm of each.
async fn run(
    gpu: &Rc<Gpu>,
    tiny: &Tiny,
    key: &str,
    adapter: Option<&Adapter>,
    policy: WeightPolicy,
    grads: Option<&str>,
    checkpointing: Checkpointing,
) -> Result<Vec<f64>> {
    let expected = &tiny.expected[key];
    let batches = match expected["micro_batches"].as_array() {
        Some(all) => all.iter().map(|b| batch(b, 0)).collect(),
        None => vec![batch(&tiny.expected["batch"], 0)],
    };
    let method = adapter.map_or(Method::Full, |a| a.method.clone());
    let (adamw, max_grad_norm) = optimizer(&expected["optimizer"]);
    let setup = TrainerSetup {
        model: model_setup(&tiny.files, method, policy),
        optimizer: adamw,
        max_grad_norm,
        checkpointing,
        train_shapes: batches.iter().map(|b| (b.batch_size, b.context)).collect(),
        eval_shapes: batches.iter().map(|b| (b.batch_size, b.context)).collect(),
        accumulation: batches.len(),
    };
    let lr = expected["optimizer"]["lr"].as_f64().expect("a number") as f32;
    let mut trainer = Trainer::new(gpu.clone(), &tiny.files, setup, &mut |_| true).await?;
    if let Some(adapter) = adapter {
        trainer.model.set_parameters("adapter", &adapter.tensors)?;
    }
    let (losses, norms) = (numbers(&expected["losses"]), numbers(&expected["grad_norms"]));
    let mut got = vec![];
    let mut created = None;
    for step in 0..norms.len() {
        let report = trainer.step(&batches, lr, &|| false).await?;
        if let (0, Some(prefix)) = (step, grads) {
            for grad in trainer.gradients().await? {
                let wanted = tiny.tensor(&format!("{prefix}.{}", grad.name));
                let error = relative(&grad.data, &wanted);
                assert!(error < 1e-4, "{key}: gradient of {}: {error}", grad.name);
            }
        }
        let relative = |a: f64, b: f64| ((a - b) / b).abs();
        assert!(relative(report.loss, losses[step]) < 1e-3, "{key} step {step}: {} {}", report.loss, losses[step]);
        assert!(
            relative(report.grad_norm, norms[step]) < 1e-3,
            "{key} step {step}: {} {}",
            report.grad_norm,
            norms[step]
        );
        got.push(report.loss);
        if step == 1 {
            created = Some(gpu.created());
        }
        assert!(created.is_none_or(|c| c == gpu.created()), "step {step} created buffers or bind groups");
    }
    let last = trainer.evaluate(&batches, &|| false).await?.loss();
    let wanted = *losses.last().expect("eleven losses");
    assert!(((last - wanted) / wanted).abs() < 1e-3, "{key} after the last step: {last} {wanted}");
    got.push(last);
    Ok(got)
}

async fn full_fine_tuning_matches_torch(gpu: Rc<Gpu>) -> Result<()> {
    for name in ["tied", "untied"] {
        let tiny = load(name)?;
        let plain = run(&gpu, &tiny, "full", None, F32, Some("grad"), Checkpointing::Off).await?;
        let again = run(&gpu, &tiny, "full", None, F32, Some("grad"), Checkpointing::On).await?;
        assert_eq!(plain, again, "checkpointing changes nothing, bit for bit");
    }
    Ok(())
}

async fn lora_matches_peft(gpu: Rc<Gpu>) -> Result<()> {
    for name in ["tied", "untied", "blocks64"] {
        let tiny = load(name)?;
        let lora = Some(&tiny.lora);
        let plain = run(&gpu, &tiny, "lora", lora, F32, Some("lora.grad"), Checkpointing::Off).await?;
        let again = run(&gpu, &tiny, "lora", lora, F32, Some("lora.grad"), Checkpointing::On).await?;
        assert_eq!(plain, again, "checkpointing changes nothing, bit for bit");
        run(&gpu, &tiny, "lora_accumulation", lora, F32, None, Checkpointing::Off).await?;
    }
    Ok(())
}

async fn qlora_matches_peft_on_bitsandbytes_weights(gpu: Rc<Gpu>) -> Result<()> {
    for name in ["untied", "blocks64"] {
        let tiny = load(name)?;
        for (key, double_quant) in [("nf4", false), ("nf4_dq", true)] {
            let policy = WeightPolicy { linears: WeightFormat::Nf4 { double_quant }, embedding: WeightFormat::F32 };
            let grads = format!("{key}.lora.grad");
            run(&gpu, &tiny, key, Some(&tiny.lora), policy, Some(&grads), Checkpointing::Off).await?;
        }
    }
    Ok(())
}

async fn greedy_text_matches_transformers(gpu: Rc<Gpu>) -> Result<()> {
    for name in ["tied", "untied", "blocks64"] {
        let tiny = load(name)?;
        let setup = model_setup(&tiny.files, Method::None, F32);
        let mut model = DeviceModel::load(gpu.clone(), &tiny.files, setup, false, &mut |_| true).await?;
        let mut generator = Generator::new(&mut model, 32).await?;
        let prompt: Vec<u32> = serde_json::from_value(tiny.expected["generate"]["prompt"].clone()).expect("a prompt");
        let wanted: Vec<u32> = serde_json::from_value(tiny.expected["generate"]["tokens"].clone()).expect("tokens");
        let sampling = Sampling { max_new_tokens: wanted.len(), ..Default::default() };
        let got = generator.generate(&model, &prompt, &sampling, &[], |_| true).await?;
        assert_eq!(got, wanted, "{name}");
    }
    Ok(())
}

async fn allocated_bytes_are_the_planned_ones(gpu: Rc<Gpu>) -> Result<()> {
    let tiny = load("blocks64")?;
    let batch = batch(&tiny.expected["batch"], 0);
    let shape = (batch.batch_size, batch.context);
    let setup = TrainerSetup {
        model: model_setup(&tiny.files, tiny.lora.method.clone(), F32),
        optimizer: AdamW::default(),
        max_grad_norm: 1.0,
        checkpointing: Checkpointing::Off,
        train_shapes: vec![shape],
        eval_shapes: vec![],
        accumulation: 1,
    };
    let before = gpu.bytes();
    let mut trainer = Trainer::new(gpu.clone(), &tiny.files, setup, &mut |_| true).await?;
    trainer.step(std::slice::from_ref(&batch), 1e-3, &|| false).await?;
    let (allocated, planned) = ((gpu.bytes() - before) as f64, trainer.planned().total() as f64);
    assert!((allocated / planned - 1.0).abs() < 0.05, "{allocated} allocated, {planned} planned");
    Ok(())
}

gpu_tests!(
    logits_match_transformers_and_peft,
    full_fine_tuning_matches_torch,
    lora_matches_peft,
    qlora_matches_peft_on_bitsandbytes_weights,
    greedy_text_matches_transformers,
    allocated_bytes_are_the_planned_ones,
);
