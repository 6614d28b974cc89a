//! How a frozen weight `[rows, cols]` lies on the device: which buffers its format needs, and how its rows are split where
//! one binding cannot hold them all.

use std::ops::Range;

use crate::Result;
use crate::graph::{Role, Target, Tensor};
use crate::platform::parallel;
use crate::quant::{WeightFormat, double_quant, double_quant::DoubleQuant, float16, fp4, int4, int8, nf4};

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

/// Encodes some rows of a weight, `data [rows, cols] f32`, as the bytes of its parts. Errs on formats without a kernel.
pub fn encode(format: WeightFormat, rows: usize, cols: usize, data: &[f32]) -> Result<Vec<Vec<u8>>> {
    let parts = parts(format, rows, cols);
    let mut bytes: Vec<Vec<u8>> = parts.iter().map(|p| vec![0; p.bytes as usize]).collect();
    let n = rows * cols;
    match format {
        WeightFormat::F32 => bytes[0].copy_from_slice(bytemuck::cast_slice(data)),
        WeightFormat::F16 => float16::encode_f16(data, &mut bytes[0][..2 * n])?,
        WeightFormat::Bf16 => float16::encode_bf16(data, &mut bytes[0][..2 * n])?,
        WeightFormat::Int8 => {
            let (codes, scales) = bytes.split_at_mut(1);
            let scales = bytemuck::cast_slice_mut(&mut scales[0]);
            int8::quantize(data, cols, bytemuck::cast_slice_mut(&mut codes[0][..n]), scales)?;
        }
        WeightFormat::Int4 | WeightFormat::Fp4 | WeightFormat::Nf4 { .. } => {
            let mut absmax = vec![0f32; n.div_ceil(64)];
            let codes = &mut bytes[0][..n.div_ceil(2)];
            match format {
                WeightFormat::Int4 => int4::quantize(data, codes, &mut absmax)?,
                WeightFormat::Fp4 => fp4::quantize(data, codes, &mut absmax)?,
                _ => quantize_nf4(data, codes, &mut absmax)?,
            }
            if format == (WeightFormat::Nf4 { double_quant: true }) {
                let double = DoubleQuant::quantize(&absmax);
                bytes[1][..double.codes.len()].copy_from_slice(&double.codes);
                let table = double_quant::dynamic_map().iter().chain([&double.offset]).chain(&double.absmax);
                let table: Vec<f32> = table.copied().collect();
                bytes[2].copy_from_slice(bytemuck::cast_slice(&table));
            } else {
                bytes[1].copy_from_slice(bytemuck::cast_slice(&absmax));
            }
        }
    }
    Ok(bytes)
}

/// NF4 on all cores: blocks are independent.
fn quantize_nf4(data: &[f32], codes: &mut [u8], absmax: &mut [f32]) -> Result<()> {
    const CHUNK: usize = 1 << 16;
    let failures: std::sync::Mutex<Option<crate::Error>> = Default::default();
    parallel::zip_chunks_mut(codes, CHUNK / 2, absmax, CHUNK / 64, |i, codes, absmax| {
        let from = i * CHUNK;
        let piece = &data[from..data.len().min(from + CHUNK)];
        if let Err(e) = nf4::quantize(piece, codes, absmax) {
            failures.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(e);
        }
    });
    failures.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
}

/// The values that kernels compute with when a weight is stored in `format`: `data [rows, cols] f32`, encoded and decoded.
pub fn round_trip(format: WeightFormat, rows: usize, cols: usize, data: &[f32]) -> Result<Vec<f32>> {
    let bytes = encode(format, rows, cols, data)?;
    let mut out = vec![0.0; rows * cols];
    let floats = |bytes: &[u8]| bytemuck::pod_collect_to_vec::<u8, f32>(bytes);
    let n = rows * cols;
    match format {
        WeightFormat::F32 => out.copy_from_slice(data),
        WeightFormat::F16 => float16::decode_f16(&bytes[0][..2 * n], &mut out)?,
        WeightFormat::Bf16 => float16::decode_bf16(&bytes[0][..2 * n], &mut out)?,
        WeightFormat::Int8 => {
            int8::dequantize(bytemuck::cast_slice(&bytes[0][..n]), cols, &floats(&bytes[1]), &mut out)?
        }
        WeightFormat::Int4 => int4::dequantize(&bytes[0][..n.div_ceil(2)], &floats(&bytes[1]), &mut out)?,
        WeightFormat::Fp4 => fp4::dequantize(&bytes[0][..n.div_ceil(2)], &floats(&bytes[1]), &mut out)?,
        WeightFormat::Nf4 { double_quant } => {
            out = nf4::Nf4::quantize(data, double_quant).dequantize()?;
        }
    }
    Ok(out)
}
