//! Rows to examples: token ids, and for each the label that says whether it is learned.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::format::Rows;
use super::mask::{ChatMasker, tokens_in};
use super::order::shuffle;
use super::report::{DataReport, DropReason};
use super::row::{Content, Fault, Row};
use crate::model::chat_template::{ChatTemplate, Origin};
use crate::model::tokenizer::Tokenizer;
use crate::platform::parallel;
use crate::{Error, Result};

/// The label of a token that is not learned.
pub const IGNORED: i32 = -100;

/// Documents longer than this (bytes) are tokenized in parts, cut at line breaks, to bound the memory that takes.
const DOCUMENT_PART: usize = 1 << 20;

/// Rows encoded between two calls of the progress function.
const CHUNK: usize = 256;

/// Which tokens are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Supervise {
    /// What the assistant says, with the token that ends it; a completion; a whole text where there is no question
    #[default]
    Answers,
    /// Everything
    All,
}

impl std::str::FromStr for Supervise {
    type Err = Error;
    fn from_str(name: &str) -> Result<Supervise> {
        match name {
            "answers" => Ok(Supervise::Answers),
            "all" => Ok(Supervise::All),
            other => Err(Error::Option {
                name: "supervise".into(),
                value: other.into(),
                expected: "expected `answers` or `all`".into(),
            }),
        }
    }
}

/// How rows become examples.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodeOptions {
    /// The most tokens an example may have
    pub context: usize,
    pub supervise: Supervise,
    /// The moment that chat templates may write into a chat, in seconds since 1970 UTC. Fixed, not the clock's, so that the
    /// same data is the same tomorrow.
    pub now: u64,
}

impl EncodeOptions {
    /// Only answers are learned; the date is the first of January 2025.
    pub fn new(context: usize) -> EncodeOptions {
        EncodeOptions { context, supervise: Supervise::Answers, now: 1_735_689_600 }
    }
}

/// A row of training data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// `ids [T]`
    pub input_ids: Vec<u32>,
    /// `labels [T]`: the id itself where it is learned (in pre-tokenized data perhaps another), else -100. Not shifted.
    pub labels: Vec<i32>,
}

impl Example {
    /// Tokens of this example.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// True without tokens.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Predictions that are learned. Nothing comes before the first token, so its label never counts.
    pub fn supervised(&self) -> usize {
        self.labels.iter().skip(1).filter(|&&label| label != IGNORED).count()
    }
}

/// Encoded examples, in the order of the file, and what became of the rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    pub examples: Vec<Example>,
    pub report: DataReport,
}

impl Dataset {
    /// Examples as they are, with a report that counts them.
    pub fn new(source: &str, examples: Vec<Example>) -> Dataset {
        let report = DataReport { source: source.to_string(), rows: examples.len(), ..DataReport::default() };
        Dataset { examples, report }.counted()
    }

    /// Takes `eval_fraction` of the examples away for evaluation, chosen by `seed`: at least one on each side. Both keep the order
    /// of the file. Errs if the fraction is not between 0 and 1 or there are fewer than two examples.
    pub fn split(self, eval_fraction: f64, seed: u64) -> Result<(Dataset, Dataset)> {
        let count = self.examples.len();
        if !(eval_fraction > 0.0 && eval_fraction < 1.0) {
            return Err(Error::Option {
                name: "eval_fraction".into(),
                value: eval_fraction.to_string(),
                expected: "expected a share between 0 and 1".into(),
            });
        }
        if count < 2 {
            return Err(Error::Data {
                file: self.report.source,
                problem: format!("{count} example cannot be split into training and evaluation"),
            });
        }
        let held_out = ((count as f64 * eval_fraction).round() as usize).clamp(1, count - 1);
        let mut chosen: Vec<u32> = (0..count as u32).collect();
        shuffle(&mut chosen, seed, 0);
        let mut is_eval = vec![false; count];
        chosen[..held_out].iter().for_each(|&at| is_eval[at as usize] = true);
        let mut sides = (Vec::new(), Vec::new());
        for (example, is_eval) in self.examples.into_iter().zip(is_eval) {
            if is_eval { sides.1.push(example) } else { sides.0.push(example) }
        }
        let side = |examples| Dataset { examples, report: self.report.clone() }.counted();
        Ok((side(sides.0), Dataset::new(&self.report.source, sides.1)))
    }

    fn counted(mut self) -> Dataset {
        self.report.examples = self.examples.len();
        self.report.tokens = self.examples.iter().map(Example::len).sum();
        self.report.supervised_tokens = self.examples.iter().map(Example::supervised).sum();
        self.report.longest = self.examples.iter().map(Example::len).max().unwrap_or(0);
        self
    }

    /// A short name (16 hexadecimal digits) of the examples and their order: a run can only be continued on the same data.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for example in &self.examples {
            hash.update((example.len() as u64).to_le_bytes());
            for (id, label) in example.input_ids.iter().zip(&example.labels) {
                hash.update(id.to_le_bytes());
                hash.update(label.to_le_bytes());
            }
        }
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Encodes `rows` under a model's tokenizer and template. `progress(done, total)` is called now and then.
///
/// What is too long is cut off at the context and counted; rows of which then nothing is left to learn are dropped and counted
/// as such. Errs if nothing is left, and says why.
pub fn encode_rows(
    rows: Rows,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    options: &EncodeOptions,
    mut progress: impl FnMut(usize, usize),
) -> Result<Dataset> {
    let total = rows.rows.len();
    let mut encoder = Encoder::new(rows.report, rows.unit, tokenizer, template, options)?;
    for (at, chunk) in rows.rows.chunks(CHUNK).enumerate() {
        progress(at * CHUNK, total);
        encoder.push(chunk);
    }
    progress(total, total);
    encoder.finish()
}

/// [`encode_rows`] in steps, for callers that must do something else in between (a browser's worker).
pub struct Encoder<'a> {
    masker: ChatMasker<'a>,
    options: EncodeOptions,
    unit: &'static str,
    dataset: Dataset,
    searched: usize,
    system_folded: usize,
}

/// What a row became.
#[derive(Default)]
struct Encoded {
    examples: Vec<Example>,
    truncated: bool,
    searched: bool,
    system_folded: bool,
}

impl<'a> Encoder<'a> {
    /// Goes on with the counts of `report`, whose rows are numbered by `unit`. Errs if the context has no room for a prediction.
    pub fn new(
        report: DataReport,
        unit: &'static str,
        tokenizer: &'a Tokenizer,
        template: &'a ChatTemplate,
        options: &EncodeOptions,
    ) -> Result<Encoder<'a>> {
        if options.context < 2 {
            return Err(Error::Option {
                name: "context".into(),
                value: options.context.to_string(),
                expected: "expected at least 2 tokens".into(),
            });
        }
        let masker = ChatMasker { template, tokenizer, now: options.now };
        let dataset = Dataset { examples: Vec::new(), report };
        Ok(Encoder { masker, options: options.clone(), unit, dataset, searched: 0, system_folded: 0 })
    }

    /// Encodes some rows (on all cores where there are threads).
    pub fn push(&mut self, rows: &[Row]) {
        let outcomes = parallel::map(rows.len(), |at| self.encode(&rows[at].content));
        for (row, outcome) in rows.iter().zip(outcomes) {
            match outcome {
                Ok(encoded) => {
                    self.dataset.report.truncated += usize::from(encoded.truncated);
                    self.searched += usize::from(encoded.searched);
                    self.system_folded += usize::from(encoded.system_folded);
                    self.dataset.examples.extend(encoded.examples);
                }
                Err((reason, problem)) => {
                    self.dataset.report.drop_row(reason, || format!("{} {}: {problem}", self.unit, row.at));
                }
            }
        }
    }

    /// The examples of all rows pushed. Errs if there are none.
    pub fn finish(self) -> Result<Dataset> {
        let mut dataset = self.dataset.counted();
        let report = &mut dataset.report;
        let chats =
            ["messages", "conversations", "instruction/output"].iter().any(|shape| report.shapes.contains_key(*shape));
        if chats && self.masker.template.origin() == Origin::Default {
            report.notes.push("The model has no chat template: chats are written as ChatML.".to_string());
        }
        if self.searched > 0 {
            report.notes.push(format!(
                "In {} chats the template shows earlier turns differently once the chat goes on: answers were found by their words.",
                self.searched
            ));
        }
        if self.system_folded > 0 {
            report.notes.push(format!(
                "In {} chats the system message was put before the first user message: the template knows no system turn.",
                self.system_folded
            ));
        }
        if dataset.examples.is_empty() {
            return Err(Error::Data { file: report.source.clone(), problem: report.nothing_left() });
        }
        Ok(dataset)
    }

    fn encode(&self, content: &Content) -> Result<Encoded, Fault> {
        match content {
            Content::Chat { messages, tools, first_answer } => {
                let answers_only = self.options.supervise == Supervise::Answers;
                if answers_only && !messages.iter().any(|m| m.role == "assistant") {
                    return Err((DropReason::NoAnswer, "no assistant turn".to_string()));
                }
                let marked = self.masker.mark(messages, tools.as_ref(), answers_only.then_some(*first_answer))?;
                let example = self.learn(&marked.text, &marked.answers, false)?;
                let encoded = self.fit(example)?;
                Ok(Encoded { searched: marked.searched, system_folded: marked.system_folded, ..encoded })
            }
            Content::Completion { prompt, completion } => {
                let text = format!("{prompt}{completion}");
                let answer = prompt.len()..text.len();
                self.fit(self.learn(&text, std::slice::from_ref(&answer), true)?)
            }
            Content::Text(text) => self.fit(self.learn(text, std::slice::from_ref(&(0..text.len())), true)?),
            Content::Document(text) => self.document(text),
            Content::Tokens { input_ids, labels } => self.tokens(input_ids, labels.as_deref()),
        }
    }

    /// The ids of `text`, of which those in `spans` are learned. `closed`: the tokenizer's own special tokens go around it, and an
    /// end token behind it, which is learned.
    fn learn(&self, text: &str, spans: &[std::ops::Range<usize>], closed: bool) -> Result<Example, Fault> {
        let tokenizer = self.masker.tokenizer;
        let encoding =
            tokenizer.encode_with_offsets(text, closed).map_err(|e| (DropReason::InvalidField, e.to_string()))?;
        let mut learned = match self.options.supervise {
            Supervise::Answers => tokens_in(&encoding, text, spans),
            Supervise::All => vec![true; encoding.ids.len()],
        };
        let mut input_ids = encoding.ids;
        if let Some(eos) = tokenizer.eos().filter(|_| closed) {
            if input_ids.last() != Some(&eos) {
                input_ids.push(eos);
                learned.push(true);
            } else if let Some(last) = learned.last_mut() {
                *last = true;
            }
        }
        let labels = input_ids.iter().zip(learned).map(|(&id, learned)| if learned { id as i32 } else { IGNORED });
        Ok(Example { labels: labels.collect(), input_ids })
    }

    /// Cuts an example off at the context, and checks that something is left to learn.
    fn fit(&self, mut example: Example) -> Result<Encoded, Fault> {
        if example.len() < 2 {
            return Err((DropReason::Empty, "fewer than two tokens".to_string()));
        }
        if example.supervised() == 0 {
            return Err((DropReason::NoAnswer, "nothing in it is to be learned".to_string()));
        }
        let (context, tokens) = (self.options.context, example.len());
        example.input_ids.truncate(context);
        example.labels.truncate(context);
        if example.supervised() == 0 {
            let first = format!("{tokens} tokens, and nothing to learn in the first {context}");
            return Err((DropReason::AnswerCut, first));
        }
        Ok(Encoded { examples: vec![example], truncated: tokens > context, ..Encoded::default() })
    }

    /// A long text, cut into examples that overlap by one token, so that every token but the first is learned once.
    fn document(&self, text: &str) -> Result<Encoded, Fault> {
        let tokenizer = self.masker.tokenizer;
        let mut ids = Vec::new();
        for (at, part) in parts(text).enumerate() {
            let part = tokenizer.encode(part, at == 0).map_err(|e| (DropReason::InvalidField, e.to_string()))?;
            // What the tokenizer puts behind a text belongs behind the last part.
            ids.truncate(ids.len() - usize::from(at == 1 && ids.last() == tokenizer.eos().as_ref()));
            ids.extend(part);
        }
        if ids.last() != tokenizer.eos().as_ref() {
            ids.extend(tokenizer.eos());
        }
        let stride = self.options.context - 1;
        let starts = (0..ids.len().saturating_sub(1)).step_by(stride);
        let examples: Vec<_> = starts
            .map(|start| {
                let input_ids = ids[start..ids.len().min(start + stride + 1)].to_vec();
                Example { labels: input_ids.iter().map(|&id| id as i32).collect(), input_ids }
            })
            .collect();
        if examples.is_empty() {
            return Err((DropReason::Empty, "fewer than two tokens".to_string()));
        }
        Ok(Encoded { examples, ..Encoded::default() })
    }

    fn tokens(&self, input_ids: &[u32], labels: Option<&[i32]>) -> Result<Encoded, Fault> {
        let known = self.masker.tokenizer.vocab_size() as i64;
        let given = labels.into_iter().flatten().map(|&label| i64::from(label));
        if let Some(id) = input_ids.iter().map(|&id| i64::from(id)).chain(given).find(|&id| id >= known) {
            return Err((DropReason::UnknownToken, format!("the id {id}; the vocabulary has {known} tokens")));
        }
        let all = || input_ids.iter().map(|&id| id as i32).collect();
        let labels = match self.options.supervise {
            Supervise::Answers => labels.map_or_else(all, <[i32]>::to_vec),
            Supervise::All => all(),
        };
        self.fit(Example { input_ids: input_ids.to_vec(), labels })
    }
}

/// `text` in parts of about [`DOCUMENT_PART`] bytes, each cut behind a line break.
fn parts(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let search = text.as_bytes().get(DOCUMENT_PART..).unwrap_or_default();
        let cut = search.iter().position(|&byte| byte == b'\n').map_or(text.len(), |at| DOCUMENT_PART + at + 1);
        let (part, rest) = text.split_at(cut);
        text = rest;
        (!part.is_empty()).then_some(part)
    })
}
