//! Writes a GGUF file (version 3): the header at once, then tensor data in the declared order, piece by piece.

use std::io::Write;

use super::{Array, MAGIC, MAX_DIMS, Metadata, Value, alignment};
use crate::io::tensor::{Body, Slot, check_unique, element_count, rows_and_columns};
use crate::quant::ggml::GgmlType;
use crate::{Error, Result};

/// Name, type and shape (slowest axis first) of a tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    pub name: String,
    pub ggml_type: GgmlType,
    pub shape: Vec<usize>,
}

/// A GGUF file being written. Same metadata, tensors and data: same bytes.
pub struct GgufWriter<W> {
    body: Body<W>,
}

impl<W: Write> GgufWriter<W> {
    /// Writes the header to `out`; `file` is the name that errors give. `general.alignment` is honoured where
    /// `metadata` has it. Errs on repeated names, more than 4 dimensions, and rows that are not whole blocks.
    pub fn new(file: &str, mut out: W, metadata: &Metadata, tensors: &[TensorSpec]) -> Result<GgufWriter<W>> {
        let alignment = alignment(metadata)?;
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(3u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            put_string(&mut header, key);
            put_value(&mut header, value);
        }
        let mut slots: Vec<Slot> = Vec::with_capacity(tensors.len());
        let mut offset = 0u64;
        for tensor in tensors {
            let bytes = tensor.bytes(file)?;
            put_string(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            for &dim in tensor.shape.iter().rev() {
                header.extend((dim as u64).to_le_bytes());
            }
            header.extend(tensor.ggml_type.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            let padding = bytes.next_multiple_of(alignment) - bytes;
            slots.push(Slot { name: tensor.name.clone(), bytes, padding });
            offset += bytes + padding;
        }
        header.resize((header.len() as u64).next_multiple_of(alignment) as usize, 0);
        check_unique(file, slots.iter().map(|slot| slot.name.as_str()))?;
        out.write_all(&header).map_err(Error::io(format!("write {file}")))?;
        Ok(GgufWriter { body: Body::new(file, out, slots)? })
    }

    /// Appends a piece of the tensor `name`, encoded; tensors come in the declared order, each as many pieces as one likes.
    pub fn append(&mut self, name: &str, piece: &[u8]) -> Result<()> {
        self.body.append(name, piece)
    }

    /// Flushes and hands the writer back; errs where a tensor is missing or incomplete.
    pub fn finish(self) -> Result<W> {
        self.body.finish()
    }
}

impl TensorSpec {
    fn bytes(&self, file: &str) -> Result<u64> {
        let block = self.ggml_type.block_len();
        let dims: Vec<u64> = self.shape.iter().map(|&dim| dim as u64).collect();
        let bytes = element_count(&dims)
            .filter(|_| dims.len() <= MAX_DIMS && rows_and_columns(&self.shape).1.is_multiple_of(block))
            .and_then(|elements| self.ggml_type.bytes(elements as u64));
        bytes.ok_or_else(|| {
            let (name, shape, ggml_type) = (&self.name, &self.shape, self.ggml_type);
            let problem = format!(
                "writing: tensor `{name}` of shape {shape:?} cannot be {ggml_type}: at most {MAX_DIMS} dimensions, the last \
                 a multiple of {block}"
            );
            Error::malformed(file, problem)
        })
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    out.extend((value.value_type() as u32).to_le_bytes());
    match value {
        Value::U8(x) => out.extend(x.to_le_bytes()),
        Value::I8(x) => out.extend(x.to_le_bytes()),
        Value::U16(x) => out.extend(x.to_le_bytes()),
        Value::I16(x) => out.extend(x.to_le_bytes()),
        Value::U32(x) => out.extend(x.to_le_bytes()),
        Value::I32(x) => out.extend(x.to_le_bytes()),
        Value::F32(x) => out.extend(x.to_le_bytes()),
        Value::Bool(x) => out.push(u8::from(*x)),
        Value::String(x) => put_string(out, x),
        Value::U64(x) => out.extend(x.to_le_bytes()),
        Value::I64(x) => out.extend(x.to_le_bytes()),
        Value::F64(x) => out.extend(x.to_le_bytes()),
        Value::Array(x) => {
            out.extend((x.element_type() as u32).to_le_bytes());
            out.extend((x.len() as u64).to_le_bytes());
            match x {
                Array::U8(x) => out.extend(x),
                Array::I8(x) => x.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::U16(x) => x.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::I16(x) => x.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::U32(x) => x.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::I32(x) => x.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::F32(x) => x.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::Bool(x) => x.iter().for_each(|x| out.push(u8::from(*x))),
                Array::String(x) => x.iter().for_each(|x| put_string(out, x)),
                Array::U64(x) => x.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::I64(x) => x.iter().for_each(|x| out.extend(x.to_le_bytes())),
                Array::F64(x) => x.iter().for_each(|x| out.extend(x.to_le_bytes())),
            }
        }
    }
}
