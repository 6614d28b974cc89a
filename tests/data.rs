//! Data sets: every format, what is learned, what is dropped and said about it, and the order of batches.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use espalier::data::{
    BatchOptions, BatchOrder, Content, DataReport, Dataset, DropReason, EncodeOptions, Example, IGNORED, Position,
    RowOrder, Supervise, encode_rows, read_examples, read_rows,
};
use espalier::model::chat_template::{ChatTemplate, Message, Origin};
use espalier::model::tokenizer::{Tokenizer, TokenizerFiles};
use proptest::prelude::*;
use serde_json::{Value, json};

fn fixture(path: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        Tokenizer::from_files(&TokenizerFiles {
            tokenizer: &fixture("smollm2/tokenizer/tokenizer.json"),
            tokenizer_config: Some(&fixture("smollm2/tokenizer/tokenizer_config.json")),
            ..Default::default()
        })
        .unwrap()
    })
}

fn template(name: &str) -> ChatTemplate {
    let path = if name == "smollm2" {
        "smollm2/tokenizer/chat_template.jinja".into()
    } else {
        format!("text/templates/{name}.jinja")
    };
    let source = String::from_utf8(fixture(&path)).unwrap();
    ChatTemplate::new(&source, Origin::File, tokenizer().template_variables()).unwrap()
}

fn encode(file: &str, template: &ChatTemplate, options: &EncodeOptions) -> espalier::Result<Dataset> {
    encode_rows(read_rows("file", file.as_bytes())?, tokenizer(), template, options, |_, _| ())
}

fn encoded(file: &str) -> Dataset {
    encode(file, &template("smollm2"), &EncodeOptions::new(512)).unwrap()
}

/// The runs of learned tokens of an example, as text.
fn learned(example: &Example) -> Vec<String> {
    let mut runs: Vec<Vec<u32>> = Vec::new();
    let mut before = IGNORED;
    for &label in &example.labels {
        if label != IGNORED {
            if before == IGNORED {
                runs.push(Vec::new());
            }
            runs.last_mut().unwrap().push(label as u32);
        }
        before = label;
    }
    runs.iter().map(|ids| tokenizer().decode(ids, false).unwrap()).collect()
}

fn contents(file: &str) -> Vec<Content> {
    read_examples(file.as_bytes()).unwrap().rows.into_iter().map(|row| row.content).collect()
}

fn refusal(bytes: &[u8]) -> String {
    let error = read_examples(bytes).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

fn chat(turns: &[(&str, &str)]) -> Content {
    let messages = turns.iter().map(|&(role, content)| Message::new(role, content)).collect();
    Content::Chat { messages, tools: None, first_answer: 0 }
}

#[test]
fn every_shape_is_read() {
    let file = [
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]}"#,
        r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"}"#,
        r#"{"instruction": "a", "input": "x", "output": "b"}"#,
        r#"{"instruction": "a", "input": "", "output": "b", "id": 7}"#,
        r#"{"prompt": "a", "completion": "b"}"#,
        r#"{"text": "a"}"#,
        r#"{"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "attention_mask": [1, 1, 0]}"#,
        r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#,
    ]
    .join("\n");
    let ab = chat(&[("user", "a"), ("assistant", "b")]);
    let expected = vec![
        ab.clone(),
        chat(&[("system", "s"), ("user", "a"), ("assistant", "b")]),
        chat(&[("user", "a\n\nx"), ("assistant", "b")]),
        ab.clone(),
        Content::Completion { prompt: "a".into(), completion: "b".into() },
        Content::Text("a".into()),
        Content::Tokens { input_ids: vec![1, 2], labels: Some(vec![-100, 2]) },
        ab,
    ];
    assert_eq!(contents(&file), expected);
    // The same with a byte-order mark, Windows line ends and blank lines; the numbers are those of the lines.
    let windows = format!("\u{feff}\r\n{}\r\n", file.replace('\n', "\r\n\r\n"));
    let rows = read_examples(windows.as_bytes()).unwrap();
    assert_eq!(rows.rows.iter().map(|row| row.at).collect::<Vec<_>>(), [2, 4, 6, 8, 10, 12, 14, 16]);
    assert_eq!(rows.rows.into_iter().map(|row| row.content).collect::<Vec<_>>(), expected);
    assert_eq!(rows.report.shapes["messages"], 2);
    // As one JSON document, and wrapped in an object.
    let list = format!("[{}]", file.replace('\n', ",\n"));
    assert_eq!(contents(&list), expected);
    assert_eq!(contents(&format!("{{\n \"data\": {list}\n}}")), expected);
}

#[test]
fn a_prompt_of_messages_is_context_only() {
    let row = json!({
        "prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
        "completion": [{"role": "assistant", "content": "d"}],
    });
    let dataset = encoded(&row.to_string());
    assert_eq!(learned(&dataset.examples[0]), ["d<|im_end|>"]);
    assert!(tokenizer().decode(&dataset.examples[0].input_ids, false).unwrap().contains("assistant\nb<|im_end|>"));
}

#[test]
fn tables_are_read_by_their_columns() {
    let expected = vec![
        Content::Completion { prompt: "a, \"x\"\nb".into(), completion: "c".into() },
        Content::Completion { prompt: "d".into(), completion: "é".into() },
    ];
    assert_eq!(contents("Prompt,completion\n\"a, \"\"x\"\"\nb\",c\nd,é\n"), expected);
    assert_eq!(contents("id;prompt;completion\r\n1;\"a, \"\"x\"\"\nb\";c\r\n2;d;é\r\n"), expected);
    assert_eq!(contents("prompt\tcompletion\n\"a, \"\"x\"\"\nb\"\tc\nd\té"), expected);
    assert_eq!(contents("text\nhello\n"), [Content::Text("hello".into())]);
    let messages = r#"messages,id
"[{""role"": ""user"", ""content"": ""a""}, {""role"": ""assistant"", ""content"": ""b""}]",1
oops,2
"#;
    assert_eq!(contents(messages), [chat(&[("user", "a"), ("assistant", "b")])]);
    let rows = read_examples(b"instruction,output\na,b\na,b,c\nd,e\n").unwrap();
    assert_eq!(rows.rows.len(), 2);
    assert_eq!(rows.report.dropped[0].samples, ["line 3: 3 cells, but the table has 2 columns"]);
    assert!(
        refusal(b"question,reply\nWhy?,So.\nWho?,Me.\n").contains("the columns question, reply; expected messages")
    );
}

#[test]
fn plain_text_becomes_examples_without_loss() {
    let text = "Roses, they say,\nare red.\n\nViolets [are] {blue}.\n".repeat(40);
    assert_eq!(contents(&text), [Content::Document(text.clone())]);
    let dataset = encode(&text, &template("smollm2"), &EncodeOptions::new(64)).unwrap();
    let mut ids = dataset.examples[0].input_ids[..1].to_vec();
    for example in &dataset.examples {
        assert!(example.len() <= 64 && example.len() >= 2);
        assert_eq!(example.input_ids[0], *ids.last().unwrap());
        ids.extend(&example.input_ids[1..]);
        assert!(example.labels.iter().zip(&example.input_ids).all(|(&label, &id)| label == id as i32));
    }
    assert_eq!(ids.pop(), tokenizer().eos());
    assert_eq!(tokenizer().decode(&ids, false).unwrap(), text);
    assert_eq!(dataset.report.supervised_tokens, ids.len());
}

#[test]
fn files_that_are_not_text_are_refused_with_a_way_out() {
    for (bytes, expected) in [
        (&b"\x80\x04\x95abc"[..], "pickle"),
        (b"PAR1....", "Parquet"),
        (b"PK\x03\x04....", "unpack"),
        (b"\x1f\x8b\x08...", "gzip"),
        (b"\xff\xfea\0b\0", "UTF-8"),
        (b"abc\0def", "not text"),
        (b"", "empty"),
        (b"\xef\xbb\xbf \r\n \n", "empty"),
        (b"plain \xff text", "UTF-8"),
        (b"[{\"text\": \"a\"}, {\"text\": ", "line 1 column"),
        (
            b"{\"a\": 1}\n{\"b\": 2}\n",
            "nothing to train on: of 2 rows, 2 have none of the known shapes (line 1: expected messages",
        ),
    ] {
        assert!(refusal(bytes).contains(expected), "{}", refusal(bytes));
    }
}

#[test]
fn malformed_rows_are_dropped_and_counted_with_their_lines() {
    let file = [
        r#"{"text": "good"}"#,
        r#"{"text": "#,
        r#"{"text": 5}"#,
        r#"{"messages": "hi"}"#,
        r#"{"messages": [{"role": "wizard", "content": "a"}]}"#,
        r#"{"messages": [{"content": "a"}]}"#,
        r#"{"messages": []}"#,
        r#"{"input_ids": [1, -2]}"#,
        r#"{"input_ids": [1, 2], "labels": [1]}"#,
        r#"{"input_ids": [1, 2], "labels": [1, -7]}"#,
        r#"{"question": "a", "answer": "b"}"#,
        r#"{"text": "   "}"#,
        "not json at all",
        r#"{"text": "also good", "messages": null}"#,
        r#"{"prompt": "p", "completion": ""}"#,
        "17",
    ]
    .join("\n");
    let rows = read_examples(file.as_bytes()).unwrap();
    assert_eq!(rows.rows.iter().map(|row| row.at).collect::<Vec<_>>(), [1, 14]);
    let report = &rows.report;
    let count = |reason| report.dropped.iter().find(|d| d.reason == reason).map_or(0, |d| d.count);
    assert_eq!((report.rows, report.dropped_rows()), (16, 14));
    assert_eq!(count(DropReason::Malformed), 2);
    assert_eq!(count(DropReason::InvalidField), 7);
    assert_eq!(count(DropReason::UnknownShape), 2);
    assert_eq!(count(DropReason::Empty), 3);
    let text = report.to_string();
    for part in [
        "16 rows (2 text)",
        "line 2: not valid JSON at column 8",
        "line 3: `text` should be a string, it is a number",
        "line 5: message 0 has the unknown role \"wizard\"",
        "line 8: `input_ids` should hold whole numbers from 0 on",
        "found the fields: question, answer",
        "and 2 more",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let again: DataReport = serde_json::from_str(&serde_json::to_string(report).unwrap()).unwrap();
    assert_eq!(&again, report);
}

#[test]
fn answers_are_learned_under_every_template() {
    let fixture: Value = serde_json::from_slice(&fixture("text/chat.json")).unwrap();
    // Where an answer begins with spaces, the token before it takes them along, and is learned.
    // To SmolLM2 <|eot_id|> is plain text, of which the last piece is `><`.
    // SmolLM2's end token is <|im_end|>; templates that write it, or the tokenizer's eos_token, end an answer with it.
    #[rustfmt::skip]
    let table: &[(&str, &str, &[&str])] = &[
        ("chatml", "system_and_two_turns", &["\n  4  <|im_end|>", "Yes.\n\nIt is 4.<|im_end|>"]),
        ("generation", "system_and_two_turns", &["\n  4  <|im_end|>", "Yes.\n\nIt is 4.<|im_end|>"]),
        ("smollm2", "system_and_two_turns", &["\n  4  <|im_end|>", "Yes.\n\nIt is 4.<|im_end|>"]),
        ("qwen2_5", "system_and_two_turns", &["\n  4  <|im_end|>", "Yes.\n\nIt is 4.<|im_end|>"]),
        ("llama3", "system_and_two_turns", &["4<|eot_id|><", "Yes.\n\nIt is 4.<|eot_id|>"]),
        ("mistral", "system_and_two_turns", &["4<|im_end|>", " Yes.\n\nIt is 4.<|im_end|>"]),
        ("llama2", "system_and_two_turns", &[" 4 <|im_end|>", " Yes.\n\nIt is 4. <|im_end|>"]),
        ("gemma", "system_and_two_turns", &["4<end_of_turn>\n", "Yes.\n\nIt is 4.<end_of_turn>\n"]),
        ("zephyr", "system_and_two_turns", &["\n  4  <|im_end|>", "Yes.\n\nIt is 4.<|im_end|>"]),
        ("phi3", "system_and_two_turns", &["\n  4  <|end|>\n", "Yes.\n\nIt is 4.<|end|>\n<|im_end|>"]),
        ("chatml", "thoughts", &["<think>\nhm\n</think>\n\nB<|im_end|>", "<think>\nso\n</think>\n\nD<|im_end|>"]),
        ("thinking", "thoughts", &["B<|im_end|>", "so\n</think>\n\nD<|im_end|>"]),
        ("qwen2_5", "tools", &["<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Zürich\", \"days\": 2}}\n</tool_call><|im_end|>", "Sunny.<|im_end|>"]),
        ("llama3", "tools", &["{\"name\": \"weather\", \"parameters\": {\"city\": \"Zürich\", \"days\": 2}}<|eot_id|><", "Sunny.<|eot_id|>"]),
    ];
    for (name, chat, expected) in table {
        let row = json!({"messages": fixture["chats"][chat]}).to_string();
        let dataset = encode(&row, &template(name), &EncodeOptions::new(512)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found = learned(&dataset.examples[0]);
        assert_eq!(found, *expected, "{name}, {chat}: {:?}", tokenizer().decode(&dataset.examples[0].input_ids, false));
        for example in &dataset.examples {
            assert!(example.labels.iter().zip(&example.input_ids).all(|(&l, &id)| l == IGNORED || l == id as i32));
        }
    }
    // What had to be guessed is said.
    let notes = |name: &str, chat: &str| {
        let row = json!({"messages": fixture["chats"][chat]}).to_string();
        encode(&row, &template(name), &EncodeOptions::new(512)).unwrap().report.notes.join(" ")
    };
    assert!(notes("thinking", "thoughts").contains("In 1 chats the template shows earlier turns differently"));
    assert!(notes("gemma", "system_and_two_turns").contains("put before the first user message"));
    assert_eq!(notes("smollm2", "system_and_two_turns"), "");
    let default = ChatTemplate::chatml(tokenizer()).unwrap();
    let row = json!({"messages": fixture["chats"]["one_turn"]}).to_string();
    let dataset = encode(&row, &default, &EncodeOptions::new(512)).unwrap();
    assert!(dataset.report.notes[0].contains("no chat template"));
    assert_eq!(learned(&dataset.examples[0]), ["Hello! How are you?<|im_end|>"]);
}

#[test]
fn the_text_of_a_learned_chat_is_the_text_of_generation() {
    // The prompt that generation would give, then the answer: the learned tokens are exactly what follows that prompt.
    let messages = vec![Message::new("user", "Why?"), Message::new("assistant", "Because it rains.")];
    let template = template("smollm2");
    let prompt = template.encode(tokenizer(), &messages[..1], true).unwrap();
    let example = &encoded(&json!({"messages": messages}).to_string()).examples[0];
    assert_eq!(example.input_ids[..prompt.len()], prompt);
    assert!(example.labels[..prompt.len()].iter().all(|&label| label == IGNORED));
    assert_eq!(example.labels[prompt.len()] as u32, example.input_ids[prompt.len()]);
}

#[test]
fn completions_and_texts_end_with_the_end_token() {
    let dataset =
        encoded("{\"prompt\": \"2 + 2 =\", \"completion\": \" 4\"}\n{\"text\": \"abc\"}\n{\"input_ids\": [5, 6, 7]}\n");
    assert_eq!(learned(&dataset.examples[0]), [" 4<|im_end|>"]);
    assert_eq!(learned(&dataset.examples[1]), ["abc<|im_end|>"]);
    assert_eq!(dataset.examples[2].labels, [5, 6, 7]);
    let all = EncodeOptions { supervise: Supervise::All, ..EncodeOptions::new(512) };
    let row =
        json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}).to_string();
    let dataset = encode(&row, &template("smollm2"), &all).unwrap();
    assert!(dataset.examples[0].labels.iter().zip(&dataset.examples[0].input_ids).all(|(&l, &id)| l == id as i32));
}

#[test]
fn what_is_too_long_is_cut_and_said_so() {
    let row = |question: usize, answer: usize| {
        json!({"messages": [{"role": "user", "content": "q ".repeat(question)}, {"role": "assistant", "content": "a ".repeat(answer)}]}).to_string()
    };
    let file = [
        row(2, 2),
        row(2, 200),
        row(200, 2),
        "{\"messages\": [{\"role\": \"user\", \"content\": \"only a question\"}]}".into(),
        "{\"input_ids\": [1, 999999]}".into(),
    ]
    .join("\n");
    let options = EncodeOptions::new(64);
    let dataset = encode(&file, &template("smollm2"), &options).unwrap();
    let report = &dataset.report;
    assert_eq!((report.examples, report.truncated, report.rows), (2, 1, 5));
    let reasons: Vec<_> = report.dropped.iter().map(|d| (d.reason, d.count)).collect();
    assert_eq!(reasons, [(DropReason::AnswerCut, 1), (DropReason::NoAnswer, 1), (DropReason::UnknownToken, 1)]);
    assert_eq!(report.longest, 64);
    assert!(report.to_string().contains("1 row dropped: they have their whole answer beyond the context."), "{report}");
    let error = encode(&row(200, 2), &template("smollm2"), &options).unwrap_err().to_string();
    assert!(
        error
            .starts_with("file: nothing to train on: of 1 row, 1 have their whole answer beyond the context (line 1: "),
        "{error}"
    );
    // A refusal by the template is not taken for a row that is too long, nor the other way round.
    let error = encode(r#"{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]}"#,
        &template("gemma"), &options).unwrap_err().to_string();
    assert!(error.contains("1 are refused by the chat template") && error.contains("roles must alternate"), "{error}");
    assert!(encode(&row(1, 1), &template("smollm2"), &EncodeOptions::new(1)).is_err());
}

#[test]
fn splits_are_disjoint_and_seeded() {
    let examples = numbered(&[5; 20]);
    let dataset = || Dataset::new("x", examples.clone());
    let (train, eval) = dataset().split(0.1, 3).unwrap();
    assert_eq!((train.examples.len(), eval.examples.len()), (18, 2));
    assert_eq!((train.report.examples, eval.report.tokens), (18, 10));
    assert_eq!(dataset().split(0.1, 3).unwrap(), (train.clone(), eval.clone()));
    assert_ne!(dataset().split(0.1, 4).unwrap().1, eval);
    let mut all = [train.examples, eval.examples].concat();
    all.sort_by_key(|example| example.input_ids[0]);
    assert_eq!(all, examples);
    assert_eq!(Dataset::new("x", numbered(&[2, 2])).split(0.99, 0).unwrap().0.examples.len(), 1);
    assert!(Dataset::new("x", numbered(&[2])).split(0.5, 0).is_err());
    assert!(dataset().split(1.0, 0).is_err());
}

/// Examples of the given lengths: the first id is the example's number, every third label is not learned.
fn numbered(lengths: &[usize]) -> Vec<Example> {
    let example = |(number, &length): (usize, &usize)| {
        let input_ids: Vec<u32> =
            (0..length as u32).map(|at| if at == 0 { number as u32 } else { 1000 + at }).collect();
        let labels = input_ids.iter().map(|&id| if id % 3 == 1 { IGNORED } else { id as i32 }).collect();
        Example { input_ids, labels }
    };
    lengths.iter().enumerate().map(example).collect()
}

fn order(lengths: &[usize], options: &BatchOptions) -> BatchOrder {
    BatchOrder::new(Arc::new(Dataset::new("x", numbered(lengths))), options.clone()).unwrap()
}

#[test]
fn a_batch_shifts_labels_within_segments() {
    let options = BatchOptions { pack: true, order: RowOrder::AsGiven, pad: 9, ..BatchOptions::new(2, 8) };
    let mut order = order(&[3, 4, 2], &options);
    assert_eq!(order.buckets(), [8]);
    let batch = order.next_batch();
    assert_eq!((batch.batch_size, batch.context, batch.tokens), (2, 8, 9));
    assert_eq!(batch.input_ids, [0, 1001, 1002, 1, 1001, 1002, 1003, 9, 2, 1001, 9, 9, 9, 9, 9, 9]);
    #[rustfmt::skip]
    assert_eq!(batch.targets, [1001, 1002, -100, 1001, 1002, -100, -100, -100, 1001, -100, -100, -100, -100, -100, -100, -100]);
    assert_eq!(batch.positions, [0, 1, 2, 0, 1, 2, 3, 0, 0, 1, 0, 1, 2, 3, 4, 5]);
    assert_eq!(batch.segment_start, [0, 0, 0, 3, 3, 3, 3, 7, 0, 0, 2, 2, 2, 2, 2, 2]);
    assert_eq!(batch.supervised, 5);
}

#[test]
fn a_step_holds_the_batches_of_one_epoch_only() {
    let options = BatchOptions { grad_accumulation: 2, ..BatchOptions::new(2, 64) };
    let mut order = order(&[5; 10], &options);
    assert_eq!(order.steps_in_epoch(0), 3);
    let steps: Vec<_> = order.by_ref().take(4).collect();
    assert_eq!(
        steps.iter().map(|s| (s.epoch, s.batches.len(), s.tokens)).collect::<Vec<_>>(),
        [(0, 2, 20), (0, 2, 20), (0, 1, 10), (1, 2, 20)]
    );
    assert!(steps.iter().all(|step| step.supervised == step.batches.iter().map(|b| b.supervised).sum::<usize>()));
    assert_eq!(order.epochs(), 1.4);
}

#[test]
fn other_data_or_options_cannot_be_resumed() {
    let options = BatchOptions::new(2, 64);
    let position = order(&[5, 6, 7], &options).position();
    assert!(order(&[5, 6, 7], &options).resume(&position).is_ok());
    assert!(order(&[5, 6, 8], &options).resume(&position).unwrap_err().to_string().contains("other data"));
    assert!(order(&[5, 6, 7], &BatchOptions { seed: 1, ..options.clone() }).resume(&position).is_err());
    assert!(order(&[5, 6, 7], &BatchOptions { batch_size: 3, ..options.clone() }).resume(&position).is_err());
    assert!(BatchOrder::new(Arc::new(Dataset::new("x", vec![])), options.clone()).is_err());
    assert!(
        BatchOrder::new(Arc::new(Dataset::new("x", numbered(&[2]))), BatchOptions { batch_size: 0, ..options })
            .is_err()
    );
}

fn batch_options() -> impl Strategy<Value = BatchOptions> {
    let order = prop_oneof![Just(RowOrder::Shuffled), Just(RowOrder::AsGiven), Just(RowOrder::ByLength)];
    (1usize..5, 1usize..4, order, any::<bool>(), 0u64..3).prop_map(
        |(batch_size, grad_accumulation, order, pack, seed)| BatchOptions {
            batch_size,
            grad_accumulation,
            order,
            pack,
            seed,
            ..BatchOptions::new(batch_size, 100)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_epoch_deals_every_example_once(lengths in prop::collection::vec(2usize..=100, 1..40), options in batch_options()) {
        let examples = numbered(&lengths);
        let mut order = order(&lengths, &options);
        let mut orders = Vec::new();
        for epoch in 0..3 {
            let mut seen = Vec::new();
            let steps = order.steps_in_epoch(epoch);
            for _ in 0..steps {
                let step = order.next_step();
                prop_assert_eq!(step.epoch, epoch);
                for batch in &step.batches {
                    prop_assert_eq!(batch.batch_size, options.batch_size);
                    prop_assert!(order.buckets().contains(&batch.context) && batch.context <= 100);
                    let size = batch.batch_size * batch.context;
                    prop_assert!([batch.input_ids.len(), batch.targets.len(), batch.positions.len(), batch.segment_start.len()] == [size; 4]);
                    let mut tokens = 0;
                    for (at, &id) in batch.input_ids.iter().enumerate() {
                        let (row, column) = (at / batch.context, at % batch.context);
                        let start = batch.segment_start[at] as usize;
                        prop_assert!(start <= column && batch.positions[at] as usize == column - start);
                        // A segment's first token is the example's number, except in padding (0, and nothing learned).
                        let first = row * batch.context + start;
                        let number = batch.input_ids[first] as usize;
                        let is_padding = (first..(row + 1) * batch.context).all(|at| batch.input_ids[at] == 0);
                        if is_padding {
                            prop_assert_eq!(batch.targets[at], IGNORED);
                            continue;
                        }
                        if start == column {
                            seen.push(number);
                        }
                        tokens += 1;
                        let example = &examples[number];
                        prop_assert_eq!(id, example.input_ids[column - start]);
                        let target = example.labels.get(column - start + 1).copied().unwrap_or(IGNORED);
                        prop_assert_eq!(batch.targets[at], target);
                    }
                    prop_assert_eq!(batch.tokens, tokens);
                    prop_assert_eq!(batch.supervised, batch.targets.iter().filter(|&&t| t != IGNORED).count());
                }
            }
            let mut sorted = seen.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..lengths.len()).collect::<Vec<_>>());
            orders.push(seen);
        }
        if options.order == RowOrder::AsGiven && !options.pack {
            prop_assert_eq!(&orders[2], &(0..lengths.len()).collect::<Vec<_>>());
        }
        if options.order == RowOrder::Shuffled && lengths.len() > 12 && !options.pack {
            prop_assert!(orders[0] != orders[1] || orders[1] != orders[2]);
        }
    }

    #[test]
    fn resuming_gives_the_batches_of_the_uninterrupted_run(
        lengths in prop::collection::vec(2usize..=100, 1..40), options in batch_options(), before in 0usize..20,
    ) {
        let mut whole = order(&lengths, &options);
        for _ in 0..before {
            whole.next_step();
        }
        let saved = serde_json::to_string(&whole.position()).unwrap();
        let position: Position = serde_json::from_str(&saved).unwrap();
        let mut resumed = order(&lengths, &options);
        resumed.resume(&position).unwrap();
        for _ in 0..10 {
            prop_assert_eq!(whole.next_step(), resumed.next_step());
        }
        prop_assert_eq!(whole.position(), resumed.position());
    }

    #[test]
    fn packing_wastes_little(lengths in prop::collection::vec(2usize..=50, 30..60)) {
        let options = BatchOptions { pack: true, ..BatchOptions::new(1, 100) };
        let mut order = order(&lengths, &options);
        let rows = order.steps_in_epoch(0);
        let needed = lengths.iter().sum::<usize>().div_ceil(100);
        prop_assert!(rows <= needed + needed / 4 + 1, "{rows} rows for {needed}");
        prop_assert_eq!(order.next_batch().context, 100);
    }

    #[test]
    fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read_examples(&bytes);
    }

    #[test]
    fn no_rows_make_the_encoder_panic(value in rows_like()) {
        let template = template("smollm2");
        let _ = encode(&value.to_string(), &template, &EncodeOptions::new(16));
        let _ = encode(&serde_json::to_string_pretty(&value).unwrap(), &template, &EncodeOptions::new(16));
    }
}

/// JSON that resembles rows: the right names with values of any kind.
fn rows_like() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "messages",
        "conversations",
        "role",
        "content",
        "from",
        "value",
        "prompt",
        "completion",
        "instruction",
        "input",
        "output",
        "text",
        "input_ids",
        "labels",
        "attention_mask",
        "tools",
        "tool_calls",
        "function",
        "arguments",
        "weight",
        "system",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-200i64..60000).prop_map(Value::from),
        any::<f32>().prop_map(|x| json!(x)),
        prop::sample::select(vec![
            "user",
            "assistant",
            "system",
            "tool",
            "human",
            "gpt",
            "<|im_end|>",
            "",
            "[1]",
            "{}"
        ])
        .prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((names.clone(), inner), 0..6)
                .prop_map(|fields| fields
                    .into_iter()
                    .map(|(name, value)| (name.to_string(), value))
                    .collect::<HashMap<_, _>>())
                .prop_map(|fields| json!(fields)),
        ]
    })
}
