//! `espalier selftest`

use anyhow::{Result, bail};
use clap::Args;
use espalier::platform::block_on;
use espalier::selftest;

use super::{Outcome, open};

#[derive(Args)]
pub struct Options {
    /// The adapter: part of its name, or its index in `espalier gpus` [default: the fastest]
    #[arg(long, value_name = "NAME|INDEX")]
    gpu: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options) -> Result<Outcome> {
    let gpu = open::gpu(options.gpu.as_deref())?;
    let cases = block_on(selftest::run(&gpu))?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&cases)?);
    } else {
        println!("{} against the CPU", gpu.summary().name);
        for case in &cases {
            let verdict = if case.passed { "agrees" } else { "DIFFERS" };
            println!("  {:<24} {verdict}; furthest off by {:.1e} ({} tensors)", case.name, case.error, case.tensors);
        }
    }
    let failed = cases.iter().filter(|c| !c.passed).count();
    if failed > 0 {
        bail!("{failed} of {} comparisons differ: this adapter's driver computes wrong results", cases.len());
    }
    Ok(Outcome::Done)
}
