//! Which tokens begin, end and pad a text: read from the JSON files of a folder, or given by GGUF metadata.

use serde_json::Value;
use tokenizers::tokenizer::Tokenizer as Inner;

use super::TokenizerFiles;
use crate::{Error, Result};

/// Special tokens by role, as ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecialTokens {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
    pub unk: Option<u32>,
    /// Every token that ends an answer; `eos` first where there is one.
    pub stops: Vec<u32>,
}

impl SpecialTokens {
    /// `tokenizer_config.json` names tokens by text, the other two by id. The first file that speaks of a role decides it,
    /// except that the ends of an answer are collected from all three (chat models often have several).
    pub(super) fn from_files(files: &TokenizerFiles<'_>, inner: &Inner) -> Result<SpecialTokens> {
        let tokenizer_config = parse("tokenizer_config.json", files.tokenizer_config)?;
        let configs = [parse("generation_config.json", files.generation_config)?, parse("config.json", files.config)?];
        let by_name = |role: &str| {
            token_text(&tokenizer_config[format!("{role}_token")]).and_then(|text| inner.token_to_id(text))
        };
        let by_id = |role: &str| -> Vec<u32> {
            let ids = configs.iter().flat_map(|config| ids(&config[format!("{role}_token_id")]));
            ids.filter(|&id| inner.id_to_token(id).is_some()).collect()
        };
        let pick = |role: &str| by_name(role).or_else(|| by_id(role).first().copied());
        let eos = pick("eos");
        let stops = eos.into_iter().chain(by_id("eos")).collect();
        Ok(SpecialTokens { bos: pick("bos"), eos, pad: pick("pad"), unk: pick("unk"), stops }.without_repeats())
    }

    /// Keeps the first of equal `stops`.
    pub(super) fn without_repeats(mut self) -> SpecialTokens {
        let mut seen = Vec::new();
        self.stops.retain(|id| {
            !seen.contains(id) && {
                seen.push(*id);
                true
            }
        });
        self
    }
}

fn parse(file: &str, bytes: Option<&[u8]>) -> Result<Value> {
    let Some(bytes) = bytes else { return Ok(Value::Null) };
    serde_json::from_slice(bytes).map_err(|e| Error::malformed(file, format!("not valid JSON: {e}")))
}

/// A token is written as its text, or as an object with the text in `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// One id or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(values) => values.iter().filter_map(id).collect(),
        value => id(value).into_iter().collect(),
    }
}
