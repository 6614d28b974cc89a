//! A Hugging Face folder: `model.safetensors` and the text files beside it.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value as Json, json};

use super::{FloatType, encode_tensor};
use crate::io::gguf;
use crate::io::safetensors::{self, SafetensorsWriter};
use crate::model::config::{ModelConfig, RopeScaling};
use crate::model::weights::TensorSource;
use crate::model::{ModelFiles, tokenizer::Tokenizer};
use crate::{Error, Result};

/// Name of the weights in a Hugging Face folder.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// Writes all tensors of a model as one safetensors file, as transformers names them. `file` names it in errors;
/// `progress` is told how many parameters are done.
pub fn write_safetensors<W: Write>(
    file: &str,
    out: W,
    config: &ModelConfig,
    source: &dyn TensorSource,
    stored: FloatType,
    progress: &mut dyn FnMut(u64),
) -> Result<W> {
    let spec = |(name, shape): (String, Vec<usize>)| safetensors::TensorSpec::new(name, stored.safetensors(), &shape);
    let specs = config.tensors().into_iter().map(spec).collect();
    let mut writer = SafetensorsWriter::new(file, out, &BTreeMap::new(), specs)?;
    let mut done = 0;
    for spec in writer.order().to_vec() {
        encode_tensor(source, &spec.name, &spec.shape, stored.ggml(), None, |piece| writer.append(&spec.name, piece))?;
        done += spec.shape.iter().product::<usize>() as u64;
        progress(done);
    }
    writer.finish()
}

/// The text files of a Hugging Face folder for this model, by name: those it came with, or, where it came from a GGUF file,
/// the same said in Hugging Face's words. `config.json` names `stored` as the dtype.
pub fn folder_texts(model: &ModelFiles, stored: FloatType) -> Result<BTreeMap<String, String>> {
    let mut texts = model.texts().clone();
    let tokenizer = model.tokenizer().ok();
    let mut config = match texts.get("config.json") {
        Some(text) => serde_json::from_str(text)
            .map_err(|e| Error::malformed(format!("{}/config.json", model.location()), format!("is not JSON: {e}")))?,
        None => config_json(model.config(), tokenizer),
    };
    if let Some(config) = config.as_object_mut() {
        config.shift_remove("quantization_config");
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.into(), stored.torch().into());
    }
    texts.insert("config.json".into(), pretty(&config));
    if let (Some(metadata), Some(tokenizer)) = (model.gguf(), tokenizer) {
        texts.insert("tokenizer.json".into(), tokenizer.to_json()?);
        texts.insert("tokenizer_config.json".into(), pretty(&tokenizer_config_json(tokenizer)));
        texts.insert("generation_config.json".into(), pretty(&generation_config_json(tokenizer)));
        if let Some(template) = metadata.optional("tokenizer.chat_template", gguf::Metadata::str)? {
            texts.insert("chat_template.jinja".into(), template.into());
        }
    }
    Ok(texts)
}

fn pretty(value: &Json) -> String {
    format!("{value:#}\n")
}

/// f32 in as few digits as name it.
fn short(x: f32) -> Json {
    x.to_string().parse::<f64>().map_or(Json::Null, Json::from)
}

/// `config.json` of a Llama, as transformers writes it.
fn config_json(config: &ModelConfig, tokenizer: Option<&Tokenizer>) -> Json {
    let rope_scaling = match config.rope_scaling {
        RopeScaling::Default => Json::Null,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low, high, original } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original as u64,
        }),
    };
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": config.family.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "attention_bias": false,
        "mlp_bias": false,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": short(config.rms_norm_eps),
        "rope_theta": config.rope_theta,
        "rope_scaling": rope_scaling,
        "tie_word_embeddings": config.tie_word_embeddings,
        "initializer_range": short(config.initializer_range),
        "bos_token_id": tokenizer.and_then(Tokenizer::bos),
        "eos_token_id": tokenizer.and_then(Tokenizer::eos),
    })
}

fn tokenizer_config_json(tokenizer: &Tokenizer) -> Json {
    let special = tokenizer.special();
    let text = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": text(special.bos),
        "eos_token": text(special.eos),
        "pad_token": text(special.pad),
        "unk_token": text(special.unk),
        "clean_up_tokenization_spaces": false,
    })
}

fn generation_config_json(tokenizer: &Tokenizer) -> Json {
    let special = tokenizer.special();
    json!({
        "bos_token_id": special.bos,
        "eos_token_id": tokenizer.eos_ids(),
        "pad_token_id": special.pad,
    })
}
