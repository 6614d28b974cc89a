//! SentencePiece vocabularies from GGUF. Such a file has tokens with scores, no merges.
//!
//! Reference: SentencePiece's `bpe_model.cc` and `unigram_model.cc`, and the converters of transformers
//! (`convert_slow_tokenizer.py`), whose structure is kept so that an exported `tokenizer.json` looks familiar.

use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::{byte_fallback::ByteFallback, fuse::Fuse, strip::Strip};
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Precompiled, Prepend, Replace, Sequence};
use tokenizers::tokenizer::Tokenizer as Inner;
use tokenizers::{DecoderWrapper, NormalizerWrapper};

use super::cannot;
use super::gguf::{Defaults, TokenType, Vocab, malformed};
use crate::Result;
use crate::io::gguf::{Array, Metadata, Value};

/// What stands for a space inside tokens.
const SPACE: &str = "▁";

/// Longer tokens (bytes) are no merges of a trained vocabulary, and looking for their halves takes quadratic time.
const MAX_MERGED: usize = 1024;

/// SentencePiece's BPE: the pair whose union has the highest score is merged first. The scores of a trained vocabulary
/// fall in the order of the merges, so the merges are every way to cut a token in two tokens, in the order of its score.
pub(super) fn bpe(metadata: &Metadata, vocab: &Vocab) -> Result<(Inner, Defaults)> {
    let scores = scores(metadata, vocab)?;
    let mut by_score: Vec<u32> = (0..vocab.tokens.len() as u32).filter(|&id| is_text(vocab, id)).collect();
    by_score.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
    let mut merges = Vec::new();
    for token in by_score.iter().map(|&id| &vocab.tokens[id as usize]).filter(|token| token.len() <= MAX_MERGED) {
        let halves = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut halves: Vec<_> = halves.filter_map(|(a, b)| Some((id_of(vocab, a)?, id_of(vocab, b)?))).collect();
        halves.sort_unstable();
        let text = |id: u32| vocab.tokens[id as usize].clone();
        merges.extend(halves.into_iter().map(|(a, b)| (text(a), text(b))));
    }
    let defaults = Defaults { add_bos: true, bos: Some(1), eos: Some(2), unk: Some(0), ..Defaults::default() };
    let unk = unknown(metadata, vocab, &defaults)?;
    let mut builder = BPE::builder()
        .vocab_and_merges(vocab.ids.clone().into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(unk) = unk {
        builder = builder.unk_token(vocab.tokens[unk as usize].clone());
    }
    let mut inner = Inner::new(builder.build().map_err(|e| malformed(e.to_string()))?);

    spaces(&mut inner, metadata, Vec::new())?;
    Ok((inner, defaults))
}

/// SentencePiece's unigram model: the cut of a text with the highest sum of scores.
pub(super) fn unigram(metadata: &Metadata, vocab: &Vocab) -> Result<(Inner, Defaults)> {
    let scores = scores(metadata, vocab)?;
    let pieces = vocab.tokens.iter().zip(scores).map(|(token, &score)| (token.clone(), f64::from(score))).collect();
    let defaults = Defaults { add_eos: true, eos: Some(1), unk: Some(2), pad: Some(0), ..Defaults::default() };
    let unk = unknown(metadata, vocab, &defaults)?.map(|id| id as usize);
    let bytes = vocab.types.contains(&TokenType::Byte);
    let mut inner = Inner::new(Unigram::from(pieces, unk, bytes).map_err(cannot("build the unigram model"))?);

    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if let Some(charsmap) = metadata.get("tokenizer.ggml.precompiled_charsmap") {
        normalizers.push(precompiled(charsmap)?.into());
    }
    spaces(&mut inner, metadata, normalizers)?;
    Ok((inner, defaults))
}

/// Whether a token may arise from text: control, unknown and byte tokens may not.
fn is_text(vocab: &Vocab, id: u32) -> bool {
    matches!(vocab.types[id as usize], TokenType::Normal | TokenType::UserDefined | TokenType::Unused)
}

fn id_of(vocab: &Vocab, text: &str) -> Option<u32> {
    vocab.ids.get(text).copied().filter(|&id| is_text(vocab, id))
}

fn scores<'a>(metadata: &'a Metadata, vocab: &Vocab) -> Result<&'a [f32]> {
    let scores = metadata.f32s("tokenizer.ggml.scores")?;
    if scores.len() != vocab.tokens.len() {
        return Err(malformed(format!("{} tokens, but {} scores", vocab.tokens.len(), scores.len())));
    }
    if let Some(id) = scores.iter().position(|score| !score.is_finite()) {
        return Err(malformed(format!("the score of token {id} is {}", scores[id])));
    }
    Ok(scores)
}

fn unknown(metadata: &Metadata, vocab: &Vocab, defaults: &Defaults) -> Result<Option<u32>> {
    let given = metadata.optional("tokenizer.ggml.unknown_token_id", Metadata::u32)?;
    Ok(given.or(defaults.unk).filter(|&id| (id as usize) < vocab.tokens.len()))
}

/// Spaces become marks: after `normalizers`, extra ones are dropped and one is put before the text, if the file asks for it.
/// Decoding undoes this.
fn spaces(inner: &mut Inner, metadata: &Metadata, mut normalizers: Vec<NormalizerWrapper>) -> Result<()> {
    let flag = |key: &str| metadata.optional(&format!("tokenizer.ggml.{key}"), Metadata::bool);
    let prefix = flag("add_space_prefix")?.unwrap_or(true);
    if flag("remove_extra_whitespaces")?.unwrap_or(false) {
        // Spaces only, as SentencePiece does; the crate's `Strip` would take every kind of white space.
        normalizers.push(replace(ReplacePattern::Regex("^ +| +$".into()), "")?.into());
        normalizers.push(replace(ReplacePattern::Regex(" {2,}".into()), " ")?.into());
    }
    if prefix {
        normalizers.push(Prepend::new(SPACE.into()).into());
    }
    normalizers.push(replace(" ".into(), SPACE)?.into());
    inner.with_normalizer(Some(Sequence::new(normalizers))).map_err(cannot("set the normalizer"))?;

    let mut decoders: Vec<DecoderWrapper> =
        vec![replace(SPACE.into(), " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefix {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    inner.with_decoder(Some(DecoderSequence::new(decoders)));
    Ok(())
}

fn replace(pattern: ReplacePattern, with: &str) -> Result<Replace> {
    Replace::new(pattern, with).map_err(cannot("set the normalizer"))
}

/// SentencePiece's compiled normalization rules: a double array (little-endian u32 cells, after their number of bytes),
/// then the replacement texts, each ended by a zero byte. The crate that walks it trusts it, so it is checked here.
fn precompiled(charsmap: &Value) -> Result<Precompiled> {
    let bytes: Vec<u8> = match charsmap {
        Value::Array(Array::U8(bytes)) => bytes.clone(),
        Value::Array(Array::I8(bytes)) => bytes.iter().map(|&byte| byte as u8).collect(),
        other => return Err(malformed(format!("precompiled_charsmap should be an array of bytes, it is {other}"))),
    };
    check_charsmap(&bytes).ok_or_else(|| malformed("precompiled_charsmap is not a table of normalization rules"))?;
    Precompiled::from(&bytes).map_err(|e| malformed(e.to_string()))
}

/// `None` unless every walk through the double array stays inside it and ends at the start of a replacement.
fn check_charsmap(bytes: &[u8]) -> Option<()> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let (cells, texts) = rest.split_at_checked(u32::from_le_bytes(*size) as usize)?;
    let (cells, []) = cells.as_chunks::<4>() else { return None };
    let texts = std::str::from_utf8(texts).ok()?;
    let cell = |at: usize| cells.get(at).map(|cell| u32::from_le_bytes(*cell));
    cell(0)?;
    for at in 0..cells.len() {
        let unit = cell(at)?;
        if unit >> 31 == 1 {
            continue; // holds a value, is never walked through
        }
        let base = at ^ ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        cell(base | 0xFF)?;
        if (unit >> 8) & 1 == 1 {
            let text_at = (cell(base)? & 0x7FFF_FFFF) as usize;
            texts.is_char_boundary(text_at).then_some(())?;
        }
    }
    Some(())
}
