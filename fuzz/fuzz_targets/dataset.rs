//! Any bytes as a data set, through tokenizer and template to batches: an error at worst, and the counts add up.
#![no_main]

use std::sync::{Arc, OnceLock};

use espalier::data::{BatchOptions, BatchOrder, EncodeOptions, IGNORED, encode_rows, read_examples};
use espalier::io::gguf::Metadata;
use espalier::model::chat_template::ChatTemplate;
use espalier::model::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

const CONTEXT: usize = 48;

fuzz_target!(|data: &[u8]| {
    let Ok(rows) = read_examples(data) else { return };
    assert_eq!(rows.rows.len() + rows.report.dropped_rows(), rows.report.rows, "{}", rows.report);
    let (tokenizer, template) = model();
    let Ok(dataset) = encode_rows(rows, tokenizer, template, &EncodeOptions::new(CONTEXT), |_, _| ()) else { return };
    assert!(!dataset.report.to_string().is_empty());
    for example in &dataset.examples {
        assert_eq!(example.input_ids.len(), example.labels.len());
        assert!(example.len() <= CONTEXT && example.supervised() > 0);
    }
    let supervised = dataset.report.supervised_tokens;
    for pack in [false, true] {
        let options = BatchOptions { pack, ..BatchOptions::new(2, CONTEXT) };
        let mut order = BatchOrder::new(Arc::new(dataset.clone()), options).expect("there are examples");
        let (steps, mut dealt) = (order.steps_in_epoch(0), 0);
        for _ in 0..steps {
            let step = order.next_step();
            assert_eq!(step.epoch, 0);
            for batch in &step.batches {
                assert_eq!(batch.targets.iter().filter(|&&target| target != IGNORED).count(), batch.supervised);
            }
            dealt += step.supervised;
        }
        assert_eq!(dealt, supervised, "every learned token is dealt once an epoch (packed: {pack})");
    }
});

/// A tokenizer of single bytes, and the ChatML template.
fn model() -> &'static (Tokenizer, ChatTemplate) {
    static MODEL: OnceLock<(Tokenizer, ChatTemplate)> = OnceLock::new();
    MODEL.get_or_init(|| {
        // GPT-2 writes each byte as a printable character: itself, or one from 256 on.
        let printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let mut beyond = 256..;
        let byte_char = |byte: u8| match printable(byte) {
            true => char::from(byte),
            false => beyond.next().and_then(char::from_u32).expect("a character"),
        };
        let mut tokens: Vec<String> = (0..=255).map(byte_char).map(String::from).collect();
        tokens.extend(["<|im_start|>".to_string(), "<|im_end|>".to_string()]);
        let types: Vec<i32> = (0..tokens.len()).map(|id| if id < 256 { 1 } else { 3 }).collect();
        let mut metadata = Metadata::new("model.gguf");
        metadata.insert("tokenizer.ggml.model", "gpt2");
        metadata.insert("tokenizer.ggml.pre", "smollm");
        metadata.insert("tokenizer.ggml.tokens", tokens);
        metadata.insert("tokenizer.ggml.token_type", types);
        metadata.insert("tokenizer.ggml.merges", Vec::<String>::new());
        metadata.insert("tokenizer.ggml.eos_token_id", 257u32);
        let tokenizer = Tokenizer::from_gguf(&metadata).expect("a complete vocabulary");
        let template = ChatTemplate::chatml(&tokenizer).expect("the built-in template");
        (tokenizer, template)
    })
}
