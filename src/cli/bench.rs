//! `espalier bench`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use espalier::bench::{self, BenchOptions, BenchReport};
use espalier::graph::Checkpointing;
use espalier::model::ModelConfig;
use espalier::platform::block_on;

use super::report::bytes;
use super::{Outcome, open};

#[derive(Args)]
pub struct Options {
    /// Tokens of the products, separated by commas
    #[arg(long, value_delimiter = ',', num_args = 0.., default_value = "64,128,256")]
    rows: Vec<usize>,
    /// Measure the shapes of this model, a config.json, with random weights [default: SmolLM2-135M]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Tokens of the QLoRA step; 0 leaves it out
    #[arg(long, default_value_t = 128)]
    context: usize,
    /// Rank of the QLoRA step
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// Compute activations again instead of keeping them
    #[arg(long)]
    grad_checkpointing: bool,
    /// Also measure a step of full fine-tuning (SmolLM2-135M needs 2.5 GiB)
    #[arg(long)]
    full: bool,
    /// Steps timed after a first one
    #[arg(long, default_value_t = bench::RUNS)]
    steps: usize,
    /// The adapter: part of its name, or its index in `espalier gpus` [default: the fastest]
    #[arg(long, value_name = "NAME|INDEX")]
    gpu: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options) -> Result<Outcome> {
    let gpu = open::gpu(options.gpu.as_deref())?;
    let config = match &options.config {
        None => bench::smollm2_config(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            ModelConfig::from_json(&path.display().to_string(), &text)?
        }
    };
    let what = BenchOptions {
        rows: options.rows.clone(),
        config,
        context: options.context,
        rank: options.rank,
        checkpointing: if options.grad_checkpointing { Checkpointing::On } else { Checkpointing::Off },
        full: options.full,
        steps: options.steps,
    };
    let report = block_on(bench::run(gpu, &what, |next| eprintln!("measuring: {next}")))?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(Outcome::Done)
}

fn print(report: &BenchReport) {
    println!("{}: multiply-add ceiling {:.1} GFLOP/s", report.adapter, report.fma_ceiling);
    println!("\nProducts, GFLOP/s (median of {}, interleaved)", bench::RUNS);
    println!("tokens  out x in       f32    nf4    f32 dx  nf4 dx   nf4/f32  nf4 dx/nf4");
    for m in &report.matmul {
        println!(
            "{:>6}  {:<12} {:>6.1} {:>6.1} {:>8.1} {:>7.1} {:>8.2} {:>10.2}",
            m.rows,
            format!("{} x {}", m.out_features, m.in_features),
            m.f32_forward,
            m.nf4_forward,
            m.f32_input_grad,
            m.nf4_input_grad,
            m.nf4_over_f32,
            m.input_grad_over_forward,
        );
    }
    for s in &report.steps {
        println!("\n{}", s.what);
        println!("  {:.2} s a step, {:.1} tokens/s", s.seconds, s.tokens_per_s);
        let over = if s.over_dense.is_nan() {
            String::new()
        } else {
            format!(", {:.0} % of dense f32 products", 100.0 * s.over_dense)
        };
        println!("  {:.1} GFLOP/s{over}", s.gflops_per_s);
        let share = |v: Option<f64>| v.map_or("unknown (no timestamps)".into(), |v| format!("{:.1} %", 100.0 * v));
        println!("  in products {}, host overhead {}", share(s.matmul_share), share(s.host_overhead));
        println!(
            "  {} dispatches; {} planned, {} allocated",
            s.dispatches,
            bytes(s.bytes_planned),
            bytes(s.bytes_allocated)
        );
    }
}
