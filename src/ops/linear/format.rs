//! Which fragments read a weight of a storage format.

use crate::fragment;
use crate::graph::Operands;
use crate::quant::WeightFormat;

/// Levels and block scales of the four-bit formats, as this kind of adapter reads them fastest.
fn blocks(format: WeightFormat, operands: Operands) -> Vec<&'static str> {
    let levels = match format {
        WeightFormat::Int4 => fragment!("levels_int4"),
        WeightFormat::Fp4 => fragment!("levels_fp4"),
        WeightFormat::Nf4 { .. } if operands == Operands::SampledImages => fragment!("levels_nf4_private"),
        WeightFormat::Nf4 { .. } => fragment!("levels_nf4"),
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 | WeightFormat::Int8 => return vec![],
    };
    let double_quant = format == (WeightFormat::Nf4 { double_quant: true });
    vec![levels, if double_quant { fragment!("absmax_double") } else { fragment!("absmax_f32") }]
}

/// `weight_at(row, col)`: one value, for rows of any length.
pub fn one(format: WeightFormat, operands: Operands) -> Vec<&'static str> {
    let read = match format {
        WeightFormat::F32 => fragment!("weight_f32"),
        WeightFormat::F16 => fragment!("weight_f16"),
        WeightFormat::Bf16 => fragment!("weight_bf16"),
        WeightFormat::Int8 => fragment!("weight_int8"),
        WeightFormat::Int4 | WeightFormat::Fp4 | WeightFormat::Nf4 { .. } => fragment!("weight_4bit"),
    };
    [vec![read], blocks(format, operands)].concat()
}

/// `b4(row, col, limit)`: four neighbours of a row. `whole` says that rows are a multiple of four.
pub fn four(format: WeightFormat, whole: bool, operands: Operands) -> Vec<&'static str> {
    if !whole {
        return [vec![fragment!("b_scalar")], one(format, operands)].concat();
    }
    let read = match format {
        WeightFormat::F32 => fragment!("b_f32"),
        WeightFormat::F16 => fragment!("b_f16"),
        WeightFormat::Bf16 => fragment!("b_bf16"),
        WeightFormat::Int8 => fragment!("b_int8"),
        WeightFormat::Int4 | WeightFormat::Fp4 | WeightFormat::Nf4 { .. } => fragment!("b_4bit"),
    };
    [vec![read], blocks(format, operands)].concat()
}

/// `part4(words, part)` and `scale_of(unit)`: a unit of four words becomes that many groups of four values. None for f32,
/// which needs no decoding.
pub fn unit(format: WeightFormat, operands: Operands) -> Option<(Vec<&'static str>, u32)> {
    let (read, parts) = match format {
        WeightFormat::F32 => return None,
        WeightFormat::F16 => (fragment!("unit_f16"), 2),
        WeightFormat::Bf16 => (fragment!("unit_bf16"), 2),
        WeightFormat::Int8 => (fragment!("unit_int8"), 4),
        WeightFormat::Int4 | WeightFormat::Fp4 | WeightFormat::Nf4 { .. } => (fragment!("unit_4bit"), 8),
    };
    Some(([vec![read], blocks(format, operands)].concat(), parts))
}
