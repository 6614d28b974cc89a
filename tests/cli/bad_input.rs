//! Whatever is wrong gets one clear sentence and exit code 1, and leaves nothing half-written.

use std::path::Path;

use serde_json::json;

use crate::harness::{Workplace, command, espalier, finish, fixture};

/// A copy of a tiny model, to be damaged.
fn damaged(work: &Workplace, name: &str, damage: impl FnOnce(&Path)) -> String {
    let folder = work.path(name);
    std::fs::create_dir_all(&folder).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("tied").join(file), Path::new(&folder).join(file)).unwrap();
    }
    damage(Path::new(&folder));
    folder
}

fn with_config(folder: &Path, key: &str, value: serde_json::Value) {
    let path = folder.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn models_that_cannot_be_used_are_refused() {
    let work = Workplace::new();
    let data = work.tokens("data.jsonl", 4);
    let weights = |folder: &Path| folder.join("model.safetensors");
    let truncated = damaged(&work, "truncated", |folder| {
        let bytes = std::fs::read(weights(folder)).unwrap();
        std::fs::write(weights(folder), &bytes[..bytes.len() / 2]).unwrap();
    });
    let hostile = damaged(&work, "hostile", |folder| {
        let mut bytes = std::fs::read(weights(folder)).unwrap();
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        std::fs::write(weights(folder), bytes).unwrap();
    });
    let misshapen = damaged(&work, "misshapen", |folder| with_config(folder, "intermediate_size", json!(96)));
    let incomplete = damaged(&work, "incomplete", |folder| with_config(folder, "num_hidden_layers", json!(3)));
    let unknown = damaged(&work, "unknown", |folder| with_config(folder, "model_type", json!("gpt_bigcode")));
    let pickle = damaged(&work, "pickle", |folder| {
        std::fs::rename(weights(folder), folder.join("pytorch_model.bin")).unwrap();
    });
    let empty = damaged(&work, "empty", |folder| std::fs::remove_file(weights(folder)).unwrap());
    let no_config = damaged(&work, "no-config", |folder| std::fs::remove_file(folder.join("config.json")).unwrap());
    let gguf = work.write("broken.gguf", "GGUF\u{3}\0\0\0\u{ff}\u{ff}\u{ff}\u{ff}");
    let single = fixture("tied/model.safetensors").to_str().unwrap().to_string();
    let missing = work.path("missing");
    for (model, expected) in [
        (&truncated, "truncated"),
        (&hostile, "header"),
        (&misshapen, "gate_proj.weight"),
        (&incomplete, "model.layers.2.self_attn.q_proj.weight"),
        (&unknown, "gpt_bigcode"),
        (&pickle, "pickle"),
        (&empty, "safetensors"),
        (&no_config, "config.json"),
        (&gguf, "broken.gguf"),
        (&single, "give the folder"),
        (&missing, "there is no file or folder"),
        (&"neither-a-file".to_string(), "owner/name"),
    ] {
        let out = work.path("out");
        for command in [
            vec!["train", model, "--data", &data, "--out", &out],
            vec!["eval", model, "--data", &data],
            vec!["generate", model, "--prompt", "x"],
        ] {
            let told = espalier(&command).sentence();
            assert!(told.contains(expected), "{command:?}: {told}");
        }
        assert!(!work.exists("out"), "{model}");
    }
    // All that is wrong with the weights is listed, not only the first.
    let told = espalier(&["inspect", &misshapen]).sentence();
    assert!(told.contains("6 problem(s)") && told.contains("layers.1.mlp.down_proj"), "{told}");
}

#[test]
fn data_that_cannot_be_used_is_refused() {
    let work = Workplace::new();
    let model = work.model("tied");
    let with_tokenizer = work.with_tokenizer("untied");
    let malformed = work.write("malformed.jsonl", "{\"input_ids\": [1,2\nnot json\n{\"input_ids\": \"x\"}\n");
    let empty = work.write("empty.jsonl", "\n\n");
    let text = work.write("text.jsonl", "{\"text\": \"t4 t5 t6\"}\n");
    let foreign = work.write("foreign.jsonl", "{\"input_ids\": [5, 6, 7000]}\n");
    let unsupervised = work.write("unsupervised.jsonl", "{\"input_ids\": [5,6,7], \"labels\": [-100,-100,-100]}\n");
    let missing = work.path("missing.jsonl");
    for (model, data, expected) in [
        (&model, &malformed, "line 1"),
        (&model, &empty, "empty"),
        (&model, &text, "has no tokenizer"),
        (&model, &foreign, "7000"),
        (&with_tokenizer, &foreign, "7000"),
        (&model, &unsupervised, "nothing to train on"),
        (&model, &missing, "missing.jsonl"),
    ] {
        let told = espalier(&["train", model, "--data", data, "--out", &work.path("out")]).sentence();
        assert!(told.contains(expected), "{data}: {told}");
        assert!(!work.exists("out"), "{data}");
    }
}

#[test]
fn malformed_lines_are_counted_and_the_others_used() {
    let work = Workplace::new();
    let good = "{\"input_ids\": [5, 8, 11, 14, 17]}\n";
    let data = work.write("data.jsonl", &format!("{good}oops\n{good}{{\"input_ids\": [1, \n{good}"));
    let run = espalier(&["eval", &work.model("tied"), "--data", &data]);
    let told = run.stderr();
    run.ok();
    assert!(told.contains("2 rows dropped") && told.contains("line 2") && told.contains("line 4"), "{told}");
}

#[test]
fn choices_that_cannot_be_are_refused() {
    let work = Workplace::new();
    let (model, data, out) = (work.model("tied"), work.tokens("data.jsonl", 4), work.path("out"));
    let untied = work.model("untied");
    let other_adapter = fixture("blocks64/lora").to_str().unwrap().to_string();
    let nothing = work.path("nothing");
    let no_checkpoint = work.path("");
    let train = ["train", &model, "--data", &data, "--out", &out];
    let cases: [(&[&str], &str); 16] = [
        (&["--context", "65"], "at most 64 tokens"),
        (&["--method", "adapter"], "[possible values: lora, full]"),
        (&["--weights", "int3"], "nf4"),
        (&["--schedule", "step"], "cosine"),
        (&["--target-modules", "q_proj,w1"], "q_proj, k_proj"),
        (&["--rank", "0"], "rank = 0"),
        (&["--lr", "-1"], "lr = -1"),
        (&["--steps", "0"], "steps = 0"),
        (&["--dropout", "1"], "dropout = 1"),
        (&["--patience", "2"], "held-out data"),
        (&["--eval-fraction", "1"], "eval-fraction = 1"),
        (&["--gpu", "no such adapter"], "expected one of 0"),
        (&["--config", &nothing], "cannot read the configuration"),
        (&["--init-adapter", &nothing], "cannot open the adapter"),
        (&["--init-adapter", &other_adapter], "lora_A.weight"),
        (&["--no-such-option"], "unexpected argument"),
    ];
    for (choice, expected) in cases {
        let told = espalier(&[&train[..], choice].concat()).sentence();
        assert!(told.contains(expected), "{choice:?}: {told}");
        assert!(!work.exists("out/adapter_config.json") && !work.exists("out/metrics.jsonl"), "{choice:?}");
    }
    for (arguments, expected) in [
        (vec!["eval", &untied, "--adapter", &other_adapter, "--data", &data], "lora_A.weight"),
        (vec!["merge", &untied, "--adapter", &other_adapter, "--out", &out], "lora_A.weight"),
        (vec!["merge", &untied, "--adapter", &other_adapter, "--out", &work.path("x.gguf")], ""),
        (vec!["train", &model, "--data", &data, "--resume", &no_checkpoint], "there is no checkpoint"),
        (vec!["train", &model, "--data", &data], "--out"),
        (vec!["train", &model, "--data", &data, "--out", &model], "the model's own folder"),
        (vec!["plan", &model, "--budget", "much"], "8GiB"),
        (vec!["generate", &model], "--prompt"),
        (vec!["eval", &model, "--data", &data, "--context", "1"], "context = 1"),
    ] {
        let told = espalier(&arguments).sentence();
        assert!(told.contains(expected), "{arguments:?}: {told}");
    }
    assert!(!work.exists("out/model.safetensors") && !work.exists("x.gguf"));
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint() {
    let work = Workplace::new();
    let (model, data, out) = (work.model("tied"), work.tokens("data.jsonl", 8), work.path("run"));
    let options = ["--steps", "40", "--lr", "1e18", "--max-grad-norm", "0", "--warmup", "2", "--schedule", "constant"];
    let files = ["train", &model, "--data", &data, "--out", &out, "--weights", "f32", "--checkpoint-every", "1"];
    let told = espalier(&[&files[..], &options].concat()).sentence();
    assert!(told.contains("is not finite") && told.contains("the checkpoint of step"), "{told}");
    assert!(work.exists("run/checkpoint.espalier") && !work.exists("run/adapter_config.json"));
    let steps = work.metrics("run").len();
    assert!(told.starts_with(&format!("step {}: ", steps + 1)), "{told}");
}

#[test]
fn a_run_beyond_its_budget_is_refused_with_what_would_fit() {
    let work = Workplace::new();
    let (model, data, out) = (work.model("tied"), work.tokens("data.jsonl", 4), work.path("run"));
    let arguments = ["train", &model, "--data", &data, "--out", &out, "--batch-size", "8", "--budget", "400KiB"];
    let told = espalier(&arguments).sentence();
    assert!(told.starts_with("the run does not fit on this GPU; it needs "), "{told}");
    assert!(told.contains("--batch-size 1") && told.contains("the budget is 409600 bytes"), "{told}");
    assert!(!work.exists("run"));
}

#[test]
fn nothing_but_the_command_speaks_on_standard_error() {
    let mut gpus = command(&["gpus"]);
    gpus.env_remove("XDG_RUNTIME_DIR").env_remove("NODEVICE_SELECT");
    let finished = finish(gpus);
    assert_eq!(finished.stderr(), "");
    finished.ok();
}

#[test]
fn without_an_adapter_it_says_what_to_install() {
    let work = Workplace::new();
    let mut train = command(&["train", &work.model("tied"), "--data", &work.tokens("d.jsonl", 4), "--out", "x"]);
    // Backends that this build does not have.
    train.env("WGPU_BACKEND", "gl").current_dir(work.path(""));
    let told = finish(train).sentence();
    assert!(told.contains("no usable GPU adapter") && told.contains("mesa-vulkan-drivers"), "{told}");
    assert!(!work.exists("x"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let work = Workplace::new();
    let (model, adapter) = (work.model("tied"), fixture("tied/lora").to_str().unwrap().to_string());
    let out = work.path("merged");
    // A limit on file sizes fails as a full disk does, where its signal is ignored.
    let script = format!(
        "trap '' XFSZ; ulimit -f 16; exec {} merge {model} --adapter {adapter} --out {out}",
        env!("CARGO_BIN_EXE_espalier")
    );
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", &script]);
    let told = finish(shell).sentence();
    assert!(told.contains("no room"), "{told}");
    assert!(!work.exists("merged"));
    let left: Vec<_> = std::fs::read_dir(work.path("")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}
