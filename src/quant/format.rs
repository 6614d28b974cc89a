//! The names of the weight formats and what each costs.

use crate::Error;

/// How a frozen weight is stored on the device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WeightFormat {
    F32,
    F16,
    Bf16,
    Int8,
    Int4,
    Fp4,
    Nf4 { double_quant: bool },
}

impl WeightFormat {
    /// Bytes of a weight `[rows, cols]` on the device, with its scales.
    pub fn bytes_for(self, rows: usize, cols: usize) -> u64 {
        let n = (rows * cols) as u64;
        let blocks = n.div_ceil(64);
        let padded = |bytes: u64| bytes.next_multiple_of(4);
        match self {
            WeightFormat::F32 => 4 * n,
            WeightFormat::F16 | WeightFormat::Bf16 => padded(2 * n),
            WeightFormat::Int8 => padded(n) + 4 * rows as u64,
            WeightFormat::Int4 | WeightFormat::Fp4 | WeightFormat::Nf4 { double_quant: false } => {
                padded(n.div_ceil(2)) + 4 * blocks
            }
            WeightFormat::Nf4 { double_quant: true } => {
                padded(n.div_ceil(2)) + padded(blocks) + 4 * (257 + blocks.div_ceil(256))
            }
        }
    }
}

impl std::fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WeightFormat::F32 => "f32",
            WeightFormat::F16 => "f16",
            WeightFormat::Bf16 => "bf16",
            WeightFormat::Int8 => "int8",
            WeightFormat::Int4 => "int4",
            WeightFormat::Fp4 => "fp4",
            WeightFormat::Nf4 { double_quant: false } => "nf4",
            WeightFormat::Nf4 { double_quant: true } => "nf4-dq",
        })
    }
}

impl std::str::FromStr for WeightFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Ok(match name {
            "f32" => WeightFormat::F32,
            "f16" => WeightFormat::F16,
            "bf16" => WeightFormat::Bf16,
            "int8" => WeightFormat::Int8,
            "int4" => WeightFormat::Int4,
            "fp4" => WeightFormat::Fp4,
            "nf4" => WeightFormat::Nf4 { double_quant: false },
            "nf4-dq" => WeightFormat::Nf4 { double_quant: true },
            _ => {
                return Err(Error::Option {
                    name: "weights".into(),
                    value: name.into(),
                    expected: "expected one of f32, f16, bf16, int8, int4, fp4, nf4, nf4-dq".into(),
                });
            }
        })
    }
}

impl TryFrom<String> for WeightFormat {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        name.parse()
    }
}

impl From<WeightFormat> for String {
    fn from(format: WeightFormat) -> String {
        format.to_string()
    }
}
