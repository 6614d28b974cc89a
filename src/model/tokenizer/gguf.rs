//! A tokenizer from GGUF metadata (`tokenizer.ggml.*`), as the parts of the `tokenizers` crate that give the same ids.
//!
//! Reference: `src/llama-vocab.cpp` of llama.cpp for keys and defaults, the models' own `tokenizer.json` for the ids.

use rustc_hash::FxHashMap;
use serde_json::json;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::Tokenizer as Inner;
use tokenizers::{AddedToken, PostProcessorWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::{SpecialTokens, cannot, pre, sentencepiece};
use crate::io::gguf::Metadata;
use crate::{Error, Result};

/// How a token may be used (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TokenType {
    Normal = 1,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl TokenType {
    fn from_id(id: i32) -> TokenType {
        match id {
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            _ => TokenType::Normal,
        }
    }
}

/// Texts that end an answer whatever the metadata says: converters name only one of several.
const ENDS_OF_ANSWER: [&str; 11] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<EOT>",
    "<eos>",
    "</s>",
];

/// The token list of a GGUF file.
pub(super) struct Vocab {
    /// Texts [V], all different
    pub tokens: Vec<String>,
    /// Types [V]
    pub types: Vec<TokenType>,
    /// Ids by text
    pub ids: FxHashMap<String, u32>,
}

/// What holds for a kind of tokenizer where the file does not say.
#[derive(Default)]
pub(super) struct Defaults {
    pub add_bos: bool,
    pub add_eos: bool,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
}

/// Reads the vocabulary and builds the tokenizer of the kind that `tokenizer.ggml.model` names.
pub(super) fn build(metadata: &Metadata) -> Result<(Inner, SpecialTokens)> {
    let vocab = Vocab::read(metadata)?;
    let (mut inner, defaults) = match metadata.str("tokenizer.ggml.model")? {
        "gpt2" => byte_level_bpe(metadata, &vocab)?,
        "llama" => sentencepiece::bpe(metadata, &vocab)?,
        "t5" => sentencepiece::unigram(metadata, &vocab)?,
        other => {
            return Err(Error::Unsupported {
                what: format!("the tokenizer model `{other}` (tokenizer.ggml.model)"),
                supported: "gpt2 (byte-level BPE), llama (SentencePiece BPE), t5 (SentencePiece unigram)".into(),
            });
        }
    };
    inner.add_tokens(vocab.added_tokens(metadata)?).map_err(cannot("add the special tokens"))?;
    let special = vocab.special_tokens(metadata, &defaults)?;
    inner.with_post_processor(post_processor(metadata, &vocab, &special, &defaults)?);
    Ok((inner, special))
}

pub(super) fn malformed(problem: impl Into<String>) -> Error {
    Error::malformed("the tokenizer in the GGUF metadata", problem)
}

impl Vocab {
    fn read(metadata: &Metadata) -> Result<Vocab> {
        let tokens = metadata.strings("tokenizer.ggml.tokens")?;
        let types = match metadata.optional("tokenizer.ggml.token_type", Metadata::i32s)? {
            Some(types) => types.into_iter().map(TokenType::from_id).collect(),
            None => vec![TokenType::Normal; tokens.len()],
        };
        if types.len() != tokens.len() {
            return Err(malformed(format!("{} tokens, but {} token types", tokens.len(), types.len())));
        }
        let mut vocab = Vocab { tokens: Vec::with_capacity(tokens.len()), types, ids: FxHashMap::default() };
        for (id, token) in (0u32..).zip(tokens) {
            let token = if token.is_empty() { format!("[EMPTY_{id}]") } else { token.clone() };
            if let Some(first) = vocab.ids.insert(token.clone(), id) {
                return Err(malformed(format!("the token {token:?} has two ids, {first} and {id}")));
            }
            vocab.tokens.push(token);
        }
        Ok(vocab)
    }

    /// Tokens found in text before anything else is done to it. Control tokens are special; what the user of a tokenizer
    /// defined is not.
    fn added_tokens(&self, metadata: &Metadata) -> Result<Vec<AddedToken>> {
        let name = metadata.optional("general.name", Metadata::str)?.unwrap_or_default().to_lowercase();
        let phi3 = name.contains("phi-3") || name.contains("phi3");
        let tokens = self.tokens.iter().zip(&self.types).filter_map(|(token, kind)| {
            let special = match kind {
                TokenType::Control | TokenType::Unknown => true,
                TokenType::UserDefined => false,
                TokenType::Normal | TokenType::Unused | TokenType::Byte => return None,
            };
            // GGUF has no place for this flag; Phi-3's tokenizer.json sets it, and its templates rely on it.
            let swallows_spaces = phi3 && !matches!(token.as_str(), "<unk>" | "<s>" | "<|endoftext|>");
            Some(AddedToken::from(token.clone(), special).normalized(false).rstrip(swallows_spaces))
        });
        Ok(tokens.collect())
    }

    fn special_tokens(&self, metadata: &Metadata, defaults: &Defaults) -> Result<SpecialTokens> {
        let in_range = |id: &u32| (*id as usize) < self.tokens.len();
        let given = |key: &str| -> Result<Option<u32>> {
            Ok(metadata.optional(&format!("tokenizer.ggml.{key}_token_id"), Metadata::u32)?.filter(in_range))
        };
        let eos = given("eos")?.or(defaults.eos.filter(in_range));
        let ends = ENDS_OF_ANSWER.iter().filter_map(|text| self.ids.get(*text).copied());
        let ends = ends.filter(|&id| self.types[id as usize] == TokenType::Control);
        let stops = [eos, given("eot")?, given("eom")?].into_iter().flatten().chain(ends).collect();
        Ok(SpecialTokens {
            bos: given("bos")?.or(defaults.bos.filter(in_range)),
            eos,
            pad: given("padding")?.or(defaults.pad.filter(in_range)),
            unk: given("unknown")?.or(defaults.unk.filter(in_range)),
            stops,
        }
        .without_repeats())
    }
}

/// GPT-2's kind: pieces cut by regular expressions, bytes written as printable characters, merges given by rank.
fn byte_level_bpe(metadata: &Metadata, vocab: &Vocab) -> Result<(Inner, Defaults)> {
    let rules = match metadata.optional("tokenizer.ggml.pre", Metadata::str)? {
        Some(name) => pre::find(name)?,
        None => {
            tracing::warn!("the GGUF file names no pre-tokenizer (tokenizer.ggml.pre): token ids may be wrong");
            pre::find("default")?
        }
    };
    let lines = metadata.strings("tokenizer.ggml.merges")?;
    let mut merges = Vec::with_capacity(lines.len());
    for line in lines {
        let Some((left, right)) = line.split_once(' ') else {
            return Err(malformed(format!("the merge {line:?} is not two tokens with a space between")));
        };
        if [left, right, &format!("{left}{right}")].iter().all(|token| vocab.ids.contains_key(*token)) {
            merges.push((left.to_string(), right.to_string()));
        }
    }
    if merges.len() < lines.len() {
        tracing::warn!("{} merges of the GGUF file name tokens that it lacks", lines.len() - merges.len());
    }
    let model = BPE::builder()
        .vocab_and_merges(vocab.ids.clone().into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .ignore_merges(rules.ignore_merges)
        .build()
        .map_err(|e| malformed(e.to_string()))?;

    let mut inner = Inner::new(model);
    if rules.nfc {
        inner.with_normalizer(Some(NFC)).map_err(cannot("set the normalizer"))?;
    }
    inner.with_pre_tokenizer(Some(pre_tokenizer(rules)?));
    inner.with_decoder(Some(ByteLevel::new(true, true, true)));
    // llama.cpp falls back to token 11 as bos and eos, which is Falcon's; for any other vocabulary none is better.
    Ok((inner, Defaults { add_bos: rules.add_bos, ..Defaults::default() }))
}

/// The rules as a step of the `tokenizers` crate: cuts, then bytes as printable characters.
pub(super) fn pre_tokenizer(rules: &pre::PreTokenizer) -> Result<Sequence> {
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    for pattern in rules.splits {
        let pattern = SplitPattern::Regex(pattern.to_string());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        steps.push(split.map_err(cannot("compile a pre-tokenizer"))?.into());
    }
    steps.push(ByteLevel::new(false, true, false).into());
    Ok(Sequence::new(steps))
}

/// What `add_special` puts around a text.
fn post_processor(
    metadata: &Metadata,
    vocab: &Vocab,
    special: &SpecialTokens,
    defaults: &Defaults,
) -> Result<Option<PostProcessorWrapper>> {
    let flag = |key: &str, default: bool| -> Result<bool> {
        Ok(metadata.optional(&format!("tokenizer.ggml.add_{key}_token"), Metadata::bool)?.unwrap_or(default))
    };
    let (add_bos, add_eos) = (flag("bos", defaults.add_bos)?, flag("eos", defaults.add_eos)?);
    let bos = special.bos.filter(|_| add_bos);
    let eos = special.eos.filter(|_| add_eos);
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    let text = |id: u32| vocab.tokens[id as usize].as_str();
    let piece = |id: Option<u32>| id.map(|id| json!({"SpecialToken": {"id": text(id), "type_id": 0}}));
    let sequence = |id: &str| Some(json!({"Sequence": {"id": id, "type_id": 0}}));
    let tokens: serde_json::Map<_, _> = [bos, eos]
        .into_iter()
        .flatten()
        .map(|id| (text(id).to_string(), json!({"id": text(id), "ids": [id], "tokens": [text(id)]})))
        .collect();
    let single: Vec<_> = [piece(bos), sequence("A"), piece(eos)].into_iter().flatten().collect();
    let pair: Vec<_> =
        [piece(bos), sequence("A"), piece(eos), sequence("B"), piece(eos)].into_iter().flatten().collect();
    let value = json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens});
    serde_json::from_value(value).map(Some).map_err(|e| malformed(e.to_string()))
}
