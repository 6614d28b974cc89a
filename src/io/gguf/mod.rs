//! GGUF, llama.cpp's model file: a header of typed metadata and tensor descriptions, then aligned tensor data.
//!
//! Reference: `docs/gguf.md` of ggml. Versions 2 and 3, little-endian.

mod metadata;

pub use metadata::{Array, Metadata, Value, ValueType};

/// The first four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The alignment of tensor data, in bytes, where `general.alignment` is absent.
pub const DEFAULT_ALIGNMENT: u64 = 32;
