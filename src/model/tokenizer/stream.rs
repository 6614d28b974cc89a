//! Text from tokens that arrive one by one: emits only whole characters, and exactly the text of decoding all at once.

use super::Tokenizer;
use crate::Result;

/// How many tokens without a whole character are held back: a character has at most four bytes, each at most one token;
/// past this the bytes are simply not UTF-8.
const MAX_PENDING: usize = 8;

/// Decodes a growing sequence of tokens.
///
/// A decoder may treat the first token of a text differently (SentencePiece drops its leading space), so each step decodes
/// the tokens of the previous step again together with the new ones, and emits what the new ones add.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    skip_special: bool,
    /// The tokens of the last emitted piece, then those not yet emitted.
    ids: Vec<u32>,
    emitted: usize,
    emitted_text: String,
}

impl DecodeStream {
    /// An empty stream; `skip_special` leaves control tokens out of the text.
    pub fn new(skip_special: bool) -> DecodeStream {
        DecodeStream { skip_special, ids: Vec::new(), emitted: 0, emitted_text: String::new() }
    }

    /// Adds `id` and returns the text that is now certain, perhaps empty.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        self.ids.push(id);
        self.advance(tokenizer, self.ids.len() - self.emitted > MAX_PENDING)
    }

    /// The rest of the text, with U+FFFD for bytes that never became a character. The stream is then empty.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        let rest = self.advance(tokenizer, true)?;
        *self = DecodeStream::new(self.skip_special);
        Ok(rest)
    }

    fn advance(&mut self, tokenizer: &Tokenizer, all: bool) -> Result<String> {
        let text = tokenizer.decode(&self.ids, self.skip_special)?;
        if text.ends_with('\u{FFFD}') && !all {
            return Ok(String::new());
        }
        let Some(new) = text.strip_prefix(&self.emitted_text).filter(|new| !new.is_empty()) else {
            return Ok(String::new());
        };
        let new = new.to_string();
        self.ids.drain(..self.emitted);
        self.emitted = self.ids.len();
        self.emitted_text = tokenizer.decode(&self.ids, self.skip_special)?;
        Ok(new)
    }
}
