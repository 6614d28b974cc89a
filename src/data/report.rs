//! What became of a data set's rows: kept, cut, dropped and why.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How many rows are quoted for each reason.
const MAX_SAMPLES: usize = 5;

/// Why a row is not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// Not a line of JSON, or not a record of the CSV table
    Malformed,
    /// JSON, but of none of the known shapes
    UnknownShape,
    /// Of a known shape, with a field that makes no sense
    InvalidField,
    /// No text in it
    Empty,
    /// Only answers are supervised, and it has none
    NoAnswer,
    /// Every supervised token lies beyond the context
    AnswerCut,
    /// The chat template refuses these messages
    RefusedByTemplate,
    /// The chat template shows the answers in a form in which they cannot be found again
    AnswerNotFound,
    /// A token id that the vocabulary does not have
    UnknownToken,
}

impl DropReason {
    fn sentence(self) -> &'static str {
        match self {
            DropReason::Malformed => "could not be parsed",
            DropReason::UnknownShape => "have none of the known shapes",
            DropReason::InvalidField => "have a field that makes no sense",
            DropReason::Empty => "are empty",
            DropReason::NoAnswer => "have no answer to learn",
            DropReason::AnswerCut => "have their whole answer beyond the context",
            DropReason::RefusedByTemplate => "are refused by the chat template",
            DropReason::AnswerNotFound => "are shown by the chat template in a way that hides where the answers are",
            DropReason::UnknownToken => "have a token id that the vocabulary lacks",
        }
    }
}

/// The rows dropped for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    pub reason: DropReason,
    pub count: usize,
    /// The first few: where, and what exactly
    pub samples: Vec<String>,
}

/// Counts over a data set, from file to tokens. Its `Display` is a few plain sentences.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataReport {
    /// The file's name
    pub source: String,
    /// Rows found in the file, blank lines not counted
    pub rows: usize,
    /// Rows by shape (`messages`, `prompt/completion` ...)
    pub shapes: BTreeMap<String, usize>,
    /// Examples kept
    pub examples: usize,
    /// Examples of which the end was cut off at the context
    pub truncated: usize,
    pub dropped: Vec<Dropped>,
    /// Tokens of all examples
    pub tokens: usize,
    /// Tokens that are learned
    pub supervised_tokens: usize,
    /// Tokens of the longest example
    pub longest: usize,
    /// What was decided on the user's behalf, in sentences
    pub notes: Vec<String>,
}

impl DataReport {
    /// Rows dropped, for whatever reason.
    pub fn dropped_rows(&self) -> usize {
        self.dropped.iter().map(|dropped| dropped.count).sum()
    }

    /// Counts a dropped row; `detail` says where and what.
    pub(super) fn drop_row(&mut self, reason: DropReason, detail: impl FnOnce() -> String) {
        let at = self.dropped.iter().position(|dropped| dropped.reason == reason).unwrap_or_else(|| {
            self.dropped.push(Dropped { reason, count: 0, samples: Vec::new() });
            self.dropped.len() - 1
        });
        let dropped = &mut self.dropped[at];
        dropped.count += 1;
        if dropped.samples.len() < MAX_SAMPLES {
            dropped.samples.push(detail());
        }
    }

    /// One sentence for a data set of which nothing is left.
    pub(super) fn nothing_left(&self) -> String {
        if self.rows == 0 {
            return "nothing to train on: no rows".to_string();
        }
        let reasons: Vec<_> = self
            .dropped
            .iter()
            .map(|d| format!("{} {} ({})", d.count, d.reason.sentence(), d.samples.first().map_or("", String::as_str)))
            .collect();
        format!("nothing to train on: of {}, {}", rows(self.rows), reasons.join("; "))
    }
}

fn rows(count: usize) -> String {
    format!("{count} row{}", if count == 1 { "" } else { "s" })
}

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes: Vec<_> = self.shapes.iter().map(|(shape, count)| format!("{count} {shape}")).collect();
        let shapes = if shapes.is_empty() { String::new() } else { format!(" ({})", shapes.join(", ")) };
        write!(f, "{}: {}{shapes}, {} examples, ", self.source, rows(self.rows), self.examples)?;
        write!(f, "{} tokens of which {} are learned, ", self.tokens, self.supervised_tokens)?;
        write!(f, "longest {}.", self.longest)?;
        if self.truncated > 0 {
            write!(f, "\n{} cut off at the context.", self.truncated)?;
        }
        for dropped in &self.dropped {
            write!(f, "\n{} dropped: they {}.", rows(dropped.count), dropped.reason.sentence())?;
            for sample in &dropped.samples {
                write!(f, "\n  {sample}")?;
            }
            if dropped.count > dropped.samples.len() {
                write!(f, "\n  and {} more", dropped.count - dropped.samples.len())?;
            }
        }
        for note in &self.notes {
            write!(f, "\n{note}")?;
        }
        Ok(())
    }
}
