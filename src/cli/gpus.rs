//! `espalier gpus`

use anyhow::Result;
use clap::Args;
use espalier::gpu::Gpu;
use espalier::platform::block_on;

use super::Outcome;
use super::report::bytes;

#[derive(Args)]
pub struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options) -> Result<Outcome> {
    let adapters = block_on(Gpu::adapters());
    if options.json {
        println!("{}", serde_json::to_string_pretty(&adapters)?);
        return Ok(Outcome::Done);
    }
    if adapters.is_empty() {
        // Opening one says what to install.
        block_on(Gpu::open(&Default::default()))?;
    }
    for adapter in adapters {
        println!("{}  {}", adapter.index, adapter.name);
        println!("   {} adapter, {}, {}", adapter.kind, adapter.backend, adapter.driver);
        println!(
            "   buffers to {}, bindings to {}, workgroups of {} with {}",
            bytes(adapter.max_buffer_bytes),
            bytes(adapter.max_binding_bytes),
            adapter.max_invocations,
            bytes(adapter.workgroup_bytes.into()),
        );
        let [least, most] = adapter.subgroup_sizes;
        let has = |present: bool| if present { "yes" } else { "no" };
        println!("   subgroups of {least} to {most}, f16 {}, timestamps {}", has(adapter.f16), has(adapter.timestamps));
    }
    Ok(Outcome::Done)
}
