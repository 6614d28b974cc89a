//! Configuration (families are data), decoder, weights, tokenizer, chat template.

pub mod chat_template;
pub mod tokenizer;
