//! A real model, SmolLM2-135M-Instruct, against PyTorch, transformers and PEFT. Natively only: it is too large to compile in.
#![cfg(not(target_arch = "wasm32"))]

mod support;

use espalier::io::{FileSource, Folder};
use espalier::model::ModelFiles;
use support::smollm2;

#[test]
fn the_gguf_file_and_the_folder_hold_one_model() {
    let (Some(gguf), Some(folder)) = (smollm2::gguf(), smollm2::folder()) else { return };
    let gguf = ModelFiles::open_gguf(Box::new(FileSource::open(gguf).unwrap())).unwrap();
    let folder = ModelFiles::open_folder(&Folder::open(folder).unwrap()).unwrap();
    let shapes = |files: &ModelFiles| {
        let mut shapes: Vec<_> = files.tensors().iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
        shapes.sort();
        shapes
    };
    assert_eq!(shapes(&gguf), shapes(&folder));
    assert_eq!(folder.tensors().len(), 272);
    // f16 keeps 11 bits of what the GGUF's blocks decode to.
    let name = "model.layers.17.self_attn.k_proj.weight";
    let (mut wanted, mut found) = (vec![0.0; 576 * 192], vec![0.0; 576 * 192]);
    gguf.source().read_rows(name, 0..192, &mut wanted).unwrap();
    folder.source().read_rows(name, 0..192, &mut found).unwrap();
    for (i, (a, b)) in wanted.iter().zip(&found).enumerate() {
        assert!((a - b).abs() <= a.abs() / 2048.0 + 1e-7, "{name}[{i}]: {a} in the GGUF file, {b} in the folder");
    }
}
