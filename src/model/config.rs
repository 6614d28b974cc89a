//! What a model is: families are rows of data, read from `config.json` or from GGUF metadata.

use serde_json::Value as Json;

use crate::io::gguf::Metadata;
use crate::{Error, Result};

/// One family of models that the decoder can build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// `general.architecture` in GGUF.
    pub gguf: &'static str,
    /// GGUF stores the rows of q and k as (heads, D/2, 2) and not as (heads, 2, D/2).
    pub gguf_permutes_qk: bool,
}

/// Every family there is.
pub const FAMILIES: &[Family] = &[Family { model_type: "llama", gguf: "llama", gguf_permutes_qk: true }];

fn supported() -> String {
    FAMILIES.iter().map(|f| f.model_type).collect::<Vec<_>>().join(", ")
}

/// How the angles of the rotary embedding depend on the position.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    Default,
    /// All frequencies divided by a factor.
    Linear {
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, blended between.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
}

/// Sizes and constants of a decoder-only transformer, named as in Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub family: Family,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    pub tie_word_embeddings: bool,
    pub initializer_range: f32,
}

/// More layers than any model has: a file that asks for so many was made to harm.
const MOST_LAYERS: usize = 1 << 12;

/// The linear layers of one decoder block, as (module name, where it hangs).
pub const LINEAR_MODULES: [(&str, &str); 7] = [
    ("q_proj", "self_attn"),
    ("k_proj", "self_attn"),
    ("v_proj", "self_attn"),
    ("o_proj", "self_attn"),
    ("gate_proj", "mlp"),
    ("up_proj", "mlp"),
    ("down_proj", "mlp"),
];

impl ModelConfig {
    /// Reads `config.json`; `file` names it in errors. Errs on families and options that the decoder does not build.
    pub fn from_json(file: &str, text: &str) -> Result<ModelConfig> {
        let json: Json = serde_json::from_str(text).map_err(|e| Error::malformed(file, format!("is not JSON: {e}")))?;
        let name = json["model_type"].as_str().unwrap_or("(none)");
        let family = FAMILIES.iter().find(|f| f.model_type == name).ok_or_else(|| Error::Unsupported {
            what: format!("{file}: the architecture {name}"),
            supported: supported(),
        })?;
        let size = |key: &str| -> Result<usize> {
            json[key]
                .as_u64()
                .and_then(|v| usize::try_from(v).ok())
                .filter(|v| (1..=1 << 28).contains(v))
                .ok_or_else(|| Error::malformed(file, format!("{key} is {}, expected a positive size", json[key])))
        };
        let optional = |key: &str, default: usize| if json[key].is_null() { Ok(default) } else { size(key) };
        let real = |value: &Json, key: &str, default: Option<f64>| match (value.as_f64(), default) {
            (Some(v), _) => Ok(v),
            (None, Some(default)) if value.is_null() => Ok(default),
            _ => Err(Error::malformed(file, format!("{key} is {value}, expected a number"))),
        };
        let refuse = |key: &str, what: &str| {
            if json[key].as_bool() == Some(true) {
                return Err(Error::Unsupported {
                    what: format!("{file}: {what}"),
                    supported: format!("{key} = false"),
                });
            }
            Ok(())
        };
        refuse("attention_bias", "biases in attention")?;
        refuse("mlp_bias", "biases in the feed-forward layers")?;
        if let Some(act) = json["hidden_act"].as_str().filter(|a| *a != "silu") {
            return Err(Error::Unsupported { what: format!("{file}: the activation {act}"), supported: "silu".into() });
        }
        let heads = size("num_attention_heads")?;
        let hidden = size("hidden_size")?;
        let parameters =
            if json["rope_parameters"].is_object() { &json["rope_parameters"] } else { &json["rope_scaling"] };
        let theta = if parameters["rope_theta"].is_null() { &json["rope_theta"] } else { &parameters["rope_theta"] };
        let kind = parameters["rope_type"].as_str().or(parameters["type"].as_str()).unwrap_or("default");
        let part = |key: &str| real(&parameters[key], key, None);
        let rope_scaling = match kind {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: part("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: part("factor")?,
                low: part("low_freq_factor")?,
                high: part("high_freq_factor")?,
                original: part("original_max_position_embeddings")?,
            },
            other => {
                return Err(Error::Unsupported {
                    what: format!("{file}: rope scaling {other}"),
                    supported: "default, linear, llama3".into(),
                });
            }
        };
        ModelConfig {
            family: *family,
            vocab_size: size("vocab_size")?,
            hidden_size: hidden,
            intermediate_size: size("intermediate_size")?,
            num_hidden_layers: size("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: optional("num_key_value_heads", heads)?,
            head_dim: optional("head_dim", hidden / heads)?,
            max_position_embeddings: optional("max_position_embeddings", 2048)?,
            rms_norm_eps: real(&json["rms_norm_eps"], "rms_norm_eps", Some(1e-6))? as f32,
            rope_theta: real(theta, "rope_theta", Some(10_000.0))?,
            rope_scaling,
            tie_word_embeddings: json["tie_word_embeddings"].as_bool().unwrap_or(false),
            initializer_range: real(&json["initializer_range"], "initializer_range", Some(0.02))? as f32,
        }
        .checked(file)
    }

    /// Reads GGUF metadata. `has_output`: the file has a head of its own (`output.weight`).
    pub fn from_gguf(metadata: &Metadata, vocab_rows: usize, has_output: bool) -> Result<ModelConfig> {
        let file = metadata.file();
        let name = metadata.str("general.architecture")?;
        let family = FAMILIES.iter().find(|f| f.gguf == name).ok_or_else(|| Error::Unsupported {
            what: format!("{file}: the architecture {name}"),
            supported: supported(),
        })?;
        let key = |k: &str| format!("{name}.{k}");
        let size = |k: &str| metadata.u32(&key(k)).map(|v| v as usize);
        let optional = |k: &str, default: usize| if metadata.has(&key(k)) { size(k) } else { Ok(default) };
        let heads = size("attention.head_count")?.max(1);
        let hidden = size("embedding_length")?;
        if metadata.has(&key("rope.scaling.type")) {
            let kind = metadata.str(&key("rope.scaling.type"))?;
            if kind != "none" && kind != "linear" {
                return Err(Error::Unsupported {
                    what: format!("{file}: rope scaling {kind} from GGUF"),
                    supported: "none, linear".into(),
                });
            }
        }
        let rope_scaling = if metadata.has(&key("rope.scaling.factor")) {
            RopeScaling::Linear { factor: f64::from(metadata.f32(&key("rope.scaling.factor"))?) }
        } else {
            RopeScaling::Default
        };
        let theta = key("rope.freq_base");
        ModelConfig {
            family: *family,
            vocab_size: vocab_rows,
            hidden_size: hidden,
            intermediate_size: size("feed_forward_length")?,
            num_hidden_layers: size("block_count")?,
            num_attention_heads: heads,
            num_key_value_heads: optional("attention.head_count_kv", heads)?,
            head_dim: optional("attention.key_length", hidden / heads)?,
            max_position_embeddings: size("context_length")?,
            rms_norm_eps: metadata.f32(&key("attention.layer_norm_rms_epsilon"))?,
            rope_theta: if metadata.has(&theta) { f64::from(metadata.f32(&theta)?) } else { 10_000.0 },
            rope_scaling,
            tie_word_embeddings: !has_output,
            initializer_range: 0.02,
        }
        .checked(file)
    }

    fn checked(self, file: &str) -> Result<ModelConfig> {
        let bad = |problem: String| Err(Error::malformed(file, problem));
        if self.num_key_value_heads == 0 || !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return bad(format!(
                "{} attention heads cannot share {} key/value heads",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return bad(format!("head_dim {} is not an even number", self.head_dim));
        }
        let sizes = [self.vocab_size, self.hidden_size, self.intermediate_size, self.num_hidden_layers];
        let heads = [self.num_attention_heads, self.head_dim];
        if sizes.iter().any(|s| *s == 0 || *s > 1 << 24) || self.max_position_embeddings == 0 {
            return bad(format!("the sizes {sizes:?} (vocabulary, hidden, feed-forward, layers) make no model"));
        }
        if self.num_hidden_layers > MOST_LAYERS || heads.iter().any(|s| *s > 1 << 12) {
            return bad(format!("{} layers of {heads:?} (heads, head_dim) make no model", self.num_hidden_layers));
        }
        Ok(self)
    }

    /// Rotation per position of each pair of dimensions, `[D / 2]`, rounded to f32 where transformers does.
    pub fn inv_freq(&self) -> Vec<f32> {
        let d = self.head_dim;
        (0..d / 2)
            .map(|i| {
                let plain = 1.0 / (self.rope_theta as f32).powf((2 * i) as f32 / d as f32);
                match self.rope_scaling {
                    RopeScaling::Default => plain,
                    RopeScaling::Linear { factor } => plain / factor as f32,
                    RopeScaling::Llama3 { factor, low, high, original } => {
                        let wavelength = 2.0 * std::f64::consts::PI / f64::from(plain);
                        if wavelength < original / high {
                            plain
                        } else if wavelength > original / low {
                            plain / factor as f32
                        } else {
                            let smooth = ((original / wavelength - low) / (high - low)) as f32;
                            (1.0 - smooth) * plain / factor as f32 + smooth * plain
                        }
                    }
                }
            })
            .collect()
    }

    /// Output and input features of a linear layer of the decoder block.
    pub fn linear_shape(&self, module: &str) -> [usize; 2] {
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        match module {
            "q_proj" => [q, self.hidden_size],
            "k_proj" | "v_proj" => [kv, self.hidden_size],
            "o_proj" => [self.hidden_size, q],
            "down_proj" => [self.hidden_size, self.intermediate_size],
            _ => [self.intermediate_size, self.hidden_size],
        }
    }

    /// Name and shape of every tensor of the model, in Hugging Face's names and the order of the layers.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = vec![("model.embed_tokens.weight".to_string(), vec![self.vocab_size, self.hidden_size])];
        for layer in 0..self.num_hidden_layers {
            let prefix = format!("model.layers.{layer}");
            all.push((format!("{prefix}.input_layernorm.weight"), vec![self.hidden_size]));
            for (module, place) in LINEAR_MODULES {
                all.push((format!("{prefix}.{place}.{module}.weight"), self.linear_shape(module).to_vec()));
            }
            all.push((format!("{prefix}.post_attention_layernorm.weight"), vec![self.hidden_size]));
        }
        all.push(("model.norm.weight".to_string(), vec![self.hidden_size]));
        if !self.tie_word_embeddings {
            all.push(("lm_head.weight".to_string(), vec![self.vocab_size, self.hidden_size]));
        }
        all
    }

    /// Number of parameters (a tied head counts once).
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|(_, shape)| shape.iter().map(|s| *s as u64).product::<u64>()).sum()
    }

    /// Name of the tensor that the head multiplies with.
    pub fn head_name(&self) -> &'static str {
        if self.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" }
    }
}
