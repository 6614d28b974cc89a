//! Which part of a rendered chat the assistant says: the part that is learned.

use std::ops::Range;

use serde_json::Value;

use super::report::DropReason;
use super::row::Fault;
use crate::Result;
use crate::model::chat_template::{ChatTemplate, Message, RenderOptions};
use crate::model::tokenizer::{Encoding, Tokenizer};

/// A chat as text, and the byte ranges of its answers, each with the token that ends it.
pub(super) struct Marked {
    pub text: String,
    pub answers: Vec<Range<usize>>,
    /// An answer had to be looked for by its words
    pub searched: bool,
    /// The template knows no system turn: its words now open the first user turn
    pub system_folded: bool,
}

/// Renders chats of one model and finds the answers in them.
pub(super) struct ChatMasker<'a> {
    pub template: &'a ChatTemplate,
    pub tokenizer: &'a Tokenizer,
    /// The moment that templates may write into a chat; see `EncodeOptions::now`
    pub now: u64,
}

impl ChatMasker<'_> {
    /// The text of `messages` and where the answers from turn `first_answer` on are.
    ///
    /// In this order: what the template marks with `{% generation %}`; else what a turn adds to the text that opens it for the
    /// model (the rendering of the turns before, with the generation prompt), provided that text comes back unchanged in the
    /// whole chat; else the turn's own words and the end token behind them.
    ///
    /// `first_answer` is `None` where the places of answers are of no interest.
    pub fn mark(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        first_answer: Option<usize>,
    ) -> Result<Marked, Fault> {
        let mut messages = messages.to_vec();
        let mut system_folded = false;
        let mut rendered = self.template.render_marked(&messages, &self.options(tools, false));
        if let (Err(_), Some(folded)) = (&rendered, fold_system(&messages))
            && let Ok(again) = self.template.render_marked(&folded, &self.options(tools, false))
        {
            (rendered, messages, system_folded) = (Ok(again), folded, true);
        }
        let (text, marks) = rendered.map_err(|e| (DropReason::RefusedByTemplate, e.to_string()))?;
        let Some(first_answer) = first_answer.map(|first| first.saturating_sub(usize::from(system_folded))) else {
            return Ok(Marked { text, answers: Vec::new(), searched: false, system_folded });
        };

        let turns: Vec<usize> = (0..messages.len()).filter(|&i| messages[i].role == "assistant").collect();
        let learned =
            |i: &usize| *i >= first_answer && messages[*i].rest.get("weight").and_then(Value::as_f64) != Some(0.0);
        let wanted: Vec<usize> = turns.iter().copied().filter(learned).collect();
        if marks.len() == turns.len() {
            let answers = turns.iter().zip(marks).filter(|(i, _)| learned(i)).map(|(_, mark)| mark).collect();
            return Ok(Marked { text, answers, searched: false, system_folded });
        }
        if !marks.is_empty() && wanted == turns {
            return Ok(Marked { text, answers: marks, searched: false, system_folded });
        }
        let mut answers: Vec<Range<usize>> = Vec::with_capacity(wanted.len());
        let mut searched = false;
        for i in wanted {
            let from = answers.last().map_or(0, |last| last.end);
            let added = self.added_by(&text, &messages, tools, i).filter(|span| span.start >= from);
            searched |= added.is_none();
            let Some(span) = added.or_else(|| self.search(&text, &messages[i], from)) else {
                let problem = format!("message {i} is not in the text that the template makes");
                return Err((DropReason::AnswerNotFound, problem));
            };
            answers.push(span);
        }
        Ok(Marked { text, answers, searched, system_folded })
    }

    fn options(&self, tools: Option<&Value>, add_generation_prompt: bool) -> RenderOptions {
        RenderOptions { add_generation_prompt, tools: tools.cloned(), now: Some(self.now), ..RenderOptions::default() }
    }

    /// What turn `i` adds to the chat, if its place is certain.
    fn added_by(&self, text: &str, messages: &[Message], tools: Option<&Value>, i: usize) -> Option<Range<usize>> {
        let render =
            |turns: usize, prompt: bool| self.template.render(&messages[..turns], &self.options(tools, prompt)).ok();
        let opened = render(i, true)?;
        let start = common_prefix(text, &opened);
        if start < opened.len() {
            // The prompt may open more than the turn (a block for reasoning, say), but must at least open the turn.
            let before = render(i, false)?;
            if start <= common_prefix(text, &before) {
                return None;
            }
        }
        let closed = if i + 1 == messages.len() { text.to_string() } else { render(i + 1, false)? };
        let mut end = common_prefix(text, &closed);
        let said = text.get(start..end)?;
        let words = messages[i].text().unwrap_or_default().trim();
        if said.trim().is_empty() {
            return None;
        }
        // Words that begin before what the turn adds were begun by the prompt.
        let begun = || text[..end].rfind(words).filter(|at| at + words.len() > start);
        let words_end = said.find(words).map(|at| start + at).or_else(begun)? + words.len();
        if end < closed.len() {
            // The template closes a last turn differently, and how that begins may by chance be how the next turn begins.
            end = text[words_end..end].rfind('\n').map_or(end, |at| words_end + at + 1);
        }
        Some(start..self.end_of_turn(text, words_end, end))
    }

    /// The end of the first end token between `from` and `end`; `end` itself if there is none. What follows an end token (a
    /// line break, usually) is the template's, the model stops before it.
    fn end_of_turn(&self, text: &str, from: usize, end: usize) -> usize {
        let stops = self.stop_texts();
        let ends = stops.iter().filter_map(|stop| Some(from + text[from..end].find(stop.as_str())? + stop.len()));
        ends.min().unwrap_or(end)
    }

    /// The turn's own words in `text[from..]`, and the end token right behind them.
    fn search(&self, text: &str, message: &Message, from: usize) -> Option<Range<usize>> {
        let words = message.text()?;
        let after_thought = words.rsplit_once("</think>").map_or(words, |(_, answer)| answer);
        let forms = [words, words.trim(), after_thought.trim()];
        let (at, form) = forms
            .into_iter()
            .filter(|form| !form.is_empty())
            .find_map(|form| Some((text[from..].find(form)?, form)))?;
        let end = from + at + form.len();
        let behind = &text[end..];
        let gap = behind.len() - behind.trim_start().len();
        let stop = self.stop_texts().into_iter().find(|stop| behind[gap..].starts_with(stop.as_str()));
        Some(from + at..stop.map_or(end, |stop| end + gap + stop.len()))
    }

    fn stop_texts(&self) -> Vec<String> {
        let ids = self.tokenizer.eos_ids().iter();
        ids.filter_map(|&id| self.tokenizer.id_to_token(id)).filter(|text| !text.is_empty()).collect()
    }
}

/// For each token whether it belongs to one of `spans` (ascending). A token on the edge of a span belongs to it if at most half
/// of it lies outside, or nothing but white space.
pub(super) fn tokens_in(encoding: &Encoding, text: &str, spans: &[Range<usize>]) -> Vec<bool> {
    let is_inside = |token: &Range<usize>| {
        let at = spans.partition_point(|span| span.end <= token.start);
        let Some(span) = spans.get(at).filter(|span| span.start < token.end) else { return false };
        let outside = [token.start..span.start.max(token.start), span.end.min(token.end)..token.end];
        2 * outside.iter().map(ExactSizeIterator::len).sum::<usize>() <= token.len()
            || outside.into_iter().all(|part| text.get(part).is_some_and(|part| part.trim().is_empty()))
    };
    encoding.offsets.iter().map(is_inside).collect()
}

/// The length of the longest common prefix, in bytes, at a character of both.
fn common_prefix(a: &str, b: &str) -> usize {
    let mut len = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    while !a.is_char_boundary(len) {
        len -= 1;
    }
    len
}

/// The same chat without a system turn: its words stand before those of the first user turn. `None` where that cannot be.
fn fold_system(messages: &[Message]) -> Option<Vec<Message>> {
    let [system, rest @ ..] = messages else { return None };
    let first = rest.first().filter(|first| system.role == "system" && first.role == "user")?;
    let words = format!("{}\n\n{}", system.text()?, first.text()?);
    let mut folded = rest.to_vec();
    folded[0].content = Value::String(words);
    Some(folded)
}
