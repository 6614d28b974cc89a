//! Any bytes as a safetensors file, as its only shard, and as an index: an error at worst.
#![no_main]

use espalier::io::safetensors::{Dtype, SafetensorsReader, ShardedSafetensors};
use espalier::io::{MemoryFiles, MemorySource, rows_and_columns};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut files = MemoryFiles::new("m");
    files.insert("model.safetensors.index.json", data);
    files.insert("a.safetensors", data);
    _ = ShardedSafetensors::open_folder(&files);

    let Ok(reader) = SafetensorsReader::open(Box::new(MemorySource::new("x", data.to_vec()))) else { return };
    for tensor in reader.tensors() {
        let bytes =
            reader.read_bytes(&tensor.name, 0..tensor.range.end - tensor.range.start).expect("checked at opening");
        assert!(bytes.len() <= data.len());
        if matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let (rows, columns) = rows_and_columns(&tensor.shape);
            let mut values = vec![0.0; rows * columns];
            reader.read_f32_rows(&tensor.name, 0..rows, &mut values).expect("checked at opening");
            if rows > 1 {
                let tail = &mut values[columns..];
                reader.read_f32_rows(&tensor.name, 1..rows, tail).expect("checked at opening");
            }
        }
    }
});
