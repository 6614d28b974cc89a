//! The Seedling's tokenizer: byte-level BPE in GPT-2's way, trained on what the model will read.

use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

pub const VOCABULARY: usize = 2048;
/// Special tokens, by id.
pub const SPECIAL: [&str; 4] = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"];
const TEMPLATE: &str = "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/// `tokenizer.json`, trained on these texts.
pub fn train(texts: &[String]) -> Result<String> {
    let special: Vec<AddedToken> = SPECIAL.iter().map(|token| AddedToken::from(*token, true)).collect();
    let trainer = BpeTrainer::builder()
        .vocab_size(VOCABULARY)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special)
        .show_progress(false)
        .build();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::new(true, true, true)));
    let mut trainer = TrainerWrapper::BpeTrainer(trainer);
    tokenizer.train(&mut trainer, texts.iter()).map_err(|e| anyhow!("cannot train the tokenizer: {e}"))?;
    tokenizer.to_string(true).map_err(|e| anyhow!("cannot write the tokenizer: {e}"))
}

/// `tokenizer_config.json`.
pub fn config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[3],
        "pad_token": SPECIAL[0],
        "add_bos_token": false,
        "clean_up_tokenization_spaces": false,
        "chat_template": TEMPLATE,
    })
}
