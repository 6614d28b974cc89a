//! Properties of both weight formats: what is written is read back, and no damage to a file does more than an error.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

use espalier::Result;
use espalier::io::gguf::{self, Array, GgufReader, GgufWriter, Metadata, Value};
use espalier::io::safetensors::{self, Dtype, SafetensorsReader, SafetensorsWriter};
use espalier::io::{ByteSource, MemorySource, rows_and_columns};
use espalier::quant::ggml::GgmlType;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Remembers the largest single allocation of each thread.
struct Watched;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator unchanged; what is done besides allocates nothing.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from `System.alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// The largest single allocation, in bytes, that `work` makes on this thread.
fn largest_allocation(work: impl FnOnce()) -> usize {
    LARGEST.set(0);
    work();
    LARGEST.get()
}

fn source(bytes: &[u8]) -> Box<dyn ByteSource> {
    Box::new(MemorySource::new("x", bytes.to_vec()))
}

fn shape() -> impl Strategy<Value = Vec<usize>> {
    vec(0usize..5, 0..4)
}

/// Bytes that look like nothing in particular, the same for the same seed.
fn filler(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(197).wrapping_add(seed.wrapping_mul(83)) >> 2) as u8).collect()
}

fn safetensors_file() -> impl Strategy<Value = (BTreeMap<String, String>, Vec<safetensors::TensorSpec>)> {
    let dtypes = select(vec![Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I64, Dtype::U8, Dtype::BOOL, Dtype::F8_E4M3]);
    let tensors = btree_map(".{0,12}", (dtypes, shape()), 0..6).prop_map(|tensors| {
        let spec =
            |(name, (dtype, shape)): (String, (Dtype, Vec<usize>))| safetensors::TensorSpec::new(name, dtype, &shape);
        tensors.into_iter().map(spec).collect()
    });
    (btree_map(".{0,8}", ".{0,8}", 0..4), tensors)
}

fn write_safetensors(metadata: &BTreeMap<String, String>, tensors: &[safetensors::TensorSpec]) -> Result<Vec<u8>> {
    let mut writer = SafetensorsWriter::new("x", Vec::new(), metadata, tensors.to_vec())?;
    for (seed, spec) in writer.order().to_vec().iter().enumerate() {
        let bytes = filler(seed, spec.shape.iter().product::<usize>() * spec.dtype.bitsize() / 8);
        bytes.chunks(7).try_for_each(|piece| writer.append(&spec.name, piece))?;
    }
    writer.finish()
}

/// Opens a file and reads all that is in it.
fn read_safetensors(bytes: &[u8]) -> Result<()> {
    let reader = SafetensorsReader::open(source(bytes))?;
    for tensor in reader.tensors() {
        reader.read_bytes(&tensor.name, 0..tensor.range.end - tensor.range.start)?;
        let (rows, columns) = rows_and_columns(&tensor.shape);
        if matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            reader.read_f32_rows(&tensor.name, 0..rows, &mut vec![0.0; rows * columns])?;
        }
    }
    Ok(())
}

fn gguf_value() -> impl Strategy<Value = Value> {
    let text = || ".{0,8}";
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        (-1e30f32..1e30).prop_map(Value::F32),
        (-1e300f64..1e300).prop_map(Value::F64),
        any::<bool>().prop_map(Value::Bool),
        text().prop_map(Value::String),
        vec(text(), 0..5).prop_map(|x| Value::Array(Array::String(x))),
        vec(any::<i32>(), 0..5).prop_map(|x| Value::Array(Array::I32(x))),
        vec(any::<u16>(), 0..5).prop_map(|x| Value::Array(Array::U16(x))),
        vec(any::<bool>(), 0..5).prop_map(|x| Value::Array(Array::Bool(x))),
        vec(-1e30f32..1e30, 0..5).prop_map(|x| Value::Array(Array::F32(x))),
    ]
}

fn gguf_file() -> impl Strategy<Value = (Metadata, Vec<gguf::TensorSpec>)> {
    let metadata = btree_map("[a-z.]{1,12}", gguf_value(), 0..6).prop_map(|pairs| {
        let mut metadata = Metadata::new("x");
        pairs.into_iter().for_each(|(key, value)| _ = metadata.insert(key, value));
        metadata
    });
    let tensors = btree_map(".{0,12}", (select(GgmlType::ALL.to_vec()), shape()), 0..6).prop_map(|tensors| {
        let spec = |(name, (ggml_type, mut shape)): (String, (GgmlType, Vec<usize>))| {
            match shape.last_mut() {
                Some(columns) => *columns *= ggml_type.block_len(),
                None => shape.push(ggml_type.block_len()),
            }
            gguf::TensorSpec { name, ggml_type, shape }
        };
        tensors.into_iter().map(spec).collect()
    });
    let alignment = select(vec![None, Some(8u32), Some(64)]);
    (metadata, tensors, alignment).prop_map(|(mut metadata, tensors, alignment)| {
        if let Some(alignment) = alignment {
            metadata.insert("general.alignment", alignment);
        }
        (metadata, tensors)
    })
}

fn write_gguf(metadata: &Metadata, tensors: &[gguf::TensorSpec]) -> Result<Vec<u8>> {
    let mut writer = GgufWriter::new("x", Vec::new(), metadata, tensors)?;
    for (seed, spec) in tensors.iter().enumerate() {
        let elements = spec.shape.iter().product::<usize>() as u64;
        let bytes = filler(seed, spec.ggml_type.bytes(elements).unwrap() as usize);
        bytes.chunks(11).try_for_each(|piece| writer.append(&spec.name, piece))?;
    }
    writer.finish()
}

/// Opens a file and reads all that is in it.
fn read_gguf(bytes: &[u8]) -> Result<()> {
    let reader = GgufReader::open(source(bytes))?;
    for tensor in reader.tensors() {
        reader.read_bytes(&tensor.name, 0..tensor.bytes)?;
        let (rows, columns) = rows_and_columns(&tensor.shape);
        reader.read_f32_rows(&tensor.name, 0..rows, &mut vec![0.0; rows * columns])?;
    }
    Ok(())
}

/// What can happen to a file on its way.
#[derive(Clone, Debug)]
enum Damage {
    Truncate(Index),
    /// Bytes set to values.
    Set(Vec<(Index, u8)>),
    /// Eight bytes, which may be a count or an offset, set to a number.
    Number(Index, u64),
}

fn damage() -> impl Strategy<Value = Damage> {
    let number = prop_oneof![any::<u64>(), select(vec![0, 1, u64::MAX, u64::MAX - 31, 1 << 31, 1 << 32, 1 << 63])];
    prop_oneof![
        any::<Index>().prop_map(Damage::Truncate),
        vec((any::<Index>(), any::<u8>()), 1..4).prop_map(Damage::Set),
        (any::<Index>(), number).prop_map(|(at, number)| Damage::Number(at, number)),
    ]
}

impl Damage {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Damage::Truncate(at) => file.truncate(at.index(file.len())),
            Damage::Set(bytes) => {
                for (at, byte) in bytes {
                    let at = at.index(file.len());
                    file[at] = *byte;
                }
            }
            Damage::Number(at, number) => {
                let at = at.index(file.len().saturating_sub(8).max(1));
                file.iter_mut().skip(at).zip(number.to_le_bytes()).for_each(|(byte, new)| *byte = new);
            }
        }
    }
}

/// The most that one allocation may take while a file of `len` bytes is read: the bytes as f32 and the bookkeeping of tiny
/// tensors, plus what messages take.
fn allowance(len: usize) -> usize {
    64 * len + (16 << 10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn safetensors_are_read_as_written((metadata, tensors) in safetensors_file()) {
        let bytes = write_safetensors(&metadata, &tensors).unwrap();
        let reader = SafetensorsReader::open(source(&bytes)).unwrap();
        let mut with_format = metadata;
        with_format.entry("format".into()).or_insert_with(|| "pt".into());
        prop_assert_eq!(reader.metadata(), &with_format);
        prop_assert_eq!(reader.tensors().len(), tensors.len());
        for spec in &tensors {
            let info = reader.get(&spec.name).unwrap();
            prop_assert_eq!((info.dtype, &info.shape), (spec.dtype, &spec.shape));
        }
        let mut order = tensors;
        order.sort_by(|a, b| b.dtype.cmp(&a.dtype).then(a.name.cmp(&b.name)));
        for (seed, spec) in order.iter().enumerate() {
            let range = reader.get(&spec.name).unwrap().range.clone();
            let len = range.end - range.start;
            prop_assert_eq!(reader.read_bytes(&spec.name, 0..len).unwrap(), filler(seed, len as usize));
        }
        read_safetensors(&bytes).unwrap();
        prop_assert!(::safetensors::SafeTensors::deserialize(&bytes).is_ok());
    }

    #[test]
    fn gguf_is_read_as_written((metadata, tensors) in gguf_file()) {
        let bytes = write_gguf(&metadata, &tensors).unwrap();
        let reader = GgufReader::open(source(&bytes)).unwrap();
        prop_assert!(reader.metadata().iter().eq(metadata.iter()));
        prop_assert_eq!(reader.tensors().len(), tensors.len());
        for (seed, (info, spec)) in reader.tensors().iter().zip(&tensors).enumerate() {
            prop_assert_eq!((&info.name, info.ggml_type, &info.shape), (&spec.name, spec.ggml_type, &spec.shape));
            prop_assert_eq!(reader.read_bytes(&info.name, 0..info.bytes).unwrap(), filler(seed, info.bytes as usize));
        }
        read_gguf(&bytes).unwrap();
    }

    #[test]
    fn damaged_safetensors_are_an_error_at_worst((metadata, tensors) in safetensors_file(), damage in damage()) {
        let mut bytes = write_safetensors(&metadata, &tensors).unwrap();
        damage.apply(&mut bytes);
        let largest = largest_allocation(|| _ = read_safetensors(&bytes));
        prop_assert!(largest <= allowance(bytes.len()), "{largest} bytes at once for a file of {}", bytes.len());
    }

    #[test]
    fn damaged_gguf_is_an_error_at_worst((metadata, tensors) in gguf_file(), damage in damage()) {
        let mut bytes = write_gguf(&metadata, &tensors).unwrap();
        damage.apply(&mut bytes);
        let largest = largest_allocation(|| _ = read_gguf(&bytes));
        prop_assert!(largest <= allowance(bytes.len()), "{largest} bytes at once for a file of {}", bytes.len());
    }
}
