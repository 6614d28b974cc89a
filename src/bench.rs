//! `espalier bench`: what this adapter can do, and how much of it a training step reaches. Everything is measured in one process,
//! interleaved, as medians, against the adapter's own ceiling.

use std::rc::Rc;

use crate::Result;
use crate::data::{Batch, Example};
use crate::exec::{self, Memory, Program};
use crate::gpu::{Gpu, Prelude, Shader};
use crate::graph::{Checkpointing, DType, MemoryTable, Plan, Role};
use crate::model::config::LINEAR_MODULES;
use crate::model::device::ModelSetup;
use crate::model::{ModelConfig, ModelFiles, WeightPolicy};
use crate::ops::adamw::AdamW;
use crate::ops::linear::{Linear, LinearInputGrad};
use crate::ops::{Graph, weight};
use crate::peft::{LoraConfig, Method, TargetModules};
use crate::platform::clock;
use crate::quant::WeightFormat;
use crate::train::trainer::{Trainer, TrainerSetup};

/// Runs of each measurement; the median is reported.
pub const RUNS: usize = 7;

/// One product at one shape.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MatmulReport {
    pub rows: usize,
    pub out_features: usize,
    pub in_features: usize,
    /// 10^9 floating-point operations a second.
    pub f32_forward: f64,
    pub nf4_forward: f64,
    pub f32_input_grad: f64,
    pub nf4_input_grad: f64,
    /// NF4 forward over dense f32 forward.
    pub nf4_over_f32: f64,
    /// NF4 input gradient over NF4 forward.
    pub input_grad_over_forward: f64,
}

/// One whole training step.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StepBench {
    pub what: String,
    pub seconds: f64,
    pub tokens_per_s: f64,
    /// 10^9 floating-point operations a second, all of the step's operations counted.
    pub gflops_per_s: f64,
    /// That rate over the rate of dense f32 products at the model's shapes, weighted as the step uses them.
    pub over_dense: f64,
    /// Share of the GPU's time spent in products; none where the adapter has no timestamps.
    pub matmul_share: Option<f64>,
    /// Wall time that is not GPU time, over wall time.
    pub host_overhead: Option<f64>,
    pub dispatches: usize,
    pub bytes_planned: u64,
    pub bytes_allocated: u64,
    pub memory: MemoryTable,
}

/// All of it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct BenchReport {
    pub adapter: String,
    /// 10^9 fused multiply-adds a second, times two: a kernel that touches no memory.
    pub fma_ceiling: f64,
    pub matmul: Vec<MatmulReport>,
    pub steps: Vec<StepBench>,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Tokens of the products.
    pub rows: Vec<usize>,
    /// The model whose shapes are measured, with random weights.
    pub config: ModelConfig,
    /// Tokens of the QLoRA step; 0 leaves it out.
    pub context: usize,
    /// Rank of its LoRA, over every linear layer.
    pub rank: usize,
    pub checkpointing: Checkpointing,
    /// Also a step of full fine-tuning, 1 x 64 tokens.
    pub full: bool,
    /// Steps timed after a first one.
    pub steps: usize,
}

/// SmolLM2-135M's sizes.
pub fn smollm2_config() -> ModelConfig {
    let text = r#"{"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "tie_word_embeddings": true}"#;
    ModelConfig::from_json("built-in", text).expect("the text above is a valid configuration")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds from submission to completion.
async fn timed(gpu: &Gpu, program: &Program) -> Result<f64> {
    gpu.wait().await?;
    let start = clock::now();
    program.run(gpu, u32::MAX)?;
    gpu.wait().await?;
    Ok(start.elapsed().as_secs_f64())
}

/// 10^9 operations a second of a kernel that only multiplies and adds in registers.
async fn fma_ceiling(gpu: &Gpu) -> Result<f64> {
    const INVOCATIONS: u32 = 8192;
    const LOOPS: u32 = 512;
    let shader: &'static Shader = crate::shader!("fma_ceiling");
    let out = gpu.alloc("ceiling", u64::from(INVOCATIONS) * 16)?;
    let prelude = Prelude::default().u32("WG_SIZE", 64).u32("LOOPS", LOOPS);
    let pipeline = gpu.pipeline(shader, "ceiling", &prelude, &[crate::gpu::Access::ReadWrite]);
    let prepared = gpu.prepare(pipeline, &[out.region()], [INVOCATIONS / 64, 1, 1]);
    let mut rates = vec![];
    for _ in 0..RUNS {
        gpu.wait().await?;
        let start = clock::now();
        gpu.submit(&[], [&prepared], &[])?;
        gpu.wait().await?;
        // Eight chains of vec4, a multiply and an add each.
        let operations = f64::from(INVOCATIONS) * f64::from(LOOPS) * 8.0 * 4.0 * 2.0;
        rates.push(operations / start.elapsed().as_secs_f64() / 1e9);
    }
    Ok(median(rates))
}

struct Product {
    program: Program,
    _memory: Memory,
    flops: f64,
}

/// One product, repeated until it takes long enough to be timed.
async fn product(gpu: &Gpu, rows: usize, shape: [usize; 2], format: WeightFormat, backward: bool) -> Result<Product> {
    let target = exec::target(gpu);
    let repeats = (400_000_000 / (2 * rows * shape[0] * shape[1])).clamp(1, 16);
    let mut g = Graph::default();
    let w = g.tensor("w", &shape, DType::F32, Role::Weight(format));
    let columns = if backward { shape[0] } else { shape[1] };
    let x = g.tensor("x", &[rows, columns], DType::F32, Role::State);
    for _ in 0..repeats {
        let y = if backward {
            g.apply(LinearInputGrad { scale: 1.0 }.into(), &[x, w])?
        } else {
            g.apply(Linear { scale: 1.0 }.into(), &[x, w])?
        };
        g.keep(y);
    }
    let plan = Plan::new(&g, &target)?;
    let mut memory = Memory::new(gpu, target);
    memory.reserve_arena(gpu, &plan.arena)?;
    memory.reserve_images(gpu, exec::images(&g, &target)?)?;
    memory.add_state(gpu, g.get(x))?;
    let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect() };
    memory.write(gpu, g.get(x), &numbers(rows * columns))?;
    for shard in weight::shards(g.get(w), &target) {
        memory.upload_shard(gpu, g.get(w), &numbers(shard.rows.len() * shape[1]), &shard)?;
    }
    let program = Program::new(gpu, &g, &plan, &memory)?;
    let flops = (2 * rows * shape[0] * shape[1] * repeats) as f64;
    Ok(Product { program, _memory: memory, flops })
}

async fn matmul(gpu: &Gpu, rows: usize, shape: [usize; 2]) -> Result<MatmulReport> {
    let nf4 = WeightFormat::Nf4 { double_quant: false };
    let cases = [(WeightFormat::F32, false), (nf4, false), (WeightFormat::F32, true), (nf4, true)];
    let mut ready = vec![];
    for (format, backward) in cases {
        ready.push(product(gpu, rows, shape, format, backward).await?);
    }
    let mut rates = vec![vec![]; ready.len()];
    for p in &ready {
        timed(gpu, &p.program).await?;
    }
    for _ in 0..RUNS {
        for (k, p) in ready.iter().enumerate() {
            rates[k].push(p.flops / timed(gpu, &p.program).await? / 1e9);
        }
    }
    let over = |a: usize, b: usize| median(rates[a].iter().zip(&rates[b]).map(|(a, b)| a / b).collect());
    Ok(MatmulReport {
        rows,
        out_features: shape[0],
        in_features: shape[1],
        nf4_over_f32: over(1, 0),
        input_grad_over_forward: over(3, 1),
        f32_forward: median(rates[0].clone()),
        nf4_forward: median(rates[1].clone()),
        f32_input_grad: median(rates[2].clone()),
        nf4_input_grad: median(rates[3].clone()),
    })
}

/// A batch of arbitrary tokens, all supervised.
pub fn batch(batch_size: usize, context: usize, vocab: usize) -> Batch {
    let row = |r: usize| {
        let input_ids: Vec<u32> = (0..context).map(|t| (((r * context + t) * 7919) % vocab) as u32).collect();
        Example { labels: input_ids.iter().map(|id| *id as i32).collect(), input_ids }
    };
    let examples: Vec<Example> = (0..batch_size).map(row).collect();
    let rows: Vec<Vec<&Example>> = examples.iter().map(|e| vec![e]).collect();
    Batch::new(&rows, batch_size, context, 0)
}

/// Rate of the dense products of one step, in 10^9 operations a second: their operations over the time they would take.
fn dense_rate(matmul: &[MatmulReport], config: &ModelConfig) -> Option<f64> {
    let (mut operations, mut seconds) = (0.0, 0.0);
    for (module, _) in LINEAR_MODULES {
        let shape = config.linear_shape(module);
        let report = matmul.iter().find(|m| [m.out_features, m.in_features] == shape)?;
        let n = (shape[0] * shape[1]) as f64;
        operations += 2.0 * n;
        seconds += n / report.f32_forward + n / report.f32_input_grad;
    }
    Some(operations / seconds)
}

async fn step(
    gpu: &Rc<Gpu>,
    what: String,
    options: &BenchOptions,
    method: Method,
    policy: WeightPolicy,
    context: usize,
    dense: Option<f64>,
) -> Result<StepBench> {
    let shape = (1, context);
    let files = ModelFiles::random_of(options.config.clone(), 1);
    let before = gpu.bytes();
    let setup = TrainerSetup {
        model: ModelSetup { config: options.config.clone(), policy, method, positions: context, seed: 1 },
        optimizer: AdamW::default(),
        max_grad_norm: 1.0,
        checkpointing: options.checkpointing,
        train_shapes: vec![shape],
        eval_shapes: vec![],
        accumulation: 1,
    };
    let mut trainer = Trainer::new(gpu.clone(), &files, setup, &mut |_| true).await?;
    let batch = batch(shape.0, shape.1, options.config.vocab_size);
    trainer.step(std::slice::from_ref(&batch), 1e-4, &|| false).await?;
    let mut seconds = vec![];
    for _ in 0..options.steps.max(1) {
        let start = clock::now();
        trainer.step(std::slice::from_ref(&batch), 1e-4, &|| false).await?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let bytes_allocated = gpu.bytes() - before;
    let seconds = median(seconds);
    let (dispatches, flops) = trainer.cost(shape).unwrap_or_default();
    let (mut matmul_share, mut host_overhead) = (None, None);
    if gpu.summary().timestamps {
        let (mut shares, mut overheads) = (vec![], vec![]);
        for _ in 0..options.steps.clamp(1, 3) {
            let times = trainer.profile(&batch).await?;
            let total: f64 = times.iter().map(|t| t.2).sum();
            let products: f64 = times.iter().filter(|t| is_product(&t.1)).map(|t| t.2).sum();
            shares.push(products / total);
            overheads.push(1.0 - total / 1e9 / seconds);
        }
        matmul_share = Some(median(shares));
        host_overhead = Some(median(overheads).max(0.0));
    }
    let gflops_per_s = flops as f64 / seconds / 1e9;
    Ok(StepBench {
        what,
        seconds,
        tokens_per_s: (shape.0 * shape.1) as f64 / seconds,
        gflops_per_s,
        over_dense: dense.map_or(f64::NAN, |d| gflops_per_s / d),
        matmul_share,
        host_overhead,
        dispatches,
        bytes_planned: trainer.planned().total(),
        bytes_allocated,
        memory: trainer.planned().clone(),
    })
}

/// Whether a kernel is part of a product with a weight.
fn is_product(kernel: &str) -> bool {
    kernel.starts_with("matmul") || kernel.starts_with("dequantize")
}

/// Measures an adapter. `progress` is told what comes next.
pub async fn run(gpu: Rc<Gpu>, options: &BenchOptions, mut progress: impl FnMut(&str)) -> Result<BenchReport> {
    progress("multiply-add ceiling");
    let fma_ceiling = fma_ceiling(&gpu).await?;
    let config = &options.config;
    let mut shapes: Vec<[usize; 2]> = LINEAR_MODULES.iter().map(|(m, _)| config.linear_shape(m)).collect();
    shapes.sort_unstable();
    shapes.dedup();
    let mut reports = vec![];
    for &rows in &options.rows {
        for &shape in &shapes {
            progress(&format!("products of {rows} tokens with {} x {}", shape[0], shape[1]));
            reports.push(matmul(&gpu, rows, shape).await?);
        }
    }
    let dense = |context: usize| {
        let same: Vec<MatmulReport> = reports.iter().filter(|m| m.rows == context).cloned().collect();
        dense_rate(&same, config)
    };
    let mut steps = vec![];
    if options.context > 0 {
        let what = format!("QLoRA, all linear layers, r {}, 1 x {}", options.rank, options.context);
        progress(&what);
        let policy = WeightPolicy { linears: WeightFormat::Nf4 { double_quant: true }, embedding: WeightFormat::F16 };
        let method = Method::Lora(LoraConfig {
            r: options.rank,
            lora_alpha: 2.0 * options.rank as f32,
            lora_dropout: 0.0,
            target_modules: TargetModules::AllLinear,
            use_rslora: false,
        });
        let dense = dense(options.context);
        steps.push(step(&gpu, what, options, method, policy, options.context, dense).await?);
    }
    if options.full {
        let what = "full fine-tuning, 1 x 64".to_string();
        progress(&what);
        let policy = WeightPolicy { linears: WeightFormat::F32, embedding: WeightFormat::F32 };
        steps.push(step(&gpu, what, options, Method::Full, policy, 64, dense(64)).await?);
    }
    Ok(BenchReport { adapter: gpu.summary().name.clone(), fma_ceiling, matmul: reports, steps })
}
