//! `espalier eval`

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Args;
use espalier::data::Supervise;
use espalier::platform::block_on;
use espalier::train::RunConfig;
use espalier::train::inputs::batches_by_length;
use espalier::train::trainer::{EvalReport, Evaluator};
use serde_json::json;

use super::Outcome;
use super::open::{self, WithoutWeights};
use super::options::{GpuChoice, Storage, supervise, whole};
use super::report::{Progress, Unit};

#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct Options {
    /// A Hugging Face folder, a .gguf file, or owner/name[@revision][:file.gguf] on the hub
    #[arg(value_name = "MODEL")]
    model: String,
    /// An adapter's folder
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// The data set: JSONL, JSON, CSV or plain text
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Most tokens of a row; longer rows are cut [default: 512, or the model's own context where that is shorter]
    #[arg(long, value_name = "N", value_parser = whole)]
    context: Option<u64>,
    /// Rows computed at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = whole)]
    batch_size: u64,
    /// Which tokens count: only answers, or all
    #[arg(long, value_name = "WHICH", default_value = "answers", value_parser = supervise())]
    supervise: Supervise,
    #[command(flatten)]
    storage: Storage,
    #[command(flatten)]
    gpu: GpuChoice,
    /// Print JSON: mean loss in nats per token that counts, how many count, and perplexity
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options) -> Result<Outcome> {
    let files = open::model(&options.model, WithoutWeights::Refuse, &AtomicBool::new(false))?;
    let config = RunConfig {
        context: options.context.map(|context| context as usize),
        batch_size: options.batch_size as usize,
        ..RunConfig::default()
    };
    config.validate()?;
    config.check_model(files.config())?;
    let context = config.context(files.config());
    let adapter = options.adapter.as_deref().map(|path| open::adapter(path).map(|a| (path, a))).transpose()?;
    let adapter = adapter.as_ref().map(|(path, adapter)| (*path, adapter));
    let data = open::dataset(&files, &options.data, context, options.supervise)?;
    let pad = files.tokenizer().map_or(0, |tokenizer| tokenizer.pad());
    let (batches, shapes) = batches_by_length(Arc::new(data), config.batch_size, context, pad)?;
    let gpu = open::gpu(options.gpu.gpu.as_deref())?;
    let mut model = open::device_model(gpu, &files, adapter, options.storage.policy(&files), context)?;
    let evaluator = block_on(Evaluator::new(&mut model, &shapes))?;
    let mut progress = Progress::new("evaluating", batches.len() as u64, Unit::Batches);
    let mut report = EvalReport::default();
    for (at, batch) in batches.iter().enumerate() {
        let of_batch = block_on(evaluator.evaluate(&model, std::slice::from_ref(batch), &|| false))?;
        report.nll += of_batch.nll;
        report.tokens += of_batch.tokens;
        progress.set(at as u64 + 1, &format!("loss {:.4}", report.loss()));
    }
    progress.finish();
    let (loss, perplexity) = (report.loss(), report.perplexity());
    if !loss.is_finite() {
        anyhow::bail!("the loss is {loss}: the model's weights or its storage format make numbers that are no numbers");
    }
    if options.json {
        println!("{}", json!({ "loss": loss, "tokens": report.tokens, "perplexity": perplexity }));
    } else {
        println!("loss {loss:.6} nats over {} tokens, perplexity {perplexity:.4}", report.tokens);
    }
    Ok(Outcome::Done)
}
