//! Safetensors, Hugging Face's weight file: the header's length, a JSON header, then tensor data without gaps.
//!
//! The header is parsed here rather than by the `safetensors` crate, which counts in `usize` (32 bits in a browser, where
//! a file may be larger) and does not say which tensor is wrong; its list of dtypes is used.

mod reader;
mod sharded;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{SafetensorsReader, TensorInfo};
pub use safetensors::Dtype;
pub use sharded::ShardedSafetensors;
#[cfg(feature = "cli")]
pub(crate) use sharded::shards_of_index;
pub use writer::{SafetensorsWriter, TensorSpec};

use crate::quant::ggml::GgmlType;

/// The longest header, in bytes: the limit of the reference implementation.
const MAX_HEADER: u64 = 100_000_000;
/// The header's key that holds no tensor.
const METADATA_KEY: &str = "__metadata__";

/// Bytes of `elements` values, or `None` where they are no whole number of bytes or pass 64 bits.
fn data_bytes(dtype: Dtype, elements: usize) -> Option<u64> {
    let bits = (elements as u64).checked_mul(dtype.bitsize() as u64)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// The float dtypes, which GGUF stores in the same way.
fn float_type(dtype: Dtype) -> Option<GgmlType> {
    match dtype {
        Dtype::F32 => Some(GgmlType::F32),
        Dtype::F16 => Some(GgmlType::F16),
        Dtype::BF16 => Some(GgmlType::BF16),
        _ => None,
    }
}
