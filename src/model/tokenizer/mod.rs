//! Text to token ids and back, through the `tokenizers` crate: from a folder's `tokenizer.json`, or built from the
//! metadata of a GGUF file so that it gives the same ids.

mod gguf;
mod pre;
mod sentencepiece;
mod special;
mod stream;
mod to_gguf;

use std::ops::Range;
use std::sync::OnceLock;

use tokenizers::tokenizer::Tokenizer as Inner;

use crate::io::gguf::Metadata;
use crate::{Error, Result};

pub use special::SpecialTokens;
pub use stream::DecodeStream;

/// The files of a Hugging Face folder that say how text becomes tokens, as bytes. Only the first is required.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`
    pub tokenizer: &'a [u8],
    /// `tokenizer_config.json`: which tokens are bos, eos, pad, unk
    pub tokenizer_config: Option<&'a [u8]>,
    /// `generation_config.json`: which tokens end an answer
    pub generation_config: Option<&'a [u8]>,
    /// `config.json`: the same, where the files above do not say
    pub config: Option<&'a [u8]>,
}

/// Token ids of a text and where each comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoding {
    /// `ids [T]`
    pub ids: Vec<u32>,
    /// Byte ranges `[T]` of the text. Tokens added around the text (bos, eos) have empty ranges; the tokens that share one
    /// character (byte-level BPE) share its range.
    pub offsets: Vec<Range<usize>>,
}

/// Text to token ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    special: SpecialTokens,
    vocab_size: usize,
    /// A second copy that reads special tokens in text as plain text; made when first asked for.
    plain: OnceLock<Inner>,
}

impl Tokenizer {
    /// Reads the tokenizer of a Hugging Face folder. Padding and truncation set in the file are switched off.
    ///
    /// Errs if a file is not JSON of the expected form, or describes a tokenizer that the `tokenizers` crate does not know.
    pub fn from_files(files: &TokenizerFiles<'_>) -> Result<Tokenizer> {
        let inner =
            Inner::from_bytes(files.tokenizer).map_err(|e| Error::malformed("tokenizer.json", e.to_string()))?;
        let special = SpecialTokens::from_files(files, &inner)?;
        Tokenizer::new(inner, special)
    }

    /// Builds the tokenizer that the metadata of a GGUF file describes: byte-level BPE (`gpt2`), SentencePiece BPE (`llama`)
    /// or SentencePiece unigram (`t5`). Errs on other models, unknown pre-tokenizers, and vocabularies that do not fit together.
    pub fn from_gguf(metadata: &Metadata) -> Result<Tokenizer> {
        let (inner, special) = gguf::build(metadata)?;
        Tokenizer::new(inner, special)
    }

    fn new(mut inner: Inner, special: SpecialTokens) -> Result<Tokenizer> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::malformed("tokenizer", e.to_string()))?;
        let vocab_size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        Ok(Tokenizer { inner, special, vocab_size, plain: OnceLock::new() })
    }

    /// The ids of `text`. Special tokens written in the text (`<|im_end|>`) become their ids; `add_special` adds what the
    /// tokenizer puts around a text (a bos token, say). Text rendered by a chat template already holds these: pass `false`.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        Self::ids(&self.inner, text, add_special)
    }

    /// As [`Tokenizer::encode`], but special tokens written in the text are read as ordinary text: for words of a user who
    /// must not be able to end a turn.
    pub fn encode_plain(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let plain = self.plain.get_or_init(|| {
            let mut plain = self.inner.clone();
            plain.set_encode_special_tokens(true);
            plain
        });
        Self::ids(plain, text, add_special)
    }

    fn ids(inner: &Inner, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = inner.encode_fast(text, add_special).map_err(cannot("encode text"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`Tokenizer::encode`], with the place of each token in the text.
    pub fn encode_with_offsets(&self, text: &str, add_special: bool) -> Result<Encoding> {
        let encoding = self.inner.encode(text, add_special).map_err(cannot("encode text"))?;
        let offsets = encoding.get_offsets().iter().map(|&(start, end)| start..end.max(start)).collect();
        Ok(Encoding { ids: encoding.get_ids().to_vec(), offsets })
    }

    /// The text of `ids`. Incomplete UTF-8 becomes U+FFFD; ids outside the vocabulary are left out. For text that arrives
    /// token by token use [`DecodeStream`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(cannot("decode tokens"))
    }

    /// Highest id plus one, added tokens included. The model's own vocabulary may be larger (padded), never smaller.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token written at the beginning of a text, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// The token that ends a text, if the model has one: what is appended to a completion or a document.
    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    /// Every token that ends an answer, [`Tokenizer::eos`] first.
    pub fn eos_ids(&self) -> &[u32] {
        &self.special.stops
    }

    /// The token that fills up short rows: the model's padding token, else its eos token, else 0. Padding is never
    /// attended to nor supervised, so any id does.
    pub fn pad(&self) -> u32 {
        self.special.pad.or(self.special.eos).unwrap_or(0)
    }

    /// The special tokens by role.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The special tokens as the variables that chat templates know: `bos_token`, `eos_token`, `pad_token`, `unk_token`.
    pub fn template_variables(&self) -> serde_json::Map<String, serde_json::Value> {
        let SpecialTokens { bos, eos, pad, unk, .. } = self.special;
        let named = [("bos_token", bos), ("eos_token", eos), ("pad_token", pad), ("unk_token", unk)];
        named.into_iter().filter_map(|(name, id)| Some((name.to_string(), self.id_to_token(id?)?.into()))).collect()
    }

    /// Whether `id` is a special (control) token: one that `decode` can skip.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// The token as it stands in the vocabulary (`Ġthe`, `▁the`, `<|im_end|>`), not decoded.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token spelled as in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// This tokenizer as the text of a `tokenizer.json`, to write beside exported weights.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(true).map_err(cannot("write tokenizer.json"))
    }
}

/// For `map_err`: errors of the `tokenizers` crate.
fn cannot(what: &'static str) -> impl Fn(tokenizers::Error) -> Error {
    move |e| Error::malformed("tokenizer", format!("cannot {what}: {e}"))
}
