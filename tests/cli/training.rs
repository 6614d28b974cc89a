//! Runs: their losses against PyTorch's, what they write, and that evaluation and merging agree with them.

use serde_json::{Value, json};

use crate::harness::{Workplace, assert_close, espalier, eval, fixture};

/// Options of a short run on the tiny models.
const SHORT: [&str; 4] = ["--steps", "6", "--lr", "5e-3"];

#[test]
fn a_lora_run_has_the_losses_of_pytorch() {
    let work = Workplace::new();
    let expected: Value = serde_json::from_slice(&std::fs::read(fixture("tied/expected.json")).unwrap()).unwrap();
    let batch = &expected["batch"];
    let mut data = String::new();
    for row in 0..3 {
        let length = batch["attention_mask"][row].as_array().unwrap().iter().filter(|m| **m == 1).count();
        let cut = |name: &str| batch[name][row].as_array().unwrap()[..length].to_vec();
        data += &(json!({ "input_ids": cut("input_ids"), "labels": cut("labels") }).to_string() + "\n");
    }
    let (data, out) = (work.write("batch.jsonl", &data), work.path("run"));
    let run = &expected["lora"];
    let optimizer = &run["optimizer"];
    let init = fixture("tied/lora");
    let [lr, decay, eps, norm] = ["lr", "weight_decay", "eps", "max_grad_norm"].map(|name| optimizer[name].to_string());
    let [beta1, beta2] = [0, 1].map(|at| optimizer["betas"][at].to_string());
    let options = [
        "train",
        &work.model("tied"),
        "--data",
        &data,
        "--out",
        &out,
        "--init-adapter",
        init.to_str().unwrap(),
        "--weights",
        "f32",
        "--steps",
        "10",
        "--batch-size",
        "3",
        "--grad-accumulation",
        "1",
        "--no-shuffle",
        "--schedule",
        "constant",
        "--warmup",
        "0",
        "--max-grad-norm",
        &norm,
        "--lr",
        &lr,
        "--weight-decay",
        &decay,
        "--beta1",
        &beta1,
        "--beta2",
        &beta2,
        "--eps",
        &eps,
    ];
    espalier(&options).ok();
    let metrics = work.metrics("run");
    for (step, line) in metrics.iter().enumerate() {
        let (loss, norm) = (run["losses"][step].as_f64().unwrap(), run["grad_norms"][step].as_f64().unwrap());
        assert_close(line["loss"].as_f64().unwrap(), loss, 1e-3 * loss, &format!("loss of step {step}"));
        assert_close(line["grad_norm"].as_f64().unwrap(), norm, 1e-3 * norm, &format!("norm of step {step}"));
    }
    assert_eq!(metrics.len(), 10);
    // The loss after the last step is that of the saved adapter.
    let after = run["losses"][10].as_f64().unwrap();
    assert_close(eval(&[&work.model("tied"), "--adapter", &out, "--data", &data]), after, 1e-3 * after, "after");
}

#[test]
fn evaluation_and_merging_agree_with_the_run() {
    let work = Workplace::new();
    let (data, held_out) = (work.tokens("data.jsonl", 12), work.tokens("held-out.jsonl", 5));
    let model = work.model("untied");
    let out = work.path("run");
    let files = ["train", &model, "--data", &data, "--eval-data", &held_out, "--out", &out];
    let summary =
        espalier(&[&files[..], &SHORT, &["--weights", "f32", "--target-modules", "q_proj,down_proj"]].concat());
    assert!(summary.stderr().contains("learning rate up to 5.0e-3"), "{}", summary.stderr());
    let summary = summary.ok();
    assert!(summary.contains("held-out loss") && summary.contains("adapter in"), "{summary}");
    let metrics = work.metrics("run");
    assert_eq!(metrics.len(), 6);
    let trained = metrics[5]["eval_loss"].as_f64().unwrap();
    let before = eval(&[&model, "--data", &held_out]);
    assert!(trained < before - 0.1, "{before} to {trained}");

    let with_adapter = eval(&[&model, "--adapter", &out, "--data", &held_out]);
    assert_close(with_adapter, trained, 1e-4, "eval --adapter");
    let merged = work.path("merged");
    espalier(&["merge", &model, "--adapter", &out, "--out", &merged]).ok();
    assert_close(eval(&[&merged, "--data", &held_out]), trained, 1e-4, "merged");
    // Only the layers that were chosen are in the adapter.
    let config: Value = serde_json::from_slice(&work.read("run/adapter_config.json")).unwrap();
    assert_eq!((&config["peft_type"], &config["target_modules"]), (&json!("LORA"), &json!(["q_proj", "down_proj"])));
}

#[test]
fn a_run_on_a_quantized_model_is_evaluated_as_it_was_trained() {
    let work = Workplace::new();
    let (data, model, out) = (work.tokens("data.jsonl", 10), work.model("blocks64"), work.path("run"));
    let files = ["train", &model, "--data", &data, "--eval-fraction", "0.3", "--seed", "5", "--out", &out];
    espalier(&[&files[..], &SHORT, &["--dropout", "0.1", "--rslora", "--grad-checkpointing", "on"]].concat()).ok();
    let metrics = work.metrics("run");
    let keys: Vec<&str> = metrics[5].as_object().unwrap().keys().map(String::as_str).collect();
    let expected =
        ["step", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "gpu_bytes", "eval_loss", "perplexity"];
    assert_eq!(keys, expected);
    // The choices of the run are kept beside it, and make the same run again.
    let (config, again) = (work.path("run/run.json"), work.path("again"));
    espalier(&["train", &model, "--data", &data, "--out", &again, "--config", &config]).ok();
    assert_eq!(work.losses("again"), work.losses("run"));
    assert_eq!(work.read("again/adapter_model.safetensors"), work.read("run/adapter_model.safetensors"));
    let config: Value = serde_json::from_slice(&work.read("run/run.json")).unwrap();
    assert_eq!((&config["weights"], &config["embedding"]), (&json!("nf4"), &json!("f16")));
    let quantized = ["--weights", "nf4", "--embedding", "f16"];
    let as_trained = eval(&[&[model.as_str(), "--adapter", &out, "--data", &data], &quantized[..]].concat());
    let whole = eval(&[&model, "--adapter", &out, "--data", &data]);
    assert!((as_trained - whole).abs() > 1e-4, "nf4 and f32 should not be equal: {as_trained}, {whole}");
}

#[test]
fn a_model_is_trained_in_full_from_a_random_start() {
    let work = Workplace::new();
    let data = work.tokens("data.jsonl", 12);
    let config = work.write("new/config.json", &std::fs::read_to_string(fixture("tied/config.json")).unwrap());
    let out = work.path("run");
    let files = ["train", &config, "--method", "full", "--data", &data, "--eval-data", &data, "--out", &out];
    let summary = espalier(&[&files[..], &["--steps", "8", "--lr", "1e-2"]].concat()).ok();
    assert!(summary.contains("model in"), "{summary}");
    let trained = work.metrics("run")[7]["eval_loss"].as_f64().unwrap();
    assert_close(eval(&[&out, "--data", &data]), trained, 1e-4, "the saved model");
    let report = espalier(&["inspect", &out, "--json"]).json();
    assert_eq!(report["tensors_by_dtype"][0]["dtype"], "F32");
}

#[test]
fn patience_stops_a_run_and_keeps_the_best() {
    let work = Workplace::new();
    let (data, held_out) = (work.tokens("data.jsonl", 4), work.write("other.jsonl", &random_rows()));
    let (model, out) = (work.model("tied"), work.path("run"));
    let files = ["train", &model, "--data", &data, "--eval-data", &held_out, "--out", &out, "--weights", "f32"];
    let choices = ["--steps", "40", "--lr", "3e-2", "--eval-every", "1", "--patience", "2", "--grad-accumulation", "1"];
    let summary = espalier(&[&files[..], &choices].concat()).ok();
    assert!(summary.contains("stopped early"), "{summary}");
    let evals: Vec<f64> = work.metrics("run").iter().map(|line| line["eval_loss"].as_f64().unwrap()).collect();
    let before = eval(&[&model, "--data", &held_out]);
    let best = evals.iter().copied().fold(before, f64::min);
    assert!(evals.len() < 40 && *evals.last().unwrap() > best, "{evals:?}");
    assert_close(eval(&[&model, "--adapter", &out, "--data", &held_out]), best, 1e-4, "the kept adapter");
}

/// Rows that have nothing to do with those trained on.
fn random_rows() -> String {
    let row = |i: u32| {
        let ids: Vec<u32> = (0..12).map(|t| (i * 7919 + t * t * 104_729 + t * 31) % 128 + 3).collect();
        json!({ "input_ids": ids }).to_string() + "\n"
    };
    (0..4).map(row).collect()
}

#[test]
fn a_prompt_is_answered_during_the_run_and_after() {
    let work = Workplace::new();
    let model = work.with_tokenizer("tied");
    let expected: Value = serde_json::from_slice(&std::fs::read(fixture("tied/expected.json")).unwrap()).unwrap();
    let words = |ids: &Value| ids.as_array().unwrap().iter().map(|id| format!("t{id}")).collect::<Vec<_>>().join(" ");
    let (prompt, tokens) = (words(&expected["generate"]["prompt"]), words(&expected["generate"]["tokens"]));
    let answer = espalier(&["generate", &model, "--prompt", &prompt, "--max-new-tokens", "20"]).ok();
    assert_eq!(answer.trim(), tokens);
    let chosen = ["--temperature", "1.5", "--top-k", "40", "--top-p", "0.9", "--seed", "3", "--max-new-tokens", "12"];
    let random = || espalier(&[&["generate", &model, "--prompt", &prompt], &chosen[..]].concat()).ok();
    let one = random();
    assert_eq!(one, random());
    assert_ne!(one.trim(), tokens);

    let text = (0..20).map(|t| format!("t{} ", 3 * t + 5)).collect::<String>();
    let data = work.write("data.jsonl", &format!("{}\n", json!({ "text": text })).repeat(3));
    let out = work.path("run");
    let files = ["train", &model, "--data", &data, "--out", &out, "--sample-prompt", &prompt, "--sample-every", "2"];
    let run = espalier(&[&files[..], &["--steps", "4", "--lr", "2e-2", "--weights", "f32"]].concat());
    let told = run.stderr();
    run.ok();
    for step in [0, 2, 4] {
        assert!(told.contains(&format!("step {step}: t")), "{told}");
    }
    assert!(told.contains(&format!("step 0: {}", &tokens[..20])), "{told}");
}
