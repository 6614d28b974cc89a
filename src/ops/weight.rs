//! How a frozen weight `[rows, cols]` lies on the device: which buffers its format needs, and how its rows are split where
//! one binding cannot hold them all.

use std::ops::Range;

use crate::graph::{Role, Target, Tensor};
use crate::quant::WeightFormat;

/// One buffer of a weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    pub name: &'static str,
    pub bytes: u64,
}

/// The buffers of a weight `[rows, cols]`, in the order in which kernels bind them. All are row-major; sizes in bytes,
/// padded to whole u32.
///
/// | format | parts |
/// |---|---|
/// | f32 | `data` f32 |
/// | f16, bf16 | `data`, two to a u32, the first in the low half |
/// | int8 | `codes` i8, four to a u32; `scale [rows]` f32 (absmax / 127) |
/// | int4, fp4, nf4 | `codes`, two to a byte, the first in the high half; `absmax` f32, one for each block of 64 |
/// | nf4 with double quantization | `codes`; `absmax_codes` u8, one a block; `absmax2` f32: the 256 values a code stands for, the mean, then one scale for each 256 blocks |
pub fn parts(format: WeightFormat, rows: usize, cols: usize) -> Vec<Part> {
    let n = (rows * cols) as u64;
    let blocks = n.div_ceil(64);
    let part = |name, bytes: u64| Part { name, bytes: bytes.next_multiple_of(4) };
    match format {
        WeightFormat::F32 => vec![part("data", 4 * n)],
        WeightFormat::F16 | WeightFormat::Bf16 => vec![part("data", 2 * n)],
        WeightFormat::Int8 => vec![part("codes", n), part("scale", 4 * rows as u64)],
        WeightFormat::Int4 | WeightFormat::Fp4 | WeightFormat::Nf4 { double_quant: false } => {
            vec![part("codes", n.div_ceil(2)), part("absmax", 4 * blocks)]
        }
        WeightFormat::Nf4 { double_quant: true } => vec![
            part("codes", n.div_ceil(2)),
            part("absmax_codes", blocks),
            part("absmax2", 4 * (257 + blocks.div_ceil(256))),
        ],
    }
}

/// Some rows of a weight, in buffers of their own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shard {
    pub rows: Range<usize>,
    pub parts: Vec<Part>,
}

/// Splits a weight by rows so that none of its buffers exceeds what one binding may cover. Every shard but the last has a
/// multiple of 64 rows, so that no quantization block spans two. One-dimensional weights count as one row each element.
pub fn shards(tensor: &Tensor, target: &Target) -> Vec<Shard> {
    let format = match tensor.role {
        Role::Weight(format) => format,
        _ => WeightFormat::F32,
    };
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let limit = target.max_binding_bytes.min(target.max_buffer_bytes);
    let largest = |rows: usize| parts(format, rows, cols).iter().map(|p| p.bytes).max().unwrap_or(0);
    // Double quantization groups 256 blocks of 64: keep such groups whole, too.
    let unit = if format == (WeightFormat::Nf4 { double_quant: true }) { 64 * 256 } else { 64 };
    let mut height = rows;
    while largest(height) > limit && height > unit {
        height = (height / 2).next_multiple_of(unit);
    }
    (0..rows)
        .step_by(height.max(1))
        .map(|first| {
            let rows = first..rows.min(first + height);
            Shard { parts: parts(format, rows.len(), cols), rows }
        })
        .collect()
}
