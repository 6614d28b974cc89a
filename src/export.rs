//! What is kept of a run: an adapter merged into its base, written as a Hugging Face folder or a GGUF file; a model trained
//! in full. Tensors are read, merged and written a few rows at a time.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::io::gguf::{self, GgufWriter};
use crate::io::rows_and_columns;
use crate::io::safetensors::{self, Dtype, SafetensorsWriter};
use crate::model::config::{ModelConfig, RopeScaling};
use crate::model::weights::{TensorEntry, TensorSource, gguf_qk_row, name_to_gguf};
use crate::model::{ModelFiles, tokenizer::Tokenizer};
use crate::peft::lora::PREFIX;
use crate::peft::{Adapter, LoraConfig, Method, NamedTensor};
use crate::platform::parallel;
use crate::quant::ggml::{self, GgmlType};
use crate::{Error, Result};

/// Name of the weights in a Hugging Face folder.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Values that are held in memory at a time while a tensor is written.
const PIECE: usize = 4 << 20;

/// How exported weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum FloatType {
    F32,
    F16,
    Bf16,
}

impl FloatType {
    /// The smallest type that holds the matrices of `model` as they are: the one that its files have, or f32 where they are
    /// quantized.
    pub fn of(model: &ModelFiles) -> FloatType {
        let mut found = model.tensors().iter().filter(|t| t.shape.len() == 2).map(|t| t.dtype.as_str());
        let first = found.next().unwrap_or("F32");
        match (first, found.all(|dtype| dtype == first)) {
            ("F16", true) => FloatType::F16,
            ("BF16", true) => FloatType::Bf16,
            _ => FloatType::F32,
        }
    }

    fn ggml(self) -> GgmlType {
        match self {
            FloatType::F32 => GgmlType::F32,
            FloatType::F16 => GgmlType::F16,
            FloatType::Bf16 => GgmlType::BF16,
        }
    }

    fn safetensors(self) -> Dtype {
        match self {
            FloatType::F32 => Dtype::F32,
            FloatType::F16 => Dtype::F16,
            FloatType::Bf16 => Dtype::BF16,
        }
    }

    /// PyTorch's name.
    fn torch(self) -> &'static str {
        match self {
            FloatType::F32 => "float32",
            FloatType::F16 => "float16",
            FloatType::Bf16 => "bfloat16",
        }
    }

    /// `general.file_type` of a GGUF file (`enum llama_ftype` of llama.cpp).
    fn gguf_file_type(self) -> u32 {
        match self {
            FloatType::F32 => 0,
            FloatType::F16 => 1,
            FloatType::Bf16 => 32,
        }
    }
}

/// One matrix's update: `a [r, in]`, `b [out, r]`.
struct Update<'a> {
    a: &'a [f32],
    b: &'a [f32],
    rank: usize,
}

/// A base model with a LoRA adapter in it: `W + s B A`.
pub struct Merged<'a> {
    base: &'a dyn TensorSource,
    scale: f32,
    updates: BTreeMap<String, Update<'a>>,
}

impl<'a> Merged<'a> {
    /// Pairs the adapter's tensors with the model's. Errs with all of those that have no place in it or the wrong shape.
    pub fn new(model: &'a ModelFiles, adapter: &'a Adapter) -> Result<Merged<'a>> {
        let Method::Lora(lora) = &adapter.method else {
            return Err(Error::Unsupported { what: "merging this method".into(), supported: "lora".into() });
        };
        let shapes: BTreeMap<String, Vec<usize>> = model.config().tensors().into_iter().collect();
        let mut problems = vec![];
        let mut updates = BTreeMap::new();
        let by_name: BTreeMap<&str, &NamedTensor> = adapter.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        for (name, tensor) in &by_name {
            match site(name, "lora_A").and_then(|site| Some((shapes.get(&format!("{site}.weight"))?, site))) {
                Some((shape, site)) => match pair(lora, site, shape, tensor, &by_name) {
                    Ok(update) => _ = updates.insert(format!("{site}.weight"), update),
                    Err(problem) => problems.push(problem),
                },
                None => {
                    let paired = site(name, "lora_B")
                        .is_some_and(|site| by_name.contains_key(format!("{PREFIX}{site}.lora_A.weight").as_str()));
                    if !paired {
                        problems.push(format!("{name} has no place in this model"));
                    }
                }
            }
        }
        if !problems.is_empty() {
            return Err(Error::Weights { file: "the adapter".into(), problems });
        }
        Ok(Merged { base: model.source(), scale: lora.scaling(), updates })
    }
}

/// `model.layers.0.self_attn.q_proj` of `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
fn site<'n>(name: &'n str, matrix: &str) -> Option<&'n str> {
    name.strip_prefix(PREFIX)?.strip_suffix(".weight")?.strip_suffix(matrix)?.strip_suffix('.')
}

fn pair<'a>(
    lora: &LoraConfig,
    site: &str,
    shape: &[usize],
    a: &'a NamedTensor,
    by_name: &BTreeMap<&str, &'a NamedTensor>,
) -> std::result::Result<Update<'a>, String> {
    let &[out_features, in_features] = shape else { return Err(format!("{site} is no linear layer")) };
    let name = format!("{PREFIX}{site}.lora_B.weight");
    let b = by_name.get(name.as_str()).ok_or_else(|| format!("{name} is missing"))?;
    for (tensor, expected) in [(a, [lora.r, in_features]), (*b, [out_features, lora.r])] {
        if tensor.shape != expected {
            return Err(format!("{} is {:?}, expected {expected:?}", tensor.name, tensor.shape));
        }
    }
    Ok(Update { a: &a.data, b: &b.data, rank: lora.r })
}

impl TensorSource for Merged<'_> {
    fn entries(&self) -> &[TensorEntry] {
        self.base.entries()
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.base.read_rows(name, rows.clone(), out)?;
        let Some(update) = self.updates.get(name) else { return Ok(()) };
        let (columns, scale) = (update.a.len() / update.rank, self.scale);
        parallel::chunks_mut(out, columns, |i, row| {
            let b = &update.b[(rows.start + i) * update.rank..][..update.rank];
            let mut delta = vec![0.0f32; columns];
            for (b, a) in b.iter().zip(update.a.chunks(columns)) {
                delta.iter_mut().zip(a).for_each(|(delta, a)| *delta += b * a);
            }
            row.iter_mut().zip(delta).for_each(|(w, delta)| *w += scale * delta);
        });
        Ok(())
    }

    fn location(&self) -> String {
        self.base.location()
    }
}

/// Trained tensors on the host, under Hugging Face's names.
pub struct Trained<'a> {
    entries: Vec<TensorEntry>,
    tensors: BTreeMap<&'a str, &'a NamedTensor>,
}

impl<'a> Trained<'a> {
    /// The tensors of a run of full fine-tuning.
    pub fn new(tensors: &'a [NamedTensor]) -> Trained<'a> {
        let entry = |t: &NamedTensor| TensorEntry { name: t.name.clone(), shape: t.shape.clone(), dtype: "F32".into() };
        Trained {
            entries: tensors.iter().map(entry).collect(),
            tensors: tensors.iter().map(|t| (t.name.as_str(), t)).collect(),
        }
    }
}

impl TensorSource for Trained<'_> {
    fn entries(&self) -> &[TensorEntry] {
        &self.entries
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let tensor =
            self.tensors.get(name).ok_or_else(|| Error::malformed(self.location(), format!("has no {name}")))?;
        let (count, columns) = rows_and_columns(&tensor.shape);
        if rows.end > count || out.len() != rows.len() * columns {
            return Err(Error::malformed(self.location(), format!("{name}: no rows {rows:?} of {count}")));
        }
        out.copy_from_slice(&tensor.data[rows.start * columns..rows.end * columns]);
        Ok(())
    }

    fn location(&self) -> String {
        "the trained model".into()
    }
}

/// Reads a tensor in pieces of whole rows, encodes each as `ggml`, and hands it on. `order` gives, for each row to be
/// written, the row to be read.
fn encode_tensor(
    source: &dyn TensorSource,
    name: &str,
    shape: &[usize],
    ggml: GgmlType,
    head_dim: Option<usize>,
    mut append: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let (rows, columns) = rows_and_columns(shape);
    // Rows that change places do so inside one head.
    let unit = head_dim.unwrap_or(1);
    let at_once = (PIECE / columns.max(1)).max(1).next_multiple_of(unit).min(rows.max(1));
    let mut values = vec![0.0; at_once * columns];
    let mut bytes = vec![0; at_once * columns * 4];
    for first in (0..rows).step_by(at_once) {
        let last = rows.min(first + at_once);
        let values = &mut values[..(last - first) * columns];
        source.read_rows(name, first..last, values)?;
        if let Some(head_dim) = head_dim {
            let read = values.to_vec();
            for (row, read) in read.chunks(columns.max(1)).enumerate() {
                values[gguf_qk_row(row, head_dim) * columns..][..columns].copy_from_slice(read);
            }
        }
        let len = values.len() / ggml.block_len() * ggml.block_bytes();
        ggml::encode(ggml, values, &mut bytes[..len])?;
        append(&bytes[..len])?;
    }
    Ok(())
}

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

/// Writes all tensors of a model as a GGUF file with the metadata of the GGUF file it came from. Vectors stay f32, as
/// llama.cpp wants them. Errs where the model did not come from a GGUF file.
pub fn write_gguf<W: Write>(
    file: &str,
    out: W,
    model: &ModelFiles,
    source: &dyn TensorSource,
    stored: FloatType,
    progress: &mut dyn FnMut(u64),
) -> Result<W> {
    let config = model.config();
    let Some(base) = model.gguf() else {
        return Err(Error::Unsupported {
            what: format!(
                "writing {file} from {}, which is not a GGUF file and lacks GGUF's metadata,",
                model.location()
            ),
            supported: "a folder as the destination; a GGUF file as the model".into(),
        });
    };
    let mut metadata = gguf::Metadata::new(file);
    // The first of the tensors that a file was split into, and how quantized ones were made, no longer hold.
    let stale = ["general.quantization_version", "general.file_type", "general.alignment"];
    for (key, value) in base.iter().filter(|(key, _)| !stale.contains(key) && !key.starts_with("split.")) {
        metadata.insert(key, value.clone());
    }
    metadata.insert("general.file_type", stored.gguf_file_type());
    let mut specs = vec![];
    let mut names = vec![];
    for (name, shape) in config.tensors() {
        let gguf = name_to_gguf(&name).ok_or_else(|| Error::malformed(file, format!("GGUF has no name for {name}")))?;
        let ggml_type = if shape.len() == 1 { GgmlType::F32 } else { stored.ggml() };
        specs.push(gguf::TensorSpec { name: gguf, ggml_type, shape });
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
