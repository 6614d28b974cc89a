//! Which fragments read a weight of a storage format.

use crate::fragment;
use crate::quant::WeightFormat;

type Fragments = &'static [&'static str];

const ABSMAX_F32: &str = fragment!("absmax_f32");
const ABSMAX_DOUBLE: &str = fragment!("absmax_double");

/// Levels and block scales of the four-bit formats.
fn blocks(format: WeightFormat) -> Fragments {
    match format {
        WeightFormat::Int4 => &[fragment!("levels_int4"), ABSMAX_F32],
        WeightFormat::Fp4 => &[fragment!("levels_fp4"), ABSMAX_F32],
        WeightFormat::Nf4 { double_quant: false } => &[fragment!("levels_nf4"), ABSMAX_F32],
        WeightFormat::Nf4 { double_quant: true } => &[fragment!("levels_nf4"), ABSMAX_DOUBLE],
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 | WeightFormat::Int8 => &[],
    }
}

/// `weight_at(row, col)`: one value, for rows of any length.
pub fn one(format: WeightFormat) -> Vec<&'static str> {
    let read = match format {
        WeightFormat::F32 => fragment!("weight_f32"),
        WeightFormat::F16 => fragment!("weight_f16"),
        WeightFormat::Bf16 => fragment!("weight_bf16"),
        WeightFormat::Int8 => fragment!("weight_int8"),
        WeightFormat::Int4 | WeightFormat::Fp4 | WeightFormat::Nf4 { .. } => fragment!("weight_4bit"),
    };
    [&[read], blocks(format)].concat()
}

/// `b4(row, col, limit)`: four neighbours of a row. `whole` says that rows are a multiple of four.
pub fn four(format: WeightFormat, whole: bool) -> Vec<&'static str> {
    if !whole {
        return [vec![fragment!("b_scalar")], one(format)].concat();
    }
    let read = match format {
        WeightFormat::F32 => fragment!("b_f32"),
        WeightFormat::F16 => fragment!("b_f16"),
        WeightFormat::Bf16 => fragment!("b_bf16"),
        WeightFormat::Int8 => fragment!("b_int8"),
        WeightFormat::Int4 | WeightFormat::Fp4 | WeightFormat::Nf4 { .. } => fragment!("b_4bit"),
    };
    [&[read], blocks(format)].concat()
}

/// `part4(words, part)` and `scale_of(unit)`: a unit of four words becomes that many groups of four values. None for f32,
/// which needs no decoding.
pub fn unit(format: WeightFormat) -> Option<(Vec<&'static str>, u32)> {
    let (read, parts) = match format {
        WeightFormat::F32 => return None,
        WeightFormat::F16 => (fragment!("unit_f16"), 2),
        WeightFormat::Bf16 => (fragment!("unit_bf16"), 2),
        WeightFormat::Int8 => (fragment!("unit_int8"), 4),
        WeightFormat::Int4 | WeightFormat::Fp4 | WeightFormat::Nf4 { .. } => (fragment!("unit_4bit"), 8),
    };
    Some(([&[read], blocks(format)].concat(), parts))
}
