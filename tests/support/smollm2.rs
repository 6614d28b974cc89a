//! SmolLM2-135M-Instruct, where it is on this machine: `cargo xtask test` fetches it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use espalier::Result;
use espalier::io::hub::cache_folder;
use espalier::io::safetensors::{Dtype, SafetensorsWriter, TensorSpec};
use espalier::io::{Existing, FileSource, rows_and_columns, write_atomically, write_folder_atomically};
use espalier::model::ModelFiles;
use espalier::quant::float16::encode_f16;
use sha2::{Digest, Sha256};

/// Where its tokenizer and its golden values lie.
pub const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/smollm2");

/// Of the weights from which PyTorch computed the golden values.
const SAFETENSORS_SHA256: &str = "d8d8571b3af99053c8ad455ce009d8479eec5da515f80a417c075d0a7f317904";

/// The GGUF file: `ESPALIER_SMOLLM2_GGUF`, or the one in the cache. Where it is missing, says so and is nothing; with `CI` set
/// it panics. The variable is empty where tests are to do without.
pub fn gguf() -> Option<PathBuf> {
    let named = std::env::var_os("ESPALIER_SMOLLM2_GGUF");
    if named.as_ref().is_some_and(|path| path.is_empty()) {
        return None;
    }
    let path = match named {
        Some(path) => PathBuf::from(path),
        None => cache_folder().ok()?.join("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
    };
    if path.is_file() {
        return Some(path);
    }
    let why = format!("SmolLM2 is not at {path:?}; `cargo xtask test` fetches it");
    assert!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("skipped: {why}");
    None
}

/// The Hugging Face folder that the golden values were computed from: the GGUF's weights in f16, beside the tokenizer's files.
/// `ESPALIER_SMOLLM2_FOLDER`, or made beside the GGUF file where it is not there yet.
pub fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("ESPALIER_SMOLLM2_FOLDER") {
        return Some(folder.into());
    }
    // Tests run side by side, and one of them makes it.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let gguf = gguf()?;
    let folder = gguf.with_file_name("SmolLM2-135M-Instruct");
    if !folder.is_dir() {
        make_folder(&gguf, &folder).unwrap_or_else(|error| panic!("{error}"));
    }
    Some(folder)
}

fn make_folder(gguf: &Path, folder: &Path) -> Result<()> {
    let model = ModelFiles::open_gguf(Box::new(FileSource::open(gguf)?))?;
    write_folder_atomically(folder, Existing::Replace, |folder| {
        for file in fs::read_dir(Path::new(FIXTURES).join("tokenizer")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
        let weights = folder.join("model.safetensors");
        write_f16(&model, &weights)?;
        let found: String = Sha256::digest(fs::read(&weights).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(found, SAFETENSORS_SHA256, "the weights are not those of the golden values");
        Ok(())
    })
}

fn write_f16(model: &ModelFiles, path: &Path) -> Result<()> {
    let tensors = model.tensors().iter().map(|t| TensorSpec::new(&t.name, Dtype::F16, &t.shape)).collect();
    write_atomically(path, |out| {
        let mut writer = SafetensorsWriter::new("model.safetensors", out, &BTreeMap::new(), tensors)?;
        for tensor in writer.order().to_vec() {
            let (rows, columns) = rows_and_columns(&tensor.shape);
            let mut values = vec![0.0; rows * columns];
            model.source().read_rows(&tensor.name, 0..rows, &mut values)?;
            let mut bytes = vec![0; 2 * values.len()];
            encode_f16(&values, &mut bytes)?;
            writer.append(&tensor.name, &bytes)?;
        }
        writer.finish().map(|_| ())
    })
}
