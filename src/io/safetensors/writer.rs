//! Writes a safetensors file: the header at once, then tensor data in its order, piece by piece.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Map, Value, json};

use super::{Dtype, METADATA_KEY, data_bytes};
use crate::io::tensor::{Body, Slot, check_unique, element_count};
use crate::{Error, Result};

/// Name, dtype and shape (slowest axis first) of a tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor to be written.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: &[usize]) -> TensorSpec {
        TensorSpec { name: name.into(), dtype, shape: shape.to_vec() }
    }
}

/// A safetensors file being written. Same metadata, tensors and data: same bytes, those of the reference implementation.
pub struct SafetensorsWriter<W> {
    body: Body<W>,
    order: Vec<TensorSpec>,
}

impl<W: Write> SafetensorsWriter<W> {
    /// Writes the header to `out`; `file` is the name that errors give. `format: pt`, which Python readers ask for, is added
    /// to `metadata` unless it names another format. Errs on repeated names and on shapes that overflow.
    pub fn new(
        file: &str,
        mut out: W,
        metadata: &BTreeMap<String, String>,
        tensors: Vec<TensorSpec>,
    ) -> Result<SafetensorsWriter<W>> {
        let mut order = tensors;
        // As the reference implementation does: wide dtypes first, so that every tensor lies aligned, then by name.
        order.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
        check_unique(file, order.iter().map(|tensor| tensor.name.as_str()).chain([METADATA_KEY]))?;

        let mut metadata = metadata.clone();
        metadata.entry("format".into()).or_insert_with(|| "pt".into());
        let mut header = Map::from_iter([(METADATA_KEY.to_string(), json!(metadata))]);
        let mut slots = Vec::with_capacity(order.len());
        let mut offset = 0u64;
        for TensorSpec { name, dtype, shape } in &order {
            let dims: Vec<u64> = shape.iter().map(|&dim| dim as u64).collect();
            let bytes = element_count(&dims).and_then(|elements| data_bytes(*dtype, elements));
            let (Some(bytes), Some(end)) = (bytes, bytes.and_then(|bytes| offset.checked_add(bytes))) else {
                return Err(Error::malformed(
                    file,
                    format!("writing: tensor `{name}` of shape {shape:?} is too large"),
                ));
            };
            let entry = Map::from_iter([
                ("dtype".to_string(), Value::String(dtype.to_string())),
                ("shape".to_string(), json!(shape)),
                ("data_offsets".to_string(), json!([offset, end])),
            ]);
            header.insert(name.clone(), Value::Object(entry));
            slots.push(Slot { name: name.clone(), bytes, padding: 0 });
            offset = end;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        out.write_all(&(header.len() as u64).to_le_bytes())
            .and_then(|()| out.write_all(&header))
            .map_err(Error::io(format!("write {file}")))?;
        Ok(SafetensorsWriter { body: Body::new(file, out, slots)?, order })
    }

    /// The tensors in the order in which their data has to come: by dtype, then by name.
    pub fn order(&self) -> &[TensorSpec] {
        &self.order
    }

    /// Appends a piece of the tensor `name`, little-endian; tensors come in [`order`](Self::order), each in as many pieces
    /// as one likes.
    pub fn append(&mut self, name: &str, piece: &[u8]) -> Result<()> {
        self.body.append(name, piece)
    }

    /// Flushes and hands the writer back; errs where a tensor is missing or incomplete.
    pub fn finish(self) -> Result<W> {
        self.body.finish()
    }
}
