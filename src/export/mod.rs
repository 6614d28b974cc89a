//! What is kept of a run: an adapter merged into its base, a model trained in full, or a model in another form, written as
//! a Hugging Face folder or a GGUF file. Tensors are read, merged and written a few rows at a time.

mod folder;
mod gguf;
mod sources;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::io::rows_and_columns;
use crate::io::safetensors::Dtype;
use crate::model::ModelFiles;
use crate::model::weights::{TensorSource, gguf_qk_row};
use crate::quant::ggml::{self, GgmlType};

pub use folder::{WEIGHTS_FILE, folder_texts, write_safetensors};
pub use gguf::write_gguf;
pub use sources::{Merged, Trained};

/// Values that are held in memory at a time while a tensor is written.
const PIECE: usize = 4 << 20;

/// How exported weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum FloatType {
    F32,
    F16,
    Bf16,
}

impl FloatType {
    /// The smallest type that holds the matrices of `model` as they are: the one that its files have, or f32 where they are
    /// quantized.
    pub fn of(model: &ModelFiles) -> FloatType {
        let mut found = model.tensors().iter().filter(|t| t.shape.len() == 2).map(|t| t.dtype.as_str());
        let first = found.next().unwrap_or("F32");
        match (first, found.all(|dtype| dtype == first)) {
            ("F16", true) => FloatType::F16,
            ("BF16", true) => FloatType::Bf16,
            _ => FloatType::F32,
        }
    }

    /// The same as a type of GGUF.
    pub fn ggml(self) -> GgmlType {
        match self {
            FloatType::F32 => GgmlType::F32,
            FloatType::F16 => GgmlType::F16,
            FloatType::Bf16 => GgmlType::BF16,
        }
    }

    fn safetensors(self) -> Dtype {
        match self {
            FloatType::F32 => Dtype::F32,
            FloatType::F16 => Dtype::F16,
            FloatType::Bf16 => Dtype::BF16,
        }
    }

    /// PyTorch's name.
    fn torch(self) -> &'static str {
        match self {
            FloatType::F32 => "float32",
            FloatType::F16 => "float16",
            FloatType::Bf16 => "bfloat16",
        }
    }
}

/// Reads a tensor in pieces of whole rows, encodes each as `ggml`, and hands it on. With `head_dim` the rows of each head
/// change places as GGUF wants those of q and k.
fn encode_tensor(
    source: &dyn TensorSource,
    name: &str,
    shape: &[usize],
    ggml: GgmlType,
    head_dim: Option<usize>,
    mut append: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let (rows, columns) = rows_and_columns(shape);
    // Rows that change places do so inside one head.
    let unit = head_dim.unwrap_or(1);
    let at_once = (PIECE / columns.max(1)).max(1).next_multiple_of(unit).min(rows.max(1));
    let mut values = vec![0.0; at_once * columns];
    let mut bytes = vec![0; at_once * columns * 4];
    for first in (0..rows).step_by(at_once) {
        let last = rows.min(first + at_once);
        let values = &mut values[..(last - first) * columns];
        source.read_rows(name, first..last, values)?;
        if let Some(head_dim) = head_dim {
            let read = values.to_vec();
            for (row, read) in read.chunks(columns.max(1)).enumerate() {
                values[gguf_qk_row(row, head_dim) * columns..][..columns].copy_from_slice(read);
            }
        }
        let len = values.len() / ggml.block_len() * ggml.block_bytes();
        ggml::encode(ggml, values, &mut bytes[..len])?;
        append(&bytes[..len])?;
    }
    Ok(())
}
