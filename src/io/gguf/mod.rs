//! GGUF, llama.cpp's model file: a header of typed metadata and tensor descriptions, then aligned tensor data.
//!
//! Reference: `docs/gguf.md` of ggml. Versions 2 and 3, little-endian.

use crate::{Error, Result};

mod header;
mod metadata;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use metadata::{Array, Metadata, Value, ValueType};
pub use reader::{GgufReader, TensorInfo};
pub use writer::{GgufWriter, TensorSpec};

/// The first four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The alignment of tensor data, in bytes, where `general.alignment` is absent.
pub const DEFAULT_ALIGNMENT: u64 = 32;
/// The largest alignment taken for honest, in bytes: padding up to it is written.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// The most dimensions that a tensor has in GGUF.
const MAX_DIMS: usize = 4;

/// The alignment that `metadata` asks for, in bytes.
fn alignment(metadata: &Metadata) -> Result<u64> {
    let alignment = metadata.optional("general.alignment", Metadata::u32)?.map_or(DEFAULT_ALIGNMENT, u64::from);
    if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT {
        return Ok(alignment);
    }
    let problem = format!("general.alignment = {alignment}: it has to be a power of two of at most {MAX_ALIGNMENT}");
    Err(Error::malformed(metadata.file(), problem))
}
