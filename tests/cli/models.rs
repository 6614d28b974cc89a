//! The same model as a folder and as GGUF, before and after an adapter is merged into it.

use std::path::Path;

use espalier::io::gguf::{Array, GgufWriter, Metadata, TensorSpec, Value};
use espalier::io::{FileSource, SafetensorsReader};
use espalier::model::weights::{gguf_qk_row, name_to_gguf};
use espalier::quant::ggml::{GgmlType, encode};

use crate::harness::{Workplace, assert_close, espalier, eval, fixture};

/// Writes a tiny model as a GGUF file of f32 weights, laid out as llama.cpp's converter does.
fn as_gguf(name: &str, path: &str) {
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture(name).join("config.json")).unwrap()).unwrap();
    let number = |key: &str| config[key].as_u64().unwrap() as u32;
    let mut metadata = Metadata::new(path);
    metadata.insert("general.architecture", "llama");
    metadata.insert("general.name", name);
    for (key, from) in [
        ("block_count", "num_hidden_layers"),
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
    ] {
        metadata.insert(format!("llama.{key}"), number(from));
    }
    metadata.insert("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    metadata.insert("llama.rope.freq_base", 10000f32);
    metadata.insert("custom.list", Value::Array(Array::I32(vec![1, 2, 3])));
    let reader = SafetensorsReader::open(Box::new(FileSource::open(fixture(name).join("model.safetensors")).unwrap()));
    let reader = reader.unwrap();
    let head_dim = number("head_dim") as usize;
    let mut specs = vec![];
    let mut data = vec![];
    for tensor in reader.tensors() {
        let columns = *tensor.shape.last().unwrap();
        let rows = tensor.shape.iter().product::<usize>() / columns;
        let mut values = vec![0f32; rows * columns];
        reader.read_f32_rows(&tensor.name, 0..rows, &mut values).unwrap();
        if tensor.name.ends_with("q_proj.weight") || tensor.name.ends_with("k_proj.weight") {
            let plain = values.clone();
            for row in 0..rows {
                let to = gguf_qk_row(row, head_dim);
                values[to * columns..][..columns].copy_from_slice(&plain[row * columns..][..columns]);
            }
        }
        let mut bytes = vec![0; 4 * values.len()];
        encode(GgmlType::F32, &values, &mut bytes).unwrap();
        let name = name_to_gguf(&tensor.name).unwrap();
        specs.push(TensorSpec { name, ggml_type: GgmlType::F32, shape: tensor.shape.clone() });
        data.push(bytes);
    }
    let mut writer = GgufWriter::new(path, std::fs::File::create(path).unwrap(), &metadata, &specs).unwrap();
    for (spec, bytes) in specs.iter().zip(&data) {
        writer.append(&spec.name, bytes).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn folder_and_gguf_are_the_same_model_before_and_after_merging() {
    let work = Workplace::new();
    let data = work.tokens("data.jsonl", 6);
    for name in ["tied", "untied"] {
        let adapter = fixture(name).join("lora").to_str().unwrap().to_string();
        let (folder, gguf) = (work.model(name), work.path(&format!("{name}.gguf")));
        as_gguf(name, &gguf);
        let plain = eval(&[&folder, "--data", &data]);
        assert_close(eval(&[&gguf, "--data", &data]), plain, 1e-6, "GGUF");
        let tuned = eval(&[&folder, "--adapter", &adapter, "--data", &data]);
        assert!((tuned - plain).abs() > 1e-3, "{tuned} {plain}");

        let merge = |model: &str, out: &str, more: &[&str]| {
            let out = work.path(out);
            espalier(&[&["merge", model, "--adapter", &adapter, "--out", &out], more].concat()).ok();
            out
        };
        let from_folder = merge(&folder, &format!("{name}-1"), &[]);
        let from_gguf = merge(&gguf, &format!("{name}-2"), &[]);
        let to_gguf = merge(&gguf, &format!("{name}-3.gguf"), &[]);
        for merged in [&from_folder, &from_gguf, &to_gguf] {
            assert_close(eval(&[merged, "--data", &data]), tuned, 1e-4, merged);
        }
        let weights = |folder: &str| std::fs::read(Path::new(folder).join("model.safetensors")).unwrap();
        assert!(weights(&from_folder) == weights(&from_gguf), "both bases give the same merged weights");
        // Half precision costs three digits.
        let half = merge(&folder, &format!("{name}-4"), &["--dtype", "f16"]);
        assert_close(eval(&[&half, "--data", &data]), tuned, 1e-3, "f16");
        assert_eq!(espalier(&["inspect", &half, "--json"]).json()["tensors_by_dtype"][0]["dtype"], "F16");
        // A model in half precision keeps what it is merged with: the result is f32.
        let whole = merge(&half, &format!("{name}-6"), &[]);
        let half_tuned = eval(&[&half, "--adapter", &adapter, "--data", &data]);
        assert_close(eval(&[&whole, "--data", &data]), half_tuned, 1e-4, "f16 base");
        let half = merge(&gguf, &format!("{name}-5.gguf"), &["--dtype", "f16"]);
        assert_close(eval(&[&half, "--data", &data]), tuned, 1e-3, "f16 GGUF");
        assert!(espalier(&["merge", &gguf, "--adapter", &adapter, "--out", &half]).sentence().contains("--overwrite"));
    }
}

#[test]
fn a_folder_becomes_a_gguf_file() {
    let work = Workplace::new();
    let (data, folder) = (work.tokens("data.jsonl", 6), work.model("blocks64"));
    let loss = |model: &str| eval(&[model, "--data", &data, "--weights", "f32"]);
    let (plain, adapter) = (loss(&folder), work.model("blocks64/lora"));
    let out = |name: &str, more: &[&str]| {
        let out = work.path(name);
        espalier(&[&["merge", &folder, "--out", &out], more].concat()).ok();
        out
    };
    assert_close(loss(&out("f32.gguf", &[])), plain, 1e-6, "f32");
    // Half a step of 1 / 127 of the largest of 32 weights, on average a quarter of a percent of each.
    let q8_0 = out("q8_0.gguf", &["--dtype", "q8_0"]);
    assert_close(loss(&q8_0), plain, 1e-2, "q8_0");
    assert!(loss(&q8_0) != plain);
    let reader = espalier::io::GgufReader::open(Box::new(FileSource::open(&q8_0).unwrap())).unwrap();
    assert_eq!(reader.get("blk.0.ffn_down.weight").unwrap().ggml_type, GgmlType::Q8_0);
    assert_eq!(reader.get("blk.0.ffn_norm.weight").unwrap().ggml_type, GgmlType::F32);
    assert_eq!(reader.metadata().u32("general.file_type").unwrap(), 7);
    let tuned = eval(&[&folder, "--adapter", &adapter, "--data", &data, "--weights", "f32"]);
    assert_close(loss(&out("tuned.gguf", &["--adapter", &adapter])), tuned, 1e-4, "merged");
    let told = espalier(&["merge", &folder, "--out", &work.path("folder"), "--dtype", "q8_0"]).sentence();
    assert!(told.contains(".gguf") && !work.exists("folder"), "{told}");
}

#[test]
fn metadata_of_the_gguf_is_kept() {
    let work = Workplace::new();
    let (gguf, out) = (work.path("tied.gguf"), work.path("merged.gguf"));
    as_gguf("tied", &gguf);
    let adapter = fixture("tied/rslora").to_str().unwrap().to_string();
    espalier(&["merge", &gguf, "--adapter", &adapter, "--out", &out, "--dtype", "bf16"]).ok();
    let reader = espalier::io::GgufReader::open(Box::new(FileSource::open(&out).unwrap())).unwrap();
    assert_eq!(reader.metadata().str("general.name").unwrap(), "tied");
    assert_eq!(reader.metadata().i32s("custom.list").unwrap(), [1, 2, 3]);
    assert_eq!(reader.metadata().u32("general.file_type").unwrap(), 32);
    assert_eq!(reader.get("token_embd.weight").unwrap().ggml_type, GgmlType::BF16);
    assert_eq!(reader.get("output_norm.weight").unwrap().ggml_type, GgmlType::F32);
}
