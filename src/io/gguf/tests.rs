//! Round trips, and files made hostile one field at a time.

use super::*;
use crate::io::MemorySource;
use crate::quant::ggml::GgmlType;

fn open(bytes: &[u8]) -> Result<GgufReader> {
    GgufReader::open(Box::new(MemorySource::new("x.gguf", bytes.to_vec())))
}

fn refusal(bytes: &[u8]) -> String {
    match open(bytes) {
        Ok(_) => panic!("a hostile file was accepted"),
        Err(e) => e.to_string(),
    }
}

fn metadata() -> Metadata {
    let mut metadata = Metadata::new("x.gguf");
    metadata.insert("general.architecture", "llama");
    metadata.insert("a.u8", 200u8);
    metadata.insert("a.i8", -100i8);
    metadata.insert("a.u16", 60_000u16);
    metadata.insert("a.i16", -30_000i16);
    metadata.insert("a.u32", 4_000_000_000u32);
    metadata.insert("a.i32", -2_000_000_000i32);
    metadata.insert("a.f32", 1e-5f32);
    metadata.insert("a.bool", true);
    metadata.insert("a.u64", u64::MAX);
    metadata.insert("a.i64", i64::MIN);
    metadata.insert("a.f64", 1e-300f64);
    metadata.insert("b.u8", vec![1u8, 2]);
    metadata.insert("b.i8", vec![-1i8]);
    metadata.insert("b.u16", vec![1u16]);
    metadata.insert("b.i16", vec![-1i16]);
    metadata.insert("b.u32", vec![1u32]);
    metadata.insert("b.i32", vec![1i32, -2]);
    metadata.insert("b.f32", vec![0.5f32, -0.25]);
    metadata.insert("b.bool", vec![true, false]);
    metadata.insert("b.u64", vec![1u64]);
    metadata.insert("b.i64", vec![-1i64]);
    metadata.insert("b.f64", vec![0.1f64]);
    metadata.insert("b.string", vec!["Ġa".to_string(), String::new()]);
    metadata.insert("b.empty", Vec::<String>::new());
    metadata
}

fn spec(name: &str, ggml_type: GgmlType, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.into(), ggml_type, shape: shape.to_vec() }
}

fn small_file() -> Vec<u8> {
    let tensors = [
        spec("a.weight", GgmlType::F32, &[3, 2]),
        spec("none", GgmlType::F32, &[0, 2]),
        spec("b.weight", GgmlType::F16, &[5]),
    ];
    let mut writer = GgufWriter::new("x.gguf", Vec::new(), &metadata(), &tensors).unwrap();
    let a: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    writer.append("a.weight", &a[..7]).unwrap();
    writer.append("a.weight", &a[7..]).unwrap();
    let b: Vec<u8> = (0..5).flat_map(|i| half::f16::from_f32(-(i as f32)).to_le_bytes()).collect();
    writer.append("b.weight", &b).unwrap();
    writer.finish().unwrap()
}

#[test]
fn every_value_type_and_tensor_survives_a_round_trip() {
    let bytes = small_file();
    assert_eq!(bytes, small_file());
    assert_eq!(bytes.len() % 32, 0);
    let reader = open(&bytes).unwrap();
    assert_eq!(reader.version(), 3);
    assert!(reader.metadata().iter().eq(metadata().iter()));
    let names: Vec<_> = reader.tensors().iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
    assert_eq!(names, [("a.weight", &[3, 2][..]), ("none", &[0, 2]), ("b.weight", &[5])]);

    let mut rows = [0.0; 4];
    reader.read_f32_rows("a.weight", 1..3, &mut rows).unwrap();
    assert_eq!(rows, [2.0, 3.0, 4.0, 5.0]);
    let mut row = [0.0; 5];
    reader.read_f32_rows("b.weight", 0..1, &mut row).unwrap();
    assert_eq!(row, [0.0, -1.0, -2.0, -3.0, -4.0]);
    reader.read_f32_rows("none", 0..0, &mut []).unwrap();
    assert_eq!(reader.read_bytes("a.weight", 4..8).unwrap(), 1f32.to_le_bytes());

    assert!(reader.read_f32_rows("a.weight", 1..4, &mut [0.0; 6]).is_err());
    assert!(reader.read_f32_rows("a.weight", 1..3, &mut [0.0; 3]).is_err());
    assert!(reader.read_bytes("a.weight", 20..25).is_err());
    assert!(reader.read_f32_rows("c", 0..1, &mut rows).unwrap_err().to_string().contains("no tensor `c`"));
}

#[test]
fn every_truncation_is_refused() {
    let bytes = small_file();
    let data_end = bytes.len() - 22; // the last tensor has 10 bytes, padded to 32
    for len in 0..data_end {
        assert!(open(&bytes[..len]).is_err(), "{len} bytes of {data_end} were accepted");
    }
    open(&bytes[..data_end]).unwrap();
}

/// A header: version 3, the given counts, then `rest`.
fn file(tensors: u64, pairs: u64, rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], &3u32.to_le_bytes(), &tensors.to_le_bytes(), &pairs.to_le_bytes()].concat();
    bytes.extend(rest.concat());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A tensor description; `dims` as in the file, fastest first.
fn tensor(name: &str, dims: &[u64], type_id: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
    bytes.extend(type_id.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

#[test]
fn other_formats_and_versions_are_refused_with_the_reason() {
    let with_version = |version: u32| [&MAGIC[..], &version.to_le_bytes(), &[0; 16]].concat();
    open(&with_version(2)).unwrap();
    assert!(refusal(&with_version(1)).contains("version 1"));
    assert!(refusal(&with_version(3u32.swap_bytes())).contains("big-endian"));
    assert!(refusal(&with_version(4)).contains("supported: 2 and 3"));
    assert_eq!(refusal(b"PK\x03\x04aaaa"), "x.gguf: not a GGUF file: it starts with \"PK\\x03\\x04\" (at byte 4)");
    assert!(refusal(b"GG").contains("truncated"));
}

#[test]
fn hostile_counts_and_lengths_take_no_memory() {
    let huge = u64::MAX.to_le_bytes();
    assert!(refusal(&file(u64::MAX, 0, &[])).contains("tensor descriptions"));
    assert!(refusal(&file(0, 1 << 60, &[])).contains("metadata pairs"));
    assert!(refusal(&file(0, 1, &[&huge, &[0; 40]])).contains("string bytes"));
    assert!(refusal(&file(0, 1, &[&text("k"), &8u32.to_le_bytes(), &huge])).contains("string bytes"));
    let strings = [&9u32.to_le_bytes()[..], &8u32.to_le_bytes(), &(1u64 << 40).to_le_bytes()].concat();
    assert!(refusal(&file(0, 1, &[&text("k"), &strings])).contains("array elements"));
    let nested = [&9u32.to_le_bytes()[..], &9u32.to_le_bytes(), &1u64.to_le_bytes(), &[0; 12]].concat();
    assert!(refusal(&file(0, 1, &[&text("k"), &nested])).contains("array of arrays"));
    assert!(refusal(&file(0, 1, &[&text("k"), &13u32.to_le_bytes()])).contains("value type 13"));
    assert!(refusal(&file(0, 1, &[&text("k"), &7u32.to_le_bytes(), &[2]])).contains("truth value"));
    let pair = [&text("k")[..], &0u32.to_le_bytes(), &[1]].concat();
    assert!(refusal(&file(0, 2, &[&pair, &pair])).contains("`k` occurs twice"));
    let odd = [&text("general.alignment")[..], &4u32.to_le_bytes(), &24u32.to_le_bytes()].concat();
    assert!(refusal(&file(0, 1, &[&odd])).contains("power of two"));
}

#[test]
fn hostile_tensors_are_refused() {
    let data = [0u8; 96];
    open(&file(2, 0, &[&tensor("a", &[8], 0, 0), &tensor("b", &[8], 0, 32), &data])).unwrap();
    let case = |tensors: &[Vec<u8>]| refusal(&file(tensors.len() as u64, 0, &[&tensors.concat(), &data]));
    assert!(case(&[tensor("a", &[8], 0, 0), tensor("a", &[8], 0, 32)]).contains("two tensors are called `a`"));
    assert!(case(&[tensor("a", &[9], 0, 0), tensor("b", &[8], 0, 32)]).contains("`a` and `b` overlap"));
    assert!(case(&[tensor("a", &[8], 0, 16)]).contains("alignment 32"));
    assert!(case(&[tensor("a", &[1 << 20], 0, 0)]).contains("passes the end"));
    assert!(case(&[tensor("a", &[8], 0, 1 << 40)]).contains("passes the end"));
    assert!(case(&[tensor("a", &[8], 0, u64::MAX - 31)]).contains("passes the end"));
    assert!(case(&[tensor("a", &[u64::MAX, 2], 0, 0)]).contains("more elements"));
    assert!(case(&[tensor("a", &[1 << 62], 0, 0)]).contains("passes the end"));
    assert!(case(&[tensor("a", &[33], 8, 0)]).contains("whole blocks of 32"));
    assert!(case(&[tensor("a", &[1, 1, 1, 1, 1], 0, 0)]).contains("5 dimensions"));
    let unknown = case(&[tensor("a", &[8], 0, 0), tensor("b", &[8], 99, 32), tensor("c", &[8], 98, 64)]);
    assert!(unknown.contains("`b`") && unknown.contains("`c`") && unknown.contains("supported: F32"), "{unknown}");
}

#[test]
fn the_writer_refuses_what_no_reader_takes() {
    let new = |tensors: &[TensorSpec]| GgufWriter::new("x", Vec::new(), &Metadata::new("x"), tensors).map(|_| ());
    assert!(new(&[spec("a", GgmlType::F32, &[1]), spec("a", GgmlType::F32, &[1])]).is_err());
    assert!(new(&[spec("a", GgmlType::Q8_0, &[33])]).is_err());
    assert!(new(&[spec("a", GgmlType::F32, &[1; 5])]).is_err());
}
