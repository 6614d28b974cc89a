//! `espalier inspect`

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Args;
use espalier::model::ModelFiles;
use serde_json::{Value, json};

use super::Outcome;
use super::open::{self, WithoutWeights};
use super::report::count;

#[derive(Args)]
pub struct Options {
    /// A Hugging Face folder, a .gguf file, or owner/name[@revision][:file.gguf] on the hub
    #[arg(value_name = "MODEL")]
    model: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// List every tensor as well
    #[arg(long)]
    tensors: bool,
}

pub fn run(options: &Options) -> Result<Outcome> {
    let model = open::model(&options.model, WithoutWeights::Refuse, &AtomicBool::new(false))?;
    let report = report(&model, options.tensors)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(Outcome::Done)
}

fn report(model: &ModelFiles, list: bool) -> Result<Value> {
    let config = model.config();
    let mut by_dtype: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for tensor in model.tensors() {
        let (tensors, parameters) = by_dtype.entry(&tensor.dtype).or_default();
        *tensors += 1;
        *parameters += tensor.shape.iter().map(|&dim| dim as u64).product::<u64>();
    }
    let dtypes: Vec<Value> = by_dtype
        .iter()
        .map(|(dtype, (tensors, parameters))| json!({ "dtype": dtype, "tensors": tensors, "parameters": parameters }))
        .collect();
    let tokenizer = model.tokenizer().ok();
    let token = |id: Option<u32>| {
        id.map(|id| json!({ "id": id, "token": tokenizer.and_then(|tokenizer| tokenizer.id_to_token(id)) }))
    };
    let template = tokenizer.map(|_| model.chat_template()).transpose()?;
    let mut report = json!({
        "model": model.location(),
        "family": config.family.model_type,
        "parameters": config.parameters(),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "attention_heads": config.num_attention_heads,
        "key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "context": config.max_position_embeddings,
        "tied_head": config.tie_word_embeddings,
        "tensors_by_dtype": dtypes,
        "tokenizer": tokenizer.map(|tokenizer| json!({
            "tokens": tokenizer.vocab_size(),
            "bos": token(tokenizer.bos()),
            "eos": tokenizer.eos_ids().iter().map(|&id| token(Some(id))).collect::<Vec<_>>(),
            "pad": token(Some(tokenizer.pad())),
        })),
        "chat_template": template.map(|template| json!({
            "from": template.origin().to_string(),
            "text": template.source(),
        })),
    });
    if list {
        let all = model.tensors().iter().map(|t| json!({ "name": t.name, "shape": t.shape, "dtype": t.dtype }));
        report["tensors"] = all.collect();
    }
    Ok(report)
}

fn print(report: &Value) {
    let number = |key: &str| report[key].as_u64().unwrap_or_default();
    println!("{}", report["model"].as_str().unwrap_or_default());
    println!(
        "  family      {}, {} parameters, {} layers",
        report["family"].as_str().unwrap_or_default(),
        count(number("parameters")),
        number("layers")
    );
    println!(
        "  sizes       hidden {}, feed-forward {}, {} heads of {} ({} for keys and values)",
        number("hidden_size"),
        number("intermediate_size"),
        number("attention_heads"),
        number("head_dim"),
        number("key_value_heads")
    );
    let head = if report["tied_head"] == true { "shares the embedding" } else { "its own" };
    println!("  vocabulary  {} tokens, head: {head}", number("vocab_size"));
    println!("  context     {} tokens", number("context"));
    for dtype in report["tensors_by_dtype"].as_array().into_iter().flatten() {
        let of = |key: &str| dtype[key].as_u64().unwrap_or_default();
        println!(
            "  tensors     {:<6} {} tensors, {} parameters",
            dtype["dtype"].as_str().unwrap_or_default(),
            of("tensors"),
            count(of("parameters"))
        );
    }
    match &report["tokenizer"] {
        Value::Null => println!("  tokenizer   none"),
        tokenizer => {
            let ends = tokenizer["eos"].as_array().into_iter().flatten();
            let ends: Vec<&str> = ends.filter_map(|token| token["token"].as_str()).collect();
            println!("  tokenizer   {} tokens, an answer ends with {}", tokenizer["tokens"], ends.join(" or "));
        }
    }
    if let Some(from) = report["chat_template"]["from"].as_str() {
        println!("  chats       {from}");
    }
    for tensor in report["tensors"].as_array().into_iter().flatten() {
        println!(
            "  {:<56} {:<6} {}",
            tensor["name"].as_str().unwrap_or_default(),
            tensor["dtype"].as_str().unwrap_or_default(),
            tensor["shape"]
        );
    }
}
