//! Model files as byte streams: safetensors and GGUF readers and writers, folders of named files, files that appear
//! whole or not at all, and the hub client. No model knowledge, no GPU.

pub mod gguf;
pub mod source;

pub use source::{ByteSource, FileSource, MemorySource};
