//! GGUF metadata that somebody made up: whatever it says, opening the model and its tokenizer ends in an error at worst.

use std::sync::LazyLock;

use espalier::io::MemorySource;
use espalier::io::gguf::{Array, GgufWriter, Metadata, TensorSpec, Value};
use espalier::model::ModelFiles;
use espalier::model::tokenizer::Tokenizer;
use espalier::quant::ggml::GgmlType;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value as Json;

const HIDDEN: usize = 8;
const FEED_FORWARD: usize = 12;

fn sentencepiece(name: &str) -> Metadata {
    static FILE: LazyLock<Json> = LazyLock::new(|| {
        serde_json::from_str(include_str!("fixtures/text/sentencepiece.json")).expect("the fixture is JSON")
    });
    let vocabulary = &FILE[name];
    let list = |key: &str| vocabulary[key].as_array().expect("a list");
    let mut metadata = Metadata::new("x.gguf");
    metadata.insert("tokenizer.ggml.model", vocabulary["model"].as_str().expect("a name"));
    let tokens: Vec<String> = list("tokens").iter().map(|t| t.as_str().expect("a token").into()).collect();
    metadata.insert("tokenizer.ggml.tokens", tokens);
    let scores: Vec<f32> = list("scores").iter().map(|s| s.as_f64().expect("a score") as f32).collect();
    metadata.insert("tokenizer.ggml.scores", scores);
    let types: Vec<i32> = list("types").iter().map(|t| t.as_i64().expect("a type") as i32).collect();
    metadata.insert("tokenizer.ggml.token_type", types);
    let charsmap: Vec<u8> = list("precompiled_charsmap").iter().map(|b| b.as_u64().expect("a byte") as u8).collect();
    if !charsmap.is_empty() {
        metadata.insert("tokenizer.ggml.precompiled_charsmap", charsmap);
    }
    for key in ["add_space_prefix", "remove_extra_whitespaces"] {
        metadata.insert(format!("tokenizer.ggml.{key}"), vocabulary[key].as_bool().expect("a flag"));
    }
    for (key, id) in [("unknown", 0u32), ("bos", 1), ("eos", 2)] {
        metadata.insert(format!("tokenizer.ggml.{key}_token_id"), id);
    }
    metadata
}

/// The printable characters that GPT-2 writes for bytes, as far as they are ASCII, and a few merges.
fn byte_level() -> Metadata {
    let letters = ('!'..='~').map(String::from);
    let more = ["<|im_start|>", "<|im_end|>", "Ġ", "th", "the", "Ġthe", "in", "ing"].map(String::from);
    let tokens: Vec<String> = letters.chain(more).collect();
    let mut types = vec![1i32; tokens.len()];
    let special = tokens.iter().position(|t| t == "<|im_start|>").expect("it is there");
    types[special] = 3;
    types[special + 1] = 3;
    let mut metadata = Metadata::new("x.gguf");
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata.insert("tokenizer.ggml.pre", "smollm");
    metadata.insert("tokenizer.ggml.token_type", types);
    metadata.insert("tokenizer.ggml.tokens", tokens);
    metadata.insert("tokenizer.ggml.merges", ["t h", "th e", "Ġ the", "i n", "in g"].map(String::from).to_vec());
    metadata.insert("tokenizer.ggml.bos_token_id", special as u32);
    metadata.insert("tokenizer.ggml.eos_token_id", special as u32 + 1);
    metadata.insert("tokenizer.ggml.add_bos_token", true);
    metadata.insert(
        "tokenizer.chat_template",
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}",
    );
    metadata
}

/// A model of one layer, with whatever tokenizer.
fn with_model(mut metadata: Metadata) -> Metadata {
    metadata.insert("general.architecture", "llama");
    metadata.insert("general.name", "tiny");
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 32),
        ("embedding_length", HIDDEN as u32),
        ("feed_forward_length", FEED_FORWARD as u32),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("rope.dimension_count", 4),
    ] {
        metadata.insert(format!("llama.{key}"), value);
    }
    metadata.insert("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    metadata.insert("llama.rope.freq_base", 10000f32);
    metadata.insert("llama.rope.scaling.type", "linear");
    metadata.insert("llama.rope.scaling.factor", 2f32);
    metadata
}

fn file(metadata: &Metadata, vocabulary: usize) -> Vec<u8> {
    let shapes: [(&str, &[usize]); 11] = [
        ("token_embd.weight", &[vocabulary, HIDDEN]),
        ("output_norm.weight", &[HIDDEN]),
        ("blk.0.attn_norm.weight", &[HIDDEN]),
        ("blk.0.attn_q.weight", &[8, HIDDEN]),
        ("blk.0.attn_k.weight", &[4, HIDDEN]),
        ("blk.0.attn_v.weight", &[4, HIDDEN]),
        ("blk.0.attn_output.weight", &[HIDDEN, 8]),
        ("blk.0.ffn_norm.weight", &[HIDDEN]),
        ("blk.0.ffn_gate.weight", &[FEED_FORWARD, HIDDEN]),
        ("blk.0.ffn_up.weight", &[FEED_FORWARD, HIDDEN]),
        ("blk.0.ffn_down.weight", &[HIDDEN, FEED_FORWARD]),
    ];
    let specs: Vec<TensorSpec> = shapes
        .iter()
        .map(|(name, shape)| TensorSpec { name: name.to_string(), ggml_type: GgmlType::F32, shape: shape.to_vec() })
        .collect();
    let mut writer = GgufWriter::new("x.gguf", Vec::new(), metadata, &specs).expect("a header");
    for spec in &specs {
        let bytes = vec![0x3c; 4 * spec.shape.iter().product::<usize>()];
        writer.append(&spec.name, &bytes).expect("the data");
    }
    writer.finish().expect("a file")
}

/// What somebody does to one entry.
#[derive(Clone, Debug)]
enum Change {
    Remove,
    Replace(Value),
    /// An element of a list, or one character of a text, becomes another.
    Element(Index, Element),
    Truncate(Index),
    /// One element occurs twice.
    Repeat(Index, Index),
}

#[derive(Clone, Debug)]
struct Element {
    text: String,
    number: f64,
}

fn number() -> impl Strategy<Value = f64> {
    let edges =
        [0.0, -0.0, 1.0, -1.0, 3.0, 6.0, 255.0, 256.0, 4294967295.0, 1e10, 1e39, -1e300, f64::NAN, f64::INFINITY];
    prop_oneof![select(edges.to_vec()), any::<f64>(), (-10i32..700).prop_map(f64::from)]
}

fn text() -> impl Strategy<Value = String> {
    let known = [
        "",
        " ",
        "a",
        "<unk>",
        "<s>",
        "</s>",
        "<0x41>",
        "<0xZZ>",
        "▁",
        "Ġ",
        "th e",
        "\u{0}",
        "\u{10ffff}",
        "$A",
        "$0:1",
        "gpt2",
        "llama",
        "t5",
        "default",
        "llama-bpe",
        "none",
        "{% if %}",
        "{{ a.b.c }}",
    ];
    prop_oneof![select(known.map(String::from).to_vec()), ".{0,12}"]
}

fn value() -> impl Strategy<Value = Value> {
    let integers = [0, 1, 2, 3, 7, 1 << 24, u64::MAX, 1 << 31, 1 << 32, u64::from(u32::MAX)];
    prop_oneof![
        select(integers.to_vec()).prop_map(Value::U64),
        select(integers.to_vec()).prop_map(|x| Value::U32(x as u32)),
        any::<i32>().prop_map(Value::I32),
        number().prop_map(|x| Value::F32(x as f32)),
        any::<bool>().prop_map(Value::Bool),
        text().prop_map(Value::String),
        prop::collection::vec(text(), 0..6).prop_map(|x| Value::Array(Array::String(x))),
        prop::collection::vec(any::<i32>(), 0..6).prop_map(|x| Value::Array(Array::I32(x))),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|x| Value::Array(Array::U8(x))),
        prop::collection::vec(number(), 0..6)
            .prop_map(|x| Value::Array(Array::F32(x.into_iter().map(|x| x as f32).collect()))),
    ]
}

fn changes() -> impl Strategy<Value = Vec<(Index, Change)>> {
    let element = || (text(), number()).prop_map(|(text, number)| Element { text, number });
    let change = prop_oneof![
        1 => Just(Change::Remove),
        3 => value().prop_map(Change::Replace),
        4 => (any::<Index>(), element()).prop_map(|(at, element)| Change::Element(at, element)),
        1 => any::<Index>().prop_map(Change::Truncate),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Repeat(from, to)),
    ];
    prop::collection::vec((any::<Index>(), change), 1..5)
}

fn change_list<T: Clone>(list: &mut Vec<T>, change: &Change, element: impl Fn(&Element) -> T) {
    if list.is_empty() {
        return;
    }
    match change {
        Change::Element(at, with) => {
            let at = at.index(list.len());
            list[at] = element(with);
        }
        Change::Truncate(at) => list.truncate(at.index(list.len())),
        Change::Repeat(from, to) => {
            let (from, to) = (from.index(list.len()), to.index(list.len()));
            list[to] = list[from].clone();
        }
        Change::Remove | Change::Replace(_) => {}
    }
}

fn changed(metadata: &Metadata, changes: &[(Index, Change)]) -> Metadata {
    let mut entries: Vec<(String, Value)> = metadata.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    for (which, change) in changes {
        if entries.is_empty() {
            break;
        }
        let at = which.index(entries.len());
        match (change, &mut entries[at].1) {
            (Change::Remove, _) => drop(entries.remove(at)),
            (Change::Replace(value), entry) => *entry = value.clone(),
            (change, Value::Array(Array::String(list))) => change_list(list, change, |e| e.text.clone()),
            (change, Value::Array(Array::F32(list))) => change_list(list, change, |e| e.number as f32),
            (change, Value::Array(Array::I32(list))) => change_list(list, change, |e| e.number as i32),
            (change, Value::Array(Array::U8(list))) => change_list(list, change, |e| e.number as u8),
            (Change::Element(_, e), Value::U32(number)) => *number = e.number as u32,
            (Change::Element(_, e), Value::F32(number)) => *number = e.number as f32,
            (Change::Element(_, e), Value::String(text)) => text.push_str(&e.text),
            _ => {}
        }
    }
    let mut metadata = Metadata::new("x.gguf");
    entries.into_iter().for_each(|(key, value)| drop(metadata.insert(key, value)));
    metadata
}

/// Does with a tokenizer what a run does.
fn use_tokenizer(tokenizer: &Tokenizer) {
    for text in ["The thing  is\n<|im_end|> in <s> \u{1F642}é", "", "\u{0}▁"] {
        if let Ok(ids) = tokenizer.encode(text, true) {
            _ = tokenizer.decode(&ids, false);
        }
        _ = tokenizer.encode_plain(text, false);
        _ = tokenizer.encode_with_offsets(text, true);
    }
    _ = tokenizer.decode(&[0, 1, 2, 3, 699, u32::MAX], true);
    _ = tokenizer.to_json();
}

fn metadata() -> impl Strategy<Value = (&'static Metadata, Vec<(Index, Change)>)> {
    static KINDS: LazyLock<[Metadata; 4]> = LazyLock::new(|| {
        let [bpe, rules, bytes] = ["bpe", "unigram_with_rules", "unigram_with_bytes"].map(sentencepiece);
        [byte_level(), bpe, rules, bytes]
    });
    ((0..4usize).prop_map(|kind| &KINDS[kind]), changes())
}

#[test]
fn what_is_mutated_is_valid_before() {
    for name in ["bpe", "unigram_with_rules", "unigram_with_bytes"] {
        Tokenizer::from_gguf(&sentencepiece(name)).unwrap();
    }
    let whole = with_model(byte_level());
    ModelFiles::open_gguf(Box::new(MemorySource::new("x.gguf", file(&whole, 102)))).unwrap().tokenizer().unwrap();
}

#[test]
fn a_model_of_absurd_size_is_refused_at_once() {
    for (key, value) in [
        ("block_count", 1 << 24),
        ("attention.head_count", 0),
        ("attention.key_length", 1 << 31),
        ("embedding_length", u32::MAX),
        ("feed_forward_length", 0),
        ("context_length", 0),
    ] {
        let mut metadata = with_model(byte_level());
        metadata.insert(format!("llama.{key}"), value);
        let opened = ModelFiles::open_gguf(Box::new(MemorySource::new("x.gguf", file(&metadata, 102))));
        let told = opened.err().expect("no such model").to_string();
        assert!(told.starts_with("x.gguf: ") && told.len() < 200, "{key}: {told}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn a_made_up_tokenizer_is_an_error_at_worst((metadata, changes) in metadata()) {
        if let Ok(tokenizer) = Tokenizer::from_gguf(&changed(metadata, &changes)) {
            use_tokenizer(&tokenizer);
        }
    }

    #[test]
    fn a_made_up_model_is_an_error_at_worst(changes in changes()) {
        let metadata = changed(&with_model(byte_level()), &changes);
        if let Ok(files) = ModelFiles::open_gguf(Box::new(MemorySource::new("x.gguf", file(&metadata, 102)))) {
            let config = files.config();
            prop_assert!(config.parameters() > 0 && config.inv_freq().len() == config.head_dim / 2);
            for entry in files.source().entries() {
                let columns = entry.shape.last().copied().unwrap_or(1);
                let rows = entry.shape.iter().product::<usize>() / columns;
                let mut data = vec![0.0; rows * columns];
                files.source().read_rows(&entry.name, 0..rows, &mut data).unwrap();
            }
            if let Ok(tokenizer) = files.tokenizer() {
                use_tokenizer(tokenizer);
            }
            if let Ok(template) = files.chat_template() {
                let message = espalier::model::chat_template::Message::new("user", "the thing");
                if let Ok(tokenizer) = files.tokenizer() {
                    _ = template.encode(tokenizer, &[message], true);
                }
            }
        }
    }
}
