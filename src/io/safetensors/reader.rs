//! Opens one safetensors file: checks its header against its length and every tensor against all others.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};

use super::{Dtype, MAX_HEADER, METADATA_KEY, data_bytes, float_type};
use crate::io::ByteSource;
use crate::io::tensor::{check_rows, check_unique, element_count, read_decoded};
use crate::{Error, Result};

/// Where a tensor lies and how it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    pub name: String,
    pub dtype: Dtype,
    /// Slowest axis first.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the start of the file.
    pub range: Range<u64>,
}

/// A safetensors file whose header has been read and checked. Tensor data stays in the file until it is asked for.
pub struct SafetensorsReader {
    source: Box<dyn ByteSource>,
    metadata: BTreeMap<String, String>,
    tensors: Vec<TensorInfo>,
    index: FxHashMap<String, usize>,
}

impl SafetensorsReader {
    /// Reads the header. Errs, naming the file and the tensor, on a header longer than the file or than 100 MB, on a header
    /// that is not the JSON it should be, and on tensors whose bytes do not follow each other from the header's end to the
    /// file's end without gap or overlap, as many as their shape and dtype say.
    pub fn open(source: Box<dyn ByteSource>) -> Result<SafetensorsReader> {
        let header = read_header(&source)?;
        let data_start = 8 + header.len() as u64;
        let Header { metadata, entries } = serde_json::from_slice(&header)
            .map_err(|e| Error::malformed(source.name(), format!("the safetensors header is not valid: {e}")))?;
        let tensors = place_tensors(&source, entries, data_start)?;
        let index = tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Ok(SafetensorsReader { source, metadata, tensors, index })
    }

    /// The name of the file.
    pub fn name(&self) -> &str {
        self.source.name()
    }

    /// The free-form strings of `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Every tensor, in the order of its data.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor `name`, if the file has it.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&at| &self.tensors[at])
    }

    fn require(&self, name: &str) -> Result<&TensorInfo> {
        self.get(name).ok_or_else(|| Error::malformed(self.name(), format!("there is no tensor `{name}`")))
    }

    /// Bytes `range` (counted from the tensor's start) of the tensor `name`, as stored: little-endian.
    pub fn read_bytes(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let tensor = self.require(name)?;
        let bytes = tensor.range.end - tensor.range.start;
        if range.start > range.end || range.end > bytes {
            let problem = format!("tensor `{name}` has {bytes} bytes, bytes {range:?} were asked for");
            return Err(Error::malformed(self.name(), problem));
        }
        self.source.read_vec(tensor.range.start + range.start, range.end - range.start)
    }

    /// Rows `rows` of the tensor `name` (F32, F16 or BF16) as f32. The tensor is seen as `[rows, columns]`: its last
    /// dimension, and all others as one; a vector is one row. `out` `[rows.len(), columns]` f32 is overwritten. The file is
    /// read in pieces, so host memory never holds the tensor's bytes at once.
    pub fn read_f32_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let tensor = self.require(name)?;
        let Some(stored) = float_type(tensor.dtype) else {
            return Err(Error::Unsupported {
                what: format!("{}: tensor `{name}` of dtype {}", self.name(), tensor.dtype),
                supported: "F32, F16, BF16".into(),
            });
        };
        let columns = check_rows(self.name(), name, &tensor.shape, &rows, out.len())?;
        let skipped = (rows.start * columns) as u64 * stored.block_bytes() as u64;
        read_decoded(&self.source, tensor.range.start + skipped, stored, out)
    }
}

fn read_header(source: &dyn ByteSource) -> Result<Vec<u8>> {
    let mut length = [0; 8];
    source.read_at(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    let left = source.len() - 8;
    if length > left.min(MAX_HEADER) {
        let problem = format!(
            "not a safetensors file, or a truncated one: its header should be {length} bytes long; {left} follow, and at most \
             {MAX_HEADER} are allowed"
        );
        return Err(Error::malformed(source.name(), problem));
    }
    source.read_vec(8, length)
}

/// Turns header entries into places in the file, in the order of the data.
fn place_tensors(source: &dyn ByteSource, entries: Vec<(String, Entry)>, data_start: u64) -> Result<Vec<TensorInfo>> {
    let fail = |problem: String| Err(Error::malformed(source.name(), problem));
    let data_len = source.len() - data_start;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, Entry { dtype, shape, data_offsets: (start, end) }) in entries {
        let Some(elements) = element_count(&shape) else {
            return fail(format!("tensor `{name}`: shape {shape:?} has more elements than this machine can count"));
        };
        if start > end || end > data_len {
            return fail(format!(
                "tensor `{name}`: bytes {start}..{end} of the data, which has {data_len} bytes: is the file truncated?"
            ));
        }
        if data_bytes(dtype, elements) != Some(end - start) {
            return fail(format!(
                "tensor `{name}`: {} bytes, shape {shape:?} of {dtype} takes another number",
                end - start
            ));
        }
        // Each dimension was just found to fit usize.
        let shape = shape.into_iter().map(|dim| dim as usize).collect();
        tensors.push(TensorInfo { name, dtype, shape, range: data_start + start..data_start + end });
    }
    check_unique(source.name(), tensors.iter().map(|tensor| tensor.name.as_str()))?;
    tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    let mut covered = (data_start, "the header");
    for tensor in &tensors {
        let (start, before) = (tensor.range.start, covered.1);
        if start < covered.0 {
            return fail(format!("tensor `{}` overlaps {before} by {} bytes", tensor.name, covered.0 - start));
        }
        if start > covered.0 {
            return fail(format!(
                "{} bytes between {before} and tensor `{}` belong to none",
                start - covered.0,
                tensor.name
            ));
        }
        covered = (tensor.range.end, &tensor.name);
    }
    if covered.0 != source.len() {
        return fail(format!("{} bytes after the last tensor belong to none", source.len() - covered.0));
    }
    Ok(tensors)
}

/// The JSON header: every key, also one that occurs twice.
struct Header {
    metadata: BTreeMap<String, String>,
    entries: Vec<(String, Entry)>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: Dtype,
    #[serde(deserialize_with = "shape")]
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Refuses shapes with absurdly many dimensions before memory is taken for them.
fn shape<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<u64>, D::Error> {
    const MAX_DIMS: usize = 64;
    struct Dims;
    impl<'de> Visitor<'de> for Dims {
        type Value = Vec<u64>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "a list of at most {MAX_DIMS} dimensions")
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut dims: A) -> std::result::Result<Vec<u64>, A::Error> {
            let mut shape = Vec::new();
            while let Some(dim) = dims.next_element()? {
                if shape.len() == MAX_DIMS {
                    return Err(A::Error::custom(format!("a shape of more than {MAX_DIMS} dimensions")));
                }
                shape.push(dim);
            }
            Ok(shape)
        }
    }
    deserializer.deserialize_seq(Dims)
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Header, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut header = Header { metadata: BTreeMap::new(), entries: Vec::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA_KEY {
                        header.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
                    } else {
                        header.entries.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}
