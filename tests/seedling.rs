//! The Seedling, the model that the web page holds: the file is whole, and the model reads and writes English. Natively and in
//! a browser.

mod support;

use std::rc::Rc;

use espalier::Result;
use espalier::data::{Batch, Example};
use espalier::generate::{Generator, Sampling};
use espalier::gpu::Gpu;
use espalier::io::MemorySource;
use espalier::model::chat_template::Message;
use espalier::model::device::{DeviceModel, ModelSetup};
use espalier::model::{ModelFiles, WeightPolicy};
use espalier::peft::Method;
use espalier::quant::WeightFormat;
use espalier::train::trainer::Evaluator;
use serde_json::Value;

const FILE: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/web/assets/seedling.gguf"));

macro_rules! sample {
    ($file:literal) => {
        ($file, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/web/samples/", $file)))
    };
}

/// What the page offers to train it on.
const SAMPLES: [(&str, &str); 3] = [sample!("gardener.jsonl"), sample!("captain.jsonl"), sample!("rhymes.jsonl")];
const INDEX: &str = sample!("index.json").1;

/// Plain sentences that the model has not read.
const ENGLISH: &str = "It was a fine morning, and the children went down to the river with their mother. The water was cold, \
    but they did not mind it. When they came home, the table was ready, and their father was sitting by the fire with a book \
    in his hand.";

/// The model in f32 on the GPU.
async fn load(gpu: &Rc<Gpu>) -> Result<(ModelFiles, DeviceModel)> {
    let files = ModelFiles::open_gguf(Box::new(MemorySource::new("seedling.gguf", FILE)))?;
    let policy = WeightPolicy { linears: WeightFormat::F32, embedding: WeightFormat::F32 };
    let setup = ModelSetup { config: files.config().clone(), policy, method: Method::None, positions: 128, seed: 0 };
    let model = DeviceModel::load(gpu.clone(), &files, setup, false, &mut |_| true).await?;
    Ok((files, model))
}

async fn the_file_is_small_and_whole(_: Rc<Gpu>) -> Result<()> {
    assert!(FILE.len() < 2_600_000, "{} bytes", FILE.len());
    let files = ModelFiles::open_gguf(Box::new(MemorySource::new("seedling.gguf", FILE)))?;
    let parameters = files.config().parameters();
    assert!((1_000_000..3_000_000).contains(&parameters), "{parameters} parameters");
    let chat = files.chat_template()?.encode(files.tokenizer()?, &[Message::new("user", "Hello!")], true)?;
    let text = files.tokenizer()?.decode(&chat, false)?;
    assert_eq!(text, "<|user|>Hello!<|end|><|assistant|>");
    Ok(())
}

async fn the_samples_are_short_chats(_: Rc<Gpu>) -> Result<()> {
    let files = ModelFiles::open_gguf(Box::new(MemorySource::new("seedling.gguf", FILE)))?;
    let index: Vec<Value> = serde_json::from_str(INDEX).expect("the index is JSON");
    let named: Vec<&str> = index.iter().filter_map(|sample| sample["file"].as_str()).collect();
    assert_eq!(named, SAMPLES.map(|(file, _)| file));
    for ((file, text), sample) in SAMPLES.iter().zip(&index) {
        assert!(["title", "description", "prompt"].iter().all(|key| sample[key].is_string()), "{file}");
        assert!((24..=40).contains(&text.lines().count()), "{file}");
        for line in text.lines() {
            let chat: Value = serde_json::from_str(line).expect("a line is JSON");
            let messages: Vec<Message> = serde_json::from_value(chat["messages"].clone()).expect("a chat");
            let tokens = files.chat_template()?.encode(files.tokenizer()?, &messages, false)?;
            assert!(messages.len() == 2 && tokens.len() < 64, "{file}: {} tokens in {line}", tokens.len());
            assert_ne!(messages[0].content, sample["prompt"], "{file}: the prompt is not in the data");
        }
    }
    Ok(())
}

async fn it_reads_english(gpu: Rc<Gpu>) -> Result<()> {
    let (files, mut model) = load(&gpu).await?;
    let ids = files.tokenizer()?.encode(ENGLISH, false)?;
    let example = Example { labels: ids.iter().map(|&id| id as i32).collect(), input_ids: ids };
    let batch = Batch::new(&[vec![&example]], 1, 128, 0);
    let evaluator = Evaluator::new(&mut model, &[(1, 128)]).await?;
    let report = evaluator.evaluate(&model, &[batch], &|| false).await?;
    println!("{} nats per token over {} tokens", report.loss(), report.tokens);
    // Of 2048 tokens, random weights lose 7.6 and the frequencies of tokens alone more than 6; the file as shipped 3.81.
    assert!(report.loss() < 4.2, "{}", report.loss());
    Ok(())
}

async fn it_writes_english(gpu: Rc<Gpu>) -> Result<()> {
    let (files, mut model) = load(&gpu).await?;
    let (tokenizer, template) = (files.tokenizer()?, files.chat_template()?);
    let mut generator = Generator::new(&mut model, 128).await?;
    for (question, wanted) in [("What is a dog?", "animal"), ("What is the sea?", "water"), ("What is snow?", "frozen")]
    {
        let prompt = template.encode(tokenizer, &[Message::new("user", question)], true)?;
        generator.reset();
        let sampling = Sampling { max_new_tokens: 60, ..Default::default() };
        let answer = generator.generate(&model, &prompt, &sampling, tokenizer.eos_ids(), |_| true).await?;
        let answer = tokenizer.decode(&answer, true)?;
        println!("{question} {answer}");
        assert!(answer.is_ascii() && answer.ends_with('.') && answer.contains(wanted), "{question} {answer}");
    }
    Ok(())
}

gpu_tests!(the_file_is_small_and_whole, the_samples_are_short_chats, it_reads_english, it_writes_english);
