//! `cargo xtask seedling`: makes the small model that the web page holds, from nothing: books, tokenizer, training, export.
//! The same commands give the same kind of model again.

mod corpora;
mod rows;
mod tokenizer;

use crate::process::{cargo, program, root, run, say};
use crate::smollm2::cache;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the page takes it from.
const ASSET: &str = "web/assets/seedling.gguf";
/// One paragraph in so many is held out: the last ones of each book.
const HELD_OUT: usize = 60;

#[derive(clap::Args)]
pub struct Options {
    /// Optimizer steps of reading books and talks, each of 8 rows of 256 tokens
    #[arg(long, default_value_t = 1000)]
    steps: usize,
    /// Optimizer steps after that on talks alone
    #[arg(long, default_value_t = 120)]
    chat_steps: usize,
    /// Only write the data, the tokenizer and the configuration
    #[arg(long)]
    prepare: bool,
}

pub fn make(options: &Options) -> Result<()> {
    let dir = root().join("target/seedling");
    let model = dir.join("model");
    prepare(&dir, &model)?;
    if options.prepare {
        return Ok(());
    }
    run(cargo().args(["build", "--release", "--locked"]))?;
    let (read, talks) = (dir.join("read"), dir.join("talks"));
    train(&model, "train.jsonl", &read, &["--lr", "3e-3", "--warmup", "0.05", "--steps", &options.steps.to_string()])?;
    train(
        &read,
        "chats.jsonl",
        &talks,
        &["--lr", "2e-3", "--warmup", "0.1", "--steps", &options.chat_steps.to_string()],
    )?;
    let asset = root().join(ASSET);
    fs::create_dir_all(asset.parent().expect("the asset lies in a folder"))?;
    run(espalier().arg("merge").arg(&talks).args(["--dtype", "q8_0", "--overwrite"]).arg(arg("--out", &asset)))?;
    say(format_args!("Wrote {ASSET}"));
    Ok(())
}

/// Trains `model` on a file beside it and writes the new model to `out`.
fn train(model: &Path, data: &str, out: &Path, choices: &[&str]) -> Result<()> {
    const RUN: &str = "--method full --supervise all --pack --context 256 --batch-size 8 --grad-accumulation 1 --schedule cosine \
                       --weight-decay 0.1 --beta2 0.99 --eval-every 250 --checkpoint-every 100 --overwrite";
    let dir = model.parent().expect("the model lies in the folder of the data");
    run(espalier().arg("train").arg(model).args(RUN.split_whitespace()).args(choices).args([
        arg("--data", &dir.join(data)),
        arg("--eval-data", &dir.join("held_out.jsonl")),
        arg("--out", out),
    ]))
}

fn arg(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

fn espalier() -> std::process::Command {
    program(root().join("target/release").join(format!("espalier{}", std::env::consts::EXE_SUFFIX)))
}

/// Writes `train.jsonl`, `chats.jsonl` and `held_out.jsonl` into `dir` and the untrained model into `model`.
fn prepare(dir: &Path, model: &Path) -> Result<()> {
    let books = corpora::fetch(&cache()?.join("seedling"))?;
    fs::create_dir_all(model)?;
    let (mut train, mut held_out) = (rows::small_talk_rows(), vec![]);
    for book in &books {
        let (read, kept) = book.paragraphs.split_at(book.paragraphs.len() - book.paragraphs.len() / HELD_OUT);
        train.extend(rows::rows(read));
        held_out.extend(rows::rows(kept));
    }
    let is_chat = |row: &&Value| row.get("messages").is_some();
    let chats: Vec<Value> = rows::small_talk_rows().into_iter().chain(train.iter().filter(is_chat).cloned()).collect();
    for (name, rows) in [("train.jsonl", &train), ("chats.jsonl", &chats), ("held_out.jsonl", &held_out)] {
        let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
        write(dir.join(name), &lines)?;
    }
    let paragraphs = books.iter().flat_map(|book| book.paragraphs.iter().cloned());
    let talk = rows::small_talk().flat_map(|(question, answer)| [question.to_string(), answer.to_string()]);
    write(model.join("tokenizer.json"), &tokenizer::train(&paragraphs.chain(talk).collect::<Vec<_>>())?)?;
    write(model.join("tokenizer_config.json"), &pretty(&tokenizer::config()))?;
    write(model.join("config.json"), &pretty(&config()))?;
    say(format_args!("Prepared {} rows of text in {}", train.len(), dir.display()));
    Ok(())
}

/// The shape: widths are multiples of 64, which suits the blocks of NF4 and the kernels for software adapters.
fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokenizer::VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": true,
        "attention_bias": false,
        "mlp_bias": false,
        "bos_token_id": 0,
        "eos_token_id": 3,
        "torch_dtype": "float32",
    })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn write(path: PathBuf, text: &str) -> Result<()> {
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
