//! Any bytes as a GGUF file: an error at worst. What is accepted is written again, and read back the same.
#![no_main]

use espalier::io::gguf::{GgufReader, GgufWriter, TensorSpec};
use espalier::io::{MemorySource, rows_and_columns};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let open = |bytes: Vec<u8>| GgufReader::open(Box::new(MemorySource::new("x", bytes)));
    let Ok(reader) = open(data.to_vec()) else { return };
    let mut specs = Vec::new();
    for tensor in reader.tensors() {
        let (rows, columns) = rows_and_columns(&tensor.shape);
        let mut values = vec![0.0; rows * columns];
        reader.read_f32_rows(&tensor.name, 0..rows, &mut values).expect("checked at opening");
        let (name, ggml_type, shape) = (tensor.name.clone(), tensor.ggml_type, tensor.shape.clone());
        specs.push(TensorSpec { name, ggml_type, shape });
    }
    let mut writer = GgufWriter::new("x", Vec::new(), reader.metadata(), &specs).expect("as it was read");
    for tensor in reader.tensors() {
        let bytes = reader.read_bytes(&tensor.name, 0..tensor.bytes).expect("checked at opening");
        writer.append(&tensor.name, &bytes).expect("in order");
    }
    let again = open(writer.finish().expect("complete")).expect("as it was written");
    assert_eq!(again.tensors().len(), reader.tensors().len());
    assert_eq!(again.metadata().len(), reader.metadata().len());
    for key in ["general.architecture", "tokenizer.ggml.model"] {
        _ = reader.metadata().str(key);
        _ = reader.metadata().u32(key);
        _ = reader.metadata().i32s(key);
    }
});
