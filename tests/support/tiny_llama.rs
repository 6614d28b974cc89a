//! The tiny Llama models of `tests/fixtures/tiny_llama`, compiled in so that a browser has them too.

use espalier::Result;
use espalier::data::{Batch, Example};
use espalier::io::{MemoryFiles, MemorySource, SafetensorsReader};
use espalier::model::ModelFiles;
use espalier::peft::Adapter;
use serde_json::Value as Json;

/// One model with what PyTorch computes of it.
pub struct Tiny {
    pub files: ModelFiles,
    pub expected: Json,
    pub tensors: SafetensorsReader,
    pub lora: Adapter,
    pub rslora: Adapter,
}

macro_rules! fixture {
    ($model:literal, $file:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny_llama/", $model, "/", $file))
    };
}

macro_rules! load {
    ($model:literal) => {{
        let folder = |files: &[(&str, &[u8])]| -> MemoryFiles {
            let mut folder = MemoryFiles::new($model);
            files.iter().for_each(|(name, bytes)| folder.insert(*name, bytes.to_vec()));
            folder
        };
        let adapter = |config: &[u8], weights: &[u8]| {
            Adapter::read(&folder(&[("adapter_config.json", config), ("adapter_model.safetensors", weights)]))
        };
        let expected: &[u8] = fixture!($model, "expected.safetensors");
        Ok(Tiny {
            files: ModelFiles::open_folder(&folder(&[
                ("config.json", fixture!($model, "config.json")),
                ("model.safetensors", fixture!($model, "model.safetensors")),
            ]))?,
            expected: serde_json::from_slice(fixture!($model, "expected.json")).expect("the fixture is JSON"),
            tensors: SafetensorsReader::open(Box::new(MemorySource::new("expected.safetensors", expected.to_vec())))?,
            lora: adapter(
                fixture!($model, "lora/adapter_config.json"),
                fixture!($model, "lora/adapter_model.safetensors"),
            )?,
            rslora: adapter(
                fixture!($model, "rslora/adapter_config.json"),
                fixture!($model, "rslora/adapter_model.safetensors"),
            )?,
        })
    }};
}

/// Loads one of `tied`, `untied`, `blocks64`.
pub fn load(name: &str) -> Result<Tiny> {
    match name {
        "tied" => load!("tied"),
        "untied" => load!("untied"),
        "blocks64" => load!("blocks64"),
        other => panic!("no fixture {other}"),
    }
}

impl Tiny {
    /// An expected tensor as f32.
    pub fn tensor(&self, name: &str) -> Vec<f32> {
        let info = self.tensors.get(name).unwrap_or_else(|| panic!("no expected tensor {name}"));
        let n: usize = info.shape.iter().product();
        let mut data = vec![0.0; n];
        let rows = n / info.shape.last().copied().unwrap_or(1).max(1);
        self.tensors.read_f32_rows(name, 0..rows, &mut data).expect("the fixture is readable");
        data
    }
}

/// A batch of `expected.json`, padded to `context` (at least its own length).
pub fn batch(json: &Json, context: usize) -> Batch {
    let ids: Vec<Vec<u32>> = serde_json::from_value(json["input_ids"].clone()).expect("ids");
    let labels: Vec<Vec<i32>> = serde_json::from_value(json["labels"].clone()).expect("labels");
    let longest = ids.iter().map(Vec::len).max().unwrap_or(1);
    let examples: Vec<Example> =
        ids.into_iter().zip(labels).map(|(input_ids, labels)| Example { input_ids, labels }).collect();
    let rows: Vec<Vec<&Example>> = examples.iter().map(|e| vec![e]).collect();
    Batch::new(&rows, rows.len(), context.max(longest), 0)
}

/// A list of numbers of `expected.json`.
pub fn numbers(json: &Json) -> Vec<f64> {
    serde_json::from_value(json.clone()).expect("numbers")
}
