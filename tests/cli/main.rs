//! The command line from end to end, on tiny models: what it prints, writes and refuses.
//!
//! Needs a GPU adapter; a software one will do (Debian, Ubuntu: `apt-get install mesa-vulkan-drivers`).
#![cfg(feature = "cli")]

mod bad_input;
mod harness;
mod models;
mod resume;
mod training;

use harness::{Workplace, espalier};

#[test]
fn every_command_explains_itself() {
    let help = espalier(&["--help"]).ok();
    for command in ["gpus", "inspect", "plan", "train", "eval", "generate", "merge"] {
        assert!(help.contains(command), "{help}");
        let of_command = espalier(&[command, "--help"]).ok();
        assert!(of_command.contains("Usage: espalier"), "{of_command}");
    }
    let train = espalier(&["train", "--help"]).ok();
    for option in [
        "--method",
        "--weights",
        "--no-double-quant",
        "--rank",
        "--alpha",
        "--dropout",
        "--target-modules",
        "--init-adapter",
        "--steps",
        "--epochs",
        "--batch-size",
        "--grad-accumulation",
        "--context",
        "--lr",
        "--schedule",
        "--warmup",
        "--weight-decay",
        "--beta1",
        "--beta2",
        "--eps",
        "--max-grad-norm",
        "--seed",
        "--no-shuffle",
        "--pack",
        "--supervise",
        "--grad-checkpointing",
        "--eval-data",
        "--eval-fraction",
        "--eval-every",
        "--patience",
        "--checkpoint-every",
        "--resume",
        "--metrics",
        "--sample-prompt",
        "--sample-every",
        "--gpu",
        "--config",
    ] {
        assert!(train.contains(&format!("{option} ")) || train.contains(&format!("{option}\n")), "{option}");
    }
    assert!(espalier(&["--version"]).ok().starts_with("espalier "));
}

#[test]
fn gpus_are_listed_with_their_limits() {
    let adapters = espalier(&["gpus", "--json"]).json();
    let first = &adapters[0];
    assert!(first["name"].is_string() && first["max_buffer_bytes"].as_u64() > Some(0), "{adapters}");
    assert!(espalier(&["gpus"]).ok().contains("buffers to"));
}

#[test]
fn a_model_is_described() {
    let work = Workplace::new();
    let report = espalier(&["inspect", &work.model("untied"), "--json", "--tensors"]).json();
    assert_eq!(
        (&report["family"], &report["layers"], &report["vocab_size"]),
        (&"llama".into(), &2.into(), &131.into())
    );
    assert_eq!((&report["tied_head"], &report["tokenizer"]), (&false.into(), &serde_json::Value::Null));
    assert_eq!(report["tensors"].as_array().unwrap().len() as u64, report["tensors_by_dtype"][0]["tensors"]);
    let text = espalier(&["inspect", &work.with_tokenizer("tied")]).ok();
    assert!(text.contains("shares the embedding") && text.contains("131 tokens, an answer ends with t2"), "{text}");
}

#[test]
fn a_plan_says_what_fits_without_loading_anything() {
    let work = Workplace::new();
    // The shape of a Llama with 7 billion parameters; no weights are there.
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": false
    });
    let path = work.write("config.json", &config.to_string());
    let shape = ["plan", &path, "--context", "512", "--batch-size", "1", "--json"];
    let on = espalier(&[&shape[..], &["--grad-checkpointing", "on"]].concat()).json();
    let total = on["total_bytes"].as_u64().unwrap();
    assert!(total <= 6_000_000_000, "{total}");
    assert_eq!(on["memory"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum::<u64>(), total);
    // All-linear LoRA of rank 16: 16 (in + out) for each of 7 layers of 32 blocks.
    let trained = 32 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008));
    assert_eq!(on["trained_parameters"].as_u64(), Some(trained));

    let off = espalier(&[&shape[..], &["--grad-checkpointing", "off", "--budget", "6GB"]].concat()).json();
    assert_eq!(off["fits"], false);
    let first = &off["changes"][0];
    assert_eq!(first["options"], "--grad-checkpointing on");
    assert_eq!(first["bytes"].as_u64(), Some(total));
    let text = espalier(&["plan", &path, "--budget", "24GiB"]).ok();
    assert!(text.contains("frozen weights") && text.contains("fits into 24.0 GiB"), "{text}");
    let text = espalier(&["plan", &path, "--budget", "1GiB"]).ok();
    assert!(text.contains("a smaller model would fit"), "{text}");
}
