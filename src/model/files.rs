//! An opened model: configuration, tensors, tokenizer and the texts beside them; nothing of it on the GPU yet.

use std::collections::BTreeMap;

use super::chat_template::ChatTemplate;
use super::config::ModelConfig;
use super::tokenizer::{Tokenizer, TokenizerFiles};
use super::weights::{self, GgufSource, RandomSource, SafetensorsSource, TensorEntry, TensorSource};
use crate::io::gguf::Metadata;
use crate::io::{ByteSource, Files, GgufReader, ShardedSafetensors};
use crate::{Error, Result};

/// Largest text file of a model folder that is read, bytes.
const MAX_TEXT: u64 = 256 << 20;

/// Text files of a folder that the model or an export of it needs.
const TEXTS: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
];

/// A model as its files give it.
pub struct ModelFiles {
    location: String,
    config: ModelConfig,
    source: Box<dyn TensorSource>,
    tokenizer: Option<Tokenizer>,
    texts: BTreeMap<String, String>,
    gguf: Option<Metadata>,
}

fn texts_of(files: &dyn Files) -> Result<BTreeMap<String, String>> {
    let mut texts = BTreeMap::new();
    for name in TEXTS {
        if files.has(name) {
            texts.insert(name.to_string(), files.read_text(name, MAX_TEXT)?);
        }
    }
    Ok(texts)
}

fn tokenizer_of(texts: &BTreeMap<String, String>) -> Result<Option<Tokenizer>> {
    let bytes = |name: &str| texts.get(name).map(|t| t.as_bytes());
    let Some(tokenizer) = bytes("tokenizer.json") else { return Ok(None) };
    Tokenizer::from_files(&TokenizerFiles {
        tokenizer,
        tokenizer_config: bytes("tokenizer_config.json"),
        generation_config: bytes("generation_config.json"),
        config: bytes("config.json"),
    })
    .map(Some)
}

fn config_of(location: &str, texts: &BTreeMap<String, String>) -> Result<ModelConfig> {
    let text = texts
        .get("config.json")
        .ok_or_else(|| Error::malformed(location, "has no config.json; expected a Hugging Face model folder"))?;
    ModelConfig::from_json(&format!("{location}/config.json"), text)
}

impl ModelFiles {
    /// Opens a Hugging Face folder: `config.json`, `*.safetensors`, and the tokenizer's files where there are any. Errs
    /// with every tensor that is missing or mis-shaped.
    pub fn open_folder(files: &dyn Files) -> Result<ModelFiles> {
        let texts = texts_of(files)?;
        let config = config_of(&files.location(), &texts)?;
        let source = Box::new(SafetensorsSource::new(ShardedSafetensors::open_folder(files)?));
        weights::check(source.as_ref(), &config)?;
        let tokenizer = tokenizer_of(&texts)?;
        Ok(ModelFiles { location: files.location(), config, source, tokenizer, texts, gguf: None })
    }

    /// Opens a GGUF file; tokenizer and chat template come from its metadata.
    pub fn open_gguf(source: Box<dyn ByteSource>) -> Result<ModelFiles> {
        let reader = GgufReader::open(source)?;
        let location = reader.name().to_string();
        let embedding = reader
            .get("token_embd.weight")
            .filter(|t| t.shape.len() == 2)
            .ok_or_else(|| Error::malformed(&location, "has no two-dimensional tensor token_embd.weight"))?;
        let rows = embedding.shape[0];
        let metadata = reader.metadata().clone();
        let config = ModelConfig::from_gguf(&metadata, rows, reader.get("output.weight").is_some())?;
        let source = Box::new(GgufSource::new(reader, &config));
        weights::check(source.as_ref(), &config)?;
        let tokenizer =
            if metadata.has("tokenizer.ggml.tokens") { Some(Tokenizer::from_gguf(&metadata)?) } else { None };
        Ok(ModelFiles { location, config, source, tokenizer, texts: BTreeMap::new(), gguf: Some(metadata) })
    }

    /// A model that was never trained: a folder with `config.json` (and a tokenizer) but no weights, or with weights that
    /// are left aside.
    pub fn random(files: &dyn Files, seed: u64) -> Result<ModelFiles> {
        let texts = texts_of(files)?;
        let config = config_of(&files.location(), &texts)?;
        let tokenizer = tokenizer_of(&texts)?;
        let source = Box::new(RandomSource::new(&config, seed));
        Ok(ModelFiles { location: files.location(), config, source, tokenizer, texts, gguf: None })
    }

    /// A model of random weights of this shape, without a tokenizer.
    pub fn random_of(config: ModelConfig, seed: u64) -> ModelFiles {
        let source = Box::new(RandomSource::new(&config, seed));
        let texts = BTreeMap::new();
        ModelFiles { location: "random weights".into(), config, source, tokenizer: None, texts, gguf: None }
    }

    /// What errors and adapters call the model: a path or a hub id.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Calls the model by another name (its hub id, say).
    pub fn set_location(&mut self, name: impl Into<String>) {
        self.location = name.into();
    }

    /// Sizes and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The tensors.
    pub fn source(&self) -> &dyn TensorSource {
        self.source.as_ref()
    }

    /// Name, shape and dtype of every tensor in the file.
    pub fn tensors(&self) -> &[TensorEntry] {
        self.source.entries()
    }

    /// The tokenizer; errs when the files hold none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            Error::malformed(&self.location, "has no tokenizer; expected tokenizer.json beside the weights")
        })
    }

    /// The chat template: the folder's, the GGUF's, or plain ChatML where the files hold none.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        let tokenizer = self.tokenizer()?;
        match &self.gguf {
            Some(metadata) => ChatTemplate::from_gguf(metadata, tokenizer),
            None => {
                let text = |name: &str| self.texts.get(name).map(String::as_str);
                ChatTemplate::from_files(
                    text("chat_template.jinja"),
                    text("tokenizer_config.json").map(str::as_bytes),
                    tokenizer,
                )
            }
        }
    }

    /// The text files beside the weights, by name.
    pub fn texts(&self) -> &BTreeMap<String, String> {
        &self.texts
    }

    /// GGUF metadata, where the model is a GGUF file.
    pub fn gguf(&self) -> Option<&Metadata> {
        self.gguf.as_ref()
    }
}
