//! A tokenizer as GGUF metadata, for the files that we write: byte-level BPE, as llama.cpp's converter writes it.

use serde_json::Value as Json;
use tokenizers::normalizers::NFC;
use tokenizers::tokenizer::Tokenizer as Inner;
use tokenizers::{
    Normalizer as _, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
    PreTokenizerWrapper,
};

use super::gguf::{TokenType, pre_tokenizer};
use super::{Tokenizer, cannot, pre};
use crate::io::gguf::Metadata;
use crate::{Error, Result};

/// Texts on which rules to cut differ: case, digits, spaces, line breaks, punctuation, other scripts. Rules that cut all of
/// these alike are taken for the same, as llama.cpp's converter does with a text of its own.
const PROBES: [&str; 4] = [
    "I'LL pay 12345€, don't You'Ve\n\n \n  x=3.14; we'll `a|b`\t\r\n CamelCaseWORDs $5 <=> ^~ a--b ... (x) \"y\" ",
    "1 22 333 4444 55555 666666 a1b22 3.333.333  \t\t\n     5",
    "東京12ab ,x ひらがな カタカナ 한국어 नमस्ते العربية ไทย naïve e\u{301} Ⅷ ½ ² ǅ ʰ 🙂👨‍👩‍👧 ¿qué? «oui» … 。，",
    "'S 'd'm/// http://a.b/c?d=e&f #[g] {h}\\i @j %k *l* _m_ ~n !o;p:q",
];

impl Tokenizer {
    /// Writes tokens, merges, rules and special tokens as `tokenizer.ggml.*`, so that [`Tokenizer::from_gguf`] gives the same
    /// ids. `rows` is the height of the embedding: ids without a token are filled up. Errs on tokenizers other than
    /// byte-level BPE with rules that GGUF has a name for.
    pub fn to_gguf(&self, rows: usize, metadata: &mut Metadata) -> Result<()> {
        // The crate shows merges and options only in its JSON.
        let json: Json =
            serde_json::from_str(&self.to_json()?).map_err(|e| Error::malformed("tokenizer", e.to_string()))?;
        let model = &json["model"];
        if model["type"] != "BPE" {
            return Err(unsupported("not BPE"));
        }
        let rules = rules(&self.inner, model["ignore_merges"] == true)?;
        metadata.insert("tokenizer.ggml.model", "gpt2");
        metadata.insert("tokenizer.ggml.pre", rules.names[0]);
        let rows = rows.max(self.vocab_size) as u32;
        let token = |id| self.id_to_token(id).unwrap_or_else(|| format!("[PAD{id}]"));
        metadata.insert("tokenizer.ggml.tokens", (0..rows).map(token).collect::<Vec<String>>());
        metadata
            .insert("tokenizer.ggml.token_type", (0..rows).map(|id| self.token_type(id) as i32).collect::<Vec<_>>());
        metadata.insert("tokenizer.ggml.merges", merges(model)?);
        let special = &self.special;
        let mut ends = self.eos_ids().iter().copied().filter(|&id| Some(id) != special.eos);
        let (eot, eom) = (ends.next(), ends.next());
        for (role, id) in [
            ("bos", special.bos),
            ("eos", special.eos),
            ("padding", special.pad),
            ("unknown", special.unk),
            ("eot", eot),
            ("eom", eom),
        ] {
            if let Some(id) = id {
                metadata.insert(format!("tokenizer.ggml.{role}_token_id"), id);
            }
        }
        let around = self.encode("a", true)?;
        metadata
            .insert("tokenizer.ggml.add_bos_token", special.bos.is_some() && around.first() == special.bos.as_ref());
        metadata.insert("tokenizer.ggml.add_eos_token", special.eos.is_some() && around.last() == special.eos.as_ref());
        Ok(())
    }

    fn token_type(&self, id: u32) -> TokenType {
        match self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id) {
            Some(added) if added.special => TokenType::Control,
            Some(_) => TokenType::UserDefined,
            None if self.id_to_token(id).is_none() => TokenType::Unused,
            None => TokenType::Normal,
        }
    }
}

fn unsupported(why: &str) -> Error {
    Error::Unsupported {
        what: format!("writing this tokenizer to GGUF: it is {why}; such tokenizers are"),
        supported: "byte-level BPE with rules that llama.cpp knows; or a folder as the destination".into(),
    }
}

/// The merges by rank, each two tokens with a space between.
fn merges(model: &Json) -> Result<Vec<String>> {
    let line = |merge: &Json| match merge {
        Json::String(line) => Some(line.clone()),
        pair => Some(format!("{} {}", pair[0].as_str()?, pair[1].as_str()?)),
    };
    let merges = model["merges"].as_array().and_then(|merges| merges.iter().map(line).collect());
    merges.ok_or_else(|| unsupported("BPE without merges"))
}

/// The row of the table that cuts text as this tokenizer does.
fn rules(inner: &Inner, ignore_merges: bool) -> Result<&'static pre::PreTokenizer> {
    let Some(cuts) = inner.get_pre_tokenizer() else { return Err(unsupported("not byte-level")) };
    let wanted = cut_probes(inner.get_normalizer(), cuts)?;
    let nfc = NFC.into();
    for row in pre::TABLE.iter().filter(|row| row.ignore_merges == ignore_merges) {
        if cut_probes(row.nfc.then_some(&nfc), &pre_tokenizer(row)?.into())? == wanted {
            return Ok(row);
        }
    }
    Err(unsupported("cut by rules without a name in GGUF"))
}

/// The pieces of all [`PROBES`].
fn cut_probes(normalizer: Option<&NormalizerWrapper>, cuts: &PreTokenizerWrapper) -> Result<Vec<String>> {
    let mut all = vec![];
    for probe in PROBES {
        let mut pieces = PreTokenizedString::from(probe);
        if let Some(normalizer) = normalizer {
            pieces.normalize(|text| normalizer.normalize(text)).map_err(cannot("normalize text"))?;
        }
        cuts.pre_tokenize(&mut pieces).map_err(cannot("cut text"))?;
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        all.extend(pieces.into_iter().map(|(piece, _, _)| piece.to_string()));
    }
    Ok(all)
}
