//! Round trips, and files made hostile one field at a time.

use std::collections::BTreeMap;

use super::*;
use crate::io::{MemoryFiles, MemorySource};
use crate::{Error, Result};

fn open(bytes: &[u8]) -> Result<SafetensorsReader> {
    SafetensorsReader::open(Box::new(MemorySource::new("x.safetensors", bytes.to_vec())))
}

fn refusal(bytes: &[u8]) -> String {
    match open(bytes) {
        Ok(_) => panic!("a hostile file was accepted"),
        Err(e) => e.to_string(),
    }
}

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn small_file() -> Vec<u8> {
    let metadata = BTreeMap::from([("made_by".to_string(), "a test".to_string())]);
    let tensors = vec![
        TensorSpec::new("half", Dtype::F16, &[2, 1, 2]),
        TensorSpec::new("z", Dtype::F32, &[3]),
        TensorSpec::new("bytes", Dtype::U8, &[5]),
        TensorSpec::new("a", Dtype::F32, &[2, 2]),
        TensorSpec::new("brain", Dtype::BF16, &[]),
        TensorSpec::new("none", Dtype::F32, &[0, 4]),
    ];
    let mut writer = SafetensorsWriter::new("x.safetensors", Vec::new(), &metadata, tensors).unwrap();
    let order: Vec<TensorSpec> = writer.order().to_vec();
    for TensorSpec { name, dtype, shape } in &order {
        let bytes: Vec<u8> = (0..shape.iter().product::<usize>())
            .flat_map(|i| match dtype {
                Dtype::F32 => (i as f32 - 0.5).to_le_bytes().to_vec(),
                Dtype::F16 => half::f16::from_f32(i as f32).to_le_bytes().to_vec(),
                Dtype::BF16 => half::bf16::from_f32(7.0).to_le_bytes().to_vec(),
                _ => vec![i as u8],
            })
            .collect();
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        writer.append(name, head).unwrap();
        writer.append(name, tail).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn every_dtype_survives_a_round_trip_and_the_order_is_the_reference_implementations() {
    let bytes = small_file();
    assert_eq!(bytes, small_file());
    let reader = open(&bytes).unwrap();
    let names: Vec<_> = reader.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["a", "none", "z", "brain", "half", "bytes"]);
    assert_eq!(reader.metadata()["format"], "pt");
    assert_eq!(reader.metadata()["made_by"], "a test");
    assert_eq!(reader.get("half").unwrap().shape, [2, 1, 2]);

    let mut row = [0.0; 2];
    reader.read_f32_rows("half", 1..2, &mut row).unwrap();
    assert_eq!(row, [2.0, 3.0]);
    reader.read_f32_rows("a", 1..2, &mut row).unwrap();
    assert_eq!(row, [1.5, 2.5]);
    reader.read_f32_rows("brain", 0..1, &mut row[..1]).unwrap();
    assert_eq!(row[0], 7.0);
    reader.read_f32_rows("none", 0..0, &mut []).unwrap();
    assert_eq!(reader.read_bytes("bytes", 1..4).unwrap(), [1, 2, 3]);

    let not_a_float = reader.read_f32_rows("bytes", 0..1, &mut [0.0; 5]).unwrap_err().to_string();
    assert_eq!(not_a_float, "x.safetensors: tensor `bytes` of dtype U8 is not supported; supported: F32, F16, BF16");
    assert!(reader.read_f32_rows("a", 0..3, &mut [0.0; 6]).is_err());
    assert!(reader.read_f32_rows("a", 0..1, &mut [0.0; 3]).is_err());
    assert!(reader.read_bytes("bytes", 3..6).is_err());
}

#[test]
fn the_reference_implementation_reads_what_is_written() {
    let bytes = small_file();
    let theirs = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.names().len(), 6);
    assert_eq!(theirs.tensor("bytes").unwrap().data(), [0, 1, 2, 3, 4]);
    assert_eq!(theirs.tensor("half").unwrap().shape(), [2, 1, 2]);

    let one = |name: &str| (name.to_string(), theirs.tensor(name).unwrap());
    let metadata = [("format".to_string(), "pt".to_string())].into();
    let their_bytes =
        ::safetensors::serialize([one("bytes"), one("half"), one("z"), one("a")], Some(metadata)).unwrap();
    let specs = ["z", "half", "a", "bytes"].map(|name| {
        let view = theirs.tensor(name).unwrap();
        TensorSpec::new(name, view.dtype(), view.shape())
    });
    let mut writer = SafetensorsWriter::new("x", Vec::new(), &BTreeMap::new(), specs.to_vec()).unwrap();
    for spec in writer.order().to_vec() {
        writer.append(&spec.name, theirs.tensor(&spec.name).unwrap().data()).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), their_bytes);
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let bytes = small_file();
    for len in 0..bytes.len() {
        assert!(open(&bytes[..len]).is_err(), "{len} bytes of {} were accepted", bytes.len());
    }
    assert!(refusal(&[&bytes[..], b"x"].concat()).contains("1 bytes after the last tensor"));
}

#[test]
fn hostile_headers_are_refused() {
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let case = |header: &str, data| refusal(&file(header, data));
    open(&file(&tensor("F32", "[2]", "[0,8]"), 8)).unwrap();
    open(&file(r#"{"__metadata__":{"a":"b"}}"#, 0)).unwrap();

    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.resize(100, b'{');
    assert!(refusal(&huge).contains("header should be 18446744073709551615 bytes"));
    assert!(refusal(b"abc").contains("wanted 8 bytes"));
    assert!(case("[]", 0).contains("an object of tensors"));
    assert!(case("{", 0).contains("EOF"));
    assert!(case("\u{1}", 0).contains("not valid"));
    assert!(case(&tensor("Q9", "[2]", "[0,8]"), 8).contains("Q9"));
    assert!(case(&tensor("F32", "[3]", "[0,8]"), 8).contains("takes another number"));
    assert!(case(&tensor("F32", "[18446744073709551615,2]", "[0,8]"), 8).contains("more elements"));
    assert!(case(&tensor("F32", "[-1]", "[0,8]"), 8).contains("not valid"));
    assert!(case(&tensor("F32", &format!("[{}1]", "1,".repeat(70)), "[0,4]"), 4).contains("64 dimensions"));
    assert!(case(&tensor("F4", "[3]", "[0,2]"), 2).contains("takes another number"));
    assert!(case(&tensor("F32", "[2]", "[0,8]"), 7).contains("truncated"));
    assert!(case(&tensor("F32", "[2]", "[8,0]"), 8).contains("bytes 8..0"));
    assert!(case(&tensor("F32", "[2]", "[4,12]"), 12).contains("4 bytes between the header and tensor `t`"));
    assert!(case(&tensor("F32", "[2]", "[0,8]"), 12).contains("4 bytes after the last"));

    let two = |a: &str, b: &str| {
        let entry = |name: &str, at: &str| format!(r#""{name}":{{"dtype":"U8","shape":[4],"data_offsets":{at}}}"#);
        format!("{{{},{}}}", entry("a", a), entry("b", b))
    };
    open(&file(&two("[4,8]", "[0,4]"), 8)).unwrap();
    assert!(case(&two("[0,4]", "[2,6]"), 6).contains("`b` overlaps a by 2 bytes"));
    assert!(case(&two("[0,4]", "[6,10]"), 10).contains("2 bytes between a and tensor `b`"));
    assert!(case(&two("[0,4]", "[4,8]").replace("\"b\"", "\"a\""), 8).contains("two tensors are called `a`"));
    let nested = format!(r#"{{"t":{}"#, "[".repeat(100_000));
    assert!(case(&nested, 0).contains("not valid"));
}

fn shard(name: &str) -> Vec<u8> {
    let specs = vec![TensorSpec::new(name, Dtype::F32, &[1])];
    let mut writer = SafetensorsWriter::new("x", Vec::new(), &BTreeMap::new(), specs).unwrap();
    writer.append(name, &1f32.to_le_bytes()).unwrap();
    writer.finish().unwrap()
}

#[test]
fn a_model_in_several_files_is_read_as_one_and_all_that_is_missing_is_listed() {
    let mut files = MemoryFiles::new("m");
    files.insert("a.safetensors", shard("a"));
    files.insert("b.safetensors", shard("b"));
    let index = |map: &str| format!(r#"{{"metadata":{{"total_size":8}},"weight_map":{map}}}"#).into_bytes();
    let key = "model.safetensors.index.json";
    files.insert(key, index(r#"{"a":"a.safetensors","b":"b.safetensors"}"#));
    let model = ShardedSafetensors::open_folder(&files).unwrap();
    assert_eq!(model.tensors().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let mut value = [0.0];
    model.read_f32_rows("b", 0..1, &mut value).unwrap();
    assert_eq!(value, [1.0]);
    assert!(model.get("c").is_none());
    assert!(model.read_f32_rows("c", 0..1, &mut value).is_err());

    files.insert(
        key,
        index(r#"{"a":"a.safetensors","c":"b.safetensors","d":"d.safetensors","e":"d.safetensors","f":"../b.safetensors"}"#),
    );
    match ShardedSafetensors::open_folder(&files) {
        Err(Error::Weights { file, problems }) => {
            assert_eq!(file, "m/model.safetensors.index.json");
            assert_eq!(
                problems,
                [
                    "the index names `../b.safetensors`, which is no file name",
                    "tensor `c` is not in b.safetensors, where the index says it is",
                    "the file d.safetensors is missing (2 tensors)",
                ]
            );
        }
        other => panic!("{:?}", other.err()),
    }

    files.insert("model.safetensors", shard("only"));
    let model = ShardedSafetensors::open_folder(&files).unwrap();
    assert_eq!(model.tensors().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>(), ["only"]);
}

#[test]
fn a_folder_with_nothing_but_pickle_is_refused_with_the_reason() {
    let mut files = MemoryFiles::new("m");
    files.insert("config.json", *b"{}");
    assert!(ShardedSafetensors::open_folder(&files).err().unwrap().to_string().contains("neither model.safetensors"));
    files.insert("pytorch_model.bin", *b"");
    assert!(ShardedSafetensors::open_folder(&files).err().unwrap().to_string().contains("run any code"));
}

#[test]
fn the_writer_refuses_repeated_names_and_impossible_shapes() {
    let new = |tensors| SafetensorsWriter::new("x", Vec::new(), &BTreeMap::new(), tensors).map(|_| ());
    let twice = vec![TensorSpec::new("a", Dtype::F32, &[1]), TensorSpec::new("a", Dtype::F16, &[1])];
    assert!(new(twice).unwrap_err().to_string().contains("two tensors are called `a`"));
    assert!(new(vec![TensorSpec::new("__metadata__", Dtype::F32, &[1])]).is_err());
    assert!(new(vec![TensorSpec::new("a", Dtype::F32, &[usize::MAX, 2])]).is_err());
    assert!(new(vec![TensorSpec::new("a", Dtype::F32, &[usize::MAX])]).is_err());
}
