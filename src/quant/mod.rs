//! Storage formats of frozen weights, in plain Rust: encode and decode. No GPU.

pub mod format;

pub use format::WeightFormat;
