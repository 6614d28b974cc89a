//! Opens a GGUF file: reads its header, checks where every tensor lies, and decodes rows of tensors to f32.

use std::ops::Range;

use rustc_hash::FxHashMap;

use super::header::HeaderReader;
use super::{MAGIC, MAX_DIMS, Metadata, alignment};
use crate::io::ByteSource;
use crate::io::tensor::{check_disjoint, check_rows, check_unique, element_count, read_decoded, rows_and_columns};
use crate::quant::ggml::GgmlType;
use crate::{Error, Result};

/// Where a tensor lies and how it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    pub name: String,
    pub ggml_type: GgmlType,
    /// Slowest axis first: the reverse of the order in the file.
    pub shape: Vec<usize>,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// A GGUF file whose header has been read and checked. Tensor data stays in the file until it is asked for.
pub struct GgufReader {
    source: Box<dyn ByteSource>,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: FxHashMap<String, usize>,
}

impl GgufReader {
    /// Reads the header. Errs, naming file and place, on anything that is not GGUF version 2 or 3 in little-endian byte
    /// order; on counts, lengths, shapes or offsets that do not fit the file; on tensors that overlap, lie unaligned or
    /// share a name; and on tensor types that Espalier cannot decode (all of them listed).
    pub fn open(source: Box<dyn ByteSource>) -> Result<GgufReader> {
        let mut header = HeaderReader::new(&source);
        let version = read_version(&mut header)?;
        // A tensor description has at least a name's length, a dimension count, a type and an offset; a pair a key's
        // length, a type and a byte.
        let tensor_count = header.count("tensor descriptions", 24)?;
        let pair_count = header.count("metadata pairs", 13)?;
        let metadata = header.metadata(pair_count)?;
        let alignment = alignment(&metadata)?;
        let described = (0..tensor_count).map(|_| Described::read(&mut header)).collect::<Result<Vec<_>>>()?;
        let data_start = header.position().next_multiple_of(alignment);
        let tensors = place_tensors(&source, described, data_start, alignment)?;
        let index = tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Ok(GgufReader { source, version, metadata, tensors, index })
    }

    /// The name of the file.
    pub fn name(&self) -> &str {
        self.source.name()
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The key-value pairs.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Every tensor, in file order.
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

    /// Bytes `range` (counted from the tensor's start) of the tensor `name`, as stored.
    pub fn read_bytes(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let tensor = self.require(name)?;
        if range.start > range.end || range.end > tensor.bytes {
            let problem = format!("tensor `{name}` has {} bytes, bytes {range:?} were asked for", tensor.bytes);
            return Err(Error::malformed(self.name(), problem));
        }
        self.source.read_vec(tensor.offset + range.start, range.end - range.start)
    }

    /// Rows `rows` of the tensor `name`, decoded. The tensor is seen as `[rows, columns]`: its last dimension, and all
    /// others as one; a vector is one row. `out` `[rows.len(), columns]` f32 is overwritten. The file is read in pieces,
    /// so host memory never holds the tensor's bytes at once.
    pub fn read_f32_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let tensor = self.require(name)?;
        let columns = check_rows(self.name(), name, &tensor.shape, &rows, out.len())?;
        let blocks_skipped = (rows.start * columns / tensor.ggml_type.block_len()) as u64;
        let offset = tensor.offset + blocks_skipped * tensor.ggml_type.block_bytes() as u64;
        read_decoded(&self.source, offset, tensor.ggml_type, out)
    }
}

fn read_version(header: &mut HeaderReader) -> Result<u32> {
    let magic = header.array::<4>()?;
    if magic != MAGIC {
        return Err(header.problem(format!("not a GGUF file: it starts with \"{}\"", magic.escape_ascii())));
    }
    match header.u32()? {
        version @ 2..=3 => Ok(version),
        1 => Err(header.problem("GGUF version 1 is not supported (32-bit counts, 2023): convert the model again")),
        // Byte-swapped, a small version number has its low half empty.
        version if version & 0xffff == 0 => {
            Err(header
                .problem("a big-endian GGUF file; only little-endian ones are supported: convert the model again"))
        }
        version => Err(header.problem(format!("GGUF version {version} is not supported; supported: 2 and 3"))),
    }
}

/// A tensor description as it stands in the header.
struct Described {
    name: String,
    /// Slowest axis first.
    shape: Vec<u64>,
    type_id: u32,
    /// From the start of the tensor data.
    offset: u64,
}

impl Described {
    fn read(header: &mut HeaderReader) -> Result<Described> {
        let name = header.name()?;
        let dims = header.u32()?;
        if dims > MAX_DIMS as u32 {
            return Err(
                header.problem(format!("tensor `{name}` has {dims} dimensions; at most {MAX_DIMS} are allowed"))
            );
        }
        let mut shape = (0..dims).map(|_| header.u64()).collect::<Result<Vec<_>>>()?;
        shape.reverse();
        Ok(Described { name, shape, type_id: header.u32()?, offset: header.u64()? })
    }
}

/// Turns descriptions into places in the file, checking each alone, then all of them against each other.
fn place_tensors(
    source: &dyn ByteSource,
    described: Vec<Described>,
    data_start: u64,
    alignment: u64,
) -> Result<Vec<TensorInfo>> {
    let fail = |problem: String| Err(Error::malformed(source.name(), problem));
    let mut tensors = Vec::with_capacity(described.len());
    let mut unsupported = Vec::new();
    for Described { name, shape, type_id, offset } in described {
        let ggml_type = match GgmlType::from_id(type_id) {
            Ok(ggml_type) => ggml_type,
            Err(Error::Unsupported { what, .. }) => {
                unsupported.push(format!("`{name}` ({what})"));
                continue;
            }
            Err(other) => return Err(other),
        };
        let block = ggml_type.block_len();
        let Some(elements) = element_count(&shape) else {
            return fail(format!("tensor `{name}`: shape {shape:?} has more elements than this machine can count"));
        };
        // Each dimension was just found to fit usize.
        let shape: Vec<usize> = shape.into_iter().map(|dim| dim as usize).collect();
        let columns = rows_and_columns(&shape).1;
        if !columns.is_multiple_of(block) {
            return fail(format!("tensor `{name}`: rows of {columns} are not whole blocks of {block} ({ggml_type})"));
        }
        if !offset.is_multiple_of(alignment) {
            return fail(format!("tensor `{name}`: offset {offset} is not a multiple of the alignment {alignment}"));
        }
        let bytes = ggml_type.bytes(elements as u64);
        let end = bytes.and_then(|bytes| data_start.checked_add(offset)?.checked_add(bytes));
        match (bytes, end) {
            (Some(bytes), Some(end)) if end <= source.len() => {
                tensors.push(TensorInfo { name, ggml_type, shape, offset: data_start + offset, bytes });
            }
            _ => {
                return fail(format!(
                    "tensor `{name}`, shape {shape:?} of {ggml_type} at offset {offset} of the data, passes the end of the \
                     file ({} bytes): is it truncated?",
                    source.len()
                ));
            }
        }
    }
    if !unsupported.is_empty() {
        return Err(unsupported_types(source.name(), &unsupported));
    }
    check_unique(source.name(), tensors.iter().map(|tensor| tensor.name.as_str()))?;
    let places = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.offset..tensor.offset + tensor.bytes));
    check_disjoint(source.name(), places)?;
    Ok(tensors)
}

fn unsupported_types(file: &str, tensors: &[String]) -> Error {
    let shown = tensors.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if tensors.len() > 5 { format!(" and {} more", tensors.len() - 5) } else { String::new() };
    let supported = GgmlType::ALL.map(GgmlType::name).join(", ");
    Error::Unsupported { what: format!("{file}: the type of tensor {shown}{more}"), supported }
}
