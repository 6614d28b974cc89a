//! `espalier plan`

use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Args;
use espalier::exec;
use espalier::gpu::{Gpu, GpuOptions};
use espalier::graph::{Checkpointing, Target};
use espalier::model::ModelConfig;
use espalier::platform::block_on;
use espalier::train::trainer::{RunPlan, TrainerSetup};
use espalier::train::{RunConfig, Shapes, advice};
use serde_json::json;

use super::Outcome;
use super::open::{self, WithoutWeights};
use super::options::RunOptions;
use super::report::{bytes, count, memory};

#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct Options {
    /// A Hugging Face folder (config.json is enough), a .gguf file, or owner/name[@revision][:file.gguf] on the hub
    #[arg(value_name = "MODEL")]
    model: String,
    /// GPU memory there is, such as 8GiB: says whether the run fits, and which change makes it fit
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    budget: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The GPU adapter whose limits count, by name or index [default: the fastest; without any, what WebGPU guarantees]
    #[arg(long, value_name = "NAME|INDEX")]
    gpu: Option<String>,
    #[command(flatten)]
    run: RunOptions,
}

/// Bytes as people write them: `8GiB`, `6GB`, `512MiB`, `1000000`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || "expected bytes, such as 8GiB, 6.5GB or 512MiB".to_string();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" | "k" => 1e3,
        "mb" | "m" => 1e6,
        "gb" | "g" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wrong()),
    };
    Ok((number * unit) as u64)
}

pub fn run(options: &Options) -> Result<Outcome> {
    let config = options.run.resolve(&RunConfig::default())?;
    let files = open::model(&options.model, WithoutWeights::Random(config.seed), &AtomicBool::new(false))?;
    let model = files.config();
    config.check_model(model)?;
    let config = config.decided(model);
    let target = target(options.gpu.as_deref())?;
    let (setup, plan) = advice::plan(&config, model, &Shapes::largest(&config, model), &target)?;
    let changes = match options.budget {
        Some(budget) if plan.memory.total() > budget => Some(advice::advise(&config, model, &target, budget)?),
        _ => None,
    };
    if options.json {
        let report = json!({
            "memory": plan.memory,
            "total_bytes": plan.memory.total(),
            "parameters": model.parameters(),
            "trained_parameters": plan.trained_parameters,
            "flops_per_step": flops_per_step(&config, &plan),
            "dispatches": plan.dispatches,
            "grad_checkpointing": setup.checkpointing == Checkpointing::On,
            "config": config,
            "budget_bytes": options.budget,
            "fits": options.budget.map(|budget| plan.memory.total() <= budget),
            "changes": changes,
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(Outcome::Done);
    }
    print!("{}", describe(&config, model, &setup, &plan));
    if let Some(budget) = options.budget {
        print!("{}", fit(&plan, budget, changes.as_deref()));
    }
    Ok(Outcome::Done)
}

/// Limits of the adapter that is there; without one, those that every WebGPU implementation has.
fn target(gpu: Option<&str>) -> Result<Target> {
    let options = GpuOptions { adapter: gpu.map(String::from), ..GpuOptions::default() };
    match block_on(Gpu::open(&options)) {
        Ok(gpu) => Ok(exec::target(&gpu)),
        Err(error) if gpu.is_some() => Err(error.into()),
        Err(_) => Ok(Target::default()),
    }
}

fn flops_per_step(config: &RunConfig, plan: &RunPlan) -> u64 {
    plan.flops.saturating_mul(config.grad_accumulation as u64)
}

/// What a run costs, in a few lines.
pub fn describe(config: &RunConfig, model: &ModelConfig, setup: &TrainerSetup, plan: &RunPlan) -> String {
    let rows = setup.train_shapes.iter().map(|shape| shape.0).max().unwrap_or_default();
    let context = setup.train_shapes.iter().map(|shape| shape.1).max().unwrap_or_default();
    let share = 100.0 * plan.trained_parameters as f64 / model.parameters() as f64;
    let checkpointing = if setup.checkpointing == Checkpointing::On { "computed again" } else { "kept" };
    format!(
        "training {} of {} parameters ({share:.2} %), weights in {}, embedding in {}\n\
         {} x {rows} rows of up to {context} tokens a step, activations {checkpointing}, {:.3} TFLOP a step\n\
         GPU memory\n{}",
        count(plan.trained_parameters),
        count(model.parameters()),
        config.weights(),
        config.embedding(),
        config.grad_accumulation,
        flops_per_step(config, plan) as f64 / 1e12,
        memory(&plan.memory)
    )
}

fn fit(plan: &RunPlan, budget: u64, changes: Option<&[advice::Change]>) -> String {
    let total = plan.memory.total();
    let Some(changes) = changes else {
        let tight = if total as f64 > 0.85 * budget as f64 { ", but it is tight" } else { "" };
        return format!("fits into {}{tight}\n", bytes(budget));
    };
    let mut text = format!("does not fit into {}: it needs {} more\n", bytes(budget), bytes(total - budget));
    match changes {
        [change] if change.bytes > budget => {
            text +=
                &format!("even with {} it needs {}; a smaller model would fit\n", change.options, bytes(change.bytes));
        }
        changes => {
            for change in changes {
                text += &format!("with {} it needs {}\n", change.options, bytes(change.bytes));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read_in_every_usual_unit() {
        assert_eq!(parse_bytes("8GiB"), Ok(8 << 30));
        assert_eq!(parse_bytes("6.5gb"), Ok(6_500_000_000));
        assert_eq!(parse_bytes("512 MiB"), Ok(512 << 20));
        assert_eq!(parse_bytes("1000"), Ok(1000));
        for wrong in ["", "GiB", "8 apples", "-1", "1.2.3GB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
