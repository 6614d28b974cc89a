//! Configuration (families are data), decoder, weights, tokenizer, chat template.

pub mod tokenizer;
