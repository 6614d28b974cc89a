//! A GGUF file. Its metadata is that of the GGUF file the model came from, or is made from the configuration and the tokenizer
//! of a folder, as `convert_hf_to_gguf.py` of llama.cpp makes it.

use std::io::Write;
use std::path::Path;

use super::encode_tensor;
use crate::io::gguf::{GgufWriter, Metadata, TensorSpec};
use crate::model::ModelFiles;
use crate::model::chat_template::Origin;
use crate::model::config::{ModelConfig, RopeScaling};
use crate::model::weights::{TensorSource, name_to_gguf};
use crate::quant::ggml::GgmlType;
use crate::{Error, Result};

/// Writes all tensors of a model as a GGUF file, the matrices as `stored`. As llama.cpp does, vectors stay f32, and a matrix
/// whose rows are not whole blocks of `stored` becomes f16. `file` names the file in errors; `progress` is told how many
/// parameters are done. Errs where GGUF has no words for the model's tokenizer or positions.
pub fn write_gguf<W: Write>(
    file: &str,
    out: W,
    model: &ModelFiles,
    source: &dyn TensorSource,
    stored: GgmlType,
    progress: &mut dyn FnMut(u64),
) -> Result<W> {
    let config = model.config();
    let mut metadata = match model.gguf() {
        Some(base) => kept(file, base),
        None => made(file, model)?,
    };
    metadata.insert("general.file_type", file_type(stored)?);
    if stored.block_len() > 1 {
        metadata.insert("general.quantization_version", 2u32);
    }
    let mut specs = vec![];
    let mut names = vec![];
    for (name, shape) in config.tensors() {
        let gguf = name_to_gguf(&name).ok_or_else(|| Error::malformed(file, format!("GGUF has no name for {name}")))?;
        let ggml_type = match shape[..] {
            [_] => GgmlType::F32,
            [.., columns] if !columns.is_multiple_of(stored.block_len()) => GgmlType::F16,
            _ => stored,
        };
        specs.push(TensorSpec { name: gguf, ggml_type, shape });
        names.push(name);
    }
    let mut writer = GgufWriter::new(file, out, &metadata, &specs)?;
    let mut done = 0;
    for (spec, name) in specs.iter().zip(&names) {
        let permuted = name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight");
        let head_dim = (permuted && config.family.gguf_permutes_qk).then_some(config.head_dim);
        encode_tensor(source, name, &spec.shape, spec.ggml_type, head_dim, |piece| writer.append(&spec.name, piece))?;
        done += spec.shape.iter().product::<usize>() as u64;
        progress(done);
    }
    writer.finish()
}

/// `enum llama_ftype` of llama.cpp.
fn file_type(stored: GgmlType) -> Result<u32> {
    match stored {
        GgmlType::F32 => Ok(0),
        GgmlType::F16 => Ok(1),
        GgmlType::Q8_0 => Ok(7),
        GgmlType::BF16 => Ok(32),
        other => Err(Error::Unsupported {
            what: format!("storing a model as {other}"),
            supported: "F32, F16, BF16, Q8_0".into(),
        }),
    }
}

/// All that the base's metadata says, except what no longer holds: how it was split and quantized.
fn kept(file: &str, base: &Metadata) -> Metadata {
    let stale = ["general.quantization_version", "general.file_type", "general.alignment"];
    let mut metadata = Metadata::new(file);
    for (key, value) in base.iter().filter(|(key, _)| !stale.contains(key) && !key.starts_with("split.")) {
        metadata.insert(key, value.clone());
    }
    metadata
}

/// The metadata of a model that came as a folder.
fn made(file: &str, model: &ModelFiles) -> Result<Metadata> {
    let mut metadata = Metadata::new(file);
    metadata.insert("general.architecture", model.config().family.gguf);
    metadata.insert("general.type", "model");
    let path = Path::new(file).file_stem().and_then(|stem| stem.to_str());
    metadata.insert("general.name", path.unwrap_or("model"));
    shape(&mut metadata, model.config())?;
    // A folder without a tokenizer makes a file without one.
    if let Ok(tokenizer) = model.tokenizer() {
        tokenizer.to_gguf(model.config().vocab_size, &mut metadata)?;
        let template = model.chat_template()?;
        if template.origin() != Origin::Default {
            metadata.insert("tokenizer.chat_template", template.source());
        }
    }
    Ok(metadata)
}

/// Sizes and constants of the decoder.
fn shape(metadata: &mut Metadata, config: &ModelConfig) -> Result<()> {
    let prefix = config.family.gguf;
    for (key, size) in [
        ("vocab_size", config.vocab_size),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("block_count", config.num_hidden_layers),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
    ] {
        metadata.insert(format!("{prefix}.{key}"), size as u32);
    }
    metadata.insert(format!("{prefix}.attention.layer_norm_rms_epsilon"), config.rms_norm_eps);
    metadata.insert(format!("{prefix}.rope.freq_base"), config.rope_theta as f32);
    match config.rope_scaling {
        RopeScaling::Default => {}
        RopeScaling::Linear { factor } => {
            metadata.insert(format!("{prefix}.rope.scaling.type"), "linear");
            metadata.insert(format!("{prefix}.rope.scaling.factor"), factor as f32);
        }
        RopeScaling::Llama3 { .. } => {
            return Err(Error::Unsupported {
                what: "writing a model with rope_type llama3 to GGUF".into(),
                supported: "a folder as the destination".into(),
            });
        }
    }
    Ok(())
}
