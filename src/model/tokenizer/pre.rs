//! How byte-level BPE tokenizers cut text before merging: one row per rule set, found by the name that GGUF files keep
//! in `tokenizer.ggml.pre`.
//!
//! The names are llama.cpp's (`src/llama-vocab.cpp`). The patterns are those of the models' own `tokenizer.json`, which
//! llama.cpp sometimes rewrites for its smaller regex engine; so a tokenizer built from GGUF gives the ids of the folder.

use crate::{Error, Result};

/// One way to cut text: each pattern in turn cuts what the ones before it left, matches and gaps alike becoming pieces.
pub(super) struct PreTokenizer {
    /// The values of `tokenizer.ggml.pre` that mean this rule set.
    pub names: &'static [&'static str],
    pub splits: &'static [&'static str],
    /// A piece that is itself a token stays whole, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether the beginning-of-sequence token is added where the file does not say.
    pub add_bos: bool,
    /// Whether text is brought to Unicode normal form C first, as the models' `tokenizer.json` does.
    pub nfc: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const DIGIT: &str = r"\p{N}";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const SEED: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// The plain case: no whole-piece lookup, no added token, no normalization.
const BASE: PreTokenizer = PreTokenizer { names: &[], splits: &[], ignore_merges: false, add_bos: false, nfc: false };

#[rustfmt::skip]
pub(super) const TABLE: &[PreTokenizer] = &[
    PreTokenizer { names: &["default"], splits: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], ..BASE },
    PreTokenizer { names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        splits: &[LLAMA3], ignore_merges: true, add_bos: true, ..BASE },
    PreTokenizer { names: &["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], splits: &[LLAMA3], ..BASE },
    PreTokenizer { names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        splits: &[DIGIT, GPT2], ..BASE },
    PreTokenizer { names: &["gpt-2", "phi-2", "jais", "trillion", "granite-docling", "gigachat", "modern-bert", "mellum",
        "exaone4", "a.x-4.0", "roberta-bpe"], splits: &[GPT2], ..BASE },
    PreTokenizer { names: &["olmo", "mpt"], splits: &[GPT2], nfc: true, ..BASE },
    PreTokenizer { names: &["qwen2", "megrez"], splits: &[QWEN2], nfc: true, ..BASE },
    PreTokenizer { names: &["deepseek-r1-qwen", "kormo", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        splits: &[QWEN2], ..BASE },
    PreTokenizer { names: &["qwen35"], splits: &[QWEN35], nfc: true, ..BASE },
    PreTokenizer { names: &["falcon"], splits: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"], ..BASE },
    PreTokenizer { names: &["deepseek-coder"],
        splits: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+", DIGIT], ..BASE },
    PreTokenizer { names: &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        splits: &[r"\p{N}{1,3}", "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+", DEEPSEEK3], ..BASE },
    PreTokenizer { names: &["tekken"], splits: &[TEKKEN], ignore_merges: true, add_bos: true, ..BASE },
    PreTokenizer { names: &["gpt-4o", "llama4", "kanana2", "minimax-m2"], splits: &[GPT4O], ..BASE },
    PreTokenizer { names: &["bailingmoe", "bailingmoe2", "llada-moe"], splits: &[BAILING], ..BASE },
    PreTokenizer { names: &["seed-coder"], splits: &[SEED], ..BASE },
    PreTokenizer { names: &["bloom", "poro-chat", "gpt3-finnish"], splits: &[BLOOM], ..BASE },
    PreTokenizer { names: &["viking"], splits: &[BLOOM, DIGIT], ..BASE },
];

/// The rule set called `name`. An unknown name is an error: text cut the wrong way gives wrong ids without a sign of it.
pub(super) fn find(name: &str) -> Result<&'static PreTokenizer> {
    TABLE.iter().find(|row| row.names.contains(&name)).ok_or_else(|| Error::Unsupported {
        what: format!("the pre-tokenizer `{name}` (tokenizer.ggml.pre)"),
        supported: TABLE.iter().flat_map(|row| row.names).copied().collect::<Vec<_>>().join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, SplitDelimiterBehavior};

    fn cut(name: &str, text: &str) -> Vec<String> {
        let mut pieces = PreTokenizedString::from(text);
        for pattern in find(name).unwrap().splits {
            let pattern = SplitPattern::Regex(pattern.to_string());
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap().pre_tokenize(&mut pieces).unwrap();
        }
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces.into_iter().map(|(piece, _, _)| piece.to_string()).collect()
    }

    #[test]
    fn every_pattern_compiles_and_loses_nothing() {
        let text = "I'LL pay 12345€ — 東京 naïve\r\n\n  x=3.14; don't `a|b`\t\u{301}e 🙂 ";
        let mut names: Vec<_> = TABLE.iter().flat_map(|row| row.names).collect();
        for name in &names {
            assert_eq!(cut(name, text).concat(), text, "{name}");
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), TABLE.iter().map(|row| row.names.len()).sum::<usize>(), "a name occurs twice");
    }

    #[test]
    fn the_families_differ_where_they_should() {
        assert_eq!(cut("gpt-2", "In 1984's  x"), ["In", " 1984", "'s", " ", " x"]);
        assert_eq!(cut("smollm", "In 1984's  x"), ["In", " ", "1", "9", "8", "4", "'s", " ", " x"]);
        assert_eq!(cut("llama-bpe", "In 1984'S  x"), ["In", " ", "198", "4", "'S", " ", " x"]);
        assert_eq!(cut("qwen2", "a.b\n\n12"), ["a", ".b", "\n\n", "1", "2"]);
        assert_eq!(cut("tekken", "HelloWorld 12"), ["Hello", "World", " ", "1", "2"]);
        assert_eq!(cut("gpt-4o", "We'll 1234"), ["We'll", " ", "123", "4"]);
        assert_eq!(cut("falcon", "a--b 12345"), ["a", "--", "b", " ", "123", "45"]);
        assert_eq!(cut("deepseek-v3", "東京12ab ,x"), ["東京", "12", "ab", " ,", "x"]);
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = find("no-such").err().unwrap().to_string();
        assert!(error.contains("`no-such`") && error.contains("smollm") && error.contains("qwen2"), "{error}");
    }
}
