//! Model files as byte streams: safetensors and GGUF readers and writers, folders of named files, files that appear
//! whole or not at all, and the hub client. No model knowledge, no GPU.

pub mod atomic;
pub mod files;
pub mod gguf;
pub mod hub;
pub mod safetensors;
pub mod source;
mod tensor;

pub use atomic::{AtomicFile, Existing, write_atomically, write_folder_atomically};
pub use files::{Files, Folder, MemoryFiles};
pub use gguf::GgufReader;
pub use safetensors::{SafetensorsReader, ShardedSafetensors};
pub use source::{ByteSource, FileSource, MemorySource};
pub use tensor::rows_and_columns;
